"""pysc install and uninstall: engines of this host told that there is pysc, or no longer.

Both are idempotent, keep everything else that the files say, and show what they change; `--dry-run` changes nothing.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from cli import install_containerd, install_docker
from cli.args import Command, Flag, UsageError, Values
from cli.doctor import SHIM
from cli.edits import Change, Link, Plan, Refused

ENGINES = ("containerd", "docker")
SEARCHED = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
"""Where engines that systemd starts look for programs."""
LINK = f"usr/local/bin/{SHIM}"
TRACES = {
    "containerd": ("etc/containerd", "usr/bin/containerd", "usr/local/bin/containerd"),
    "docker": ("etc/docker", "usr/bin/dockerd", "usr/sbin/dockerd", "usr/local/bin/dockerd"),
}
"""One of these is where the engine is."""


def program(name: str) -> str:
    """Where this installation has one of its programs, absolute.  Raises Refused."""
    for folder in (Path(sys.executable).parent, Path(sys.argv[0]).absolute().parent):
        if (folder / name).is_file():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise Refused(f"cannot find {name} beside {sys.executable} or in PATH")
    return found


def _engines(values: Values, root: Path) -> list[str]:
    wanted = values["engine"]
    if wanted in ENGINES:
        return [wanted]
    if wanted != "all":
        raise UsageError(f"flag --engine: {wanted!r} is not one of {', '.join((*ENGINES, 'all'))}")
    return [name for name in ENGINES if any((root / trace).exists() for trace in TRACES[name])]


def _shim_link(root: Path, remove: bool) -> list[Change]:
    """None is needed if the shim is where engines look anyway, as a package puts it."""
    target = program(SHIM)
    if not remove and any((root / folder / SHIM).is_file() for folder in SEARCHED):
        return []
    path = root / LINK
    if not remove and path.exists() and not path.is_symlink():
        raise Refused(f"{path} is there already, and no link of ours")
    return [Link(path, target, remove)]


def _installing(engine: str, root: Path) -> Plan:
    if engine == "docker":
        return install_docker.install(root, program("pysc"))
    plan = install_containerd.install(root)
    return Plan([*_shim_link(root, False), *plan.changes], plan.notes, plan.restart)


def _uninstalling(engine: str, root: Path) -> Plan:
    if engine == "docker":
        return install_docker.uninstall(root)
    plan = install_containerd.uninstall(root)
    return Plan([*_shim_link(root, True), *plan.changes], plan.notes, plan.restart)


def _carry_out(values: Values, planning: Callable[[str, Path], Plan]) -> int:
    """All is planned before anything is changed: a file that is refused leaves the others as they are too."""
    root = Path(values["root"] or "/")
    engines = _engines(values, root)
    if not engines:
        raise Refused(f"there is neither containerd nor Docker in {root}: name one with --engine")
    plans = [(engine, planning(engine, root)) for engine in engines]
    for engine, plan in plans:
        changes = [change for change in plan.changes if change.is_change]
        for change in changes:
            if not values["dry-run"]:
                change.make()
            sys.stdout.write(change.diff())
        for note in plan.notes:
            print(f"{engine}: {note}")
        print(f"{engine}: {_summary(bool(changes), values['dry-run'], plan.restart)}")
    return 0


def _summary(changed: bool, dry_run: bool, restart: str) -> str:
    if not changed:
        return "nothing to change"
    if dry_run:
        return "nothing was changed (--dry-run)"
    return f"changed; it takes effect after: {restart}" if restart else "changed"


def _install(flags: Values, values: Values, words: list[str]) -> int:
    return _carry_out(values, _installing)


def _uninstall(flags: Values, values: Values, words: list[str]) -> int:
    return _carry_out(values, _uninstalling)


_FLAGS = (
    Flag("engine", "containerd, docker, or all (default) that are found", str, default="all", value="NAME"),
    Flag("dry-run", "show what would be changed, and change nothing", short="n"),
    Flag("root", "the folder in which the host's files are, instead of /", str, value="DIR"),
)

COMMANDS = (
    Command("install", "", "Tell container engines of this host that there is pysc.", _install, _FLAGS),
    Command("uninstall", "", "Take that back.", _uninstall, _FLAGS),
)
