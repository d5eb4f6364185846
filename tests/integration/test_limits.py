"""Containers that take all they can: each limit holds, and nobody else notices.

tests/guest/flood.c does the taking, of one kind of thing each time, and says when it was refused and how.
"""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration import guest
from tests.integration.host import Host, assert_one_line

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("limits")]

MIB = 1 << 20
ANSWER_SECONDS = 30
MANY = range(10000, 1 << 20)


@pytest.fixture
def neighbour(host: Host, platform: str) -> str:
    """A container beside the one that floods."""
    name = host.name()
    host.background("run", "--detach", "--bundle", host.bundle("sleep", "1000"), name)
    return name


def flood_bundle(host: Host, *args: str, resources: dict[str, Any] | None = None, **rlimits: int) -> Path:
    shutil.copy2(guest.build("flood"), host.rootfs / "flood")
    bundle = host.bundle(*args)
    config = json.loads((bundle / "config.json").read_text())
    config["linux"]["resources"] = resources or {}
    config["process"]["rlimits"] = [{"type": f"RLIMIT_{name}", "soft": n, "hard": n} for name, n in rlimits.items()]
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


class Flood(NamedTuple):
    """A container that floods; what it said: how many it got, and the errno at the end."""

    name: str
    got: int
    refused: int


@contextmanager
def flooding(host: Host, bundle: Path) -> Iterator[Flood]:
    name = host.name()
    command = host.tracked("run", "--bundle", bundle, name)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        kind, got, refused = process.stdout.readline().split()
        yield Flood(name, int(got), int(refused))
        assert host.pysc("kill", name, "KILL").returncode == 0
        assert process.wait(ANSWER_SECONDS) == 137, kind
    finally:
        process.kill()
        process.communicate()


def assert_answers(host: Host, name: str) -> None:
    before = time.monotonic()
    done = host.pysc("exec", name, "echo", "here")
    assert (done.returncode, done.stdout) == (0, "here\n"), done
    assert time.monotonic() - before < ANSWER_SECONDS


# As many as are allowed, and one or two for the first process; Linux itself counts one of them less here and there.
REFUSED: dict[str, tuple[dict[str, Any], Container[int], set[int]]] = {
    "forks": ({"resources": {"pids": {"limit": 20}}}, (19, 20), {errno.EAGAIN}),
    "threads": ({"resources": {"pids": {"limit": 20}}}, (19, 20), {errno.EAGAIN}),
    "private": ({"AS": 64 * MIB}, range(50, 65), {errno.ENOMEM}),
    "maps": ({}, range(60000, 65531), {errno.ENOMEM}),
    "signals": ({"SIGPENDING": 500}, (499, 500), {errno.EAGAIN}),
    "timers": ({"SIGPENDING": 500}, (499, 500), {errno.EAGAIN}),
    "descriptors": ({"NOFILE": 1000}, (997,), {errno.EMFILE}),
    "memfds": ({"NOFILE": 1000}, MANY, {errno.ENFILE, errno.EMFILE, errno.ENOSPC}),
    # Written by the Sentry, which is in no container's cgroup: counted by it.  Linux would kill.
    "written": ({"resources": {"memory": {"limit": 32 * MIB}}}, range(24, 33), {errno.ENOSPC}),
    "tmpfs": ({"resources": {"memory": {"limit": 32 * MIB}}}, range(24, 33), {errno.ENOSPC}),
    "file": ({"resources": {"memory": {"limit": 32 * MIB}}}, (64,), {0}),  # pages of files can be dropped
}
NO_ROOM_FOR_MORE = {"forks", "threads", "memfds"}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_goes_beyond_a_limit_is_refused(host: Host, platform: str, neighbour: str, kind: str) -> None:
    limits, got, refused = REFUSED[kind]
    with flooding(host, flood_bundle(host, "/flood", kind, **limits)) as flood:
        assert flood.got in got
        assert flood.refused in refused
        assert_answers(host, neighbour)
        if kind in NO_ROOM_FOR_MORE:
            done = host.pysc("exec", flood.name, "echo", "here")
            assert done.returncode == 0 or assert_one_line(done)
        else:
            assert_answers(host, flood.name)


@pytest.mark.parametrize("kind", ["private", "shared", "memfd"])
def test_memory_beyond_the_limit_ends_the_process_that_takes_it(
    host: Host, platform: str, neighbour: str, kind: str
) -> None:
    bundle = flood_bundle(host, "sh", "-c", f"/flood {kind}; echo $?", resources={"memory": {"limit": 32 * MIB}})
    done = host.pysc("run", "--bundle", bundle, host.name())
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["137"]), done
    assert_answers(host, neighbour)


def test_memory_beyond_the_limit_ends_a_container_of_one_process(host: Host, platform: str) -> None:
    bundle = flood_bundle(host, "/flood", "private", resources={"memory": {"limit": 32 * MIB}})
    assert host.pysc("run", "--bundle", bundle, host.name()).returncode == 137


@pytest.mark.parametrize("kind", ["bomb", "storm"])
def test_a_flood_without_end_keeps_nobody_from_being_served(
    host: Host, platform: str, neighbour: str, kind: str
) -> None:
    with flooding(host, flood_bundle(host, "/flood", kind, resources={"pids": {"limit": 50}})) as flood:
        for _ in range(3):
            assert_answers(host, neighbour)
            if kind == "storm":
                assert_answers(host, flood.name)
