"""--strace: what a call looks like."""

import struct

import pytest

from sentry.abi.errno import EINVAL, ENOENT
from sentry.abi.fcntl import O_CLOEXEC, O_CREAT
from sentry.abi.poll import POLLFD, POLLIN
from sentry.abi.signal import CLD_EXITED, SEGV_MAPERR, SI_KERNEL, SIGALRM, SIGCHLD, SIGKILL, SIGSEGV
from sentry.kernel.restart import ERESTARTSYS, Interrupted
from sentry.kernel.signals import SigInfo
from sentry.platform import SyscallTrap
from sentry.strace import Strace
from sentry.syscalls.registry import HANDLERS, build_table
from tests.fakeguest import Guest

AT_FDCWD = (1 << 64) - 100


class Trace:
    """A tracer, a process, and the lines so far."""

    def __init__(self):
        build_table()
        self.lines: list[str] = []
        self.guest = Guest()
        self.t = self.guest.process()
        self.strace = Strace(self.lines.append)

    def put(self, data):
        return self.t.mem.put(data)

    def enter(self, name, *args, t=None):
        self.strace.enter(t or self.t, HANDLERS[name], args + (0,) * (6 - len(args)))

    def leave(self, name, *args, result=0, t=None):
        self.strace.leave(t or self.t, HANDLERS[name], args + (0,) * (6 - len(args)), result)

    def line(self, name, *args, result=0):
        self.enter(name, *args)
        self.leave(name, *args, result=result)
        return self.lines[-1].removeprefix("[pid     1] ")


@pytest.fixture
def trace():
    return Trace()


def test_a_line_is_what_strace_writes(trace):
    trace.line("openat", AT_FDCWD, trace.put(b"/etc/passwd\0"), O_CLOEXEC, 0, result=3)
    trace.line("close", 3)
    assert trace.lines == [
        '[pid     1] openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3',
        "[pid     1] close(3)                    = 0",
    ]


def test_the_mode_is_shown_when_it_counts(trace):
    assert '"f", O_RDONLY|O_CREAT, 0644) = 3' in trace.line("open", trace.put(b"f\0"), O_CREAT, 0o644, result=3)


def test_errors_have_name_meaning_and_reason(trace):
    assert trace.line("chdir", trace.put(b"/x\0"), result=ENOENT()).endswith("= -1 ENOENT (No such file or directory)")
    assert trace.line("pipe2", 8, 1, result=EINVAL("unknown flags")).endswith(
        "= -1 EINVAL (Invalid argument) /* unknown flags */"
    )


def test_interruptions_name_their_restart(trace):
    assert trace.line("close", 0, result=Interrupted(ERESTARTSYS)).endswith(
        "= ? ERESTARTSYS (To be restarted if SA_RESTART is set)"
    )


def test_buffers_are_shown_before_a_write_and_after_a_read(trace):
    buffer = trace.put(b"old stuff")
    trace.enter("read", 0, buffer, 9)
    trace.t.mem.write(buffer, b"new\n")
    trace.leave("read", 0, buffer, 9, result=4)
    trace.enter("write", 1, buffer, 4)
    trace.t.mem.write(buffer, b"xxxx")
    trace.leave("write", 1, buffer, 4, result=4)

    assert 'read(0, "new\\n", 9) ' in trace.lines[0]
    assert 'write(1, "new\\n", 4) ' in trace.lines[1]


def test_a_failed_read_shows_only_the_address(trace):
    assert trace.line("read", 0, 0x1234, 9, result=EINVAL()).startswith("read(0, 0x1234, 9)")


def test_long_buffers_are_cut(trace):
    assert f'"{"x" * 32}"..., 100)' in trace.line("write", 1, trace.put(b"x" * 100), 100)


@pytest.mark.parametrize(
    ("name", "make", "text"),
    [
        ("pipe", lambda put: (put(struct.pack("<ii", 3, 4)),), "pipe([3, 4])"),
        (
            "clock_gettime",
            lambda put: (1, put(struct.pack("<qq", 5, 6))),
            "clock_gettime(CLOCK_MONOTONIC, {tv_sec=5, tv_nsec=6})",
        ),
        ("nanosleep", lambda put: (put(struct.pack("<qq", 1, 0)), 0), "nanosleep({tv_sec=1, tv_nsec=0}, NULL)"),
        (
            "rt_sigprocmask",
            lambda put: (0, put(struct.pack("<Q", 1 << 13)), 0, 8),
            "rt_sigprocmask(SIG_BLOCK, [ALRM], NULL, 8)",
        ),
        (
            "wait4",
            lambda put: (0xFFFFFFFF, put(struct.pack("<i", 0x300)), 1, 0),
            "wait4(-1, [{WIFEXITED(s) && WEXITSTATUS(s) == 3}], WNOHANG, NULL)",
        ),
        ("kill", lambda put: (7, 9), "kill(7, SIGKILL)"),
        (
            "epoll_ctl",
            lambda put: (3, 1, 4, put(struct.pack("<IQ", 1 << 31 | 1, 4))),
            "epoll_ctl(3, EPOLL_CTL_ADD, 4, {events=EPOLLIN|EPOLLET, data=0x4})",
        ),
        ("clone", lambda put: (17, 0, 0, 0, 0), "clone(SIGCHLD, NULL, NULL, NULL, 0)"),
        ("futex", lambda put: (0, 128 | 1, 1, 0, 0, 0), "futex(NULL, FUTEX_WAKE_PRIVATE, 1"),
        ("lseek", lambda put: (3, 5, 2), "lseek(3, 5, SEEK_END)"),
        (
            "setrlimit",
            lambda put: (7, put(struct.pack("<QQ", 1024, (1 << 64) - 1))),
            "setrlimit(RLIMIT_NOFILE, {rlim_cur=1*1024, rlim_max=RLIM64_INFINITY})",
        ),
    ],
)
def test_structures(trace, name, make, text):
    assert trace.line(name, *make(trace.put)).startswith(text)


