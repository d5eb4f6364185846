"""Other versions of containerd than the installed one: fetched when a test asks for them, and kept for the next time.

Debian's newer suites have them; apt fetches, from the mirror that this machine uses, with Debian's own keys, into
folders of its own: nothing is installed.  The newest is built from its Go module, which takes minutes: only if that was
done before, or if PYSC_TEST_BUILD says that there is time.  What cannot be had is skipped, with the reason.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FETCH_SECONDS = 150
BUILD_SECONDS = 1500
MODULE = "github.com/containerd/containerd/v2/cmd"


class Release(NamedTuple):
    """A version of containerd, and where it is had from: a suite of Debian's, or a version of the Go module."""

    name: str
    suite: str = ""
    module_version: str = ""


RELEASES = (
    Release("1.7", suite="trixie"),
    Release("2", suite="forky"),
    Release("2.3", module_version="v2.3.4"),
)


class Unavailable(Exception):
    """It cannot be had here; says why."""


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("PYSC_TEST_CACHE") or f"{base}/pysc-tests")


def binaries(release: Release) -> Path:
    """A folder with that release's containerd and ctr.  Skips the test if there is none to be had."""
    folder = cache_folder() / f"containerd-{release.name}"
    with _locked(folder):
        if not (folder / "containerd").exists():
            try:
                _fetch(release, folder)
            except (Unavailable, OSError, subprocess.SubprocessError) as e:
                pytest.skip(f"containerd {release.name}: {e}")
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One worker fetches, the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(release: Release, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if release.suite:
            found = _from_debian(release.suite, Path(scratch))
        else:
            found = _from_module(release.module_version, Path(scratch))
        for name in ("ctr", "containerd"):  # the one that is looked for comes last
            shutil.move(found / name, folder / name)


def _mirror() -> str:
    """Where apt gets Debian's packages from."""
    form = "$(REPO_URI) $(COMPONENT) $(ORIGIN)"
    try:
        done = subprocess.run(
            ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise Unavailable("no apt here") from None
    for line in done.stdout.splitlines():
        uri, component, origin = line.split(" ", 2)
        if component == "main" and origin == "Debian" and "security" not in uri:
            return uri
    raise Unavailable("apt knows no mirror of Debian")


def _from_debian(suite: str, scratch: Path) -> Path:
    for name in ("lists/partial", "cache/archives/partial", "root"):
        (scratch / name).mkdir(parents=True)
    (scratch / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite} main\n")
    options = [
        f"Dir::Etc::sourcelist={scratch}/sources.list",
        "Dir::Etc::sourceparts=-",
        f"Dir::State::lists={scratch}/lists",
        f"Dir::Cache={scratch}/cache",
        "Acquire::Languages=none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
        "Acquire::Retries=1",
        "Acquire::http::Timeout=20",
        "APT::Sandbox::User=root",
    ]
    flags = [word for option in options for word in ("-o", option)]
    for words in (["--error-on=any", "update"], ["download", f"containerd/{suite}"]):
        _run(["apt-get", "-q", *flags, *words], scratch, FETCH_SECONDS)
    [package] = scratch.glob("containerd_*.deb")
    _run(["dpkg", "-x", package.name, "root"], scratch, FETCH_SECONDS)
    return scratch / "root/usr/bin"


def _from_module(version: str, scratch: Path) -> Path:
    if not os.environ.get("PYSC_TEST_BUILD"):
        raise Unavailable("building it takes minutes: set PYSC_TEST_BUILD=1 for that")
    if shutil.which("go") is None:
        raise Unavailable("no Go toolchain to build it with")
    environment = {"GOBIN": f"{scratch}/bin", "GOFLAGS": "-modcacherw", "CGO_ENABLED": "0"}
    for program in ("ctr", "containerd"):
        _run(["go", "install", f"{MODULE}/{program}@{version}"], scratch, BUILD_SECONDS, environment)
    return scratch / "bin"


def _run(command: list[str], folder: Path, seconds: float, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | (environment or {}), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=seconds,
    )  # fmt: skip
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{command[0]} {command[-1]}: {lines[-1] if lines else done.returncode}")
