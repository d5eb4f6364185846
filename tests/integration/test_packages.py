"""What `make package` builds: what is in it, and that it installs, works and goes away again in a minimal Debian."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import COMMANDS
from tests.integration.bundle import busybox_rootfs
from tests.integration.packages import REPOSITORY, MinimalRoot, built, command_line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("packages")]

VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
CORES = {
    "platform_kvm/core/_core.abi3.so", "platform_ptrace/core/_core.abi3.so", "sandbox/_hostcalls.abi3.so",
    "sandbox/_common_heap.abi3.so", "sandbox/deputy", "sentry/vdso/_clock.abi3.so", "sentry/vdso/linux-vdso.so",
}  # fmt: skip
RUN_A_BUNDLE = """
mkdir -p /tmp/b/rootfs/bin && cp /bin/busybox /tmp/b/rootfs/bin/sh && cd /tmp/b
{pysc} spec sh -c 'echo one; exit 7'
sed -i 's/"terminal": true/"terminal": false/' config.json
{pysc} run c1 && exit 1 || echo "status $?"
{pysc} create c2 </dev/null >/tmp/b/out 2>&1 || cat /tmp/b/out
{pysc} delete c2
"""


@pytest.fixture(scope="module")
def wheel() -> zipfile.ZipFile:
    (path,) = built().glob("pysc-*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def deb() -> Path:
    (path,) = built().glob("pysc_*.deb")
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, deb: Path) -> MinimalRoot:
    """What the image's build makes (packaging/kubernetes/Dockerfile): a root with /opt/pysc and the script."""
    made = MinimalRoot(tmp_path_factory.mktemp("image"))
    (made.folder / "upper/usr/local/bin").mkdir(parents=True)
    for name in ("node-tree", "node"):
        shutil.copy2(REPOSITORY / "packaging/kubernetes" / name, made.folder / "upper/usr/local/bin")
    made.sh(f"dpkg -i /tmp/packages/{deb.name}; node-tree /opt/pysc; dpkg -P pysc")
    return made


@pytest.fixture
def minimal(tmp_path: Path) -> Iterator[MinimalRoot]:
    root = MinimalRoot(tmp_path)
    yield root
    root.end()


