import pytest

from sentry.kernel.creds import Creds
from sentry.kernel.fscontext import FsContext
from tests.fakeguest import Guest
from tests.gofertree import GoferTree
from tests.unit.syscalls.filecalls import FileCalls


@pytest.fixture
def guest():
    return Guest()


@pytest.fixture
def t(guest):
    """pid 1 is somebody else: its signals have rules of their own."""
    guest.process()
    return guest.process()


@pytest.fixture(params=["tmpfs", "gofer"])
def calls(request, guest, t, tmp_path):
    """File calls of a root process whose root directory is empty, on either kind of file system."""
    if request.param == "tmpfs":
        yield FileCalls(guest, t)
        return
    tmp_path.chmod(0o1777)
    with GoferTree(tmp_path, loop=guest.loop) as tree:
        t.fs = FsContext(tree.root, tree.root)
        yield FileCalls(guest, t)


@pytest.fixture
def user(guest, t, calls):
    """File calls of a user without rights, on the same files."""
    other = guest.process(creds=Creds(uid=1000, euid=1000, suid=1000, fsuid=1000, gid=1000, egid=1000, fsgid=1000))
    other.fs = FsContext(t.fs.root, t.fs.root)
    return FileCalls(guest, other)
