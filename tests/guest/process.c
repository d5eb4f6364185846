/* fork, vfork, clone, clone3, exit, wait4, waitid: processes and what is left of them. */
#include "check.h"
#include <linux/sched.h>
#include <sys/resource.h>

TEST(fork_returns_twice)
{
    pid_t parent = getpid();
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(getppid() == parent && getpid() != parent ? 42 : 1);
    CHECK(pid != parent);
    CHECK_EXITED(pid, 42);
}

TEST(exit_code_is_cut_to_eight_bits)
{
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(0x1203);
    CHECK_EXITED(pid, 3);
}

TEST(fork_copies_memory)
{
    static int value = 1;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    page[0] = 'a';
    pid_t pid = must_fork();
    if (pid == 0) {
        CHECK_EQ(value, 1);
        CHECK_EQ(page[0], 'a');
        value = 2;
        page[0] = 'b';
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK_EQ(value, 1);
    CHECK_EQ(page[0], 'a');
}

TEST(fork_shares_file_offset)
{
    make_file("f", "abcdef");
    int fd = (int)MUST(open("f", O_RDONLY));
    pid_t pid = must_fork();
    char c;
    if (pid == 0) {
        CHECK(read(fd, &c, 1) == 1 && c == 'a');
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK(read(fd, &c, 1) == 1 && c == 'b');
}

TEST(close_in_the_child_leaves_the_parents_descriptor)
{
    make_file("f", "x");
    int fd = (int)MUST(open("f", O_RDONLY));
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(close(fd));
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    MUST(fcntl(fd, F_GETFD));
}

TEST(vfork_parent_waits_until_the_child_exits)
{
    static volatile int seen;
    pid_t pid = vfork();
    if (pid == 0) {
        for (int i = 0; i < 1000; i++)
            sched_yield();
        seen = 7; /* the memory is shared */
        _exit(5);
    }
    CHECK(pid > 0);
    CHECK_EQ(seen, 7);
    CHECK_EXITED(pid, 5);
}

static int clone_child(void *arg)
{
    *(volatile int *)arg = 9;
    return 3;
}

TEST(clone_vm_shares_memory)
{
    static int value;
    char *stack = malloc(65536);
    int pid = (int)MUST(clone(clone_child, stack + 65536, CLONE_VM | SIGCHLD, &value));
    CHECK_EXITED(pid, 3);
    CHECK_EQ(value, 9);
}

TEST(clone_without_exit_signal_needs_wclone)
{
    static int value;
    char *stack = malloc(65536);
    int pid = (int)MUST(clone(clone_child, stack + 65536, CLONE_VM, &value));
    CHECK_ERR(waitpid(pid, NULL, 0), ECHILD);
    int status;
    CHECK_EQ(waitpid(pid, &status, __WCLONE), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

TEST(clone_files_shares_the_table)
{
    int fds[2];
    MUST(pipe(fds));
    int pid = (int)MUST(syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0));
    if (pid == 0) {
        close(fds[0]);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK_ERR(fcntl(fds[0], F_GETFD), EBADF);
}

TEST(clone_fs_shares_cwd_and_umask)
{
    MUST(mkdir("d", 0755));
    int pid = (int)MUST(syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0));
    if (pid == 0) {
        umask(077);
        _exit(chdir("d") == 0 ? 0 : 1);
    }
    CHECK_EXITED(pid, 0);
    char cwd[PATH_MAX];
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    CHECK(strcmp(strrchr(cwd, '/'), "/d") == 0);
    CHECK_EQ(umask(022), 077);
}

TEST(clone_parent_makes_a_sibling)
{
    pid_t middle = must_fork();
    if (middle == 0) {
        long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
        if (pid == 0)
            _exit(11);
        CHECK(pid > 0);
        CHECK_ERR(waitpid((pid_t)pid, NULL, 0), ECHILD);
        _exit(12);
    }
    CHECK_EXITED(middle, 12);
    int status;
    MUST(wait(&status));
    CHECK_EQ(WEXITSTATUS(status), 11);
}

TEST(clone_settid_stores_the_ids)
{
    static pid_t parent_tid, child_tid;
    long pid = syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, &parent_tid, &child_tid, 0);
    if (pid == 0)
        _exit(child_tid == getpid() ? 0 : 1);
    CHECK_EQ(parent_tid, pid);
    CHECK_EQ(child_tid, 0);
    CHECK_EXITED((pid_t)pid, 0);
}

TEST(clone3_forks)
{
    static int pidfd_unused;
    struct clone_args args = {.exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0)
        _exit(21);
    CHECK(pid > 0);
    CHECK_EXITED((pid_t)pid, 21);
    CHECK_EQ(pidfd_unused, 0);
}

TEST(clone3_refuses_nonsense)
{
    struct clone_args args = {.exit_signal = 65};
    CHECK_ERR(syscall(SYS_clone3, &args, sizeof args), EINVAL);
    CHECK_ERR(syscall(SYS_clone3, &args, 8), EINVAL);
    CHECK_ERR(syscall(SYS_clone3, NULL, sizeof args), EFAULT);
    args = (struct clone_args){.exit_signal = SIGCHLD, .flags = CLONE_SIGHAND};
    CHECK_ERR(syscall(SYS_clone3, &args, sizeof args), EINVAL);
    args = (struct clone_args){.exit_signal = SIGCHLD, .stack = 4096};
    CHECK_ERR(syscall(SYS_clone3, &args, sizeof args), EINVAL);
}

TEST(clone_refuses_contradictory_flags)
{
    CHECK_ERR(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0), EINVAL);
    CHECK_ERR(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0), EINVAL);
    CHECK_ERR(syscall(SYS_clone, CLONE_NEWNS | CLONE_FS | SIGCHLD, 0, 0, 0, 0), EINVAL);
}

