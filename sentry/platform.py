"""The line between the kernel and whatever executes application code.

A platform runs application instructions and hands every event back as a trap; it
knows threads of execution (Context) and memory (AddressSpace), and nothing of pids,
signals or files.  Everything above this file works with any platform (DESIGN §1.6).

Life of a context: Platform.new_space() gives an address space with one context that
has never run.  The kernel sets its registers, then awaits Context.switch() again and
again; each await ends with one Trap.  Between two switches the context is stopped, and
only then may its registers and, through it, its address space be touched.

The loop calls Platform.wait() whenever no task is runnable: that one call resumes what
was switched to, sleeps, and returns the contexts that trapped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple, Protocol

from proto.slotted import slotted

PAGE_SIZE = 4096
SHOW_SCRATCH = 128


@slotted
class SyscallTrap:
    """The application executed a system call instruction.

    `number` is the raw register value; `native` is False for int 0x80 (the i386 table).
    """

    number: int
    args: tuple[int, int, int, int, int, int]
    native: bool = True


@slotted
class FaultTrap:
    """A processor exception, described as the host kernel describes it in siginfo_t."""

    signo: int
    code: int
    addr: int


@slotted
class InterruptTrap:
    """interrupt() was called; the context stopped between two instructions."""


@slotted
class ExitTrap:
    """The context is gone: something outside (the OOM killer, an administrator) killed it.

    running is False if it happened between two switches: then no switch() returns this trap.
    """

    signo: int
    running: bool = True


Trap = SyscallTrap | FaultTrap | InterruptTrap | ExitTrap


class Mapping(NamedTuple):
    """One line of /proc/PID/maps, as the host sees it, without names."""

    start: int
    end: int
    perms: str
    offset: int
    dev: int
    ino: int
    kind: str  # "", "vdso", "vvar"


class PlatformError(Exception):
    """The platform itself failed (the host refused something it should allow)."""


class SpaceGone(PlatformError):
    """The address space died under an operation: its host process was killed."""


class Regs(Protocol):
    """The general registers of a stopped context, under the names of struct user_regs_struct.

    Assignments take effect when the context next runs.
    """

    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    orig_rax: int
    rip: int
    cs: int
    eflags: int
    rsp: int
    ss: int
    fs_base: int
    gs_base: int


class Context(Protocol):
    """One thread of application execution."""

    owner: Any  # whoever the loop resumes with this context's traps (a kernel Task)

    @property
    def regs(self) -> Regs: ...
    @property
    def space(self) -> AddressSpace: ...
    @property
    def host_pid(self) -> int:
        """Of the host process that runs it, in the Sentry's PID namespace; 0 if that is nobody's own."""

    def registers(self) -> tuple[int, ...]:
        """The values of all of regs, in its order: for who wants nearly all of them, at the price of two."""

    def set_registers(self, values: tuple[int, ...]) -> None:
        """Replace all of regs by what registers() gave, changed or not."""

    def set_result(self, value: int) -> None:
        """Put a system call's result where the application expects it."""

    def switch(self) -> Awaitable[Trap]:
        """Run application code until the next trap."""

    def resume(self) -> None:
        """What switch() begins with, for an owner that takes the next trap by Job.trapped: never without that."""

    def resume_with(self, value: int) -> None:
        """set_result() and resume() in one: the way back from nearly every call."""

    def let_through(self, name: str, args: tuple[int, ...]) -> bool:
        """Let the host carry out the trapped call itself, with its result, when this context runs on.

        Only if it is the call of this name, and these are its first arguments to the bit, all of them plain numbers
        that the kernel has approved.  False: it is another, or the platform can't; nothing has happened then.
        """

    def approve_memory(self, approved: bool) -> None:
        """Whether ordinary memory calls may be carried out without asking: fresh private memory wherever there is room,
        and taking away, protecting or emptying what is mapped below the space's end.  Contexts that are cloned
        from this one do as it does.

        A platform may always ask all the same.
        """

    def keep_answers(self, results: dict[str, int]) -> None:
        """Let the platform answer these calls by itself from now on, and no others: name -> result.

        May be called while the context runs.  Only if Platform.answers; a platform may answer calls about the time and
        the processor as well, as long as there is any result, and may always ask all the same.
        """

    def interrupt(self) -> None:
        """Make a running switch() return InterruptTrap soon; nothing if it is not running."""

    def clone(self, *, share_space: bool, same_process: bool) -> Context:
        """A second context with these registers and floating point state.

        share_space: it lives in the same address space (CLONE_VM), else in a copy-on-write
        copy of it.  same_process: it belongs to the same thread group (CLONE_THREAD).
        Raises the errno class the host gave (EAGAIN, ENOMEM).
        """

    def read_xstate(self) -> bytes:
        """The extended state, as XSAVE stores it (standard format)."""

    def write_xstate(self, data: bytes) -> None:
        """Replace the extended state.  Raises EINVAL if the processor would refuse it."""

    def cpu_ns(self) -> int:
        """Processor time that this context has used."""

    def process_cpu_ns(self) -> int:
        """What all contexts of its process have used, those that ended included: see clone's same_process."""

    def release(self) -> None:
        """End this context.  The last one of an address space ends the space too."""


