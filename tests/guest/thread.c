/* Threads: pthread create and join, identity, thread-local storage, robust mutexes, condition variables. */
#include "check.h"
#include <pthread.h>

static long nanoseconds(clockid_t clock)
{
    struct timespec time;
    MUST(clock_gettime(clock, &time));
    return time.tv_sec * 1000000000l + time.tv_nsec;
}

static void *increments(void *arg)
{
    for (int i = 0; i < 1000; i++)
        __atomic_add_fetch((int *)arg, 1, __ATOMIC_SEQ_CST);
    return arg;
}

TEST(create_and_join)
{
    int count = 0;
    void *result;
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, increments, &count), 0);
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(pthread_join(threads[i], &result), 0);
        CHECK(result == &count);
    }
    CHECK_EQ(count, 8000);
}

static void *ids(void *arg)
{
    pid_t *out = arg;
    out[0] = getpid();
    out[1] = gettid();
    out[2] = getppid();
    return NULL;
}

TEST(threads_share_the_pid_and_have_own_tids)
{
    pid_t out[3];
    pthread_t thread;
    CHECK_EQ(gettid(), getpid());
    CHECK_EQ(pthread_create(&thread, NULL, ids, out), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(out[0], getpid());
    CHECK(out[1] != getpid());
    CHECK_EQ(out[2], getppid());
}

static __thread int local = 5;

static void *check_local(void *arg)
{
    CHECK_EQ(local, 5);
    local = 6;
    (void)arg;
    return NULL;
}

TEST(thread_local_storage)
{
    pthread_t thread;
    local = 7;
    CHECK_EQ(pthread_create(&thread, NULL, check_local, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(local, 7);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static int turn, rounds;

static void *plays(void *arg)
{
    int me = (int)(long)arg;
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != me)
            pthread_cond_wait(&turned, &mutex);
        turn = 1 - me;
        rounds++;
        pthread_cond_broadcast(&turned);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

TEST(condition_variables_ping_pong)
{
    pthread_t a, b;
    CHECK_EQ(pthread_create(&a, NULL, plays, (void *)0L), 0);
    CHECK_EQ(pthread_create(&b, NULL, plays, (void *)1L), 0);
    CHECK_EQ(pthread_join(a, NULL), 0);
    CHECK_EQ(pthread_join(b, NULL), 0);
    CHECK_EQ(rounds, 400);
}

TEST(timed_wait_times_out)
{
    struct timespec until;
    int64_t start = now_ns();
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&mutex);
    CHECK_EQ(pthread_cond_timedwait(&turned, &mutex, &until), ETIMEDOUT);
    CHECK(now_ns() - start >= 15000000);
}

TEST(robust_mutex_tells_of_its_dead_owner)
{
    pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attr;
    CHECK(shared != MAP_FAILED);
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    CHECK_EQ(pthread_mutex_init(shared, &attr), 0);
    pid_t pid = must_fork();
    if (pid == 0) {
        pthread_mutex_lock(shared);
        _exit(0); /* without unlocking */
    }
    CHECK_EXITED(pid, 0);
    CHECK_EQ(pthread_mutex_lock(shared), EOWNERDEAD);
    CHECK_EQ(pthread_mutex_consistent(shared), 0);
    CHECK_EQ(pthread_mutex_unlock(shared), 0);
    CHECK_EQ(pthread_mutex_lock(shared), 0);
}

TEST(robust_mutex_wakes_a_waiter)
{
    pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attr;
    CHECK(shared != MAP_FAILED);
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    CHECK_EQ(pthread_mutex_init(shared, &attr), 0);
    struct gate locked = gate_new(), die = gate_new();
    pid_t owner = must_fork();
    if (owner == 0) {
        pthread_mutex_lock(shared);
        gate_open(&locked);
        gate_wait(&die);
        raise(SIGKILL);
    }
    gate_wait(&locked);
    pid_t waiter = must_fork();
    if (waiter == 0)
        _exit(pthread_mutex_lock(shared) == EOWNERDEAD ? 0 : 1);
    wait_state(waiter, 'S');
    gate_open(&die);
    CHECK_KILLED(owner, SIGKILL);
    CHECK_EXITED(waiter, 0);
}

TEST(process_shared_mutex_excludes)
{
    struct {
        pthread_mutex_t lock;
        int value;
    } *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared->lock, &attr);
    pid_t pids[3];
    for (int i = 0; i < 3; i++) {
        pids[i] = must_fork();
        if (pids[i] == 0) {
            for (int n = 0; n < 300; n++) {
                pthread_mutex_lock(&shared->lock);
                int was = *(volatile int *)&shared->value;
                if (n % 50 == 0)
                    sched_yield();
                shared->value = was + 1;
                pthread_mutex_unlock(&shared->lock);
            }
            _exit(0);
        }
    }
    for (int i = 0; i < 3; i++)
        CHECK_EXITED(pids[i], 0);
    CHECK_EQ(shared->value, 900);
}

static void *exits(void *arg)
{
    (void)arg;
    usleep(10000);
    _exit(9);
}

TEST(main_thread_may_leave_before_the_others)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, exits, NULL);
        syscall(SYS_exit, 0);
    }
    CHECK_EXITED(pid, 9);
}

