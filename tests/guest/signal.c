/* Signals: handlers and what they are told, masks, stacks, restarts, queues, and SIGCHLD. */
#include "check.h"
#include <ucontext.h>

static volatile sig_atomic_t count;
static volatile int last_signo, last_code, last_value, last_pid, last_uid;

static void note(int signo, siginfo_t *info, void *context)
{
    (void)context;
    count++;
    last_signo = signo;
    last_code = info->si_code;
    last_pid = info->si_pid;
    last_uid = (int)info->si_uid;
    last_value = info->si_value.sival_int;
}

static void handle(int signo, int flags)
{
    struct sigaction action = {.sa_sigaction = note, .sa_flags = flags | SA_SIGINFO};
    MUST(sigaction(signo, &action, NULL));
}

static sigset_t set_of(int signo)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signo);
    return set;
}

static void block(int signo)
{
    sigset_t set = set_of(signo);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
}

static void unblock(int signo)
{
    sigset_t set = set_of(signo);
    MUST(sigprocmask(SIG_UNBLOCK, &set, NULL));
}

TEST(handler_runs_before_kill_returns)
{
    handle(SIGUSR1, 0);
    MUST(kill(getpid(), SIGUSR1));
    CHECK_EQ(count, 1);
    CHECK_EQ(last_signo, SIGUSR1);
    CHECK_EQ(last_code, SI_USER);
    CHECK_EQ(last_pid, getpid());
    CHECK_EQ(last_uid, getuid());
    raise(SIGUSR1);
    CHECK_EQ(count, 2);
    CHECK_EQ(last_code, SI_TKILL);
}

TEST(kill_errors)
{
    CHECK_ERR(kill(getpid(), 65), EINVAL);
    CHECK_ERR(kill(getpid(), -1), EINVAL);
    CHECK_ERR(kill(1 << 30, 0), ESRCH);
    MUST(kill(getpid(), 0));
}

TEST(default_actions)
{
    const struct {
        int signo;
        bool dies;
    } cases[] = {{SIGHUP, true},   {SIGINT, true},  {SIGTERM, true}, {SIGPIPE, true},  {SIGALRM, true},
                 {SIGUSR2, true},  {SIGQUIT, true}, {SIGABRT, true}, {SIGRTMIN, true}, {SIGCHLD, false},
                 {SIGURG, false},  {SIGWINCH, false}, {SIGCONT, false}, {SIGKILL, true}, {SIGPOLL, true}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        pid_t pid = must_fork();
        if (pid == 0) {
            kill(getpid(), cases[i].signo);
            _exit(0);
        }
        if (cases[i].dies)
            CHECK_KILLED(pid, cases[i].signo);
        else
            CHECK_EXITED(pid, 0);
    }
}

TEST(sigaction_errors)
{
    struct sigaction action = {.sa_handler = SIG_IGN};
    CHECK_ERR(sigaction(SIGKILL, &action, NULL), EINVAL);
    CHECK_ERR(sigaction(SIGSTOP, &action, NULL), EINVAL);
    CHECK_ERR(sigaction(65, &action, NULL), EINVAL);
    CHECK_ERR(sigaction(0, &action, NULL), EINVAL);
    MUST(sigaction(SIGKILL, NULL, &action));
    CHECK(action.sa_handler == SIG_DFL);
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGUSR1, 8, NULL, 8), EFAULT);
    CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, NULL, 4), EINVAL);
    sigset_t set = set_of(SIGUSR1);
    CHECK_ERR(sigprocmask(9, &set, NULL), EINVAL);
}

TEST(sigaction_returns_the_old_one)
{
    struct sigaction old;
    handle(SIGUSR1, SA_RESTART | SA_NODEFER);
    MUST(sigaction(SIGUSR1, NULL, &old));
    CHECK(old.sa_sigaction == note);
    CHECK_EQ(old.sa_flags & ~0x04000000, SA_SIGINFO | SA_RESTART | SA_NODEFER);
}

TEST(blocked_signals_wait_and_do_not_queue)
{
    handle(SIGUSR1, 0);
    block(SIGUSR1);
    raise(SIGUSR1);
    raise(SIGUSR1);
    CHECK_EQ(count, 0);
    sigset_t pending;
    MUST(sigpending(&pending));
    CHECK(sigismember(&pending, SIGUSR1) && !sigismember(&pending, SIGUSR2));
    unblock(SIGUSR1);
    CHECK_EQ(count, 1);
    MUST(sigpending(&pending));
    CHECK(!sigismember(&pending, SIGUSR1));
}

