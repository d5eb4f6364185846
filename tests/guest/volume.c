/* What two containers do with one file of a volume.
 *
 *   hold FILE         lock it in every way, say so, stay
 *   try FILE          say of each way whether somebody else holds it
 *   serve SOCKET      answer one connection with what it says, twice
 *   call SOCKET TEXT  print the answer
 *   wait FILE         print the word at the start of a shared mapping once it is not 0; asleep until woken
 *   wake FILE         make the word 7, wake
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_file(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT, 0666);
	if (fd < 0)
		die(name);
	return fd;
}

static struct flock range(off_t start)
{
	return (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = 10 };
}

static void hold(const char *name)
{
	int fd = open_file(name);
	struct flock posix = range(0), ofd = range(100);
	if (flock(fd, LOCK_EX) || fcntl(fd, F_SETLK, &posix) || fcntl(fd, F_OFD_SETLK, &ofd))
		die("lock");
	puts("held");
	fflush(stdout);
	pause();
}

static void try(const char *name)
{
	int fd = open_file(name);
	struct flock posix = range(5), ofd = range(105), other = range(50);
	printf("flock %s\n", flock(fd, LOCK_EX | LOCK_NB) ? "held" : "free");
	printf("posix %s\n", fcntl(fd, F_SETLK, &posix) ? "held" : "free");
	printf("ofd %s\n", fcntl(fd, F_OFD_SETLK, &ofd) ? "held" : "free");
	printf("other %s\n", fcntl(fd, F_SETLK, &other) ? "held" : "free");
}

static struct sockaddr_un address(const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof a.sun_path, "%s", name);
	return a;
}

static void serve(const char *name)
{
	struct sockaddr_un a = address(name);
	char text[100];
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(s, (struct sockaddr *)&a, sizeof a) || listen(s, 1))
		die("bind");
	puts("serving");
	fflush(stdout);
	int c = accept(s, NULL, NULL);
	ssize_t n = read(c, text, sizeof text);
	if (n <= 0 || write(c, text, n) != n || write(c, text, n) != n)
		die("serve");
}

static void call(const char *name, const char *text)
{
	struct sockaddr_un a = address(name);
	char answer[200];
	size_t got = 0, want = 2 * strlen(text);
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(s, (struct sockaddr *)&a, sizeof a))
		die("connect");
	if (write(s, text, strlen(text)) < 0)
		die("write");
	while (got < want) {
		ssize_t n = read(s, answer + got, sizeof answer - got);
		if (n <= 0)
			die("read");
		got += n;
	}
	printf("%.*s\n", (int)got, answer);
}

static int *word_of(const char *name)
{
	int fd = open_file(name);
	if (ftruncate(fd, 4096))
		die("ftruncate");
	int *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (word == MAP_FAILED)
		die("mmap");
	return word;
}

static void wait_for(const char *name)
{
	int *word = word_of(name);
	puts("waiting");
	fflush(stdout);
	while (!__atomic_load_n(word, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0);
	printf("word %d\n", *word);
}

static void wake(const char *name)
{
	int *word = word_of(name);
	__atomic_store_n(word, 7, __ATOMIC_SEQ_CST);
	printf("woke %ld\n", syscall(SYS_futex, word, FUTEX_WAKE, 10, NULL, NULL, 0));
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "hold"))
		hold(argv[2]);
	else if (!strcmp(argv[1], "try"))
		try(argv[2]);
	else if (!strcmp(argv[1], "serve"))
		serve(argv[2]);
	else if (!strcmp(argv[1], "call") && argc > 3)
		call(argv[2], argv[3]);
	else if (!strcmp(argv[1], "wait"))
		wait_for(argv[2]);
	else if (!strcmp(argv[1], "wake"))
		wake(argv[2]);
	else
		return 2;
	return 0;
}
