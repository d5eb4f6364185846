"""Cgroups: paths, v1 on the host's real hierarchies, v2's files, figures."""

import os
import signal
import subprocess
import uuid

import pytest

from sandbox.cgroup_stats import DeviceIo, read_stats
from sandbox.cgroups import CONTROLLERS, Cgroup, cpu_weight, host_hierarchies, relative_path
from sandbox.errors import InvalidSpec, SandboxError
from sandbox.spec import Resources

HYBRID = r"""
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/me\040mory rw - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
""".strip()
UNIFIED = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate"


def can_use_v1():
    version, hierarchies = host_hierarchies()
    return version == 1 and os.geteuid() == 0 and all(os.access(h.mount_point, os.W_OK) for h in hierarchies)


needs_v1 = pytest.mark.skipif(not can_use_v1(), reason="needs root and writable cgroup v1 hierarchies")


@pytest.fixture
def name():
    return f"pysc-test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def make():
    made = []

    def create(path, **resources):
        made.append(Cgroup.create(path, Resources(**resources)))
        return made[-1]

    yield create
    for cgroup in reversed(made):
        cgroup.remove()


@needs_v1
def test_what_is_announced_suffices_to_remove_everything(name):
    """By somebody else, if its maker is killed."""
    announced: list[Cgroup] = []
    made = Cgroup.create(f"{name}/inner", Resources(), announced.append)
    assert sorted(announced[0].created) == sorted(made.created)
    assert announced[0].directories == made.directories
    Cgroup.from_json(announced[0].to_json()).remove()
    assert not [directory for directory in made.created if os.path.exists(directory)]
    announced[0].remove()


def test_hybrid_hosts_count_as_v1_and_mounts_are_grouped():
    version, hierarchies = host_hierarchies(HYBRID)

    assert version == 1
    assert [(h.mount_point, sorted(h.controllers)) for h in hierarchies] == [
        ("/sys/fs/cgroup/cpu,cpuacct", ["cpu", "cpuacct"]),
        ("/sys/fs/cgroup/me mory", ["memory"]),
    ]


def test_unified_and_absent_hierarchies():
    version, (hierarchy,) = host_hierarchies(UNIFIED)

    assert (version, hierarchy.mount_point, hierarchy.controllers) == (2, "/sys/fs/cgroup", frozenset(CONTROLLERS))
    assert host_hierarchies("1 0 0:1 / / rw - ext4 /dev/vda rw") == (0, [])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "pysc-c1"),
        ("/default/c1", "default/c1"),
        ("a//b/", "a/b"),
        ("kubepods-besteffort-pod1.slice:cri:c1",
         "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-c1.scope"),
        (":pysc:c1", "system.slice/pysc-c1.scope"),
        ("-.slice::c1", "c1.scope"),
        ("a.slice::b.slice", "a.slice/b.slice"),
    ],
)  # fmt: skip
def test_cgroups_path(text, path):
    assert relative_path(text, "c1", systemd=None) == path


@pytest.mark.parametrize("text", ["/a/../b", "..", "/", "x:y:z", "a.slice:b:", "a.slice:b/c:d"])
def test_cgroups_paths_that_lead_astray_are_refused(text):
    with pytest.raises(InvalidSpec):
        relative_path(text, "c1", systemd=":" in text)


def test_shares_become_weights():
    assert [cpu_weight(shares) for shares in (0, 2, 1024, 262144, 10**9)] == [1, 1, 39, 10000, 10000]


@needs_v1
def test_limits_reach_the_kernel_and_come_back_as_figures(make, name):
    cgroup = make(name, memory_limit=64 << 20, cpu_shares=512, cpu_quota=50_000, cpu_period=100_000, pids_limit=20,
                  cpus="0")  # fmt: skip
    stats = read_stats(cgroup)

    assert (stats.version, stats.memory_limit, stats.pids_limit) == (1, 64 << 20, 20)
    assert open(f"{cgroup.directory_of('cpu')}/cpu.shares").read() == "512\n"
    assert open(f"{cgroup.directory_of('cpu')}/cpu.cfs_quota_us").read() == "50000\n"
    assert open(f"{cgroup.directory_of('cpuset')}/cpuset.cpus").read() == "0\n"


