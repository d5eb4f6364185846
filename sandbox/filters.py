"""Which host calls the Sentry and the gofer may still make: one table each, loaded with libseccomp.

A table's row is: call names, why they are needed, and checks that the arguments must pass.  Several rows for one call
are alternatives.  A value in a check may be a name that the loader is given a number for (`proc_fd`).

What is not in a table is refused:

- In the gofer with EPERM; with --debug it is killed by SIGSYS instead, so that a missing row cannot hide.
- In the Sentry with ENOSYS, by RET_TRACE without a tracer.  The stubs, in which the application's code runs, descend
  from the Sentry and inherit its filter, and of two filters the kernel obeys the stricter answer.  RET_ERRNO and
  RET_KILL would override the stubs' own filter, which hands every call to the Sentry by a notification (USER_NOTIF):
  the application would get the errno and the Sentry never see the call.  RET_TRACE is the only refusal that is weaker
  than USER_NOTIF.  The price: whoever has taken over the Sentry whole could trace a child of its own and let it pass
  such calls.  It could do the same with a stub, whatever this filter says.
- So the calls in NEVER, which neither the Sentry nor a stub has any use for and which the Sentry would refuse the
  application in any case, are refused with an errno: that is final for the Sentry and all of its stubs.

no_new_privs must be set, and whatever a process needs to import or open by name must have been, before `load`.
"""

import errno
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from proto.slotted import slotted
from sandbox import hostcalls

O_CREATING: Final = os.O_CREAT | os.O_TRUNC | os.O_APPEND | (os.O_TMPFILE & ~os.O_DIRECTORY)
AT_EMPTY_PATH: Final = 0x1000
CLONE_NEW_ANY: Final = 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
ALL_BITS: Final = 0xFFFFFFFF
REFUSED: Final = 0xBAD
"""The trace message of the Sentry's default action, to tell it from a stub's own."""
PLACEHOLDERS: Final = {"proc_fd": 0x50524F43}
"""Numbers that no check asks for, in place of those that are known only when the filter is loaded."""
_SOCK_FILTER: Final = struct.Struct("=HBBI")
"""struct sock_filter, linux/filter.h: code, jt, jf, k."""
_JUMP_IF_EQUAL: Final = 0x15
"""BPF_JMP | BPF_JEQ | BPF_K"""


@slotted
class Check:
    """Argument `index`, masked, must equal `value`.

    32 bits are compared: an int argument leaves the upper half of its register undefined.
    """

    index: int
    mask: int
    value: int | str


def equals(index: int, value: int | str) -> Check:
    return Check(index, ALL_BITS, value)


def without(index: int, bits: int) -> Check:
    return Check(index, bits, 0)


def having(index: int, bits: int) -> Check:
    return Check(index, bits, bits)


@slotted
class Rule:
    """One row: the calls, why, and the checks, all of which must pass."""

    calls: str
    why: str
    checks: tuple[Check, ...] = ()


def _one_of(call: str, index: int, values: Mapping[str, int], why: str) -> tuple[Rule, ...]:
    """A row for each accepted value of an argument, such as an ioctl's request."""
    return tuple(Rule(call, f"{name}: {why}", (equals(index, value),)) for name, value in values.items())


_PYTHON: Final = (
    Rule("brk mmap munmap mremap mprotect madvise", "malloc, thread stacks, the stubs' own memory calls"),
    Rule("futex futex_waitv set_robust_list get_robust_list set_tid_address rseq membarrier", "locks, threads' ends"),
    Rule("exit exit_group rt_sigreturn restart_syscall", "leaving, and returning from signals"),
    Rule("rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack", "signal handling"),
    Rule("clock_gettime clock_getres gettimeofday time clock_nanosleep nanosleep", "time, where the vDSO does not do"),
    Rule("getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getgroups", "who am I"),
    Rule("getrandom getcpu uname sysinfo times getrusage", "facts without side effects"),
    Rule("sched_yield sched_getaffinity", "locks; the number of CPUs"),
    Rule("close close_range dup dup2 dup3 fcntl pipe2", "own descriptors"),
    Rule("read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek", "files handed over"),
    Rule("fstat fstatfs", "what a descriptor is"),
    Rule("newfstatat statx", "fstat, as newer C libraries spell it", (having(3, AT_EMPTY_PATH),)),
    Rule("epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6", "the event loop"),
    Rule("sendmsg recvmsg sendto recvfrom shutdown", "sockets handed over"),
    Rule("tgkill", "abort(), and waking an own thread"),
)  # fmt: skip

