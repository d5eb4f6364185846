"""The packages that `make package` builds, and minimal roots to install them in.

They are built once for a state of the sources, into .cache/.  A root is a Debian of .cache/ with an overlay, and each
command gets mounts of its own, so that nothing of it is mounted on the host, and the Debian stays as it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from tests.integration import debian

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache" / "packages"
DEPENDENCIES = "python3,python3-venv,python3-cffi-backend,libseccomp2,busybox-static,patchelf"
"""What the packages depend on (dpkg -i fetches nothing), and what the tests run."""
BUILT = {".so", ".o", ".pyc"}
TIMEOUT_S = 120

_ENTER = """
mount -t overlay overlay -o lowerdir="$0",upperdir="$1/upper",workdir="$1/work" "$1/root" || exit 90
cd "$1/root" && mount -t proc proc proc && mount --rbind /sys sys && mount --rbind /dev dev || exit 91
mount -t tmpfs tmpfs run && mount -t tmpfs tmpfs tmp && mkdir tmp/packages || exit 92
mount --bind "$2" tmp/packages || exit 93
exec chroot . /bin/sh -ec "$3"
"""


def sources_digest() -> str:
    """Stands for what the packages are made from."""
    digest = hashlib.sha256()
    folders = [*(path for path in REPOSITORY.iterdir() if path.name.startswith(("platform_", "sentry", "sandbox"))),
               *(REPOSITORY / name for name in ("cli", "docs", "gofer", "packaging", "proto", "shim"))]  # fmt: skip
    files = [REPOSITORY / name for name in ("pyproject.toml", "setup.py", "README.md")]
    files += [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix not in BUILT]
    for path in sorted(files):
        if not (path.suffix == ".c" and path.name.startswith("_")):
            digest.update(f"{path.relative_to(REPOSITORY)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def built() -> Path:
    """A folder with the wheel, the Debian package, and `wheels`.  The first caller builds, others wait for that."""
    CACHE.mkdir(parents=True, exist_ok=True)
    done = CACHE / sources_digest()
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            for old in CACHE.iterdir():
                if old.is_dir() and old.name != "wheels":
                    shutil.rmtree(old)
            _build(CACHE / "making")
            (CACHE / "making").rename(done)
    return done


def _build(folder: Path) -> None:
    """What is downloaded is kept from one state of the sources to the next."""
    kept = CACHE / "wheels"
    if kept.is_dir():
        shutil.copytree(kept, folder / "wheels")
    for script in ("build_wheel.py", "build_deb.py"):
        subprocess.run([sys.executable, REPOSITORY / "packaging" / script, folder], check=True, cwd=REPOSITORY)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder / "wheels", kept)


class MinimalRoot:
    """A root with nothing of ours in it.  /run and /tmp are empty for every command, but for /tmp/packages.

    lower: what is in it, and stays as it is; None: a Debian with what our packages depend on.
    """

    def __init__(self, folder: Path, lower: Path | None = None) -> None:
        self.lower = lower or debian.root(DEPENDENCIES)
        self.folder = folder
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)

    def sh(self, script: str, status: int = 0, alone: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a script of sh -e there, as root; alone: it sees no processes but its own, and they end with it."""
        command = ["unshare", "--mount", "--propagation", "private", *(["--pid", "--fork"] if alone else [])]
        command += ["sh", "-c", _ENTER]
        command += [str(self.lower), str(self.folder), str(built()), script]
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=TIMEOUT_S)  # fmt: skip
        assert done.returncode == status, f"{script}\n{done.returncode}: {done.stdout}{done.stderr}"
        return done

    def named_after_us(self) -> list[str]:
        """Files and folders with our name in theirs."""
        return self.sh("find / -xdev -iname '*pysc*' -not -path '/tmp/*'").stdout.split()

    def changed(self) -> set[str]:
        """Paths of files that were written, made or removed, without the leading slash."""
        upper = self.folder / "upper"
        return {str(path.relative_to(upper)) for path in upper.rglob("*") if not path.is_dir()}

    def processes(self) -> list[int]:
        """Those whose root it is, or was: mounts are of one command each, but their names stay."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.readlink(f"/proc/{entry}/root").startswith(str(self.folder)):
                    found.append(int(entry))
            except OSError:
                continue
        return found

    def end(self) -> None:
        """End what is left there, kindly first."""
        for signo, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + patience_s
            for pid in self.processes():
                os.kill(pid, signo)
            while self.processes() and time.monotonic() < deadline:
                time.sleep(0.02)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