@needs_v1
def test_memory_and_swap_limits_may_rise_and_fall_in_any_order(make, name):
    cgroup = make(name, memory_limit=64 << 20, memory_swap=64 << 20)
    for limit in (128 << 20, 32 << 20):
        cgroup.apply(Resources(memory_limit=limit, memory_swap=limit))

        assert read_stats(cgroup).memory_limit == limit
        assert read_stats(cgroup).swap_limit in (limit, None)


@needs_v1
def test_a_process_enters_by_the_donated_descriptors_and_is_counted(make, name):
    cgroup = make(name)
    fds = cgroup.open_procs()
    inside_read, inside_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for fd in fds:
                os.write(fd, b"0")
            os.write(inside_write, b"!")
            signal.pause()
        finally:
            os._exit(0)
    try:
        os.read(inside_read, 1)
        assert cgroup.pids() == {pid}
        assert read_stats(cgroup).pids_current == 1
        with pytest.raises(SandboxError, match="has processes in it"):
            Cgroup.create(name, Resources())
        assert cgroup.pids() == {pid}, "somebody else's cgroup must not be emptied"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (*fds, inside_read, inside_write):
            os.close(fd)


@needs_v1
def test_removal_ends_what_is_left_inside(make, name):
    cgroup = make(f"{name}/deep/{name}")
    process = subprocess.Popen(["sleep", "60"])
    for fd in cgroup.open_procs():
        os.write(fd, str(process.pid).encode())
        os.close(fd)

    cgroup.remove()

    assert process.wait(10) == -9
    assert not any(os.path.exists(directory) for directory in cgroup.created)
    assert len(cgroup.created) == 3 * len(cgroup.directories)
    cgroup.remove()


@needs_v1
def test_ancestors_that_others_use_stay(make, name):
    first, second = make(f"{name}/a"), make(f"{name}/b")

    first.remove()

    assert all(os.path.isdir(directory) for directory in second.directories)
    assert not any(os.path.isdir(directory) for directory in first.directories)
    second.remove()
    first.remove()
    assert not any(os.path.exists(directory) for directory in first.created)


@needs_v1
def test_a_limit_that_the_kernel_refuses_leaves_nothing_behind(name):
    with pytest.raises(OSError, match=r"cpuset\.cpus"):
        Cgroup.create(name, Resources(cpus="9999"))

    assert not any(os.path.exists(f"{h.mount_point}/{name}") for h in host_hierarchies()[1])


@needs_v1
def test_the_state_file_form_is_complete(make, name):
    cgroup = make(name)
    again = Cgroup.from_json(cgroup.to_json())

    assert (again.version, again.directories, again.created) == (cgroup.version, cgroup.directories, cgroup.created)


def v2(tmp_path, **files):
    for file, text in files.items():
        (tmp_path / file.replace("__", ".")).write_text(text)
    return Cgroup(2, {str(tmp_path): list(CONTROLLERS)}, [])


def test_v2_limits_are_written_in_its_own_terms(tmp_path):
    names = ("memory.max", "memory.swap.max", "memory.low", "memory.high", "cpu.weight", "cpu.max", "pids.max")
    cgroup = v2(tmp_path, **dict.fromkeys(names, ""))
    cgroup.apply(
        Resources(memory_limit=100, memory_swap=150, memory_reservation=50, cpu_shares=1024, cpu_quota=5000,
                  cpu_period=10000, pids_limit=-1, unified={"memory.high": "90"})
    )  # fmt: skip

    written = [(tmp_path / name).read_text() for name in names]
    assert written == ["100", "50", "50", "90", "39", "5000 10000", "max"]


