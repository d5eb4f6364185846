/* futex(2) as such: wait, wake, requeue, bitsets, timeouts, wake_op, and its errors. */
#include "check.h"
#include <linux/futex.h>
#include <pthread.h>

static uint32_t *word;

static long futex(uint32_t *addr, int op, uint32_t value, const struct timespec *timeout, uint32_t *other, uint32_t bits)
{
    return syscall(SYS_futex, addr, op, value, timeout, other, bits);
}

static uint32_t *shared_words(void)
{
    uint32_t *words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(words != MAP_FAILED);
    return words;
}

TEST(wait_sees_a_changed_value)
{
    uint32_t value = 3;
    CHECK_ERR(futex(&value, FUTEX_WAIT_PRIVATE, 4, NULL, NULL, 0), EAGAIN);
}

TEST(errors)
{
    uint32_t value = 0;
    CHECK_ERR(futex((uint32_t *)1, FUTEX_WAIT, 0, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex((uint32_t *)((char *)&value + 2), FUTEX_WAKE, 1, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex(NULL, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0), EFAULT);
    CHECK_ERR(futex(&value, 77, 0, NULL, NULL, 0), ENOSYS);
    CHECK_ERR(futex(&value, FUTEX_WAIT_BITSET, 0, NULL, NULL, 0), EINVAL);
    CHECK_ERR(futex(&value, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0), EINVAL);
    struct timespec bad = {.tv_nsec = 1000000000};
    CHECK_ERR(futex(&value, FUTEX_WAIT, 0, &bad, NULL, 0), EINVAL);
    CHECK_EQ(futex(&value, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
}

TEST(relative_timeout)
{
    uint32_t value = 0;
    struct timespec timeout = {.tv_nsec = 20000000};
    int64_t start = now_ns();
    CHECK_ERR(futex(&value, FUTEX_WAIT_PRIVATE, 0, &timeout, NULL, 0), ETIMEDOUT);
    CHECK(now_ns() - start >= 20000000);
    timeout = (struct timespec){0};
    CHECK_ERR(futex(&value, FUTEX_WAIT_PRIVATE, 0, &timeout, NULL, 0), ETIMEDOUT);
}

TEST(absolute_timeout_on_either_clock)
{
    uint32_t value = 0;
    struct timespec until;
    int64_t start = now_ns();
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (until.tv_nsec += 20000000) / 1000000000;
    until.tv_nsec %= 1000000000;
    CHECK_ERR(futex(&value, FUTEX_WAIT_BITSET_PRIVATE, 0, &until, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
    CHECK(now_ns() - start >= 19000000);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec -= 5;
    CHECK_ERR(futex(&value, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &until, NULL, FUTEX_BITSET_MATCH_ANY),
              ETIMEDOUT);
}

static pid_t waiter(uint32_t *addr, int op, uint32_t bits)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        long r = futex(addr, op, 0, NULL, NULL, bits);
        _exit(r == 0 ? 0 : 1);
    }
    wait_state(pid, 'S');
    return pid;
}

TEST(wake_across_processes)
{
    word = shared_words();
    pid_t a = waiter(word, FUTEX_WAIT, 0), b = waiter(word, FUTEX_WAIT, 0);
    CHECK_EQ(futex(word, FUTEX_WAKE, 1, NULL, NULL, 0), 1);
    CHECK_EXITED(a, 0); /* first come, first woken */
    CHECK_EQ(waitpid(b, NULL, WNOHANG), 0);
    CHECK_EQ(futex(word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0), 1);
    CHECK_EXITED(b, 0);
}

TEST(wake_through_a_shared_file)
{
    int fd = (int)MUST(open("f", O_RDWR | O_CREAT, 0600));
    MUST(ftruncate(fd, 4096));
    uint32_t *one = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint32_t *two = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(one != MAP_FAILED && two != MAP_FAILED && one != two);
    pid_t pid = waiter(one, FUTEX_WAIT, 0);
    CHECK_EQ(futex(two, FUTEX_WAKE, 1, NULL, NULL, 0), 1);
    CHECK_EXITED(pid, 0);
}

TEST(private_wake_does_not_cross_processes)
{
    word = shared_words();
    pid_t pid = waiter(word, FUTEX_WAIT_PRIVATE, 0);
    CHECK_EQ(futex(word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0), 0);
    MUST(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

TEST(fork_parts_private_memory)
{
    static uint32_t value;
    pid_t pid = waiter(&value, FUTEX_WAIT, 0);
    CHECK_EQ(futex(&value, FUTEX_WAKE, 1, NULL, NULL, 0), 0);
    MUST(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

TEST(bitset_chooses_the_waiter)
{
    word = shared_words();
    pid_t a = waiter(word, FUTEX_WAIT_BITSET, 1), b = waiter(word, FUTEX_WAIT_BITSET, 2);
    CHECK_EQ(futex(word, FUTEX_WAKE_BITSET, 10, NULL, NULL, 4), 0);
    CHECK_EQ(futex(word, FUTEX_WAKE_BITSET, 10, NULL, NULL, 2), 1);
    CHECK_EXITED(b, 0);
    CHECK_EQ(futex(word, FUTEX_WAKE, 10, NULL, NULL, 0), 1);
    CHECK_EXITED(a, 0);
}

TEST(requeue_moves_waiters)
{
    word = shared_words();
    pid_t pids[3];
    for (int i = 0; i < 3; i++)
        pids[i] = waiter(word, FUTEX_WAIT, 0);
    CHECK_ERR(syscall(SYS_futex, word, FUTEX_CMP_REQUEUE, 1, 10L, word + 1, 99), EAGAIN);
    CHECK_EQ(syscall(SYS_futex, word, FUTEX_CMP_REQUEUE, 1, 10L, word + 1, 0), 3);
    CHECK_EXITED(pids[0], 0);
    CHECK_EQ(futex(word, FUTEX_WAKE, 10, NULL, NULL, 0), 0);
    CHECK_EQ(futex(word + 1, FUTEX_WAKE, 10, NULL, NULL, 0), 2);
    CHECK_EXITED(pids[1], 0);
    CHECK_EXITED(pids[2], 0);
}

TEST(wake_op_changes_and_compares)
{
    word = shared_words();
    word[1] = 5;
    pid_t a = waiter(word, FUTEX_WAIT, 0);
    uint32_t op = FUTEX_OP(FUTEX_OP_ADD, 2, FUTEX_OP_CMP_EQ, 5);
    CHECK_EQ(syscall(SYS_futex, word, FUTEX_WAKE_OP, 1, 1L, word + 1, op), 1);
    CHECK_EQ(word[1], 7);
    CHECK_EXITED(a, 0);
}

static void on_signal(int signo)
{
    (void)signo;
}

TEST(a_handler_interrupts_the_wait)
{
    uint32_t value = 0;
    struct sigaction action = {.sa_handler = on_signal};
    struct itimerval timer = {.it_value.tv_usec = 10000, .it_interval.tv_usec = 10000};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    CHECK_ERR(futex(&value, FUTEX_WAIT, 0, NULL, NULL, 0), EINTR);
}

TEST(restarted_wait_keeps_its_deadline)
{
    uint32_t value = 0;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct itimerval timer = {.it_value.tv_usec = 10000, .it_interval.tv_usec = 10000};
    struct timespec timeout = {.tv_nsec = 80000000};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    int64_t start = now_ns(); /* were the time begun anew by each restart, the wait would never end */
    long r = futex(&value, FUTEX_WAIT, 0, &timeout, NULL, 0);
    int64_t spent = now_ns() - start;
    CHECK(r == -1 && (errno == ETIMEDOUT || errno == EINTR));
    CHECK(errno == EINTR || spent >= 80000000);
}

static void *leaves(void *arg)
{
    return arg;
}

TEST(clear_child_tid_wakes_the_joiner)
{
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, leaves, NULL), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    }
}

TEST(robust_list_head_is_kept)
{
    struct robust_list_head *head;
    size_t size;
    MUST(syscall(SYS_get_robust_list, 0, &head, &size));
    CHECK_EQ(size, sizeof *head);
    CHECK_ERR(syscall(SYS_set_robust_list, head, size - 1), EINVAL);
    MUST(syscall(SYS_set_robust_list, head, size));
}

TEST(waitv_wakes_by_any_of_its_words)
{
    word = shared_words();
    pid_t pid = must_fork();
    if (pid == 0) {
        struct {
            uint64_t value, address;
            uint32_t flags, reserved;
        } waiters[2] = {{0, (uint64_t)word, 2, 0}, {0, (uint64_t)(word + 1), 2, 0}};
        _exit((int)syscall(449, waiters, 2, 0, NULL, CLOCK_MONOTONIC) + 10);
    }
    wait_state(pid, 'S');
    CHECK_EQ(futex(word + 1, FUTEX_WAKE, 1, NULL, NULL, 0), 1);
    CHECK_EXITED(pid, 11);
}