TEST(wait_without_children)
{
    CHECK_ERR(wait(NULL), ECHILD);
    CHECK_ERR(waitpid(-1, NULL, WNOHANG), ECHILD);
    CHECK_ERR(waitpid(getpid(), NULL, 0), ECHILD);
    CHECK_ERR(waitpid(1 << 30, NULL, 0), ECHILD);
    CHECK_ERR(waitpid(-1, NULL, 0x40000), EINVAL);
    siginfo_t info;
    CHECK_ERR(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
    CHECK_ERR(waitid(P_ALL, 0, &info, 0), EINVAL);
    CHECK_ERR(waitid(P_PID, 0, &info, WEXITED), EINVAL);
}

TEST(wnohang_gives_zero_while_the_child_runs)
{
    struct gate gate = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        gate_wait(&gate);
        _exit(0);
    }
    int status = 0x5555;
    CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
    CHECK_EQ(status, 0x5555);
    siginfo_t info = {.si_pid = 77};
    CHECK_EQ(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG), 0);
    CHECK_EQ(info.si_pid, 0);
    gate_open(&gate);
    CHECK_EXITED(pid, 0);
}

TEST(zombie_stays_until_waited_for)
{
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(4);
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
    CHECK_EQ(info.si_status, 4);
    MUST(kill(pid, 0));
    MUST(kill(pid, SIGKILL)); /* a zombie takes signals and stays as it is */
    CHECK_EQ(state_of(pid), 'Z');
    CHECK_EXITED(pid, 4);
    CHECK_ERR(kill(pid, 0), ESRCH);
    CHECK_ERR(waitpid(pid, NULL, 0), ECHILD);
}

TEST(waitid_fills_siginfo)
{
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(6);
    siginfo_t info = {0};
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED));
    CHECK_EQ(info.si_signo, SIGCHLD);
    CHECK_EQ(info.si_code, CLD_EXITED);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_uid, getuid());
    CHECK_EQ(info.si_status, 6);

    pid = must_fork();
    if (pid == 0) {
        raise(SIGKILL);
        _exit(0);
    }
    MUST(waitid(P_ALL, 0, &info, WEXITED));
    CHECK_EQ(info.si_code, CLD_KILLED);
    CHECK_EQ(info.si_status, SIGKILL);
}

