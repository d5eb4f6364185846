"""stat(2), statx(2), access(2), readlink(2)."""

import pytest

from sentry.abi.errno import EACCES, EBADF, EFAULT, EINVAL, ELOOP, ENOENT, ENOTDIR, EROFS
from sentry.abi.fcntl import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    O_PATH,
)
from sentry.abi.stat import STAT, STATX, STATX_BASIC_STATS, STATX_RESERVED
from sentry.vfs.dentry import MS_NOEXEC, MS_RDONLY

R_OK, W_OK, X_OK = 4, 2, 1


def test_stat_of_a_file(calls):
    calls.make("/a", b"12345", 0o640)
    calls("link", "/a", "/b")

    st = calls.stat("/a")

    assert (st.mode, st.nlink, st.size, st.uid) == (0o100640, 2, 5, 0)
    assert st == calls.stat("/b")
    assert st.ino != calls.stat("/").ino


def test_links_are_followed_or_not(calls):
    calls.make("/a", b"x")
    calls("symlink", "a", "/link")
    calls("symlink", "nowhere", "/dangling")

    assert calls.stat("/link").mode == 0o100644
    assert calls.lstat("/link").mode == 0o120777
    assert calls.lstat("/link").size == 1
    assert calls.lstat("/dangling").mode == 0o120777
    with pytest.raises(ENOENT):
        calls.stat("/dangling")
    with pytest.raises(ENOTDIR):
        calls.lstat("/link/")


def test_links_in_the_middle_of_a_name(calls):
    calls("mkdir", "/d", 0o755)
    calls("mkdir", "/d/e", 0o755)
    calls.make("/d/e/f", b"123")
    calls("symlink", "/d", "/absolute")
    calls("symlink", "../d/e/", "/d/relative")

    for name in ("/absolute/e/f", "/d/relative/f", "/absolute/relative/../e/./f", "//d//e//f"):
        for _ in range(2):  # the second time from the cache
            assert calls.stat(name).size == 3
    for _ in range(2):
        assert calls.lstat("/d/relative/").mode == 0o040755
        assert calls.lstat("/d/relative").mode == 0o120777


@pytest.mark.parametrize("name", ["/loop", "/loop/x"])
def test_loops_end(calls, name):
    calls("symlink", "loop2", "/loop")
    calls("symlink", "/loop", "/loop2")

    for _ in range(2):
        with pytest.raises(ELOOP):
            calls.stat(name)


def test_forty_links_are_followed_and_no_more(calls):
    calls.make("/l0", b"x")
    for n in range(41):
        calls("symlink", f"l{n}", f"/l{n + 1}")

    for _ in range(2):
        assert calls.stat("/l40").size == 1
        with pytest.raises(ELOOP):
            calls.stat("/l41")


def test_missing_names(calls):
    calls.make("/a")
    for _ in range(2):
        with pytest.raises(ENOENT):
            calls.stat("/missing")
        with pytest.raises(ENOENT):
            calls.stat("/missing/x")
        with pytest.raises(ENOTDIR):
            calls.stat("/a/x")
        with pytest.raises(ENOTDIR):
            calls.stat("/a/")
    calls.make("/missing")
    assert calls.stat("/missing").size == 0


def test_searching_needs_permission(calls, user):
    calls("mkdir", "/closed", 0o700)
    calls.make("/closed/a")

    assert calls.stat("/closed/a").size == 0
    for _ in range(2):
        with pytest.raises(EACCES):
            user.stat("/closed/a")
    assert user.stat("/closed").mode == 0o040700


def test_bad_memory(calls):
    with pytest.raises(EFAULT):
        calls("stat", "/", 8)
    with pytest.raises(EFAULT):
        calls("stat", 8, 8)


def fstatat(calls, dirfd, name, flags=0):
    buf = calls.t.mem.alloc(STAT.size)
    calls("newfstatat", dirfd, name, buf, flags)
    return STAT.unpack(calls.t.mem.read(buf, STAT.size))