TEST(kill_and_stop_cannot_be_blocked)
{
    sigset_t all, got;
    sigfillset(&all);
    MUST(sigprocmask(SIG_SETMASK, &all, NULL));
    MUST(sigprocmask(SIG_SETMASK, NULL, &got));
    CHECK(!sigismember(&got, SIGKILL) && !sigismember(&got, SIGSTOP) && sigismember(&got, SIGTERM));
}

TEST(ignoring_discards_what_is_pending)
{
    block(SIGUSR1);
    raise(SIGUSR1);
    signal(SIGUSR1, SIG_IGN);
    handle(SIGUSR1, 0);
    unblock(SIGUSR1);
    CHECK_EQ(count, 0);
}

TEST(realtime_signals_queue_in_order)
{
    for (int signo = SIGRTMIN; signo < SIGRTMIN + 2; signo++) {
        handle(signo, 0);
        block(signo);
    }
    static const struct {
        int offset, value;
    } sent[] = {{1, 10}, {0, 20}, {1, 11}, {0, 21}};
    for (int i = 0; i < 4; i++)
        MUST(sigqueue(getpid(), SIGRTMIN + sent[i].offset, (union sigval){.sival_int = sent[i].value}));
    static const int order[] = {20, 21, 10, 11}; /* lower numbers first, then as sent */
    for (int i = 0; i < 4; i++) {
        siginfo_t info;
        sigset_t both = set_of(SIGRTMIN);
        sigaddset(&both, SIGRTMIN + 1);
        MUST(sigwaitinfo(&both, &info));
        CHECK_EQ(info.si_value.sival_int, order[i]);
        CHECK_EQ(info.si_code, SI_QUEUE);
        CHECK_EQ(info.si_pid, getpid());
    }
}

TEST(sigqueue_reaches_a_handler)
{
    handle(SIGRTMIN + 3, 0);
    MUST(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 1234}));
    CHECK_EQ(count, 1);
    CHECK_EQ(last_value, 1234);
    CHECK_EQ(last_code, SI_QUEUE);
    siginfo_t forged = {.si_code = SI_USER};
    CHECK_ERR(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &forged), EPERM);
}

TEST(the_handlers_signal_is_blocked_meanwhile)
{
    static sigset_t during; /* raise() is a leaf to the compiler: read it through a call */
    struct sigaction action = {.sa_handler = NULL};
    void take_mask(int signo)
    {
        (void)signo;
        sigprocmask(SIG_SETMASK, NULL, &during);
    }
    action.sa_handler = take_mask;
    sigaddset(&action.sa_mask, SIGUSR2);
    MUST(sigaction(SIGUSR1, &action, NULL));
    raise(SIGUSR1);
    CHECK(sigismember(&during, SIGUSR1) && sigismember(&during, SIGUSR2) && !sigismember(&during, SIGTERM));
    sigset_t after;
    sigprocmask(SIG_SETMASK, NULL, &after);
    CHECK(!sigismember(&after, SIGUSR1) && !sigismember(&after, SIGUSR2));
    action.sa_flags = SA_NODEFER;
    MUST(sigaction(SIGUSR1, &action, NULL));
    raise(SIGUSR1);
    CHECK(!sigismember(&during, SIGUSR1) && sigismember(&during, SIGUSR2));
}

static volatile int depth, deepest;

static void nests(int signo)
{
    if (++depth > deepest)
        deepest = depth;
    if (depth < 3)
        raise(signo);
    depth--;
}

TEST(nodefer_nests)
{
    struct sigaction action = {.sa_handler = nests, .sa_flags = SA_NODEFER};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK_EQ(deepest, 3);
    CHECK_EQ(depth, 0);
}

TEST(resethand_is_for_one_time)
{
    handle(SIGUSR1, SA_RESETHAND);
    raise(SIGUSR1);
    CHECK_EQ(count, 1);
    struct sigaction now;
    MUST(sigaction(SIGUSR1, NULL, &now));
    CHECK(now.sa_handler == SIG_DFL);
}

static volatile uintptr_t handler_stack;
static volatile int handler_flags;