class AddressSpace(Protocol):
    """Memory as one application process sees it.

    Changes need a stopped context in the space; the caller's own is one.  Addresses are
    validated here against the space's end, and may be any number.  Failures raise the errno classes
    of sentry.abi.errno.

    In a space whose host process is gone, changes raise SpaceGone; whoever only looks finds
    no memory: EFAULT, no mappings, a size of 0.
    """

    end: int  # first address past what the application may use
    vdso: int  # address of the vDSO image, 0 if there is none

    def map(self, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> int:
        """mmap(2) with validated arguments; fd is a descriptor of ours, or -1.  Returns the address."""

    def unmap(self, addr: int, length: int) -> None: ...
    def protect(self, addr: int, length: int, prot: int) -> None: ...
    def remap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int) -> int: ...
    def advise(self, addr: int, length: int, advice: int) -> None: ...
    def sync(self, addr: int, length: int, flags: int) -> None: ...
    def show(self, name: bytes, arguments: tuple[int, int], environment: tuple[int, int], scratch: int) -> None:
        """Have the host's ps show this name and the words at these addresses, if a host process stands for the space.

        scratch: SHOW_SCRATCH bytes of the application's that are lost; everybody may write what is shown.
        """

    def read(self, addr: int, length: int) -> bytes:
        """Exactly length bytes.  Raises EFAULT."""

    def read_some(self, addr: int, length: int) -> bytes:
        """At most length bytes, short at the first unreadable page.  Raises EFAULT if none is readable."""

    def read_cstr(self, addr: int, limit: int) -> bytes:
        """Up to a NUL, which is not included.  Raises EFAULT; ENAMETOOLONG if there is none in limit bytes."""

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """All of data.  Raises EFAULT; what precedes the fault may have been written."""

    def write_some(self, addr: int, data: bytes | bytearray | memoryview) -> int:
        """As much as is writable from addr on; returns the count.  Raises EFAULT if nothing is."""

    def read_from_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        """pread(2) of our descriptor into this memory, short if that ends.  Raises EFAULT and what the host says."""

    def write_to_file(self, fd: int, offset: int, addr: int, length: int) -> int:
        """pwrite(2) to our descriptor from this memory, likewise."""

    def cmpxchg32(self, addr: int, expected: int, value: int) -> int:
        """Atomic compare and exchange of an aligned word; returns what it held.  Raises EFAULT."""

    def mappings(self) -> list[Mapping]:
        """The application's mappings in address order; what the platform keeps for itself is left out."""

    def resident_pages(self) -> tuple[int, int, int]:
        """(size, resident, shared) in pages, proc(5) statm."""


class Platform(Protocol):
    """A way to execute application code."""

    name: str
    answers: bool  # Context.keep_answers() is of use

    def new_template(self, cgroup_fds: tuple[int, ...]) -> Template:
        """Prepare what address spaces of one container are made from."""

    def watch(self, epoll_fd: int) -> None:
        """Make wait() also end when epoll_fd is readable."""

    def wait(self, timeout_ns: int) -> Sequence[tuple[Context, Trap]]:
        """Resume what was switched to and sleep until something happens.

        Ends when a context traps, the watched epoll fd becomes readable, or timeout_ns
        passed (-1: never, 0: just look); sometimes for no reason, with nothing.
        """

    def close(self) -> None: ...


class Template(Protocol):
    """The parent of one container's address spaces; carries its cgroup membership."""

    oom_kills: int  # processes that the platform itself ended because the container's memory was used up

    def new_space(self) -> Context:
        """A fresh, empty address space with one context that has not run."""

    def memory_used(self) -> int | None:
        """Bytes that the address spaces have together; None: they are host processes in a cgroup, which knows."""

    def limit_memory(self, limit: int) -> None:
        """Let the address spaces together have at most this many bytes; what they have already they keep."""

    def close(self) -> None: ...