_SECCOMP_IOCTLS: Final = {
    "SECCOMP_IOCTL_NOTIF_RECV": 0xC0502100,
    "SECCOMP_IOCTL_NOTIF_SEND": 0xC0182101,
    "SECCOMP_IOCTL_NOTIF_ID_VALID": 0x40082102,
    "SECCOMP_IOCTL_NOTIF_ADDFD": 0x40182103,
    "SECCOMP_IOCTL_NOTIF_SET_FLAGS": 0x40082104,
}
_KVM_IOCTLS: Final = {
    "KVM_GET_API_VERSION": 0xAE00, "KVM_CREATE_VM": 0xAE01, "KVM_CHECK_EXTENSION": 0xAE03,
    "KVM_GET_VCPU_MMAP_SIZE": 0xAE04, "KVM_GET_SUPPORTED_CPUID": 0xC008AE05, "KVM_CREATE_VCPU": 0xAE41,
    "KVM_SET_USER_MEMORY_REGION": 0x4020AE46, "KVM_RUN": 0xAE80, "KVM_GET_SREGS": 0x8138AE83,
    "KVM_SET_SREGS": 0x4138AE84, "KVM_SET_REGS": 0x4090AE82, "KVM_SET_MSRS": 0x4008AE89,
    "KVM_SET_CPUID2": 0x4008AE90, "KVM_INTERRUPT": 0x4004AE86, "KVM_SET_XCRS": 0x4188AEA7,
    "KVM_GET_VCPU_EVENTS": 0x8040AE9F, "KVM_SET_VCPU_EVENTS": 0x4040AEA0, "KVM_SET_DEVICE_ATTR": 0x4018AEE1,
    "KVM_GET_TSC_KHZ": 0xAEA3, "KVM_GET_XSAVE": 0x9000AEA4, "KVM_SET_XSAVE": 0x5000AEA5,
}  # fmt: skip
_TTY_IOCTLS: Final = {
    "TCGETS": 0x5401, "TCSETS": 0x5402, "TCSETSW": 0x5403, "TCSETSF": 0x5404, "TIOCSCTTY": 0x540E,
    "TIOCGWINSZ": 0x5413, "TIOCSWINSZ": 0x5414, "TIOCNOTTY": 0x5422,
}  # fmt: skip
_FILE_IOCTLS: Final = {"FIONREAD": 0x541B, "FIONBIO": 0x5421, "FIONCLEX": 0x5450, "FIOCLEX": 0x5451, "TIOCOUTQ": 0x5411}
_INTERFACE_IOCTLS: Final = {
    "SIOCGIFNAME": 0x8910, "SIOCGIFCONF": 0x8912, "SIOCGIFFLAGS": 0x8913, "SIOCGIFADDR": 0x8915,
    "SIOCGIFDSTADDR": 0x8917, "SIOCGIFBRDADDR": 0x8919, "SIOCGIFNETMASK": 0x891B, "SIOCGIFMETRIC": 0x891D,
    "SIOCGIFMTU": 0x8921, "SIOCGIFHWADDR": 0x8927, "SIOCGIFINDEX": 0x8933, "SIOCGIFTXQLEN": 0x8942,
    "SIOCATMARK": 0x8905, "SIOCGSTAMP": 0x8906,
}  # fmt: skip
_STUB_PRCTLS: Final = {
    "PR_SET_PDEATHSIG": 1, "PR_GET_DUMPABLE": 3, "PR_SET_DUMPABLE": 4, "PR_SET_NAME": 15, "PR_GET_NAME": 16,
    "PR_SET_SECCOMP": 22, "PR_SET_MM": 35, "PR_SET_NO_NEW_PRIVS": 38, "PR_GET_NO_NEW_PRIVS": 39,
    "PR_SET_VMA": 0x53564D41,
}  # fmt: skip