static void look_at_stack(int signo)
{
    stack_t now;
    (void)signo;
    handler_stack = (uintptr_t)__builtin_frame_address(0);
    sigaltstack(NULL, &now);
    handler_flags = now.ss_flags;
}

TEST(alternate_stack)
{
    static char memory[65536];
    stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory}, old;
    MUST(sigaltstack(&stack, &old));
    CHECK_EQ(old.ss_flags, SS_DISABLE);
    struct sigaction action = {.sa_handler = look_at_stack, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK(handler_stack > (uintptr_t)memory && handler_stack < (uintptr_t)memory + sizeof memory);
    CHECK_EQ(handler_flags, SS_ONSTACK);
    MUST(sigaltstack(NULL, &old));
    CHECK_EQ(old.ss_flags, 0);
    CHECK(old.ss_sp == memory && old.ss_size == sizeof memory);
    action.sa_flags = 0;
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    CHECK(handler_stack < (uintptr_t)memory || handler_stack > (uintptr_t)memory + sizeof memory);
    stack = (stack_t){.ss_sp = memory, .ss_size = 100};
    CHECK_ERR(sigaltstack(&stack, NULL), ENOMEM);
    stack = (stack_t){.ss_flags = 64, .ss_size = 65536};
    CHECK_ERR(sigaltstack(&stack, NULL), EINVAL);
    stack = (stack_t){.ss_flags = SS_DISABLE};
    MUST(sigaltstack(&stack, NULL));
}

/* Runs fn with a timer that sends SIGALRM every 10 ms. */
static void with_ticks(int flags, void (*fn)(void))
{
    struct itimerval timer = {.it_value.tv_usec = 10000, .it_interval.tv_usec = 10000};
    handle(SIGALRM, flags);
    setitimer(ITIMER_REAL, &timer, NULL);
    fn();
}

static int fds[2];

static void read_is_interrupted(void)
{
    char c;
    CHECK_ERR(read(fds[0], &c, 1), EINTR);
    CHECK(count > 0);
}

TEST(read_without_restart_fails_with_eintr)
{
    MUST(pipe(fds));
    with_ticks(0, read_is_interrupted);
}

static void read_goes_on(void)
{
    char c = 0;
    pid_t pid = must_fork();
    if (pid == 0) {
        usleep(60000);
        CHECK(write(fds[1], "x", 1) == 1);
        _exit(0);
    }
    CHECK_EQ(read(fds[0], &c, 1), 1);
    CHECK_EQ(c, 'x');
    CHECK(count > 0);
    CHECK_EXITED(pid, 0);
}

TEST(read_with_restart_goes_on)
{
    MUST(pipe(fds));
    with_ticks(SA_RESTART, read_goes_on);
}

static void wait_goes_on(void)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        usleep(60000);
        _exit(8);
    }
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(WEXITSTATUS(status), 8);
    CHECK(count > 0);
}

TEST(wait_with_restart_goes_on)
{
    with_ticks(SA_RESTART, wait_goes_on);
}

static void never_restarted(void)
{
    struct pollfd polled = {.fd = fds[0], .events = POLLIN};
    CHECK_ERR(poll(&polled, 1, -1), EINTR);
    CHECK_ERR(pause(), EINTR);
    struct timespec wait = {.tv_sec = 100}, left = {0};
    CHECK_ERR(nanosleep(&wait, &left), EINTR);
    CHECK(left.tv_sec > 0);
}

TEST(poll_pause_and_sleep_are_never_restarted)
{
    MUST(pipe(fds));
    with_ticks(SA_RESTART, never_restarted);
}

TEST(ignored_signals_do_not_interrupt)
{
    MUST(pipe(fds));
    signal(SIGUSR1, SIG_IGN);
    pid_t parent = getpid(), pid = must_fork();
    if (pid == 0) {
        wait_state(parent, 'S');
        for (int i = 0; i < 5; i++)
            kill(parent, SIGUSR1);
        CHECK(write(fds[1], "x", 1) == 1);
        _exit(0);
    }
    char c;
    CHECK_EQ(read(fds[0], &c, 1), 1);
    CHECK_EXITED(pid, 0);
}

