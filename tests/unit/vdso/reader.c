/* An application of the vDSO, in a process of its own: maps the parameter page and the image, and calls functions.
 *
 *   reader PAGE_FD IMAGE hammer THREADS CLOCK   reads until standard input ends; prints the readings, and how many were
 *                                               earlier than one before, by any thread, or a millisecond off
 *   reader PAGE_FD IMAGE denied                 prints what all functions return
 *
 * A filter fails the real calls by errno 77, which tells them from answers of the page; the hammer leaves those out,
 * for a page whose clock is made wrong on purpose shows another time than the kernel.  The functions' offsets in the
 * image are in the environment, as clock_gettime=... and so on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define TOO_FAR_NS 1000000
#define DENIED 77

static char *image;
static int clock_number;
static volatile int stop;
static int64_t latest; /* of any thread */
static long readings, back, off;

static void *function(const char *name)
{
	return image + strtoul(getenv(name), NULL, 0);
}

static int map(int page_fd, const char *path)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	char *at;

	if (fd < 0 || fstat(fd, &st))
		return -1;
	at = mmap(NULL, PAGE + st.st_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	image = at + PAGE;
	if (mmap(at, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, page_fd, 0) != at)
		return -1;
	if (mmap(image, st.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0) != image)
		return -1;
	return close(fd);
}

static int64_t ns_of(struct timespec ts)
{
	return ts.tv_sec * 1000000000l + ts.tv_nsec;
}

static void *read_on(void *unused)
{
	int (*gettime)(int, struct timespec *) = function("clock_gettime");
	long mine = 0, mine_back = 0, mine_off = 0;

	while (!stop) {
		int64_t before = __atomic_load_n(&latest, __ATOMIC_SEQ_CST);
		struct timespec a, now, b;
		int64_t ns;

		if (clock_gettime(clock_number, &a) || gettime(clock_number, &now) || clock_gettime(clock_number, &b))
			continue;
		ns = ns_of(now);
		mine++;
		mine_back += ns < before;
		mine_off += ns < ns_of(a) - TOO_FAR_NS || ns > ns_of(b) + TOO_FAR_NS;
		while (before < ns && !__atomic_compare_exchange_n(&latest, &before, ns, 1, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
	}
	__atomic_fetch_add(&readings, mine, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&back, mine_back, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&off, mine_off, __ATOMIC_SEQ_CST);
	return NULL;
}

static int hammer(int n)
{
	pthread_t threads[64];
	char end;

	for (int i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, read_on, NULL))
			return 1;
	while (read(0, &end, 1) > 0)
		;
	stop = 1;
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	printf("%ld %ld %ld\n", readings, back, off);
	return 0;
}

static int deny(void)
{
	static const int calls[] = { SYS_clock_gettime, SYS_gettimeofday, SYS_time, SYS_clock_getres, SYS_getcpu };
	struct sock_filter filter[16] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)) };
	int n = 1;

	for (int i = 0; i < 5; i++) {
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i], 0, 1);
		filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | DENIED);
	}
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { n, filter };
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int denied(void)
{
	int (*gettime)(int, struct timespec *) = function("clock_gettime");
	int (*getres)(int, struct timespec *) = function("clock_getres");
	int (*timeofday)(struct timeval *, struct timezone *) = function("gettimeofday");
	long (*seconds)(long *) = function("time");
	int (*cpu)(unsigned *, unsigned *, void *) = function("getcpu");
	struct timespec ts;
	struct timeval tv;
	unsigned number;

	for (int i = 0; i < 16; i++)
		printf("clock_gettime %d %d\n", i, gettime(i, &ts));
	for (int i = 0; i < 16; i++)
		printf("clock_getres %d %d\n", i, getres(i, &ts));
	printf("gettimeofday 0 %d\n", timeofday(&tv, NULL));
	printf("time 0 %ld\n", seconds(NULL));
	printf("getcpu 0 %d\n", cpu(&number, NULL, NULL));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 4 || map(atoi(argv[1]), argv[2]) || deny())
		return 1;
	if (!strcmp(argv[3], "denied"))
		return denied();
	clock_number = atoi(argv[5]);
	return hammer(atoi(argv[4]));
}
