"""The warm parent: what its forks are and are not, and that nothing depends on it.

Each test has a folder of its own for the parent's socket, so a parent that it finds is one that it has started.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proto.containerd import task_pb2
from sandbox.warm_client import connect
from shim import warm_client
from tests.integration.bundle import busybox_rootfs
from tests.integration.daemon import command_line, until
from tests.integration.shims import RealShims
from tests.shimtest.harness import ROOT, Task, wait_gone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd's shims run as root"),
]

SLEEP = ["sleep", "1000"]
SECRET = "start-secret-7f3a"
CLEAN = {"PATH", "LC_ALL"}


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_rootfs(tmp_path_factory.mktemp("busybox"))


@pytest.fixture
async def shims(rootfs: Path) -> AsyncIterator[RealShims]:
    shims = RealShims(rootfs, warm=True, START_SECRET=SECRET)
    yield shims
    await shims.close()


async def started(shims: RealShims, name: str, args: list[str] = SLEEP, pod: str = "", **more: object) -> Task:
    task = await shims.start(shims.container(name, args, pod=pod, **more))  # type: ignore[arg-type]
    await task.create(rootfs=shims.rootfs)
    await task.start()
    return task


async def ended(task: Task) -> None:
    await task.kill(signal.SIGKILL)
    await task.wait()
    await task.delete()
    await task.shutdown()


async def shim_of(task: Task) -> int:
    return (await task.call("Connect", task_pb2.ConnectResponse)).shim_pid


async def started_alone(shims: RealShims) -> Task:
    """A container whose shim was forked by its own start."""
    folder = shims.environment["PYSC_WARM_DIR"]
    shims.environment["PYSC_WARM_DIR"] = ""
    task = await started(shims, "first")
    assert shims.warm_parents() == []
    shims.environment["PYSC_WARM_DIR"] = folder
    return task


async def warmed(shims: RealShims) -> int:
    """The warm parent that a first container leaves behind.  It is looked for while that is there: it may not stay."""
    task = await started(shims, "first")
    [pid] = shims.warm_parents()
    await ended(task)
    return pid


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and is_child(int(entry), pid)]


def is_child(pid: int, parent: int) -> bool:
    try:
        return parent_of(pid) == parent
    except (FileNotFoundError, ProcessLookupError):
        return False


def stage_of(shim: int, role: str) -> int:
    [pid] = [pid for pid in children_of(shim) if f" {role} " in command_line(pid) + " "]
    return pid


def descriptors(pid: int) -> list[str]:
    """What a process has open, without the numbers that differ from one to the next."""
    links = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            continue
        links.append(re.sub(r"c\d+|[0-9a-f]{64}|\d+|first|second", "N", link))
    return sorted(links)


def memory_holds(pid: int, text: bytes) -> bool:
    """Whether the text is anywhere in what a process may write to."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            area, mode = line.split()[:2]
            if mode.startswith("rw"):
                first, last = (int(number, 16) for number in area.split("-"))
                memory.seek(first)
                if text in (memory.read(last - first) or b""):
                    return True
    return False


async def test_the_first_start_makes_a_parent_and_the_next_is_its_child_too(shims: RealShims) -> None:
    first = await started(shims, "first")
    assert [parent_of(await shim_of(first))] == shims.warm_parents()
    await ended(first)
    [warm] = shims.warm_parents()
    bundle = shims.container("second", ["sh", "-c", "echo hello; exit 3"])
    out = bundle.fifo("out")
    reader = bundle.reader(out)
    task = await shims.start(bundle)
    shim = await shim_of(task)
    assert parent_of(shim) == warm
    await task.create(rootfs=shims.rootfs, stdout=out)
    assert "sandbox.stage sentry second" in command_line((await task.state()).pid)
    await task.start()
    assert await task.wait() == 3
    assert await reader.rest() == b"hello\n"
    await task.delete()
    await task.shutdown()
    await asyncio.to_thread(wait_gone, shim)
    assert await asyncio.to_thread(until, lambda: children_of(warm) == [])
    assert shims.warm_parents() == [warm]


async def test_two_at_once(shims: RealShims) -> None:
    warm = await warmed(shims)
    tasks = await asyncio.gather(*(started(shims, f"c{i}") for i in range(2)))
    assert [parent_of(await shim_of(task)) for task in tasks] == [warm, warm]
    await asyncio.gather(*map(ended, tasks))