TEST(stop_and_continue_do_not_interrupt_a_read)
{
    MUST(pipe(fds));
    pid_t pid = must_fork();
    if (pid == 0) {
        char c;
        _exit(read(fds[0], &c, 1) == 1 ? 0 : 1);
    }
    int status;
    wait_state(pid, 'S');
    MUST(kill(pid, SIGSTOP));
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    MUST(kill(pid, SIGCONT));
    CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
    CHECK(WIFCONTINUED(status));
    CHECK(write(fds[1], "x", 1) == 1);
    CHECK_EXITED(pid, 0);
}

TEST(sigsuspend_waits_with_another_mask)
{
    handle(SIGUSR1, 0);
    block(SIGUSR1);
    raise(SIGUSR1);
    sigset_t none;
    sigemptyset(&none);
    CHECK_ERR(sigsuspend(&none), EINTR);
    CHECK_EQ(count, 1);
    sigset_t now;
    sigprocmask(SIG_SETMASK, NULL, &now);
    CHECK(sigismember(&now, SIGUSR1));
}

TEST(sigtimedwait_takes_or_times_out)
{
    siginfo_t info;
    sigset_t set = set_of(SIGUSR1);
    struct timespec soon = {.tv_nsec = 20000000};
    block(SIGUSR1);
    CHECK_ERR(sigtimedwait(&set, &info, &soon), EAGAIN);
    raise(SIGUSR1);
    CHECK_EQ(sigtimedwait(&set, &info, &soon), SIGUSR1);
    CHECK_EQ(info.si_signo, SIGUSR1);
    pid_t parent = getpid(), pid = must_fork();
    if (pid == 0) {
        kill(parent, SIGUSR1);
        _exit(0);
    }
    CHECK_EQ(sigwaitinfo(&set, &info), SIGUSR1);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EXITED(pid, 0);
}

TEST(sigchld_tells_how_the_child_ended)
{
    sigset_t set = set_of(SIGCHLD);
    siginfo_t info;
    block(SIGCHLD);
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(5);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGCHLD);
    CHECK_EQ(info.si_code, CLD_EXITED);
    CHECK_EQ(info.si_status, 5);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EXITED(pid, 5);

    pid = must_fork();
    if (pid == 0)
        for (;;)
            pause();
    kill(pid, SIGSTOP);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGCHLD);
    CHECK_EQ(info.si_code, CLD_STOPPED);
    CHECK_EQ(info.si_status, SIGSTOP);
    kill(pid, SIGCONT);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGCHLD);
    CHECK_EQ(info.si_code, CLD_CONTINUED);
    kill(pid, SIGTERM);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGCHLD);
    CHECK_EQ(info.si_code, CLD_KILLED);
    CHECK_EQ(info.si_status, SIGTERM);
    CHECK_KILLED(pid, SIGTERM);
}

TEST(nocldstop_is_silent_about_stops)
{
    handle(SIGCHLD, SA_NOCLDSTOP);
    pid_t pid = must_fork();
    if (pid == 0)
        for (;;)
            pause();
    int status;
    kill(pid, SIGSTOP);
    while (waitpid(pid, &status, WUNTRACED) != pid) {
    }
    CHECK_EQ(count, 0);
    kill(pid, SIGKILL);
    CHECK_KILLED(pid, SIGKILL);
    CHECK_EQ(count, 1);
}

TEST(nocldwait_leaves_no_zombie)
{
    handle(SIGCHLD, SA_NOCLDWAIT);
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(0);
    while (waitpid(pid, NULL, 0) == -1 && errno == EINTR) {
    }
    CHECK_EQ(errno, ECHILD);
    CHECK_EQ(count, 1);
}

TEST(sigkill_ends_a_stopped_process)
{
    pid_t pid = must_fork();
    if (pid == 0)
        for (;;)
            pause();
    int status;
    kill(pid, SIGSTOP);
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    kill(pid, SIGTERM); /* waits for SIGCONT */
    CHECK_EQ(state_of(pid), 'T');
    kill(pid, SIGKILL);
    CHECK_KILLED(pid, SIGKILL);
}

