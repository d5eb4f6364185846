"""The life of a container with other versions of containerd than the installed one: 1.7 and 2.x."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from proto.ttrpc.protobuf import bytes_field, text_field
from sandbox.cgroups import OWN_TASKS
from tests.integration.changes import pause_and_resume, update
from tests.integration.daemon import RUNTIME, Daemon, until
from tests.integration.events import Events
from tests.integration.releases import RELEASES, Release, binaries
from tests.integration.terminal import Terminal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("releases"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd's shims run as root"),
]

MOMENT_S = 0.3


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: str(release.name))
def released(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon of that release."""
    release: Release = request.param
    folder = binaries(release)
    with tempfile.TemporaryDirectory(prefix="ctr-", ignore_cleanup_errors=True) as place:
        daemon = Daemon(Path(place), folder)
        try:
            daemon.import_image()
            assert f" {release.name}." in daemon.ctr("version").stdout.replace(" v", " ")
            yield daemon
        finally:
            daemon.close()


@pytest.fixture
def daemon(released: Daemon) -> Iterator[Daemon]:
    """With a check that the test's containers left nothing."""
    released.names.clear()
    yield released
    released.remove_containers()
    until(lambda: not released.left_behind())
    assert released.left_behind() == []


def limit_of(daemon: Daemon, name: str) -> str:
    """The limit of processes that the container's cgroup has."""
    [found] = [path for path in daemon.cgroups() if path.name == name and (path / "pids.max").exists()]
    return (found / "pids.max").read_text().strip()


def test_output_and_status(daemon: Daemon) -> None:
    done = daemon.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert done.stderr.endswith("err\n")  # ctr may have warnings of its own before


def test_terminal(daemon: Daemon) -> None:
    shown = Terminal(daemon.run_command("sh", "-c", "tty; read x; echo got $x; exit 4", options=("-t",)))
    try:
        shown.expect(b"/dev/")
        shown.type(b"words\n")
        shown.expect(b"got words\r")
        assert shown.wait() == 4
    finally:
        shown.close()


def test_missing_program(daemon: Daemon) -> None:
    done = daemon.run("nosuch")
    assert done.returncode != 0
    assert "executable file not found" in done.stderr


def test_detached_container_with_exec_kill_and_removal(daemon: Daemon, tmp_path: Path) -> None:
    events = Events(daemon, tmp_path / "events")
    try:
        assert until(events.is_live)
        name = daemon.start_detached("sleep", "1000")
        done = daemon.ctr("task", "exec", "--exec-id", "e1", name, "sh", "-c", "echo inside; exit 5", check=False)
        assert (done.returncode, done.stdout) == (5, "inside\n")
        assert len(daemon.ctr("task", "ps", name).stdout.splitlines()) == 2
        assert "memory" in daemon.ctr("task", "metrics", name).stdout
        daemon.ctr("task", "kill", "-s", "9", name)
        assert until(lambda: daemon.status(name) == "STOPPED")
        daemon.ctr("task", "rm", name, check=False)
        daemon.ctr("container", "rm", name)
        assert until(lambda: "/tasks/delete" in events.topics(name)), events.text()
        of_exec, of_task = ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"], ["/tasks/exit", "/tasks/delete"]
        assert events.topics(name) == ["/tasks/create", "/tasks/start", *of_exec, *of_task]
    finally:
        events.close()


def test_pause_and_resume(daemon: Daemon, tmp_path: Path) -> None:
    pause_and_resume(daemon, daemon.start_detached, tmp_path)


def test_update(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    update(daemon, name, pids={"limit": 30}, memory={"limit": 64 << 20})
    assert limit_of(daemon, name) == str(30 + OWN_TASKS)
    total = daemon.ctr("task", "exec", "--exec-id", "e1", name, "head", "-1", "/proc/meminfo").stdout
    assert total.split()[1] == str((64 << 20) // 1024)
    with pytest.raises(grpc.RpcError, match="the kernel refuses"):
        update(daemon, name, cpu={"period": 5})


def test_running_containers_outlive_a_restart_of_containerd(daemon: Daemon, tmp_path: Path) -> None:
    mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:rw"
    script = "trap 'exit 3' TERM; touch /mnt/ready; while :; do sleep 0.1; done"
    name = daemon.start_detached("sh", "-c", script, options=("--mount", mount))
    assert until((tmp_path / "ready").exists)
    pid = daemon.tasks()[name][0]
    daemon.restart()
    assert daemon.tasks()[name] == (pid, "RUNNING")
    assert daemon.ctr("task", "exec", "--exec-id", "e1", name, "echo", "again").stdout == "again\n"
    daemon.ctr("task", "kill", "-s", "15", name)
    assert until(lambda: daemon.status(name) == "STOPPED")


def test_death_of_the_shim(daemon: Daemon) -> None:
    """containerd runs the delete action, and learns from it how the container ended."""
    name = daemon.start_detached("sleep", "1000")
    [shim] = [pid for pid in daemon.processes() if _is_shim_of(pid, name)]
    os.kill(shim, 9)
    assert until(lambda: daemon.status(name) in ("", "STOPPED", "UNKNOWN"))


def _is_shim_of(pid: int, name: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return name.encode() in words and words[0].endswith(b"shim-pysc-v1")


def test_information_about_the_runtime(daemon: Daemon) -> None:
    """Introspection asks the shim by -info, from 2.0 on."""
    if " 1." in daemon.ctr("version").stdout.replace(" v", " "):
        pytest.skip("containerd 1 does not ask")
    request = text_field(1, RUNTIME)
    with grpc.insecure_channel(f"unix://{daemon.folder}/containerd.sock") as channel:
        call = channel.unary_unary("/containerd.services.introspection.v1.Introspection/PluginInfo")
        request = text_field(1, "io.containerd.runtime.v2") + text_field(2, "task")
        options = text_field(1, "containerd.types.RuntimeRequest") + bytes_field(2, text_field(1, RUNTIME))
        answer = call(
            request + bytes_field(3, options), timeout=60, metadata=[("containerd-namespace", daemon.namespace)]
        )
    assert RUNTIME.encode() in answer