def test_fstatat(calls):
    calls("mkdir", "/d", 0o755)
    calls.make("/d/a", b"xyz")
    fd = calls.open("/d", O_PATH)

    assert fstatat(calls, fd, "a")[8] == 3
    assert fstatat(calls, fd, "", AT_EMPTY_PATH)[3] == 0o040755
    assert fstatat(calls, fd, 0, AT_EMPTY_PATH)[3] == 0o040755
    assert fstatat(calls, AT_FDCWD, "", AT_EMPTY_PATH)[1] == calls.stat("/").ino
    with pytest.raises(ENOENT):
        fstatat(calls, fd, "")
    with pytest.raises(EINVAL):
        fstatat(calls, fd, "a", 1)
    with pytest.raises(EBADF):
        fstatat(calls, 99, "", AT_EMPTY_PATH)
    with pytest.raises(EFAULT):
        fstatat(calls, fd, 0)


def test_statx(calls):
    calls.make("/a", b"12345")
    calls("symlink", "a", "/link")
    buf = calls.t.mem.alloc(256)

    calls("statx", AT_FDCWD, "/link", 0, STATX_BASIC_STATS, buf)
    values = STATX.unpack(calls.t.mem.read(buf, 256))
    assert values[0] & STATX_BASIC_STATS == STATX_BASIC_STATS
    assert (values[6], values[8]) == (0o100644, 5)
    seconds, nanoseconds, _ = values[20:23]
    assert (seconds, nanoseconds) == calls.stat("/a").mtime
    calls("statx", AT_FDCWD, "/link", AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, buf)
    assert STATX.unpack(calls.t.mem.read(buf, 256))[6] == 0o120777
    with pytest.raises(EINVAL):
        calls("statx", AT_FDCWD, "/a", 0, STATX_RESERVED, buf)
    with pytest.raises(EINVAL):
        calls("statx", AT_FDCWD, "/a", 0x6000, 0, buf)


# ---- access.


def test_access_asks_for_the_real_user(calls, user):
    calls.make("/private", mode=0o600)
    calls.make("/program", mode=0o755)

    assert calls("access", "/private", R_OK | W_OK) == 0
    with pytest.raises(EACCES):
        calls("access", "/private", X_OK)
    assert user("access", "/private", 0) == 0
    with pytest.raises(EACCES):
        user("access", "/private", R_OK)
    assert user("access", "/program", R_OK | X_OK) == 0
    with pytest.raises(EINVAL):
        calls("access", "/private", 8)

    user.t.creds = user.t.creds.changed(euid=0, fsuid=0, effective=calls.t.creds.effective)
    with pytest.raises(EACCES):
        user("access", "/private", R_OK)
    assert user("faccessat2", AT_FDCWD, "/private", R_OK, AT_EACCESS) == 0


def test_access_of_read_only_and_noexec_mounts(calls):
    calls.make("/a", mode=0o777)
    calls.t.fs.root.mount.flags |= MS_RDONLY | MS_NOEXEC

    assert calls("access", "/a", R_OK) == 0
    with pytest.raises(EROFS):
        calls("access", "/a", W_OK)
    with pytest.raises(EACCES):
        calls("access", "/a", X_OK)
    assert calls("access", "/", X_OK) == 0


# ---- readlink.


def test_readlink(calls):
    calls("symlink", "the/target", "/link")
    calls.make("/a")

    assert calls.readlink("/link") == "the/target"
    assert calls.readlink("/link", 3) == "the"
    for name, size, error in (("/a", 9, EINVAL), ("/link", 0, EINVAL), ("/missing", 9, ENOENT), ("", 9, ENOENT)):
        with pytest.raises(error):
            calls.readlink(name, size)


def test_pack_of_struct_stat():
    assert (STAT.size, STATX.size) == (144, 256)
