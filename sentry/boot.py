"""The Sentry's composition root: one line per subsystem, in boot order.

`main(config)` is called by the sandbox's stage, already confined; `preload()` before that, while modules can still
be imported and the host's facts read.  `load()` or `prepare()` alone is for a process that sandboxes are forked from.
`python -m sentry.boot --probe` prints what each platform says about this host.
"""

from __future__ import annotations

import logging
import os
import select
import struct
import sys
from _socket import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proto import jsontext
from proto.slotted import slotted
from sentry.control import ControlServer
from sentry.fs.memdata import MEMORY
from sentry.kernel.kernel import HostFacts, Kernel
from sentry.platform import PAGE_SIZE, Platform
from sentry.reserve import set_aside
from sentry.syscalls.registry import Syscall, build_table
from sentry.watchdog import Watchdog

if TYPE_CHECKING:
    from sentry.strace import Strace

log = logging.getLogger(__name__)

_facts = HostFacts()
_table: dict[int, Syscall] = {}


@slotted
class Host:
    """What a platform is made from.  kvm_fd: /dev/kvm, or -1 where it was not asked for or is not to be had.

    variant: what follows a colon in the platform's name, for tests and measurements.
    """

    proc_fd: int = -1
    variant: str = ""
    kvm_fd: int = -1
    kvm_missing: str = "it is chosen by itself only where the processor has virtualisation and is not virtual"
    memory_limit: int = 1 << 40
    trust_counter: bool = False
    ncpus: int = 1


def _ptrace(host: Host) -> Platform:
    from platform_ptrace.platform import PtracePlatform

    return PtracePlatform(host.proc_fd)


def _probe_ptrace(host: Host) -> str:
    from platform_ptrace.platform import probe

    return probe()


def _systrap(host: Host) -> Platform:
    from platform_systrap.platform import SystrapPlatform

    return SystrapPlatform(host.proc_fd, host.ncpus, host.variant)


def _probe_systrap(host: Host) -> str:
    from platform_systrap.platform import probe

    return probe()


def _kvm(host: Host) -> Platform:
    from platform_kvm.platform import KvmPlatform

    return KvmPlatform(host.kvm_fd, host.memory_limit, host.ncpus, host.trust_counter)


def _probe_kvm(host: Host) -> str:
    if host.kvm_fd < 0:
        return host.kvm_missing
    from platform_kvm.platform import probe

    return probe(host.kvm_fd)


# The only names by which platforms are known; "auto" takes the first that works.
PLATFORMS: dict[str, tuple[Callable[[Host], Platform], Callable[[Host], str]]] = {
    "kvm": (_kvm, _probe_kvm),
    "systrap": (_systrap, _probe_systrap),
    "ptrace": (_ptrace, _probe_ptrace),
}
VARIANTS: Final = {"systrap": ("eager", "plain")}
KVM_DEVICE: Final = "/dev/kvm"
CLOCKSOURCE: Final = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
_host = Host()


def _open_kvm(host: Host) -> None:
    """While files of the host can be opened, and modules imported.

    A machine in software has a counter that its processor does not vouch for, but its kernel may take the time from it.
    """
    import platform_kvm.platform  # noqa: F401
    from sentry.vdso.calibration import counter_is_invariant

    host.trust_counter = _read_text(CLOCKSOURCE).strip() == "tsc" and not counter_is_invariant()
    try:
        host.kvm_fd = os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        host.kvm_missing = f"{KVM_DEVICE} can't be opened: {e.strerror}"


def _is_bare_metal(cpuinfo: str) -> bool:
    """Virtual machines are the processor's own work here, not that of another virtual machine's host."""
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return ("vmx" in flags or "svm" in flags) and "hypervisor" not in flags


class BootError(Exception):
    """The sandbox can't start; the text is for the user."""


def load() -> None:
    """Import what runs later: what is the same for every sandbox, today and tomorrow."""
    global _table
    import platform_systrap.platform  # noqa: F401

    _table = build_table()


def prepare() -> None:
    """As load(), and make what a sandbox makes when it first needs it: for one from which many are forked."""
    load()
    for row in _table.values():
        row.prepare()


def preload(config: dict[str, Any]) -> None:
    """What load() does, and read what only the unconfined process can read."""
    global _facts
    if not _table:
        load()
    _facts = HostFacts(
        cpuinfo=_read_text("/proc/cpuinfo"),
        ncpus=int(config.get("ncpus") or os.cpu_count() or 1),
        total_ram=int(config.get("total_ram") or 0) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        auxv=_read_auxv(),
    )
    _host.ncpus, _host.memory_limit = _facts.ncpus, _facts.total_ram
    if config.get("strace"):
        import sentry.strace  # noqa: F401  which few ask for, and which can't be read later
    if config.get("platform") == "kvm" or (config.get("platform") in (None, "auto") and _is_bare_metal(_facts.cpuinfo)):
        _open_kvm(_host)


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _read_auxv() -> dict[int, int]:
    """This process's own auxiliary vector: the processor's capabilities are the application's too."""
    try:
        with open("/proc/self/auxv", "rb") as file:
            return dict(struct.iter_unpack("<QQ", file.read()))
    except OSError:
        return {}


