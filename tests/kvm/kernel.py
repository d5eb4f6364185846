"""Debian's cloud kernel, unpacked from its package into .cache/kvm and never installed."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "kvm"
META_PACKAGE = "linux-image-cloud-amd64"  # depends on the image of the day


class Unavailable(Exception):
    """The machine cannot be had on this host; the words say why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package."""

    image: Path
    modules: dict[str, Path]

    def in_load_order(self, names: Iterable[str]) -> list[Path]:
        """The modules and all that they depend on, what is needed first first."""
        ordered: dict[str, Path] = {}

        def add(name: str) -> None:
            for needed in dependencies(self.modules[name]):
                add(needed)
            ordered.setdefault(name, self.modules[name])

        for name in names:
            add(name)
        return list(ordered.values())


def dependencies(module: Path) -> list[str]:
    """What the module says of itself; the package has no modules.dep, which depmod would make."""
    _, _, rest = module.read_bytes().partition(b"\0depends=")
    return [name.replace("-", "_") for name in rest.partition(b"\0")[0].decode().split(",") if name]


def kernel() -> Kernel:
    """Downloads it the first time; callers at the same time wait for the first."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / "kernel"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = CACHE / "making"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            unpack(download(making), making / "kernel")
            (making / "kernel").rename(folder)
            shutil.rmtree(making)
    image = next(folder.glob("boot/vmlinuz-*"))
    return Kernel(image, {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")})


def download(folder: Path) -> Path:
    """The package file, from the host's own package sources, whose lists may be missing or old."""
    if shutil.which("apt-get") is None:
        raise Unavailable("the machine's kernel is a Debian package, and there is no apt-get here")
    try:
        return download_listed(folder)
    except Unavailable:
        output_of(["apt-get", "update"], folder)
        return download_listed(folder)


def download_listed(folder: Path) -> Path:
    depends = output_of(["apt-cache", "depends", "--important", META_PACKAGE], folder)
    package = next((line.split()[1] for line in depends.splitlines() if line.strip().startswith("Depends:")), None)
    if package is None:
        raise Unavailable(f"apt-cache knows no package {META_PACKAGE}")
    output_of(["apt-get", "download", package], folder)
    return next(folder.glob("*.deb"))


def unpack(package: Path, folder: Path) -> None:
    output_of(["dpkg-deb", "-x", str(package), str(folder)], package.parent)


def output_of(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
