"""pysc doctor: does this host have what pysc needs?  Each line says what is wrong and how to mend it.

fail: containers will not run.  warn: something that some use needs is missing.
"""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.args import Command, Flag, UsageError, Values
from sandbox.cgroups import CONTROLLERS, host_hierarchies
from sandbox.interpreter import module_command

OK, WARN, FAIL = "ok", "warn", "fail"
MINIMUM_PYTHON = (3, 11)
MINIMUM_KERNEL = (5, 6)
PACKAGES = {"_cffi_backend": "cffi", "pyseccomp": "pyseccomp", "google.protobuf": "protobuf"}
"""Module -> the project that it comes with."""
CORES = (
    "sandbox._hostcalls", "sandbox._common_heap", "platform_ptrace.core._core", "platform_kvm.core._core",
    "sentry.vdso._clock",
)  # fmt: skip
SHIM = "containerd-shim-pysc-v1"


@dataclass(slots=True)
class Finding:
    status: str
    subject: str
    text: str
    remedy: str = ""


def check_python() -> Iterator[Finding]:
    text = platform.python_version()
    good = sys.version_info >= MINIMUM_PYTHON
    yield Finding(OK if good else FAIL, "python", text, "" if good else "Python 3.11 or newer is needed")


def check_kernel() -> Iterator[Finding]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    good = numbers >= MINIMUM_KERNEL
    yield Finding(OK if good else FAIL, "kernel", release, "" if good else "Linux 5.6 or newer is needed")


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


def check_packages() -> Iterator[Finding]:
    for module, name in PACKAGES.items():
        if _has_module(module):
            yield Finding(OK, "package", name)
        else:
            yield Finding(FAIL, "package", f"{name} is missing", f"{sys.executable} -m pip install {name}")


def check_cores() -> Iterator[Finding]:
    for name in CORES:
        if _has_module(name):
            yield Finding(OK, "C core", name)
        else:
            remedy = "make setup, or pip install . in pysc's source folder"
            yield Finding(FAIL, "C core", f"{name} is not built", remedy)


def check_libseccomp() -> Iterator[Finding]:
    try:
        import sandbox.filters  # noqa: F401  it looks for the library as the sandbox will

        yield Finding(OK, "libseccomp", "found")
    except (ImportError, RuntimeError, OSError):
        yield Finding(FAIL, "libseccomp", "not found", "install the package libseccomp2 (Fedora: libseccomp)")


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def check_ptrace() -> Iterator[Finding]:
    scope = _read("/proc/sys/kernel/yama/ptrace_scope")
    if scope == "3":
        yield Finding(FAIL, "ptrace", "switched off by Yama", "sysctl kernel.yama.ptrace_scope=1 (needs a reboot)")
    else:
        yield Finding(OK, "ptrace", f"allowed (Yama: {scope or 'absent'})")


def check_seccomp() -> Iterator[Finding]:
    actions = _read("/proc/sys/kernel/seccomp/actions_avail").split()
    if "trace" not in actions:
        yield Finding(FAIL, "seccomp", "filters are not available", "a kernel with CONFIG_SECCOMP_FILTER")
    elif "user_notif" not in actions:
        yield Finding(WARN, "seccomp", "no notifications: only the slow platform works", "Linux 5.0 or newer")
    else:
        yield Finding(OK, "seccomp", "filters and notifications")


def check_user_namespaces() -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding(OK, "user namespaces", "not needed by root")
        return
    for path, off, remedy in (
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
         "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    ):  # fmt: skip
        if _read(path) == off:
            yield Finding(FAIL, "user namespaces", f"switched off by {path}", f"{remedy}, or run pysc as root")
            return
    yield Finding(OK, "user namespaces", "allowed")


def check_cgroups() -> Iterator[Finding]:
    version, hierarchies = host_hierarchies()
    if version == 0:
        yield Finding(WARN, "cgroups", "not mounted: no limits, no figures", "mount -t cgroup2 none /sys/fs/cgroup")
        return
    layout = "v2" if version == 2 else "v1"
    missing = set(CONTROLLERS) - {name for hierarchy in hierarchies for name in hierarchy.controllers}
    if missing:
        yield Finding(WARN, "cgroups", f"{layout}, without {', '.join(sorted(missing))}", "enable them in the kernel")
    unwritable = [h.mount_point for h in hierarchies if not os.access(h.mount_point, os.W_OK)]
    if unwritable:
        yield Finding(WARN, "cgroups", f"{layout}, not writable: no limits, no figures", "run pysc as root")
    elif not missing:
        yield Finding(OK, "cgroups", f"{layout}, writable")


def check_overlay() -> Iterator[Finding]:
    if "overlay" in _read("/proc/filesystems").split():
        yield Finding(OK, "overlayfs", "available")
    else:
        yield Finding(WARN, "overlayfs", "not loaded: 'pysc do' shows files read-only", "modprobe overlay")


def check_platforms() -> Iterator[Finding]:
    command = module_command("sentry.boot", "--probe")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        yield Finding(FAIL, "platforms", f"the Sentry cannot be asked: {reason}")
        return
    works = any(not reason for reason in found.values())
    for name, reason in found.items():
        yield Finding(OK if not reason else WARN if works else FAIL, "platform", f"{name}: {reason or 'works'}")


def check_kvm() -> Iterator[Finding]:
    if not os.path.exists("/dev/kvm"):
        yield Finding(WARN, "/dev/kvm", "not there", "only the kvm platform needs it")
    elif not os.access("/dev/kvm", os.R_OK | os.W_OK):
        yield Finding(WARN, "/dev/kvm", "not accessible", "add yourself to the group kvm")
    else:
        yield Finding(OK, "/dev/kvm", "accessible")


def check_limits() -> Iterator[Finding]:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 4096:
        yield Finding(WARN, "limits", f"only {hard} open files", "raise the hard limit RLIMIT_NOFILE")
    else:
        yield Finding(OK, "limits", f"open files: {'unlimited' if hard == resource.RLIM_INFINITY else hard}")


def check_containerd() -> Iterator[Finding]:
    for program, remedy in (
        ("containerd", "install containerd, unless you only use pysc's own command line"),
        ("ctr", "it comes with containerd"),
        (SHIM, "pysc install --engine containerd (it also shows what it does: --dry-run)"),
    ):
        path = shutil.which(program)
        if path:
            yield Finding(OK, program, path)
        else:
            yield Finding(WARN, program, "not on PATH", remedy)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python, check_kernel, check_packages, check_libseccomp, check_cores, check_platforms, check_ptrace,
    check_seccomp, check_user_namespaces, check_cgroups, check_overlay, check_kvm, check_limits, check_containerd,
)  # fmt: skip


def _doctor(flags: Values, values: Values, words: list[str]) -> int:
    if values["format"] not in ("table", "json"):
        raise UsageError(f"doctor: --format: {values['format']!r} is not one of table, json")
    findings = [finding for check in CHECKS for finding in check()]
    if values["format"] == "json":
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            remedy = f"\n      -> {finding.remedy}" if finding.remedy else ""
            print(f"{finding.status:<4}  {finding.subject}: {finding.text}{remedy}")
    return 1 if any(finding.status == FAIL for finding in findings) else 0


COMMANDS = (
    Command(
        "doctor", "", "Check whether this host can run containers with pysc.", _doctor,
        (Flag("format", "table (default) or json", str, short="f", default="table"),),
    ),
)  # fmt: skip
