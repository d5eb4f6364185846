"""Calls about the whole machine: its names, its log, its random numbers, its end."""

from __future__ import annotations

import os
import struct
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

from sentry.abi import signal as sig
from sentry.abi.errno import EFAULT, EINVAL, EPERM
from sentry.fs.proc_system import anonymous_bytes
from sentry.fs.tty import controlling_tty
from sentry.kernel.blocking import wait_on
from sentry.kernel.creds import CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_TTY_CONFIG, CAP_SYSLOG
from sentry.kernel.dmesg import BUFFER_BYTES
from sentry.kernel.utsname import check_name_length
from sentry.syscalls.args import I32, I32_DECODE, U32, U32_DECODE, Addr, Arg, Size, flags_of, one_of
from sentry.syscalls.registry import syscall

if TYPE_CHECKING:
    from sentry.kernel.task import Task

# uptime, three load averages, total free shared buffer memory, total free swap, procs, high memory, unit
SYSINFO: Final = struct.Struct("<q3Q6QHxxxxxxQQI4x")

GRND_NONBLOCK: Final = 1
GRND_RANDOM: Final = 2
GRND_INSECURE: Final = 4
GRND_NAMES: Final = {GRND_NONBLOCK: "GRND_NONBLOCK", GRND_RANDOM: "GRND_RANDOM", GRND_INSECURE: "GRND_INSECURE"}
RANDOM_MAX: Final = (1 << 25) - 1  # what one call of Linux gives at most
RANDOM_SLICE: Final = 1 << 18
RandomFlags = Annotated[int, Arg(U32_DECODE, flags_of(GRND_NAMES))]

PERSONALITY_QUERY: Final = 0xFFFFFFFF

SYSLOG_READ: Final = 2
SYSLOG_READ_ALL: Final = 3
SYSLOG_READ_CLEAR: Final = 4
SYSLOG_CLEAR: Final = 5
SYSLOG_CONSOLE_LEVEL: Final = 8
SYSLOG_SIZE_UNREAD: Final = 9
SYSLOG_SIZE_BUFFER: Final = 10
_ACTIONS: Final = (
    "CLOSE", "OPEN", "READ", "READ_ALL", "READ_CLEAR", "CLEAR", "CONSOLE_OFF", "CONSOLE_ON", "CONSOLE_LEVEL",
    "SIZE_UNREAD", "SIZE_BUFFER",
)  # fmt: skip
SYSLOG_NAMES: Final = {n: f"SYSLOG_ACTION_{name}" for n, name in enumerate(_ACTIONS)}
SyslogAction = Annotated[int, Arg(I32_DECODE, one_of(SYSLOG_NAMES))]

REBOOT_MAGIC: Final = 0xFEE1DEAD
REBOOT_MAGIC_2: Final = (0x28121969, 0x05121996, 0x16041998, 0x20112000)
# What the process that waits for pid 1 sees it die of: kernel/pid_namespace.c:reboot_pid_ns.
REBOOT_SIGNALS: Final = {
    0x01234567: sig.SIGHUP,  # RESTART
    0xA1B2C3D4: sig.SIGHUP,  # RESTART2
    0xCDEF0123: sig.SIGINT,  # HALT
    0x4321FEDC: sig.SIGINT,  # POWER_OFF
}


# -- names --


@syscall
def uname(t: Task, addr: Addr) -> int:
    """uname(2).  Errors: EFAULT."""
    t.mem.write(addr, t.container.uts.pack())
    return 0


def _read_name(t: Task, addr: int, length: int) -> bytes:
    """A name to be set.  EPERM, EINVAL, EFAULT."""
    if not t.creds.has(CAP_SYS_ADMIN):
        raise EPERM
    check_name_length(length)
    return t.mem.read(addr, length) if length else b""


@syscall
def sethostname(t: Task, addr: Addr, length: I32) -> int:
    """sethostname(2).  Errors: EPERM, EINVAL, EFAULT."""
    t.container.uts.nodename = _read_name(t, addr, length)
    return 0


@syscall
def setdomainname(t: Task, addr: Addr, length: I32) -> int:
    """setdomainname(2).  Errors: EPERM, EINVAL, EFAULT."""
    t.container.uts.domainname = _read_name(t, addr, length)
    return 0


# -- facts --


