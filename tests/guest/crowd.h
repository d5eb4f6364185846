/* Children with threads that are busy in calls of every kind, and the ways in which they end. */
#ifndef CROWD_H
#define CROWD_H
#include <linux/futex.h>
#include <pthread.h>
#include <spawn.h>

#define SMALL_STACK 65536

static long futex(uint32_t *addr, int op, uint32_t value, const void *timeout_or_count, uint32_t *other, uint32_t value3)
{
    long r = syscall(SYS_futex, addr, op, value, timeout_or_count, other, value3);
    CHECK(r >= 0 || errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT);
    return r;
}

static int blocked_pipe[2];
static uint32_t never;
static volatile int never_stop;

static void *in_read(void *arg)
{
    char c;
    CHECK(read(blocked_pipe[0], &c, 1) == 1);
    return arg;
}

static void *in_futex(void *arg)
{
    while (!__atomic_load_n(&never, __ATOMIC_ACQUIRE))
        futex(&never, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return arg;
}

static void *in_calls(void *arg)
{
    while (!never_stop)
        getppid();
    return arg;
}

static void *in_mmap(void *arg)
{
    while (!never_stop) {
        char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(page != MAP_FAILED);
        page[4096] = 1;
        MUST(munmap(page, 8192));
    }
    return arg;
}

static void *in_code(void *arg)
{
    while (!never_stop)
        __asm__ volatile("" ::: "memory");
    return arg;
}

static void *(*const busy[])(void *) = {in_read, in_futex, in_calls, in_mmap, in_code};
#define BUSY (int)(sizeof busy / sizeof *busy)

static void start_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, SMALL_STACK);
    CHECK_EQ(pthread_create(thread, &attributes, run, arg), 0);
    pthread_attr_destroy(&attributes);
}

static void start_busy(pthread_t *threads)
{
    MUST(pipe(blocked_pipe));
    for (int i = 0; i < BUSY; i++)
        start_thread(&threads[i], busy[i], NULL);
}

/* A child that has busy threads and then calls end(); its pid. */
static pid_t crowd(void (*end)(void))
{
    pid_t pid = must_fork();
    if (pid == 0) {
        pthread_t threads[BUSY];
        start_busy(threads);
        end();
        _exit(1);
    }
    return pid;
}

static void exec_exit(void)
{
    execl(program_path, program_path, "--exit", "43", (char *)NULL);
}

static void *exec_here(void *arg)
{
    exec_exit();
    return arg;
}

static void exec_in_thread(void)
{
    pthread_t thread;
    start_thread(&thread, exec_here, NULL);
    pause();
}

static void exit_group(void)
{
    _exit(44);
}

static void *exit_here(void *arg)
{
    _exit(45);
    return arg;
}

static void exit_in_thread(void)
{
    pthread_t thread;
    start_thread(&thread, exit_here, NULL);
    pause();
}

/* The first thread goes, and one of the others ends the process. */
static void leave_first(void)
{
    pthread_t thread;
    start_thread(&thread, exit_here, NULL);
    syscall(SYS_exit, 1);
}

static void stay(void)
{
    for (;;)
        pause();
}

static void join_all(void)
{
    pthread_t threads[BUSY];
    start_busy(threads);
    never_stop = 1;
    __atomic_store_n(&never, 1, __ATOMIC_RELEASE);
    futex(&never, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    CHECK_EQ(write(blocked_pipe[1], "x", 1), 1);
    for (int i = 0; i < BUSY; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    _exit(46);
}

static void stop_crowd(void)
{
    int status;
    pid_t pid = crowd(stay);
    for (int i = 0; i < 3; i++) {
        MUST(kill(pid, SIGSTOP));
        CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
        MUST(kill(pid, SIGCONT));
        CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
        CHECK(WIFCONTINUED(status));
    }
    MUST(kill(pid, SIGSTOP));
    MUST(kill(pid, SIGKILL));
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void spawn_program(void)
{
    pid_t pid;
    char *args[] = {program_path, "--exit", "47", NULL};
    CHECK_EQ(posix_spawn(&pid, program_path, NULL, NULL, args, environ), 0);
    CHECK_EXITED(pid, 47);
}

#endif