async def test_first_starts_at_once_leave_one_parent(shims: RealShims) -> None:
    tasks = await asyncio.gather(*(started(shims, f"c{i}") for i in range(3)))
    [warm] = shims.warm_parents()
    assert [parent_of(await shim_of(task)) for task in tasks] == [warm] * 3
    await asyncio.gather(*map(ended, tasks))


async def test_a_killed_parent_is_replaced_and_missed_by_nobody(shims: RealShims) -> None:
    warm = await warmed(shims)
    survivor = await started(shims, "c1")
    os.kill(warm, signal.SIGKILL)
    await asyncio.to_thread(wait_gone, warm)
    task = await started(shims, "second")
    assert [parent_of(await shim_of(task))] == shims.warm_parents() != [warm]
    await ended(task)
    await ended(survivor)


async def test_a_parent_that_does_not_answer_is_not_waited_for(shims: RealShims) -> None:
    warm = await warmed(shims)
    os.kill(warm, signal.SIGSTOP)
    try:
        task = await started(shims, "second")
        assert parent_of(await shim_of(task)) != warm
    finally:
        os.kill(warm, signal.SIGCONT)
    # The fork that it makes now finds nobody to work for.
    assert await asyncio.to_thread(until, lambda: not children_of(warm))
    assert (await task.state()).pid
    await ended(task)


async def test_it_ends_when_idle(rootfs: Path) -> None:
    shims = RealShims(rootfs, warm=True, PYSC_WARM_IDLE="0.5")
    try:
        warm = await warmed(shims)
        await asyncio.to_thread(wait_gone, warm)
        assert {path.suffix for path in (shims.folder / "warm").iterdir()} == {".lock", ".log", ".starting"}
    finally:
        await shims.close()


async def test_it_stays_while_a_shim_of_its_own_lives(rootfs: Path) -> None:
    shims = RealShims(rootfs, warm=True, PYSC_WARM_IDLE="0.5")
    try:
        task = await started(shims, "first")
        [warm] = shims.warm_parents()
        await asyncio.sleep(1.5)  # three times its patience
        assert shims.warm_parents() == [warm]
        await ended(task)
        await asyncio.to_thread(wait_gone, warm)
    finally:
        await shims.close()


async def test_its_forks_have_the_descriptors_that_others_have(shims: RealShims) -> None:
    tasks = [await started_alone(shims), await started(shims, "second")]
    alone, forked = [await shim_of(task) for task in tasks]
    assert parent_of(forked) == shims.warm_parents()[0]

    def have_the_same() -> bool:  # a shim may just be in a call
        return descriptors_of_all(alone) == descriptors_of_all(forked)

    assert await asyncio.to_thread(until, have_the_same), (descriptors_of_all(alone), descriptors_of_all(forked))
    for task in tasks:
        await ended(task)


def descriptors_of_all(shim: int) -> list[list[str]]:
    return [descriptors(pid) for pid in (shim, stage_of(shim, "sentry"), stage_of(shim, "gofer"))]


async def test_what_start_was_told_reaches_the_shim_and_nobody_else(shims: RealShims) -> None:
    warm = await warmed(shims)
    task = await started(shims, "second")
    shim = await shim_of(task)
    assert parent_of(shim) == warm
    assert memory_holds(shim, SECRET.encode())
    for pid in (warm, stage_of(shim, "sentry"), stage_of(shim, "gofer")):
        environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert {entry.partition("=")[0] for entry in environment if entry} == CLEAN
        assert not memory_holds(pid, SECRET.encode()), command_line(pid)
    await ended(task)


async def test_the_shim_is_what_its_own_start_would_have_made(shims: RealShims) -> None:
    """Working directory, session, signals, umask, OOM score, name: as with a shim that was forked by start itself."""
    cold = await started_alone(shims)
    shown = [facts(await shim_of(cold))]
    task = await started(shims, "second")
    shown.append(facts(await shim_of(task)))
    assert shown[0] == shown[1]
    await ended(task)
    await ended(cold)


