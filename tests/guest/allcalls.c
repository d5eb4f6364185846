/* Issues every system call number 0..600 in three ways: by `syscall`, by int 0x80, and by `syscall` with bit 30 (x32).
 *
 * The sixth argument is a mark that a tracer of the host's kernel can look for; the others are -1, which no call can
 * do harm with. Each answer is printed: "WAY NUMBER = RESULT", or "WAY NUMBER killed SIGNAL | exited N | hung".
 * With --effects it makes calls instead that would show on the host if the host answered them; with --memory START END
 * the calls that the host may carry out: proper ones, and, with another mark, ones that reach into that range, which is
 * not the application's.
 * The host's side of the test is tests/integration/test_allcalls.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MARK 0x70797363UL
#define LAST 600
#define HUNG_MS 300

enum way { NATIVE, INT80, X32, WAYS };
static const char *const way_names[] = {"syscall", "int80", "x32"};

/* Shared with the child that issues the calls. */
static struct {
    volatile int number; /* being issued */
    volatile long results[LAST + 1];
    volatile char answered[LAST + 1];
} *shared;

static long issue(enum way way, long number)
{
    long result;
    if (way == INT80) {
        __asm__ volatile("push %%rbp\n\tmov %2, %%rbp\n\tint $0x80\n\tpop %%rbp"
                         : "=a"(result)
                         : "a"(number), "r"(MARK), "b"(-1L), "c"(-1L), "d"(-1L), "S"(-1L), "D"(-1L)
                         : "memory", "r8", "r9", "r10", "r11");
        return (int)result;
    }
    register long r10 __asm__("r10") = -1, r8 __asm__("r8") = -1, r9 __asm__("r9") = (long)MARK;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number | (way == X32 ? 1L << 30 : 0)), "D"(-1L), "S"(-1L), "d"(-1L), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* A child that a call made (fork, vfork, clone) leaves at once, without touching its parent's memory. */
static inline void leave_if_forked(enum way way, long number, long result)
{
    int forks = way == INT80 ? number == 2 || number == 120 || number == 190
                             : number == SYS_fork || number == SYS_vfork || number == SYS_clone || number == SYS_clone3;
    if (forks && result == 0)
        __asm__ volatile("syscall" ::"a"(SYS_exit_group), "D"(0) : "memory");
}

static void issue_from(enum way way, int first)
{
    for (int number = first; number <= LAST; number++) {
        shared->number = number;
        long result = issue(way, number);
        leave_if_forked(way, number, result);
        shared->results[number] = result;
        shared->answered[number] = 1;
    }
    shared->number = LAST + 1;
    syscall(SYS_exit_group, 0);
}

static void print(enum way way, int number, const char *text, int value)
{
    printf("%s %d %s %d\n", way_names[way], number, text, value);
}

/* Waits until the child ends, or stays at one call for too long; the call it ended in. */
static int watch(pid_t child, enum way way)
{
    int status, last = -1, waited_ms = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        waited_ms = shared->number == last ? waited_ms + 10 : 0;
        last = shared->number;
        if (waited_ms < HUNG_MS)
            continue;
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        print(way, last, "hung", 0);
        return last;
    }
    int number = shared->number;
    if (number <= LAST && WIFSIGNALED(status))
        print(way, number, "killed", WTERMSIG(status));
    else if (number <= LAST)
        print(way, number, "exited", WEXITSTATUS(status));
    return number;
}

static void issue_all(enum way way)
{
    memset(shared, 0, sizeof *shared);
    for (int next = 0; next <= LAST;) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            setpgid(0, 0); /* what is sent to a whole group stays among the children */
            close(0);
            issue_from(way, next);
        }
        next = watch(child, way) + 1;
    }
    for (int number = 0; number <= LAST; number++)
        if (shared->answered[number])
            printf("%s %d = %ld\n", way_names[way], number, shared->results[number]);
}

/* Each of these changes something that the host could see; whether they succeed is not the point. */
static void effects(const char *name)
{
    char path[128];
    struct timespec now;
    printf("sethostname %d\n", sethostname(name, strlen(name)));
    snprintf(path, sizeof path, "/%s", name);
    printf("mkdir %d\n", mkdir(path, 0700));
    printf("mount %d\n", mount(name, path, "tmpfs", 0, ""));
    printf("shmget %d\n", shmget((key_t)MARK, 4096, IPC_CREAT | 0600));
    printf("add_key %ld\n", syscall(SYS_add_key, "user", name, "x", 1L, -4L));
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    printf("open %d\n", open(path, O_CREAT | O_RDWR, 0600) >= 0);
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += 86400;
    printf("clock_settime %d\n", clock_settime(CLOCK_REALTIME, &now));
    printf("prlimit_of_1 %ld\n", syscall(SYS_prlimit64, 1, 7, NULL, NULL));
    printf("getpid %d\n", getpid());
}

/* Where no argument is left for the mark it is in the offset of an anonymous mapping, which means nothing. */
static long memory_call(long number, unsigned long addr, unsigned long length, long a2, long a3, unsigned long mark)
{
    bool maps = number == SYS_mmap;
    return syscall(number, addr, length, a2, a3, maps ? -1L : 0L, maps ? mark << 12 : mark);
}

static void proper_memory_calls(void)
{
    unsigned long page = (unsigned long)memory_call(SYS_mmap, 0, 4 * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, MARK);
    printf("proper 9 = %d\n", page == (unsigned long)MAP_FAILED ? -1 : 0);
    printf("proper 10 = %ld\n", memory_call(SYS_mprotect, page, 4096, PROT_READ, 0, MARK));
    printf("proper 28 = %ld\n", memory_call(SYS_madvise, page, 4096, MADV_DONTNEED, 0, MARK));
    printf("proper 25 = %d\n", memory_call(SYS_mremap, page + 8192, 8192, 4096, 0, MARK) == (long)page + 8192 ? 0 : -1);
    printf("proper 11 = %ld\n", memory_call(SYS_munmap, page, 4096, 0, 0, MARK));
}

static void hostile_memory_calls(unsigned long addr, unsigned long length)
{
    static const struct {
        long number, a2, a3;
    } calls[] = {
        {SYS_mmap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED},
        {SYS_mmap, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED},
        {SYS_mprotect, PROT_READ | PROT_WRITE | PROT_EXEC, 0},
        {SYS_madvise, MADV_DONTNEED, 0},
        {SYS_madvise, MADV_DONTFORK, 0},
        {SYS_mremap, 4096, MREMAP_MAYMOVE},
        {SYS_munmap, 0, 0},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        printf("hostile %ld = %ld\n", calls[i].number,
               memory_call(calls[i].number, addr, length, calls[i].a2, calls[i].a3, MARK + 1));
}

static void memory(unsigned long start, unsigned long end)
{
    proper_memory_calls();
    hostile_memory_calls(start, end - start);
    hostile_memory_calls(start, 4096);
    hostile_memory_calls(end - 4096, 4096);
    hostile_memory_calls(start - 4096, 8192);
    hostile_memory_calls(start - 4096, 4097);
    hostile_memory_calls(start, -start);
    hostile_memory_calls(end, 4096);
    printf("alive\n");
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--memory") == 0) {
        memory(strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0));
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--effects") == 0) {
        effects(argv[2]);
        return 0;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 2;
    for (enum way way = NATIVE; way < WAYS; way++)
        issue_all(way);
    return 0;
}