def test_arguments_of_a_new_program(trace):
    words = [trace.put(b"ls\0"), trace.put(b"-l\0"), 0]
    argv = trace.put(struct.pack("<3Q", *words))
    envp = trace.put(struct.pack("<2Q", words[0], 0))
    text = trace.line("execve", trace.put(b"/bin/ls\0"), argv, envp, result=None)
    assert text.startswith('execve("/bin/ls", ["ls", "-l"], ')
    assert text.endswith("/* 1 var */) = 0")


def test_poll_shows_what_it_found_behind_the_result(trace):
    fds = trace.put(POLLFD.pack(3, POLLIN, 0) + POLLFD.pack(4, POLLIN, 0))
    trace.enter("poll", fds, 2, 1000)
    trace.t.mem.write(fds, POLLFD.pack(3, POLLIN, POLLIN))
    trace.leave("poll", fds, 2, 1000, result=1)
    assert trace.lines[0].endswith(
        "poll([{fd=3, events=POLLIN}, {fd=4, events=POLLIN}], 2, 1000) = 1 ([{fd=3, revents=POLLIN}])"
    )
    assert trace.line("poll", 0, 0, 1).endswith("= 0")


def test_addresses_are_results_of_mmap(trace):
    assert trace.line("brk", 0, result=0x5000).endswith("= 0x5000")


def test_exit_never_returns(trace):
    trace.line("exit_group", 3, result=None)
    trace.strace.exit(trace.t, 3 << 8)
    trace.strace.exit(trace.t, SIGKILL)
    assert trace.lines[0].endswith("= ?")
    assert trace.lines[1:] == ["[pid     1] +++ exited with 3 +++", "[pid     1] +++ killed by SIGKILL +++"]


def test_signals(trace):
    trace.strace.signal(trace.t, SigInfo(SIGCHLD, CLD_EXITED, pid=12, status=1))
    trace.strace.signal(trace.t, SigInfo(SIGSEGV, SEGV_MAPERR, addr=0x10))
    trace.strace.signal(trace.t, SigInfo(SIGALRM, SI_KERNEL))
    assert trace.lines == [
        "[pid     1] --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=12, si_uid=0, si_status=1,"
        " si_utime=0, si_stime=0} ---",
        "[pid     1] --- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x10} ---",
        "[pid     1] --- SIGALRM {si_signo=SIGALRM, si_code=SI_KERNEL} ---",
    ]


def test_a_call_that_waits_is_unfinished_and_resumed(trace):
    other = trace.guest.process()
    buffer = trace.put(b"abc")
    trace.enter("read", 0, buffer, 3)
    trace.enter("close", 5, t=other)
    trace.leave("close", 5, t=other)
    trace.leave("read", 0, buffer, 3, result=3)
    assert trace.lines == [
        "[pid     1] read(0,  <unfinished ...>",
        "[pid     2] close(5)                    = 0",
        '[pid     1] <... read resumed>"abc", 3) = 3',
    ]


def test_a_long_call_shows_itself(trace):
    trace.enter("nanosleep", trace.put(struct.pack("<qq", 9, 0)), 0)
    trace.strace._out_of_patience()
    assert trace.lines == ["[pid     1] nanosleep({tv_sec=9, tv_nsec=0}, NULL <unfinished ...>"]


def test_unknown_numbers(trace):
    trace.strace.unknown(trace.t, SyscallTrap(0x1F4, (1, 2, 3, 4, 5, 6)))
    assert trace.lines[0].startswith("[pid     1] syscall_0x1f4(0x1, 0x2, 0x3, 0x4, 0x5, 0x6)")
    assert trace.lines[0].endswith("= -1 ENOSYS (Function not implemented)")


def test_refused_calls_show_their_registers(trace):
    refusal = HANDLERS["bpf"].errno
    assert refusal is not None
    assert trace.line("bpf", 1, 2, result=refusal("no BPF")).startswith("bpf(0x1, 0x2, 0x0")


def test_every_call_can_be_shown_with_any_arguments(trace):
    """Neither pointers into nowhere nor negative counts may break the tracer."""
    for value in (0, 1, 8, 0x10000, (1 << 64) - 1, 1 << 63, 0x7FFFFFFF):
        for name in HANDLERS:
            trace.line(name, *[value] * 6, result=1)
            trace.line(name, *[value] * 6, result=EINVAL())
