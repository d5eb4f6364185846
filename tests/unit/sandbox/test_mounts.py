"""The trees that gofers get, and the overlay of a host tree; in mount namespaces of child processes."""

import os
import subprocess
import sys

import pytest

from sandbox.errors import InvalidSpec
from sandbox.mounts import open_root

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree" / "d").mkdir(parents=True)
    (tmp_path / "tree" / "f").write_text("f")
    (tmp_path / "tree" / "link").symlink_to("f")
    os.mknod(tmp_path / "tree" / "null", 0o20666, os.makedev(1, 3))
    return tmp_path / "tree"


@pytest.fixture
def opened():
    fds = []

    def keep(fd):
        fds.append(fd)
        return fd

    yield keep
    for fd in fds:
        os.close(fd)


def test_a_tree_is_opened_without_devices_and_symlinks_to_follow(tree, opened):
    fd = opened(open_root(str(tree), recursive=True, readonly=False))

    assert sorted(os.listdir(f"/proc/self/fd/{fd}")) == ["d", "f", "link", "null"]
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    assert (tree / "new").exists()
    with pytest.raises(PermissionError):
        os.open("null", os.O_RDONLY, dir_fd=fd)
    with pytest.raises(OSError, match="symbolic links"):
        os.open("link", os.O_RDONLY, dir_fd=fd)
    assert os.readlink("link", dir_fd=fd) == "f"


def test_a_read_only_tree_is_so_by_the_kernel(tree, opened):
    fd = opened(open_root(str(tree), recursive=True, readonly=True))

    with pytest.raises(OSError, match="Read-only"):
        os.mkdir("x", dir_fd=fd)
    (tree / "y").mkdir()


def test_a_file_can_be_the_root(tree, opened):
    fd = opened(open_root(str(tree / "f"), recursive=False, readonly=True))

    with open(f"/proc/self/fd/{fd}") as f:
        assert f.read() == "f"


def test_a_source_that_is_missing_is_named(tree):
    with pytest.raises(InvalidSpec, match=f"cannot open {tree}/x: No such file"):
        open_root(f"{tree}/x", recursive=True, readonly=False)


PRELUDE = """
import os, sys
from sandbox import hostcalls as hc
from sandbox.mounts import *
enter_private_mounts()
"""


def run_privately(script, *arguments):
    """Run `script` in a private mount namespace."""
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


RECURSION = """
tree = sys.argv[1]
hc.mount("none", tree + "/d", "tmpfs")
open(tree + "/d/mounted", "w").close()
for recursive in (True, False):
    fd = open_root(tree, recursive, False)
    print(os.listdir(f"/proc/self/fd/{fd}/d"))
hc.umount2(tree + "/d", 0)
hc.mount("none", tree, "tmpfs")
print(sorted(os.listdir(f"/proc/self/fd/{fd}")))
hc.umount2(tree, 0)
"""


def test_mounts_below_come_along_only_if_asked_for_and_nothing_is_kept_busy(tree):
    assert run_privately(RECURSION, tree).splitlines() == ["['mounted']", "[]", "['d', 'f', 'link', 'null']"]


OVERLAY = """
tree, scratch = sys.argv[1:]
hc.mount("none", tree + "/d", "tmpfs")
open(tree + "/d/inner", "w").close()
merged = overlay_root(tree, scratch)
print(sorted(os.listdir(merged)), os.listdir(merged + "/d"))
for name in ("f", "d/inner"):
    with open(f"{merged}/{name}", "w") as f:
        f.write("changed")
os.mkdir(merged + "/d/new")
os.unlink(merged + "/link")
print(open(merged + "/f").read(), open(tree + "/f").read(), os.listdir(tree + "/d"), os.path.lexists(tree + "/link"))
"""


def test_changes_to_an_overlay_stay_in_memory(tree, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    os.chmod(tree, 0o711)

    assert run_privately(OVERLAY, tree, scratch).splitlines() == [
        "['d', 'f', 'link', 'null'] ['inner']",
        "changed f ['inner'] True",
    ]
    assert os.listdir(scratch) == []


def test_an_overlay_of_the_hosts_own_root(tmp_path):
    script = """
merged = overlay_root("/", sys.argv[1])
open(merged + "/pysc-test-file", "w").close()
print(sorted(os.listdir(merged + "/usr/bin")) == sorted(os.listdir("/usr/bin")), os.path.exists("/pysc-test-file"))
"""
    assert run_privately(script, tmp_path) == "True False\n"


OVERLAY_IN_PARTS = """
from sandbox import confine
tree, scratch = sys.argv[1:]
hc.mount("none", tree + "/d", "tmpfs")
os.mkdir(tree + "/d/inner")
open(tree + "/plain", "w").close()
os.mkdir(tree + "/proc")
hc.mount("proc", tree + "/proc", "proc")
os.mkdir(tree + "/e")
os.chmod(tree + "/e", 0o777)
os.makedirs(tree + "/closed/mounted")
hc.mount("none", tree + "/closed/mounted", "tmpfs")
os.chown(tree + "/closed", 12345, 12345)
os.chmod(tree + "/closed", 0o700)
# In a user namespace the mounts made so far are locked: the tree cannot be overlaid whole any more.
confine.enter_user_namespace()
enter_private_mounts()
merged = overlay_root(tree, scratch)
print(sorted(os.listdir(merged)), *(os.listdir(merged + name) for name in ("/d", "/proc")), end=" ")
print(os.readlink(merged + "/link"))
open(merged + "/e/new", "w").close()
open(merged + "/d/inner/new", "w").close()
print(os.listdir(tree + "/e"), os.listdir(tree + "/d/inner"))
try:
    open(merged + "/plain", "w")
except OSError as e:
    print(e.strerror)
"""


def test_a_tree_with_locked_mounts_is_overlaid_in_parts(tree, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    assert run_privately(OVERLAY_IN_PARTS, tree, scratch).splitlines() == [
        "['closed', 'd', 'e', 'f', 'link', 'plain', 'proc'] ['inner'] [] f",
        "[] []",
        "Read-only file system",
    ]
