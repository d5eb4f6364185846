"""One boot of the machine: a command runs in it, its output is handed on as it comes, its status is the result.

Two processes are started, qemu and virtiofsd, and one folder is made, the run folder, the only place that the machine
can write to; all are gone in the end, however it comes about. The run folder holds the command, the exit status, the
kernel's console, and whatever files the command wants to hand out.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from sentry.vdso._clock import ffi, lib
from tests.kvm import initramfs
from tests.kvm.kernel import ROOT, Kernel, Unavailable, kernel

QEMU = "qemu-system-x86_64"
PACKAGE = Path(__file__).parent
VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
# SVM, and what else qemu 7.2 emulates that matters to a platform; without the parts of an EPYC that it does not.
WITH = ("svm", "umip", "pku", "erms")
WITHOUT = ("rdseed", "sha-ni", "fxsr-opt", "misalignsse", "3dnowprefetch", "osvw", "topoext", "nrip-save", "xsavec")
CPU = ",".join(["EPYC", *(f"+{name}" for name in WITH), *(f"-{name}" for name in WITHOUT)])
MEMORY = "3G"
FOLDER_VARIABLE = "KVM_MACHINE"  # tells the command where the run folder is
# quiet: every character on a serial line is an exit. tsc=reliable: the emulated one is the host's, so it is. reboot=t:
# the machine ends with a triple fault, which -no-reboot makes the end of qemu, and so does a panic.
KERNEL_OPTIONS = "console=ttyS0 quiet loglevel=4 tsc=reliable no_timer_check mitigations=off nokaslr panic=-1 reboot=t"
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM": "dumb",
}

# In a mount namespace of its own all that is mounted becomes read-only but the run folder, so that nothing can go
# wrong in the machine that would reach this host. The kernel's own file systems are not part of the share anyway.
SHARE = """
mount --bind "$1" "$1"
awk '{ print $5 }' /proc/self/mountinfo | while read -r mounted; do
    [ "$mounted" = "$1" ] || mount -o remount,bind,ro "$mounted" 2>/dev/null || :
done
shift
exec "$@"
"""


class Failed(Exception):
    """The machine ended, or was ended, before the command did; the words say how, and hold the console's end."""


def missing() -> str:
    """What this host lacks for the machine; empty if nothing."""
    if shutil.which(QEMU) is None:
        return f"there is no {QEMU} here: apt-get install qemu-system-x86"
    if not VIRTIOFSD.exists():
        return f"there is no {VIRTIOFSD} here: apt-get install qemu-system-common"
    if os.geteuid() != 0:
        return "sharing this host's root with the machine needs root"
    return ""


def run(
    command: Sequence[str],
    seconds: float,
    output: Callable[[bytes], object],
    environment: Mapping[str, str] | None = None,
    keep: Callable[[Path], object] = lambda folder: None,
    modules: Mapping[str, Callable[[Path], bytes]] = MappingProxyType({}),
) -> int:
    """The command's exit status. Its output goes to output(); keep() may look at the run folder before that goes.

    modules: kernel modules that are to be changed before they are loaded.
    """
    reason = missing()
    if reason:
        raise Unavailable(reason)
    chosen = kernel()
    with tempfile.TemporaryDirectory(prefix="kvm-machine-") as name:
        folder = Path(name)
        (folder / "initramfs").write_bytes(initramfs.build(chosen, modules))
        (folder / "command").write_text(script(command, ENVIRONMENT | dict(environment or {}), folder))
        with shared_root(folder):
            in_time = boot(chosen, folder, seconds, output)
        keep(folder)
        return status_of(folder, in_time, seconds)


def script(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    """What process 1 gives to the shell."""
    variables = [f"{name}={value}" for name, value in {**environment, FOLDER_VARIABLE: str(folder)}.items()]
    return f"cd {shlex.quote(str(ROOT))}\nexec env -i {shlex.join([*variables, *command])}\n"


@contextmanager
def shared_root(folder: Path) -> Iterator[None]:
    """virtiofsd at the run folder's socket "share"."""
    with socket.socket(socket.AF_UNIX) as listener, (folder / "virtiofsd").open("wb") as log:
        listener.bind(str(folder / "share"))
        listener.listen(1)
        fd = listener.fileno()
        options = "source=/,sandbox=chroot,cache=always,no_posix_lock"
        daemon = [str(VIRTIOFSD), f"--fd={fd}", "-o", options, "--rlimit-nofile=0"]
        command = ["unshare", "--mount", "sh", "-euc", SHARE, "share", str(folder), *daemon]
        process = subprocess.Popen(
            dying_with_us(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[fd], process_group=0
        )
        try:
            yield
        finally:
            end(process)


def boot(kernel: Kernel, folder: Path, seconds: float, output: Callable[[bytes], object]) -> bool:
    """Until the machine has ended; False if it had to be ended because its time was up."""
    process = subprocess.Popen(
        dying_with_us(qemu(kernel, folder)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=(folder / "qemu").open("wb"),
        process_group=0,
    )
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(seconds, expire)
    timer.start()
    try:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 65536):
            output(chunk)
        process.wait()
    finally:
        timer.cancel()
        end(process)
    return not expired.is_set()


def counter_khz() -> int:
    """The rate of this host's time stamp counter, which the machine reads too.

    The machine is told.  What it measures at its start, beside timers that a busy host serves late, was a twentieth now
    and then ("PIT calibration deviates from HPET"): its clocks then ran twenty times too fast, and so did time limits.
    """
    samples = ffi.new("struct vdso_sample[2]")
    for sample in (samples + 0, samples + 1):
        lib.vdso_take_sample(sample, 16)
        time.sleep(0.05)
    return int((samples[1].mono_tsc - samples[0].mono_tsc) * 1_000_000 // (samples[1].mono_ns - samples[0].mono_ns))


def qemu(kernel: Kernel, folder: Path) -> list[str]:
    options = f"{KERNEL_OPTIONS} tsc_early_khz={counter_khz()} run={folder} checkout={ROOT} package={PACKAGE}"
    return [
        QEMU,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35,usb=off,smbus=off,sata=off,vmport=off,memory-backend=memory"),
        # One thread for both processors: with one for each, qemu 7.2 is slower, and stops for good now and then when a
        # guest's guest is interrupted.
        *("-accel", "tcg,thread=single", "-cpu", CPU, "-smp", "2", "-m", MEMORY),
        *("-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *("-kernel", str(kernel.image), "-initrd", str(folder / "initramfs")),
        *("-append", options),
        *("-serial", f"file:{folder / 'console'}", "-serial", "stdio"),
        *("-chardev", f"socket,id=share,path={folder / 'share'}"),
        *("-device", "vhost-user-fs-pci,chardev=share,tag=host"),
    ]


def dying_with_us(command: list[str]) -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL", *command]


def end(process: subprocess.Popen[bytes]) -> None:
    """The process and its children; each is a process group of its own, which a terminal's Ctrl-C does not reach."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def status_of(folder: Path, in_time: bool, seconds: float) -> int:
    with suppress(OSError, ValueError):
        return int((folder / "status").read_text())
    how = "the machine ended before the command did" if in_time else f"no end within {seconds:g} s"
    raise Failed("\n".join([how, *(f"-- {name}:\n{tail(folder / name)}" for name in ("console", "qemu", "virtiofsd"))]))


def tail(path: Path) -> str:
    return path.read_text(errors="replace")[-8000:] if path.exists() else ""