def facts(pid: int) -> dict[str, object]:
    wanted = ("Umask", "SigBlk", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Groups", "Uid")
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    return {
        **{name: fields[name] for name in wanted},
        # The C library ignores two signals of its own in what posix_spawn starts.
        **{name: int(fields[name], 16) & ~(3 << 31) for name in ("SigIgn", "SigCgt")},
        "session": os.getsid(pid) == pid,
        "cwd": os.readlink(f"/proc/{pid}/cwd"),
        "oom": Path(f"/proc/{pid}/oom_score_adj").read_text(),
        "limits": Path(f"/proc/{pid}/limits").read_text(),
        "cgroup": Path(f"/proc/{pid}/cgroup").read_text(),
        "id": f"-id {'first' if 'first' in command_line(pid) else 'second'} " in command_line(pid),
    }


@pytest.mark.parametrize(
    "prefix", [["unshare", "--uts"], ["nice", "-n", "3"], ["sh", "-c", 'umask 027; exec "$@"', "-"]], ids=" ".join
)
async def test_a_start_in_other_surroundings_is_on_its_own(shims: RealShims, prefix: list[str]) -> None:
    warm = await warmed(shims)
    shims.prefix = prefix
    task = await started(shims, "second")
    assert parent_of(await shim_of(task)) != warm
    await ended(task)


async def test_a_pods_containers_come_from_one_nursery(shims: RealShims) -> None:
    await warmed(shims)
    tasks = [await started(shims, name, pod="pod") for name in ("pod", "c1", "c2")]
    assert len({await shim_of(task) for task in tasks}) == 1
    for task in tasks:
        assert "sandbox.stage sentry" in command_line((await task.state()).pid)
    for task in tasks:
        await task.kill(signal.SIGKILL)
        await task.wait()
        await task.delete()
    await tasks[0].shutdown()


async def test_a_pod_outlives_its_nursery(shims: RealShims) -> None:
    await warmed(shims)
    task = await started(shims, "pod", pod="pod")
    shim = await shim_of(task)
    [nursery] = [pid for pid in children_of(shim) if "sandbox.nursery" in command_line(pid)]
    os.kill(nursery, signal.SIGKILL)
    await asyncio.to_thread(wait_gone, nursery)
    second = await started(shims, "c1", pod="pod")
    for each in (task, second):
        await each.kill(signal.SIGKILL)
        await each.wait()
        await each.delete()
    await task.shutdown()


async def test_whoever_is_idle_goes_back_to_the_common_pages(shims: RealShims) -> None:
    await warmed(shims)
    task = await started(shims, "second")
    shim = await shim_of(task)
    pids = [shim, stage_of(shim, "sentry"), stage_of(shim, "gofer")]
    at_work = [own_kib(pid) for pid in pids]
    assert await asyncio.to_thread(until, lambda: all(own_kib(pid) < before / 2 for pid, before in zip(pids, at_work)))
    await ended(task)


def own_kib(pid: int) -> int:
    """What it has written of the memory that it has in common with the warm parent."""
    mappings = Path(f"/proc/{pid}/smaps").read_text().split("pysc-common")[1:]
    return sum(int(mapping.split("Anonymous:")[1].split()[0]) for mapping in mappings)


async def test_more_mounts_than_one_message_has_room_for(shims: RealShims, tmp_path: Path) -> None:
    await warmed(shims)
    mounts = []
    for i in range(140):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "name").write_text(f"{i}\n")
        source = {"type": "bind", "source": str(tmp_path / str(i)), "options": ["rbind", "ro"]}
        mounts.append({"destination": f"/tmp/m{i}", **source})
    bundle = shims.container("second", ["cat", "/tmp/m0/name", "/tmp/m139/name"], mounts=mounts)
    out = bundle.fifo("out")
    reader = bundle.reader(out)
    task = await shims.start(bundle)
    await task.create(rootfs=shims.rootfs, stdout=out)
    await task.start()
    assert await task.wait() == 0
    assert await reader.rest() == b"0\n139\n"
    await task.delete()
    await task.shutdown()


# An upgrade: a parent of our own, with a module that we may change.


@pytest.fixture
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """A warm parent, the path of its socket, and a file that it has imported."""
    module = tmp_path / "pysc_test_module.py"
    module.write_text("")
    path = str(tmp_path / "socket")
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; import pysc_test_module; "
        f"import os; from shim.warm import main; main({path!r}, 60, os.open(os.devnull, os.O_RDWR))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
    monkeypatch.chdir(tmp_path)
    try:
        assert until(lambda: os.path.exists(path))
        yield process, path, module
    finally:
        process.kill()
        process.wait()


def test_a_parent_of_an_older_installation_ends(lonely: tuple[subprocess.Popen[bytes], str, Path]) -> None:
    process, path, module = lonely
    os.utime(module, (1, 1))
    connection = connect(path)
    assert connection is not None
    assert warm_client.ask(connection, ["-namespace", "n", "-id", "i", "start"], b"") is None
    process.wait(60)
    assert not os.path.exists(path)