@syscall(gaps="used memory is that of processes, without files; no load averages")
def sysinfo(t: Task, addr: Addr) -> int:
    """sysinfo(2).  Errors: EFAULT."""
    kernel = t.kernel
    # "uptime" of the sandbox, rounded up as Linux does.
    uptime_s = -((kernel.boot_ns - kernel.loop.now_ns()) // 1_000_000_000)
    ram = t.container.facts.total_ram
    free = ram - anonymous_bytes(t.container)
    t.mem.write(addr, SYSINFO.pack(uptime_s, 0, 0, 0, ram, free, 0, 0, 0, 0, len(t.pidns.tasks) & 0xFFFF, 0, 0, 1))
    return 0


@syscall(gaps="always CPU 0: which one runs a thread is the host's secret")
def getcpu(t: Task, cpu_addr: Addr, node_addr: Addr) -> int:
    """getcpu(2).  Errors: EFAULT."""
    for addr in (cpu_addr, node_addr):
        if addr:
            t.mem.write(addr, bytes(4))
    return 0


@syscall(gaps="only Linux's own personality; no flags such as ADDR_NO_RANDOMIZE")
def personality(t: Task, persona: U32) -> int:
    """personality(2).  Errors: EINVAL."""
    if persona not in (0, PERSONALITY_QUERY):
        raise EINVAL
    return 0


@syscall
def getrandom(t: Task, addr: Addr, length: Size, flags: RandomFlags) -> int:
    """getrandom(2).  Errors: EINVAL, EFAULT if nothing could be stored."""
    if flags & ~(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) or flags & 6 == GRND_RANDOM | GRND_INSECURE:
        raise EINVAL
    length = min(length, RANDOM_MAX)
    done = 0
    try:
        while done < length:
            step = min(length - done, RANDOM_SLICE)
            n = t.mem.write_some(addr + done, os.urandom(step))
            done += n
            if n < step:
                break
    except EFAULT:
        if not done:
            raise
    return done


# -- the log --


@syscall
def syslog(t: Task, action: SyslogAction, addr: Addr, length: I32) -> int | Coroutine[Any, Any, int]:
    """syslog(2): read and control the kernel log.

    Linux: kernel/printk/printk.c:do_syslog
    Blocks: SYSLOG_ACTION_READ, while there is nothing unread
    Errors: EPERM all but READ_ALL and SIZE_BUFFER without CAP_SYSLOG; EINVAL; EFAULT
    """
    if action not in (SYSLOG_READ_ALL, SYSLOG_SIZE_BUFFER) and not t.creds.effective & (CAP_SYSLOG | CAP_SYS_ADMIN):
        raise EPERM
    log = t.kernel.log
    if action in (SYSLOG_READ, SYSLOG_READ_ALL, SYSLOG_READ_CLEAR):
        if not addr or length < 0:
            raise EINVAL
        if not length:
            return 0
        if action == SYSLOG_READ:
            return _read_log(t, addr, length)
        text = log.read_all(length)
        if text:
            t.mem.write(addr, text)
        if action == SYSLOG_READ_CLEAR:
            log.clear()
        return len(text)
    if action == SYSLOG_CLEAR:
        log.clear()
    elif action == SYSLOG_SIZE_UNREAD:
        return log.unread_bytes()
    elif action == SYSLOG_SIZE_BUFFER:
        return BUFFER_BYTES
    elif (action == SYSLOG_CONSOLE_LEVEL and not 1 <= length <= 8) or action not in SYSLOG_NAMES:
        raise EINVAL
    # What is left opens and closes the log, and turns a console on and off: there is none.
    return 0


async def _read_log(t: Task, addr: int, length: int) -> int:
    log = t.kernel.log
    while True:
        if not log.unread_bytes():
            await wait_on(t, log.queue, 1)
            continue
        text = log.read(length)
        if text:
            t.mem.write(addr, text)
        return len(text)


# -- the end --


@syscall
def vhangup(t: Task) -> int:
    """vhangup(2): hang up the caller's terminal, if it has one.  Errors: EPERM."""
    if not t.creds.has(CAP_SYS_TTY_CONFIG):
        raise EPERM
    tty = controlling_tty(t.tg.session)
    if tty is not None:
        tty.hang_up()
    return 0


@syscall
def reboot(t: Task, magic: U32, magic_2: U32, command: U32, arg: Addr) -> int:
    """reboot(2): restart and power off end the container: its pid 1 is killed.

    Linux: kernel/reboot.c, kernel/pid_namespace.c:reboot_pid_ns
    Errors: EPERM without CAP_SYS_BOOT; EINVAL
    """
    if not t.creds.has(CAP_SYS_BOOT):
        raise EPERM
    if magic != REBOOT_MAGIC or magic_2 not in REBOOT_MAGIC_2:
        raise EINVAL("magic numbers")
    signo = REBOOT_SIGNALS.get(command)
    init = t.pidns.init
    if signo is None or init is None:
        raise EINVAL("not in a container")
    init.exit_group(signo)
    return 0