TEST(fork_clears_pending_and_keeps_mask_and_handlers)
{
    handle(SIGUSR1, 0);
    block(SIGUSR1);
    raise(SIGUSR1);
    pid_t pid = must_fork();
    if (pid == 0) {
        sigset_t set;
        struct sigaction action;
        sigpending(&set);
        CHECK(!sigismember(&set, SIGUSR1));
        sigprocmask(SIG_SETMASK, NULL, &set);
        CHECK(sigismember(&set, SIGUSR1));
        sigaction(SIGUSR1, NULL, &action);
        CHECK(action.sa_sigaction == note);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

static void change_return(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)signo, (void)info;
    uc->uc_mcontext.gregs[REG_R12] = 0x1234;
    sigaddset(&uc->uc_sigmask, SIGUSR2);
}

TEST(the_handler_may_change_the_context)
{
    struct sigaction action = {.sa_sigaction = change_return, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    long out;
    __asm__ volatile("xor %%r12d, %%r12d\n\tsyscall\n\tmov %%r12, %0"
                     : "=r"(out)
                     : "a"(SYS_tgkill), "D"(getpid()), "S"(gettid()), "d"(SIGUSR1)
                     : "rcx", "r11", "r12", "memory");
    CHECK_EQ(out, 0x1234);
    sigset_t now;
    sigprocmask(SIG_SETMASK, NULL, &now);
    CHECK(sigismember(&now, SIGUSR2));
}

static void clobber_vectors(int signo)
{
    (void)signo;
    count++;
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\tpcmpeqd %%xmm15, %%xmm15\n\tfninit" ::: "xmm0", "xmm15");
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vxorps %%ymm7, %%ymm7, %%ymm7" ::: "xmm7");
}

TEST(vector_registers_survive_a_handler)
{
    struct sigaction action = {.sa_handler = clobber_vectors};
    sigaction(SIGUSR1, &action, NULL);
    static const char pattern[32] __attribute__((aligned(32))) = "0123456789abcdefABCDEFGHIJKLMNO";
    static char got[3][32] __attribute__((aligned(32)));
    double before = 2.5, after;
    long result;
    __asm__ volatile("fldl %5\n\t"
                     "movdqa %4, %%xmm0\n\t"
                     "movdqa %4, %%xmm15\n\t"
                     "syscall\n\t"
                     "movdqa %%xmm0, %1\n\t"
                     "movdqa %%xmm15, %2\n\t"
                     "fstpl %3"
                     : "=a"(result), "=m"(got[0]), "=m"(got[1]), "=m"(after)
                     : "m"(pattern), "m"(before), "a"(SYS_tgkill), "D"(getpid()), "S"(gettid()), "d"(SIGUSR1)
                     : "rcx", "r11", "xmm0", "xmm15", "memory");
    CHECK_EQ(result, 0);
    CHECK_EQ(count, 1);
    CHECK(memcmp(got[0], pattern, 16) == 0 && memcmp(got[1], pattern, 16) == 0);
    CHECK(after == 2.5);
    if (!__builtin_cpu_supports("avx"))
        return;
    __asm__ volatile("vmovdqa %2, %%ymm7\n\t"
                     "syscall\n\t"
                     "vmovdqa %%ymm7, %1"
                     : "=a"(result), "=m"(got[2])
                     : "m"(pattern), "a"(SYS_tgkill), "D"(getpid()), "S"(gettid()), "d"(SIGUSR1)
                     : "rcx", "r11", "xmm7", "memory");
    CHECK_EQ(count, 2);
    CHECK(memcmp(got[2], pattern, 32) == 0);
}

TEST(signals_to_a_spinning_process_arrive)
{
    struct gate ready = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        handle(SIGUSR1, 0);
        gate_open(&ready);
        while (count == 0) {
        }
        _exit(0);
    }
    gate_wait(&ready);
    MUST(kill(pid, SIGUSR1));
    CHECK_EXITED(pid, 0);
}

TEST(a_thread_directed_signal_goes_to_that_thread)
{
    static volatile int handled_by, tid;
    void on(int signo)
    {
        (void)signo;
        handled_by = gettid();
    }
    struct sigaction action = {.sa_handler = on};
    sigaction(SIGUSR1, &action, NULL);
    tid = gettid();
    syscall(SYS_tkill, tid, SIGUSR1);
    CHECK_EQ(handled_by, tid);
}

TEST(broken_signal_stack_kills)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        char *gone = mmap(NULL, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        stack_t stack = {.ss_sp = gone, .ss_size = 65536};
        sigaltstack(&stack, NULL);
        handle(SIGUSR1, SA_ONSTACK);
        raise(SIGUSR1);
        _exit(0);
    }
    CHECK_KILLED(pid, SIGSEGV);
}