SENTRY: Final = (
    *_PYTHON,
    Rule("eventfd2 signalfd4 timerfd_create timerfd_settime timerfd_gettime", "the event loop's other sources"),
    Rule("timer_create timer_settime timer_gettime timer_delete timer_getoverrun", "interrupting a long run of a stub"),
    Rule("setitimer getitimer alarm", "the same, older"),
    # Files.
    Rule("openat", "one's own /proc, read-only", (equals(0, "proc_fd"), without(2, os.O_ACCMODE | O_CREATING))),
    Rule("readlinkat", "links in /proc, such as those of ns", (equals(0, "proc_fd"),)),
    Rule("getdents64", "the threads of a stub, in /proc"),
    Rule("memfd_create ftruncate fallocate", "files that the Sentry keeps in memory; donated ones"),
    Rule("fsync fdatasync sync_file_range fadvise64 readahead copy_file_range sendfile", "donated files"),
    Rule("flock", "locks that the host's other users of a file see"),
    Rule("mlock mlock2 munlock msync mincore mlockall munlockall", "memory calls approved for a stub"),
    # Stubs.
    Rule("clone", "threads and stubs, in no new namespace", (without(0, CLONE_NEW_ANY),)),
    Rule("fork vfork", "the template stub"),
    Rule("execveat", "the stub's image is a memfd", (having(4, AT_EMPTY_PATH),)),
    Rule("wait4 waitid ptrace process_vm_readv process_vm_writev", "running the stubs"),
    Rule("kill tkill pidfd_open pidfd_getfd pidfd_send_signal rt_tgsigqueueinfo rt_sigqueueinfo", "and ending them"),
    Rule("seccomp", "a stub's own filter", (equals(0, 1),)),
    Rule("arch_prctl setpgid getpgid getsid setsid set_thread_area", "a stub's start"),
    Rule("prlimit64 getrlimit setrlimit", "a stub's limits"),
    Rule("sched_setaffinity sched_setscheduler sched_getscheduler sched_setparam sched_getparam sched_setattr "
         "sched_getattr setpriority getpriority", "keeping the Sentry and a running stub on one CPU"),
    Rule("kcmp", "whether two descriptors are one open file"),
    *_one_of("prctl", 0, _STUB_PRCTLS, "names and a stub's start"),
    *_one_of("ioctl", 1, _SECCOMP_IOCTLS, "system calls of the stubs"),
    *_one_of("ioctl", 1, _KVM_IOCTLS, "the virtual machine, where /dev/kvm was handed over"),
    *_one_of("ioctl", 1, _TTY_IOCTLS, "the console that was handed over"),
    *_one_of("ioctl", 1, _FILE_IOCTLS, "pipes and sockets that were handed over"),
    # The network of the container's network namespace.
    *_one_of("ioctl", 1, _INTERFACE_IOCTLS, "the container's view of its interfaces"),
    *_one_of("socket", 0, {"AF_INET": AF_INET, "AF_INET6": AF_INET6}, "the application's sockets"),
    Rule("socket", "rtnetlink, to list interfaces", (equals(0, AF_NETLINK), equals(2, 0))),
    Rule("socketpair", "waking the loop", (equals(0, AF_UNIX),)),
    Rule("bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt", "sockets"),
    Rule("sendmmsg recvmmsg", "sockets, many messages at once"),
)  # fmt: skip

GOFER: Final = (
    *_PYTHON,
    Rule("openat openat2", "one component at a time below the served root; reopening through /proc"),
    Rule("readlink readlinkat getdents64 newfstatat statx statfs faccessat faccessat2", "looking"),
    Rule("mkdirat mknodat symlinkat linkat unlinkat renameat renameat2", "changing directories"),
    Rule("fchmod fchmodat fchmodat2 chmod chown fchown fchownat utimensat ftruncate truncate fallocate", "attributes"),
    Rule("getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr", "extended attributes"),
    Rule("listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr", "extended attributes"),
    Rule("fsync fdatasync copy_file_range fadvise64 flock umask", "file contents"),
    Rule("fchdir", "into /proc/self/fd, once"),
    Rule("eventfd2 accept4 getsockopt getsockname getpeername", "its own loop"),
    Rule("sched_setaffinity", "beside the Sentry", (equals(0, 0),)),
)  # fmt: skip

NEVER: Final = (
    ("init_module finit_module delete_module kexec_load kexec_file_load", errno.EPERM),
    ("iopl ioperm swapon swapoff reboot acct quotactl settimeofday", errno.EPERM),
    ("bpf perf_event_open open_by_handle_at lookup_dcookie vhangup", errno.EPERM),
    ("io_uring_setup io_uring_enter io_uring_register userfaultfd modify_ldt", errno.ENOSYS),
)
"""Refused for good, the stubs' own calls included."""


_compiled: dict[tuple[str, bool], bytes] = {}


def compiled(role: str, debug: bool) -> bytes:
    """The filter of `role` ("sentry" or "gofer") as the kernel's struct sock_filter[], with names for some values.

    For the first time before the empty root is entered: libseccomp is loaded then.
    """
    key = (role, debug)
    if key not in _compiled:
        from sandbox.filter_compiler import compile_filter

        _compiled[key] = compile_filter(role, debug)
    return _compiled[key]


def use(role: str, program: bytes) -> None:
    """What compiled(role, False) has returned in another process."""
    _compiled[role, False] = program


def compile_apart(roles: Iterable[str]) -> None:
    """Have the roles' filters compiled by a child: it takes milliseconds, and a megabyte of libraries."""
    for role in roles:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                with open(write_end, "wb") as f:
                    f.write(compiled(role, False))
            finally:
                os._exit(0)
        os.close(write_end)
        with open(read_end, "rb") as f:
            program = f.read()
        os.waitpid(pid, 0)
        if program:  # else each stage finds out for itself what is wrong
            use(role, program)


def load(role: str, values: Mapping[str, int], debug: bool) -> None:
    """Load the filter of `role` for this thread, which must be the only one; `values` are those of the names."""
    hostcalls.load_filter(_filled_in(compiled(role, debug), values))


def _filled_in(program: bytes, values: Mapping[str, int]) -> bytes:
    """The program with each name's number instead of its placeholder, in whatever compares with it."""
    numbers = {PLACEHOLDERS[name]: value for name, value in values.items()}
    instructions = _SOCK_FILTER.iter_unpack(program)
    return b"".join(
        _SOCK_FILTER.pack(code, jt, jf, numbers.get(k, k) if code == _JUMP_IF_EQUAL else k)
        for code, jt, jf, k in instructions
    )