TEST(wait4_counts_the_childs_time)
{
    struct rusage usage;
    pid_t pid = must_fork();
    if (pid == 0) {
        struct rusage own;
        do
            getrusage(RUSAGE_SELF, &own);
        while (own.ru_utime.tv_usec + own.ru_stime.tv_usec + 1000000 * (own.ru_utime.tv_sec + own.ru_stime.tv_sec) < 20000);
        _exit(0);
    }
    int status;
    CHECK_EQ(wait4(pid, &status, 0, &usage), pid);
    long spent = usage.ru_utime.tv_usec + usage.ru_stime.tv_usec + 1000000 * (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec);
    CHECK(spent >= 10000);
    MUST(getrusage(RUSAGE_CHILDREN, &usage));
    CHECK(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec + usage.ru_utime.tv_sec + usage.ru_stime.tv_sec > 0);
}

TEST(wait_by_process_group)
{
    pid_t a = must_fork();
    if (a == 0) {
        setpgid(0, 0);
        _exit(1);
    }
    pid_t b = must_fork();
    if (b == 0)
        _exit(2);
    if (setpgid(a, a) != 0)
        CHECK(errno == EACCES || errno == ESRCH); /* it was quicker */
    int status;
    CHECK_EQ(waitpid(-a, &status, 0), a);
    CHECK_EQ(WEXITSTATUS(status), 1);
    CHECK_EQ(waitpid(0, &status, 0), b); /* 0: the caller's own group */
    CHECK_EQ(WEXITSTATUS(status), 2);
}

TEST(orphan_goes_to_the_subreaper)
{
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    int is = 0;
    MUST(prctl(PR_GET_CHILD_SUBREAPER, &is));
    CHECK_EQ(is, 1);
    struct gate parent_gone = gate_new();
    pid_t me = getpid();
    pid_t middle = must_fork();
    if (middle == 0) {
        if (must_fork() == 0) {
            gate_wait(&parent_gone);
            _exit(getppid() == me ? 33 : 34);
        }
        _exit(0);
    }
    CHECK_EXITED(middle, 0);
    gate_open(&parent_gone);
    int status;
    MUST(wait(&status));
    CHECK_EQ(WEXITSTATUS(status), 33);
}

TEST(orphan_zombie_goes_to_the_subreaper)
{
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t middle = must_fork();
    if (middle == 0) {
        pid_t pid = must_fork();
        if (pid == 0)
            _exit(35);
        siginfo_t info;
        MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
        _exit(0);
    }
    CHECK_EXITED(middle, 0);
    int status;
    MUST(wait(&status));
    CHECK_EQ(WEXITSTATUS(status), 35);
}

TEST(parent_death_signal)
{
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    struct gate ready = gate_new();
    pid_t middle = must_fork();
    if (middle == 0) {
        if (must_fork() == 0) {
            MUST(prctl(PR_SET_PDEATHSIG, SIGTERM));
            gate_open(&ready);
            for (;;)
                pause();
        }
        gate_wait(&ready);
        _exit(0);
    }
    CHECK_EXITED(middle, 0);
    int status;
    MUST(wait(&status));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

TEST(many_children_at_once)
{
    enum { COUNT = 40 };
    pid_t pids[COUNT];
    for (int i = 0; i < COUNT; i++) {
        pids[i] = must_fork();
        if (pids[i] == 0)
            _exit(i);
    }
    for (int i = COUNT - 1; i >= 0; i--)
        CHECK_EXITED(pids[i], i);
    CHECK_ERR(wait(NULL), ECHILD);
}

TEST(ignored_sigchld_reaps)
{
    signal(SIGCHLD, SIG_IGN);
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(0);
    CHECK_ERR(waitpid(pid, NULL, 0), ECHILD); /* waits until it is gone */
    CHECK_ERR(kill(pid, 0), ESRCH);
}

static int sleeper(void *arg)
{
    for (;;)
        pause();
    return *(int *)arg;
}

TEST(exit_group_ends_all_threads)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        static char stack[65536] __attribute__((aligned(16)));
        clone(sleeper, stack + sizeof stack,
              CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, NULL);
        syscall(SYS_exit_group, 17);
    }
    CHECK_EXITED(pid, 17);
}

TEST(process_name_is_15_bytes)
{
    char name[17] = {0};
    MUST(prctl(PR_SET_NAME, "a-name-that-is-too-long"));
    MUST(prctl(PR_GET_NAME, name));
    CHECK(strcmp(name, "a-name-that-is-") == 0);
}
