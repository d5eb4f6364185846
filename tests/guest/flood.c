/* Takes without end of what a container's limits bound, and says how far it came:
 *
 *   flood KIND     prints "KIND COUNT ERRNO" when it is refused, and then stays, holding what it has, until killed
 *
 *   forks threads              processes and threads that sleep
 *   bomb                       processes that fork as fast as they can; never refused for good: prints "bomb 0 0" first
 *   private shared memfd       memory that is touched, in MiB: anonymous, shared anonymous, a memfd's
 *   written tmpfs              memory that is written by write(2), in MiB: into a memfd, into files on /dev/shm
 *   file                       a file in the current directory that is mapped and touched, in MiB
 *   maps                       mappings, none of which is touched
 *   signals timers             queued signals that nobody takes, timers
 *   storm                      signals between two processes as fast as they can: prints "storm 0 0" first
 *   descriptors memfds         eventfds in this process; memfds in as many processes as that takes
 *
 * The host's side of it is tests/integration/test_limits.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1 << 20)
#define ENOUGH 100000

static void sleep_for_ever(void)
{
    for (;;)
        pause();
}

static int forks(int n)
{
    (void)n;
    pid_t pid = fork();
    if (pid == 0)
        sleep_for_ever();
    return pid;
}

static void *thread(void *arg)
{
    sleep_for_ever();
    return arg;
}

static int threads(int n)
{
    pthread_t id;
    pthread_attr_t attributes;
    (void)n;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    errno = pthread_create(&id, &attributes, thread, NULL);
    return errno ? -1 : 0;
}

static int touch(int flags, int fd, off_t offset)
{
    char *memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, flags, fd, offset);
    if (memory == MAP_FAILED)
        return -1;
    for (int i = 0; i < MIB; i += 4096)
        memory[i] = 1;
    return 0;
}

static int private(int n)
{
    (void)n;
    return touch(MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static int shared(int n)
{
    (void)n;
    return touch(MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static int grown(int fd, int n)
{
    return fd == -1 || ftruncate(fd, (n + 1L) * MIB) == -1 ? -1 : touch(MAP_SHARED, fd, n * (off_t)MIB);
}

static int memfd(int n)
{
    static int fd = -1;
    if (fd == -1)
        fd = memfd_create("flood", 0);
    return grown(fd, n);
}

static int file(int n)
{
    static int fd = -1;
    if (fd == -1)
        fd = open("flood.data", O_RDWR | O_CREAT, 0600);
    return n == 64 ? (errno = 0, -1) : grown(fd, n);
}

static int write_mib(int fd)
{
    static char buffer[MIB];
    memset(buffer, 1, sizeof buffer);
    ssize_t n = fd == -1 ? -1 : write(fd, buffer, sizeof buffer);
    return n == sizeof buffer ? 0 : -1;
}

static int written(int n)
{
    static int fd = -1;
    if (n == 0)
        fd = memfd_create("flood", 0);
    return write_mib(fd);
}

static int tmpfs(int n)
{
    char name[64];
    snprintf(name, sizeof name, "/dev/shm/flood.%d", n);
    int fd = open(name, O_WRONLY | O_CREAT, 0600);
    int result = write_mib(fd);
    close(fd);
    return result;
}

/* Every other one with another protection, so that none can be merged with the one before. */
static int maps(int n)
{
    void *memory = mmap(NULL, 4096, n % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? -1 : 0;
}

static int signals(int n)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    return sigqueue(getpid(), SIGRTMIN + n % 8, (union sigval){.sival_int = n});
}

static int timers(int n)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    (void)n;
    return timer_create(CLOCK_MONOTONIC, &event, &timer);
}

static int descriptors(int n)
{
    (void)n;
    return eventfd(0, 0);
}

/* Each process of a chain takes what it may and leaves the rest to a child; the last one is refused by something else. */
static int memfds(int n)
{
    int fd = memfd_create("flood", 0);
    if (fd == -1 && errno == EMFILE && n < 30000) {
        pid_t pid = fork();
        if (pid > 0)
            sleep_for_ever();
        if (pid == -1)
            return -1;
        closefrom(3);
        fd = memfd_create("flood", 0);
    }
    return fd == -1 || ftruncate(fd, 4096) == -1 ? -1 : 0;
}

static void bomb(void)
{
    for (;;)
        if (fork() == -1)
            sched_yield();
}

static volatile pid_t other;

static void answer(int signo)
{
    kill(other, signo);
}

static void storm(void)
{
    struct sigaction action = {.sa_handler = answer};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    other = getpid();
    pid_t pid = fork();
    if (pid > 0)
        other = pid;
    else
        other = getppid();
    for (;;) {
        kill(other, SIGUSR1);
        kill(other, SIGUSR2);
        sched_yield();
    }
}

static const struct {
    const char *name;
    int (*take)(int n);
    void (*go_on)(void);
} kinds[] = {
    {"forks", forks, NULL},       {"threads", threads, NULL}, {"private", private, NULL}, {"shared", shared, NULL},
    {"memfd", memfd, NULL},       {"file", file, NULL},       {"written", written, NULL}, {"tmpfs", tmpfs, NULL},
    {"maps", maps, NULL},         {"signals", signals, NULL}, {"timers", timers, NULL},   {"descriptors", descriptors, NULL},
    {"memfds", memfds, NULL},     {"bomb", NULL, bomb},       {"storm", NULL, storm},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof kinds / sizeof *kinds; i++) {
        int n = 0;
        if (strcmp(kinds[i].name, argv[1]) != 0)
            continue;
        errno = 0;
        while (kinds[i].take && n < ENOUGH && kinds[i].take(n) != -1)
            n++;
        printf("%s %d %d\n", argv[1], n, errno);
        fflush(stdout);
        if (kinds[i].go_on)
            kinds[i].go_on();
        sleep_for_ever();
    }
    return 2;
}
