"""SIGKILL for each process of ours at each instant of a task's life, and at random ones.

Whatever dies, containerd tells of the container what is true, it can be removed, and nothing of it stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from tests.integration import instants
from tests.integration.daemon import Daemon, until
from tests.integration.events import Events
from tests.integration.instants import DELETE_STATUS, Instant, Scene
from tests.integration.tasks import Client

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("containerd")]

KILLED = 137
OURS = ("shim", "sentry", "gofer")
CREATING = (instants.during_create, instants.late_in_create)
LIVING = (instants.created, instants.running, instants.during_exec, instants.during_kill)


def cases(
    points: tuple[Instant, ...], *victims: str, and_also: tuple[Instant, str] | None = None
) -> pytest.MarkDecorator:
    pairs = [(point, victim) for point in points for victim in victims] + ([and_also] if and_also else [])
    shown = [f"{point.__name__}-{victim}" for point, victim in pairs]
    return pytest.mark.parametrize(("reach", "victim"), pairs, ids=shown)


@pytest.fixture
def scene(daemon: Daemon, client: Client, busybox: Path, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(daemon, client, busybox, tmp_path)
    yield made
    made.close()


def exits(events: Events, name: str) -> list[int]:
    """The statuses of the task's own exit events."""
    about = [json.loads(line[line.index("{") :]) for line in events.about("/tasks/exit", name)]
    return [event.get("exit_status", 0) for event in about if event["id"] == name]


def remove(scene: Scene) -> None:
    """As a client tidies up; then nothing may be left."""
    assert until(lambda: is_deleted(scene))
    scene.task.remove()
    assert until(lambda: not scene.daemon.left_behind()), scene.daemon.left_behind()


def is_deleted(scene: Scene) -> bool:
    """Not yet while containerd still holds its closed connection to a shim that was killed."""
    try:
        scene.task.delete()
    except grpc.RpcError as e:
        if "ttrpc: closed" in e.details():
            return False
        assert e.code() == grpc.StatusCode.NOT_FOUND, e
    return True


@cases(CREATING, *OURS, and_also=(instants.early_in_create, "shim"))
def test_kill_before_create_returns(scene: Scene, events: Events, reach: Instant, victim: str) -> None:
    """Create fails, and there is no task."""
    with reach(scene):
        scene.kill(victim)
    outcome = scene.outcome()
    assert isinstance(outcome, grpc.RpcError)
    print(outcome.details())
    assert until(lambda: scene.task.status() == ""), scene.task.status()
    remove(scene)
    assert set(exits(events, scene.task.name)) <= {KILLED}


@cases(LIVING, *OURS)
def test_kill_of_a_living_task(scene: Scene, events: Events, reach: Instant, victim: str) -> None:
    """It is dead, by SIGKILL, and was reported so once; nobody waits for ever."""
    with reach(scene):
        scene.kill(victim)
    outcome = scene.outcome()
    if reach is instants.during_exec:
        assert isinstance(outcome, grpc.RpcError)
    assert until(lambda: scene.task.status() in ("STOPPED", "")), scene.task.status()
    if victim != "shim":
        assert scene.task.wait() == KILLED
    assert until(lambda: exits(events, scene.task.name) == [KILLED]), events.text()
    remove(scene)
    assert exits(events, scene.task.name) == [KILLED]


@cases((instants.during_delete,), *OURS, and_also=(instants.late_in_delete, "shim"))
def test_kill_during_delete(scene: Scene, events: Events, reach: Instant, victim: str) -> None:
    """The status that was known stays known."""
    with reach(scene):
        scene.kill(victim)
    outcome = scene.outcome()
    if victim == "shim":
        assert isinstance(outcome, grpc.RpcError)
    else:
        assert outcome == DELETE_STATUS
    assert until(lambda: scene.task.status() == ""), scene.task.status()
    remove(scene)
    assert until(lambda: bool(exits(events, scene.task.name)))
    # containerd itself adds an exit for any shim that dies before its task is deleted.
    assert exits(events, scene.task.name)[0] == DELETE_STATUS
    assert len(exits(events, scene.task.name)) == 1 or victim == "shim"


@cases((instants.early_in_create, *CREATING, instants.created), "containerd")
def test_containerd_is_killed_before_start(scene: Scene, reach: Instant, victim: str) -> None:
    """The container comes to be, as if nothing had happened, and can be started."""
    with reach(scene):
        scene.kill(victim)
    assert until(lambda: scene.task.status() == "CREATED"), scene.task.status()
    scene.task.start()
    assert scene.task.status() == "RUNNING"
    assert_lives(scene)


def assert_lives(scene: Scene) -> None:
    """And dies when it is told to."""
    scene.task.exec("alive", ["sh", "-c", "exit 3"])
    scene.task.start("alive")
    assert (scene.task.wait("alive"), scene.task.delete("alive")) == (3, 3)
    scene.task.kill()
    assert scene.task.wait() == KILLED
    assert scene.task.status() == "STOPPED"
    remove(scene)


@cases((instants.running, instants.during_exec), "containerd")
def test_containerd_is_killed_while_the_task_runs(scene: Scene, reach: Instant, victim: str) -> None:
    """An exec that was being started gets started."""
    with reach(scene):
        scene.kill(victim)
    assert scene.task.status() == "RUNNING"
    if reach is instants.during_exec:
        assert until(lambda: scene.task.status("e") == "RUNNING"), scene.task.status("e")
        scene.task.kill(exec_id="e")
        assert (scene.task.wait("e"), scene.task.delete("e")) == (KILLED, KILLED)
    assert_lives(scene)


def test_containerd_is_killed_during_kill(scene: Scene, events: Events) -> None:
    with instants.during_kill(scene):
        scene.kill("containerd")
    assert scene.task.wait() == KILLED
    assert scene.task.status() == "STOPPED"
    remove(scene)


@cases((instants.during_delete, instants.late_in_delete), "containerd")
def test_containerd_is_killed_during_delete(scene: Scene, reach: Instant, victim: str) -> None:
    with reach(scene):
        scene.kill(victim)
    assert until(lambda: scene.task.status() == ""), scene.task.status()
    remove(scene)
