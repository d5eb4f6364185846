/* Process groups and sessions: setpgid, getpgid, setsid, getsid and who may call them; orphaned groups. */
#include "check.h"

TEST(child_inherits_group_and_session)
{
    pid_t group = getpgrp(), session = getsid(0);
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(getpgrp() == group && getsid(0) == session ? 0 : 1);
    CHECK_EXITED(pid, 0);
}

TEST(setpgid_makes_and_joins_groups)
{
    struct gate gate = gate_new();
    pid_t a = must_fork();
    if (a == 0) {
        gate_wait(&gate);
        _exit(getpgrp() == getpid() ? 0 : 1);
    }
    MUST(setpgid(a, 0));
    CHECK_EQ(getpgid(a), a);
    pid_t b = must_fork();
    if (b == 0) {
        MUST(setpgid(0, a));
        gate_wait(&gate);
        _exit(getpgrp() == a ? 0 : 1);
    }
    gate_open(&gate);
    gate_open(&gate);
    CHECK_EXITED(b, 0);
    CHECK_EXITED(a, 0);
}

TEST(setpgid_errors)
{
    CHECK_ERR(setpgid(0, -1), EINVAL);
    CHECK_ERR(setpgid(-1, 0), EINVAL);
    CHECK_ERR(setpgid(1 << 30, 0), ESRCH);
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setpgid(0, 0));
        CHECK_ERR(setpgid(0, 1 << 30), EPERM); /* no such group in the session */
        MUST(setpgid(0, getpid()));
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK_ERR(getpgid(1 << 30), ESRCH);
    CHECK_ERR(getsid(1 << 30), ESRCH);
}

TEST(setsid_makes_leader_of_both)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        CHECK_EQ(setsid(), getpid());
        CHECK_EQ(getsid(0), getpid());
        CHECK_EQ(getpgrp(), getpid());
        CHECK_ERR(setsid(), EPERM);
        CHECK_ERR(setpgid(0, 0), EPERM); /* a session leader stays where it is */
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

TEST(group_leader_cannot_setsid)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setpgid(0, 0));
        CHECK_ERR(setsid(), EPERM);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

TEST(setpgid_after_the_child_execed)
{
    struct gate ready = gate_new();
    int fds[2];
    MUST(pipe2(fds, O_CLOEXEC));
    pid_t pid = must_fork();
    if (pid == 0) {
        execl(program_path, program_path, "--sleep", NULL);
        _exit(1);
    }
    close(fds[1]);
    char c;
    CHECK_EQ(read(fds[0], &c, 1), 0); /* closed by the exec */
    CHECK_ERR(setpgid(pid, pid), EACCES);
    MUST(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
    (void)ready;
}

TEST(setpgid_across_sessions)
{
    struct gate ready = gate_new(), done = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setsid());
        gate_open(&ready);
        gate_wait(&done);
        _exit(0);
    }
    gate_wait(&ready);
    CHECK_ERR(setpgid(pid, pid), EPERM);
    CHECK_ERR(setpgid(0, pid), EPERM);
    gate_open(&done);
    CHECK_EXITED(pid, 0);
}

TEST(kill_reaches_the_whole_group)
{
    struct gate ready = gate_new();
    pid_t pids[3];
    for (int i = 0; i < 3; i++) {
        pids[i] = must_fork();
        if (pids[i] == 0) {
            MUST(setpgid(0, i == 0 ? 0 : pids[0]));
            gate_open(&ready);
            for (;;)
                pause();
        }
        gate_wait(&ready);
    }
    MUST(kill(-pids[0], SIGTERM));
    for (int i = 0; i < 3; i++)
        CHECK_KILLED(pids[i], SIGTERM);
    CHECK_ERR(kill(-pids[0], SIGTERM), ESRCH);
    CHECK_ERR(killpg(1 << 30, 0), ESRCH);
}

TEST(kill_zero_reaches_the_own_group)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setpgid(0, 0));
        pid_t other = must_fork();
        if (other == 0)
            for (;;)
                pause();
        signal(SIGUSR1, SIG_IGN);
        MUST(kill(0, SIGUSR1));
        CHECK_KILLED(other, SIGUSR1);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

TEST(orphaned_group_with_a_stopped_member_gets_hup_and_cont)
{
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    struct gate go = gate_new();
    int out[2];
    MUST(pipe(out));
    pid_t leader = must_fork();
    if (leader == 0) {
        MUST(setsid());
        pid_t stopped = must_fork();
        if (stopped == 0) {
            sigset_t both;
            int got;
            sigemptyset(&both);
            sigaddset(&both, SIGHUP);
            sigaddset(&both, SIGCONT);
            sigprocmask(SIG_BLOCK, &both, NULL);
            MUST(setpgid(0, 0));
            MUST(write(out[1], &(pid_t){getpid()}, sizeof(pid_t)));
            kill(getpid(), SIGSTOP);
            sigset_t pending;
            do
                sigpending(&pending);
            while (!sigismember(&pending, SIGHUP));
            CHECK(sigwait(&both, &got) == 0);
            _exit(got == SIGHUP ? 44 : 45);
        }
        int status;
        CHECK_EQ(waitpid(stopped, &status, WUNTRACED), stopped);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
        gate_wait(&go);
        _exit(0);
    }
    pid_t stopped;
    CHECK_EQ(read(out[0], &stopped, sizeof stopped), sizeof stopped);
    gate_open(&go);
    CHECK_EXITED(leader, 0);
    CHECK_EXITED(stopped, 44);
}

int helper(int argc, char **argv)
{
    (void)argc, (void)argv;
    for (;;)
        pause();
}