def choose_platform(name: str, host: Host) -> Platform:
    """BootError names what was tried and why it does not work."""
    name, _, host.variant = name.partition(":")
    if host.variant and host.variant not in VARIANTS.get(name, ()):
        raise BootError(f"platform {name!r} has no variant {host.variant!r}")
    if name != "auto" and name not in PLATFORMS:
        raise BootError(f"platform {name!r} is unknown; there are: auto, {', '.join(PLATFORMS)}")
    reasons = []
    for candidate in PLATFORMS if name == "auto" else [name]:
        make, probe = PLATFORMS[candidate]
        reason = probe(host)
        if not reason:
            return make(host)
        reasons.append(f"{candidate}: {reason}")
    raise BootError("no platform works on this host: " + "; ".join(reasons))


def main(config: dict[str, Any], idle_after_s: float, when_idle: Callable[[], object]) -> int:
    """Boot, serve until told to stop; returns the process's exit status.  when_idle is called by Loop.rest()."""
    _set_up_log(config)
    try:
        kernel = _boot(config)
        server = ControlServer(kernel, socket(fileno=config["control_fd"]), config)
    except BootError as e:
        _report(config["ready_fd"], str(e))
        return 1
    except Exception as e:
        log.exception("boot failed")
        _report(config["ready_fd"], f"the sentry failed to boot: {e}")
        return 1
    _watch_lifeline(kernel, config.get("lifeline_fd"))
    _report(config["ready_fd"], "ok")
    kernel.loop.rest(int(idle_after_s * 1e9), when_idle)
    kernel.loop.run()
    kernel.platform.close()
    return server.exit_status


def _boot(config: dict[str, Any]) -> Kernel:
    table = _table or build_table()
    _host.proc_fd = config["proc_fd"]
    platform = choose_platform(config.get("platform") or "auto", _host)
    set_aside()
    kernel = Kernel(platform, table, _facts, config["proc_fd"])
    MEMORY.limit = _facts.total_ram // PAGE_SIZE
    kernel.log.add_boot_lines()
    if config.get("strace"):
        kernel.strace = _strace(config, table)
    if config.get("watchdog_s"):
        Watchdog(kernel.loop, config["watchdog_s"], bool(config.get("watchdog_kills")), config["log_fd"]).start()
    log.info("sandbox %s: platform %s", config["id"], platform.name)
    return kernel


def _strace(config: dict[str, Any], table: dict[int, Syscall]) -> Strace:
    from sentry.strace import Strace

    only = config.get("strace_calls") or []
    unknown = set(only) - {row.name for row in table.values()}
    if unknown:
        raise BootError(f"strace: there is no system call {min(unknown)!r}: pysc syscalls lists them")
    fd = config.get("strace_fd")
    stream = os.fdopen(fd if fd is not None else os.dup(config["log_fd"]), "w", buffering=1)
    return Strace(lambda line: print(line, file=stream), only)


def _report(fd: int, text: str) -> None:
    os.write(fd, text.encode() + b"\n")
    os.close(fd)


def _watch_lifeline(kernel: Kernel, fd: int | None) -> None:
    """Whoever holds the other end owns the sandbox; when it is gone, so are we."""
    if fd is None:
        return

    def lost(events: int) -> None:
        log.warning("the sandbox's owner is gone: shutting down")
        kernel.loop.stop()

    kernel.loop.watch_fd(fd, select.EPOLLIN | select.EPOLLHUP, lost)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {"level": record.levelname.lower(), "time": self.formatTime(record), "msg": record.getMessage()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return jsontext.dumps(entry)


def _set_up_log(config: dict[str, Any]) -> None:
    handler = logging.StreamHandler(os.fdopen(os.dup(config["log_fd"]), "w", buffering=1))
    if config.get("log_format") == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(str(config.get("log_level") or "info").upper())


def probe_report() -> dict[str, str]:
    """Platform name -> "" or the reason why it does not work here."""
    host = Host()
    _open_kvm(host)
    return {name: probe(host) for name, (_, probe) in PLATFORMS.items()}


if __name__ == "__main__":
    if sys.argv[1:] != ["--probe"]:
        sys.exit("usage: python -m sentry.boot --probe")
    print(jsontext.dumps(probe_report()))
