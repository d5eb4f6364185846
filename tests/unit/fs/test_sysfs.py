"""sysfs: what programs ask it for."""

import pytest

from sentry.abi.errno import EINVAL, ENOENT
from sentry.fs.sysfs import SysFs
from tests.fakeguest import Guest
from tests.unit.fs.conformance import Conformance, mount, run

CPUINFO = """\
processor\t: 0
physical id\t: 0
core id\t\t: 0

processor\t: 1
physical id\t: 0
core id\t\t: 0

processor\t: 2
physical id\t: 1
core id\t\t: 0
"""


class Tools(Conformance):
    """The suite's vocabulary without its tests."""

    __test__ = False


do = Tools()


@pytest.fixture
def container():
    container = Guest().container
    container.kernel.facts.ncpus = 3
    container.kernel.facts.cpuinfo = CPUINFO
    return container


@pytest.fixture
def root(container):
    return mount(SysFs(container))


def at(root, name):
    path = root
    for part in name.split("/"):
        path = do.child(path, part)
    return path


CPU = "devices/system/cpu/"
FILES = {
    CPU + "online": "0-2\n",
    CPU + "possible": "0-2\n",
    CPU + "present": "0-2\n",
    CPU + "cpu1/topology/thread_siblings_list": "0-1\n",
    CPU + "cpu1/topology/thread_siblings": "3\n",
    CPU + "cpu2/topology/physical_package_id": "1\n",
    CPU + "cpu2/topology/package_cpus_list": "2\n",
    "devices/system/node/online": "0\n",
    "devices/system/node/node0/cpulist": "0-2\n",
}


@pytest.mark.parametrize("name", FILES)
def test_files(root, name):
    assert do.contents(at(root, name)).decode() == FILES[name]


def test_empty_directories_are_there_to_mount_at(root):
    for name in ("fs/cgroup", "class/net", "module", "kernel/security", "firmware"):
        assert do.names(at(root, name)) == []
    with pytest.raises(ENOENT):
        run(root.inode.lookup("hypervisor"))


def test_processors_without_a_topology_are_cores_of_one_package(container):
    container.kernel.facts.cpuinfo = ""
    root = mount(SysFs(container))
    assert do.contents(at(root, CPU + "cpu1/topology/core_id")) == b"1\n"
    assert do.contents(at(root, CPU + "cpu1/topology/package_cpus_list")) == b"0-2\n"


def test_link_counts_tell_subdirectories(root):
    assert at(root, "devices/system").inode.nlink == 4


def test_options_are_refused(container):
    with pytest.raises(EINVAL):
        SysFs(container, {"x": ""})