def dpkg_deb(*words: str | Path) -> str:
    return subprocess.run(["dpkg-deb", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def test_the_wheel_fits_every_python_that_we_support(wheel: zipfile.ZipFile) -> None:
    assert Path(str(wheel.filename)).name.startswith(f"pysc-{VERSION}-cp311-abi3-linux_")
    metadata = wheel.read(f"pysc-{VERSION}.dist-info/METADATA").decode()
    assert f"\nVersion: {VERSION}\n" in metadata
    needed = {line.split()[1].split("<")[0].split(">")[0] for line in metadata.splitlines() if "Requires-Dist" in line
              and "extra" not in line}  # fmt: skip
    assert needed == {"cffi", "protobuf", "pyseccomp"}


def test_the_wheel_has_every_module_and_core_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name and ".data/" not in name}
    folders = {name.split("/")[0] for name in names}
    paths = (path for folder in folders for path in (REPOSITORY / folder).rglob("*.py*"))
    assert names == {str(path.relative_to(REPOSITORY)) for path in paths if path.suffix in (".py", ".pyi")} | CORES
    scripts = {name.rsplit("/")[-1] for name in wheel.namelist() if ".data/" in name}
    assert scripts == {"pysc", "containerd-shim-pysc-v1"}


def test_the_debian_package_says_what_it_needs(deb: Path) -> None:
    fields = dict(line.split(": ", 1) for line in dpkg_deb("-f", deb).splitlines() if not line.startswith(" "))
    assert (fields["Package"], fields["Version"]) == ("pysc", VERSION)
    needed = {entry.split()[0] for entry in fields["Depends"].split(", ")}
    assert needed == {"python3", "python3-cffi-backend", "libseccomp2", "libc6"}


def test_the_debian_package_has_its_files_where_they_belong(deb: Path, tmp_path: Path) -> None:
    dpkg_deb("-R", deb, tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    ours = {"etc/pysc/config.toml", "usr/bin/pysc", "usr/bin/containerd-shim-pysc-v1",
            "usr/share/python3/runtime.d/pysc.rtupdate"}  # fmt: skip
    allowed = ("usr/lib/pysc/", "usr/share/doc/pysc/", "DEBIAN/")
    assert {name for name in files if not name.startswith(allowed)} == ours
    assert {f"usr/lib/pysc/{name}" for name in CORES} <= files
    assert (tmp_path / "DEBIAN/conffiles").read_text() == "/etc/pysc/config.toml\n"
    assert tomllib.loads((tmp_path / "etc/pysc/config.toml").read_text()) == {}
    assert not [name for name in files if name.endswith((".c", ".h", ".pyc"))]


@pytest.mark.parametrize("program", ["pysc", "containerd-shim-pysc-v1"])
def test_programs_name_their_interpreter_isolated(deb: Path, tmp_path: Path, program: str) -> None:
    dpkg_deb("-x", deb, tmp_path)
    assert (tmp_path / "usr/bin" / program).read_text().splitlines()[0] == "#!/usr/bin/python3 -I"


@pytest.mark.packages
def test_the_debian_package_installs_works_and_leaves_nothing(minimal: MinimalRoot, deb: Path) -> None:
    minimal.sh(f"dpkg -i /tmp/packages/{deb.name}")

    assert minimal.sh("cd /; pysc version").stdout.startswith(f"pysc version {VERSION}\n")
    assert "fail" not in minimal.sh("pysc doctor || true").stdout
    assert minimal.sh("pysc do echo hello").stdout == "hello\n"
    assert minimal.processes() == []
    assert minimal.sh(RUN_A_BUNDLE.format(pysc="pysc")).stdout == "one\nstatus 7\n"
    assert minimal.sh("dpkg --verify pysc").stdout == ""

    minimal.sh("echo 'strace = false' >>/etc/pysc/config.toml; dpkg -r pysc")
    assert minimal.sh("cat /etc/pysc/config.toml").stdout.endswith("strace = false\n")
    minimal.sh("dpkg -P pysc")
    assert minimal.named_after_us() == []
    assert all(path.startswith(("var/lib/dpkg/", "var/log/")) for path in minimal.changed())


@pytest.mark.packages
def test_the_debian_package_takes_its_warm_parent_with_it(minimal: MinimalRoot, deb: Path) -> None:
    """The shim stays, as one with containers must; without one it ends at the fixture's signal."""
    minimal.sh(
        f"dpkg -i /tmp/packages/{deb.name}\n"
        'mkdir -p /tmp/bundle && cd /tmp/bundle && echo "{}" >config.json\n'
        "containerd-shim-pysc-v1 -namespace n -address /run/none.sock -id c1 start >address\n"
        'grep -q "^unix:///run/containerd/s/" address\n'
        "ls /run/pysc-shim/.warm/*.lock\n"
        "dpkg -P pysc\n"
        "test ! -e /run/pysc-shim/.warm\n"
    )
    commands = [command_line(pid) for pid in minimal.processes()]
    assert any(line.startswith("containerd-shim-pysc-v1 -namespace n ") for line in commands)
    assert not any("shim.warm" in line for line in commands)


@pytest.mark.packages
def test_the_tree_for_nodes_needs_nothing_of_the_node(image: MinimalRoot, tmp_path: Path) -> None:
    """A root that has busybox and nothing else: no Python, no C library."""
    lower = busybox_rootfs(tmp_path / "busybox")
    shutil.copytree(image.folder / "upper/opt/pysc", lower / "opt/pysc", symlinks=True)
    node = MinimalRoot(tmp_path / "node", lower)

    assert node.sh("/opt/pysc/bin/pysc version").stdout.startswith(f"pysc version {VERSION}\n")
    assert "fail" not in node.sh("/opt/pysc/bin/pysc doctor || true").stdout
    assert node.sh("/opt/pysc/bin/pysc do echo hello").stdout == "hello\n"
    assert node.sh("/opt/pysc/bin/containerd-shim-pysc-v1 -v").stdout.startswith("containerd-shim-pysc-v1:")
    assert node.changed() == set()


@pytest.mark.packages
@pytest.mark.skipif("install" not in COMMANDS, reason="there is no pysc install")
def test_the_daemonset_installs_a_node_and_takes_everything_away(image: MinimalRoot) -> None:
    before = image.changed()
    done = image.sh(
        "mkdir -p /tmp/host/etc/containerd /tmp/cm; cd /tmp\n"
        "printf 'version = 2\\n' >host/etc/containerd/config.toml; cp -r host before\n"
        "printf 'platform = \"ptrace\"\\n' >cm/config.toml\n"
        "export HOST=/tmp/host CONFIG=/tmp/cm/config.toml RESTART='echo RESTARTED'\n"
        "node install; echo =====; node install; echo =====\n"
        "cmp cm/config.toml host/etc/pysc/config.toml; cmp /opt/pysc/bin/pysc host/opt/pysc/bin/pysc\n"
        "grep -rq io.containerd.pysc.v1 host/etc/containerd\n"
        "node uninstall; find host -name '*pysc*'; diff -r before/etc/containerd host/etc/containerd && echo same\n",
        alone=True,
    )
    first, second, last = done.stdout.split("=====\n")
    assert "RESTARTED" in first
    assert "RESTARTED" not in second
    assert "RESTARTED" in last
    assert last.endswith("pysc-node: uninstalled\nsame\n")
    assert image.changed() == before


@pytest.mark.packages
def test_a_node_where_containers_run_keeps_what_they_need(image: MinimalRoot) -> None:
    """What stands for a shim has its name and nothing else."""
    done = image.sh(
        "mkdir -p /tmp/host/opt/pysc\n"
        'python3 -c \'import os; os.execv("/bin/sleep", ["containerd-shim-pysc-v1", "1000"])\' &\n'
        "until grep -q ^containerd-shim-pysc-v1 /proc/$!/cmdline; do sleep 0.1; done\n"
        "HOST=/tmp/host RESTART= node uninstall; test -d /tmp/host/opt/pysc",
        alone=True,
    )
    assert done.stdout == "pysc-node: containers of pysc run on this node: nothing is taken away\n"


@pytest.mark.packages
def test_a_node_gets_no_configuration_that_is_wrong(image: MinimalRoot) -> None:
    done = image.sh(
        "mkdir -p /tmp/host; echo 'platfrom = 1' >/tmp/wrong.toml\n"
        "HOST=/tmp/host CONFIG=/tmp/wrong.toml RESTART= node install || { test ! -e /tmp/host/etc; exit 7; }", status=7
    )  # fmt: skip
    assert "platfrom: there is no such option" in done.stderr


@pytest.mark.packages
def test_the_wheel_installs_without_an_index_works_and_leaves_nothing(minimal: MinimalRoot) -> None:
    pip = "/opt/pysc/bin/pip --quiet --disable-pip-version-check"
    sources = "--no-index --find-links /tmp/packages --find-links /tmp/packages/wheels"
    minimal.sh(f"python3 -m venv /opt/pysc; {pip} install {sources} pysc")

    assert minimal.sh("head -1 /opt/pysc/bin/containerd-shim-pysc-v1").stdout.startswith("#!/opt/pysc/bin/python3")
    assert minimal.sh("/opt/pysc/bin/pysc do echo hello").stdout == "hello\n"
    assert minimal.sh(RUN_A_BUNDLE.format(pysc="/opt/pysc/bin/pysc")).stdout == "one\nstatus 7\n"

    before = minimal.changed()
    minimal.sh(f"{pip} uninstall --yes pysc")
    left = minimal.sh("find /opt/pysc -path '*/sentry*' -o -name '*pysc-v1' -o -path '*/bin/pysc'").stdout
    assert left == ""
    assert {path for path in minimal.changed() - before if "__pycache__" not in path} == set()