def test_v2_unlimited(tmp_path):
    cgroup = v2(tmp_path, memory__max="", cpu__max="")
    (tmp_path / "memory.swap.max").write_text("")
    cgroup.apply(Resources(memory_limit=-1, memory_swap=-1, cpu_quota=-1))

    assert [(tmp_path / n).read_text() for n in ("memory.max", "memory.swap.max", "cpu.max")] == ["max"] * 3


def test_v2_figures(tmp_path):
    cgroup = v2(
        tmp_path,
        memory__current="4096\n",
        memory__max="max\n",
        memory__stat="anon 100\nfile 200\n",
        memory__events="low 0\nmax 3\noom 1\noom_kill 1\n",
        cpu__stat="usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 2\n",
        pids__current="3\n",
        pids__max="max\n",
    )
    stats = read_stats(cgroup)

    assert (stats.memory_usage, stats.memory_limit, stats.memory_failures, stats.oom_kills) == (4096, None, 3, 1)
    assert (stats.cpu_usage_ns, stats.cpu_user_ns, stats.cpu_periods) == (10_000, 6_000, 2)
    assert (stats.pids_current, stats.pids_limit) == (3, None)
    assert stats.memory_stat == {"anon": 100, "file": 200}


def test_without_any_cgroups_limits_are_refused_and_the_rest_does_nothing():
    cgroup = Cgroup(0, {}, [])
    cgroup.apply(Resources())

    assert cgroup.open_procs() == [] and cgroup.pids() == set()
    assert read_stats(cgroup).memory_usage == 0


def test_a_hierarchy_mounted_twice_counts_once():
    line = "{} 24 0:22 / {} rw - cgroup cgroup rw,memory\n"
    version, found = host_hierarchies(line.format(30, "/sys/fs/cgroup/memory") + line.format(31, "/chroot/memory"))
    assert (version, [h.mount_point for h in found]) == (1, ["/sys/fs/cgroup/memory"])


def test_v1_figures_of_devices(tmp_path):
    (tmp_path / "blkio.throttle.io_service_bytes").write_text("8:0 Read 100\n8:0 Write 200\n8:0 Total 300\nTotal 300\n")
    (tmp_path / "blkio.throttle.io_serviced").write_text("8:0 Read 1\n8:0 Write 2\n8:0 Async 3\n252:16 Read 5\n")

    stats = read_stats(Cgroup(1, {str(tmp_path): ["blkio"]}, []))

    assert stats.io == [DeviceIo(8, 0, 100, 200, 1, 2), DeviceIo(252, 16, 0, 0, 5, 0)]


def test_v2_figures_of_devices(tmp_path):
    cgroup = v2(tmp_path, **{"io.stat": "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n252:16 \n"})

    assert read_stats(cgroup).io == [DeviceIo(8, 0, 100, 200, 1, 2)]


def test_v2_limits_of_an_update(tmp_path):
    cgroup = v2(tmp_path, **dict.fromkeys(("cpu.max.burst", "cpu.idle", "cpu.max", "pids.max"), ""))

    cgroup.apply(Resources(cpu_burst=5, cpu_idle=1, cpu_quota=-1, pids_limit=-1))

    assert [(tmp_path / name).read_text() for name in ("cpu.max.burst", "cpu.idle", "cpu.max", "pids.max")] == [
        *("5", "1", "max", "max"),
    ]


def test_v2_limit_below_what_is_in_use(tmp_path):
    cgroup = v2(tmp_path, memory__current="100\n", memory__max="max")
    with pytest.raises(SandboxError, match="more is in use"):
        cgroup.apply(Resources(memory_limit=99, memory_check=True))
    assert (tmp_path / "memory.max").read_text() == "max"
    cgroup.apply(Resources(memory_limit=100, memory_check=True))

    assert (tmp_path / "memory.max").read_text() == "100"