static void *execs(void *arg)
{
    (void)arg;
    execl(program_path, program_path, "--identity", NULL);
    _exit(1);
}

int helper(int argc, char **argv)
{
    (void)argc, (void)argv;
    return getpid() == gettid() ? 13 : 14;
}

TEST(exec_from_a_thread_takes_the_leaders_id)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        pthread_t other, thread;
        pthread_create(&other, NULL, (void *(*)(void *))(void *)pause, NULL);
        pthread_create(&thread, NULL, execs, NULL);
        for (;;)
            pause();
    }
    CHECK_EXITED(pid, 13);
}

static void *forks(void *arg)
{
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(getpid() == gettid() ? 0 : 1);
    *(pid_t *)arg = pid;
    return NULL;
}

TEST(any_thread_waits_for_any_threads_child)
{
    pthread_t thread;
    pid_t pid;
    CHECK_EQ(pthread_create(&thread, NULL, forks, &pid), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EXITED(pid, 0);
}

TEST(tgkill_checks_the_group)
{
    CHECK_ERR(syscall(SYS_tgkill, getpid(), 1 << 30, 0), ESRCH);
    CHECK_ERR(syscall(SYS_tgkill, getpid(), 0, 0), EINVAL);
    CHECK_ERR(syscall(SYS_tgkill, 0, gettid(), 0), EINVAL);
    pid_t parent = getppid();
    CHECK_ERR(syscall(SYS_tgkill, getpid(), parent, 0), ESRCH);
    MUST(syscall(SYS_tgkill, getpid(), gettid(), 0));
    MUST(syscall(SYS_tkill, gettid(), 0));
}

static void *own_directory(void *arg)
{
    (void)arg;
    CHECK_EQ(unshare(CLONE_FS), 0);
    MUST(chdir("/"));
    return NULL;
}

TEST(unshare_fs_parts_a_thread_from_the_rest)
{
    char before[PATH_MAX], after[PATH_MAX];
    pthread_t thread;
    CHECK(getcwd(before, sizeof before) != NULL);
    CHECK_EQ(pthread_create(&thread, NULL, own_directory, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK(getcwd(after, sizeof after) != NULL);
    CHECK(strcmp(before, after) == 0);
}

static void *allocates(void *arg)
{
    for (int i = 0; i < 50; i++) {
        char *p = malloc(200000);
        memset(p, i, 200000);
        free(p);
    }
    return arg;
}

TEST(threads_map_memory_at_the_same_time)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, allocates, NULL), 0);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
}

static void *burns(void *arg)
{
    while (nanoseconds(CLOCK_THREAD_CPUTIME_ID) < 100 * 1000 * 1000)
        ;
    return arg;
}

static void *reads_its_time(void *arg)
{
    *(long *)arg = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    return NULL;
}

TEST(a_threads_clock_begins_with_it)
{
    pthread_t thread;
    for (int i = 0; i < 2; i++) {
        long begin = -1;
        CHECK_EQ(pthread_create(&thread, NULL, burns, NULL), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_EQ(pthread_create(&thread, NULL, reads_its_time, &begin), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK(begin >= 0 && begin < 50 * 1000 * 1000);
    }
    CHECK(nanoseconds(CLOCK_PROCESS_CPUTIME_ID) >= 200 * 1000 * 1000);
}
