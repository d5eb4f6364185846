"""The life of a sandbox: made, driven, taken away, with nothing left behind whatever happens."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sandbox import hostcalls as hc
from sandbox import spawn, state
from sandbox.cgroups import host_hierarchies
from sandbox.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidSpec,
    NoSuchExecutable,
    NotExecutable,
    NotFound,
    SandboxError,
)
from sandbox.process import is_alive, wait_gone
from sandbox.sandbox import Options, Sandbox, Stdio
from sandbox.spec import load_spec
from tests.descriptors import open_descriptors
from tests.unit.sandbox.conftest import write_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    yield read_end, write_end
    for fd in (read_end, write_end):
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture
def as_subreaper():
    """Orphans become our children, as they become conmon's."""
    hc.prctl(hc.PR_SET_CHILD_SUBREAPER, 1)
    yield
    hc.prctl(hc.PR_SET_CHILD_SUBREAPER, 0)


def everything_of(sandbox_id, root):
    """What a sandbox would leave: folder, cgroups, processes."""
    folders = [root / sandbox_id] if (root / sandbox_id).exists() else []
    cgroups = [h.mount_point for h in host_hierarchies()[1] if os.path.exists(f"{h.mount_point}/pysc-{sandbox_id}")]
    return folders + cgroups


def children():
    return Path("/proc/thread-self/children").read_text()


def processes_of(sandbox):
    record = sandbox.record
    return [record.sentry, record.container and record.container.gofer]


def test_a_container_runs_from_create_to_delete(create, root, pipe):
    sandbox = create("echo", "hello", stdio=Stdio(stdout=pipe[1]))
    os.close(pipe[1])
    assert sandbox.status() == "created"
    assert is_alive(sandbox.record.sentry) and is_alive(sandbox.container.gofer)

    sandbox.start()

    assert os.read(pipe[0], 100) == b"hello\n"
    assert os.read(pipe[0], 100) == b""
    assert sandbox.wait().exit_status == 0
    assert sandbox.status() == "stopped"
    processes = processes_of(sandbox)
    sandbox.delete()
    assert not any(map(is_alive, processes))
    assert everything_of(sandbox.id, root) == []


def test_another_process_finds_it_by_its_state(create, root):
    sandbox = create("sleep", annotations={"a": "b"})
    sandbox.start()
    other = Sandbox.load(root, sandbox.id)

    assert other.pid == sandbox.pid and other.bundle == sandbox.bundle
    assert other.oci_state() == {
        "ociVersion": "1.0.2", "id": sandbox.id, "status": "running", "pid": sandbox.pid,
        "bundle": str(sandbox.bundle), "annotations": {"a": "b"},
    }  # fmt: skip
    other.signal(signal.SIGTERM)
    assert sandbox.wait().exit_status == 128 + signal.SIGTERM
    with pytest.raises(NotFound, match="already finished"):
        other.signal(signal.SIGTERM)
    other.destroy()
    with pytest.raises(NotFound, match="does not exist"):
        Sandbox.load(root, sandbox.id)
    sandbox.destroy()


def test_state_and_socket_are_for_their_owner_only(create, root):
    sandbox = create("sleep")

    assert stat.S_IMODE(os.stat(root / sandbox.id).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(sandbox.control_path).st_mode) == 0o600


def test_a_state_path_too_long_for_a_socket_address(create, root):
    sandbox = create("sleep", sandbox_id="x" * 150)

    assert len(str(sandbox.control_path)) > 108
    assert sandbox.status() == "created"


def test_exec_has_its_own_streams_and_status(create, pipe):
    sandbox = create("sleep")
    sandbox.start()
    pid = sandbox.exec("e1", {"args": ["echo", "x"], "cwd": "/"}, False, Stdio(stdout=pipe[1]))

    assert pid > 0
    assert os.read(pipe[0], 100) == b"x\n"
    assert sandbox.wait("e1").exit_status == 0
    with pytest.raises(NoSuchExecutable):
        sandbox.exec("e2", {"args": ["missing"], "cwd": "/"}, False, Stdio())
    with pytest.raises(InvalidSpec, match=r"process\.cwd"):
        sandbox.exec("e3", {"args": ["echo"]}, False, Stdio())


def test_a_wait_is_answered_when_the_process_ends(create):
    sandbox = create("sleep")
    sandbox.start()
    statuses = []
    waiter = threading.Thread(target=lambda: statuses.append(sandbox.wait().exit_status))
    waiter.start()

    sandbox.signal(signal.SIGINT)

    waiter.join(10)
    assert statuses == [130]


def test_only_a_created_container_starts_and_only_a_stopped_one_is_deleted(create):
    sandbox = create("sleep")
    sandbox.start()

    with pytest.raises(FailedPrecondition, match="it is running"):
        sandbox.start()
    with pytest.raises(FailedPrecondition, match="it is running"):
        sandbox.delete()
    sandbox.delete(force=True)
    assert not sandbox.is_alive()


def test_the_donated_descriptors_are_named_in_order(create, pipe, tmp_path):
    (tmp_path / "data").mkdir()
    mounts = [
        {"destination": "/data", "type": "bind", "source": str(tmp_path / "data")},
        {"destination": "/proc", "type": "proc"},
    ]
    sandbox = create("fds", stdio=Stdio(stdout=pipe[1], stderr=pipe[1]), mounts=mounts)
    sandbox.start()

    assert os.read(pipe[0], 1000).decode().split() == ["gofer:0", "gofer:1", "stderr", "stdout"]


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [(["missing"], NoSuchExecutable, "not found in"), (["noexec"], NotExecutable, "permission denied")],
)
def test_a_program_that_cannot_run_fails_create_and_leaves_nothing(create, root, new_id, args, error, text):
    with pytest.raises(error, match=text):
        create(*args)

    assert everything_of(new_id, root) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"root": {"path": "nowhere"}}, "is not a directory"),
        ({"mounts": [{"destination": "/x", "type": "bind", "source": "/nonexistent"}]}, "cannot open /nonexistent"),
        ({"linux": {"namespaces": [{"type": "network", "path": "/nonexistent"}]}}, "cannot start the sentry"),
        ({"linux": {"resources": {"cpu": {"cpus": "9999"}}}}, "cannot set up the cgroup"),
        ({"hooks": {"prestart": [{"path": "/bin/false"}]}}, "prestart hook /bin/false: exit status 1"),
    ],
    ids=["root", "bind source", "network", "cgroup", "hook"],
)
def test_a_failure_at_any_step_leaves_nothing(create, root, new_id, changes, text):
    before, processes = open_descriptors(), children()

    with pytest.raises(SandboxError, match=text):
        create("sleep", **changes)

    assert everything_of(new_id, root) == []
    assert open_descriptors() <= before
    assert children() == processes


def test_an_id_is_given_once(create, root):
    sandbox = create("sleep")

    with pytest.raises(AlreadyExists):
        create("sleep")
    assert sandbox.status() == "created", "the second create must not touch the first's sandbox"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "\n"])
def test_ids_that_would_lead_astray_are_refused(root, tmp_path, name):
    bundle = write_bundle(tmp_path, "sleep")

    with pytest.raises(InvalidSpec):
        Sandbox.create(root, name, bundle, load_spec(bundle), Options(), Stdio())


def test_the_sandbox_ends_when_its_lifeline_is_let_go(create):
    sandbox = create("sleep", lifeline=True)
    sandbox.start()
    assert sandbox.is_alive()

    sandbox.release()

    assert wait_gone(sandbox.record.sentry, 10)
    assert wait_gone(sandbox.container.gofer, 10), "the gofer ends with its connections"
    assert sandbox.status() == "stopped"


def test_a_deputy_exits_with_the_containers_status_if_asked_for(create, as_subreaper):
    """The pid in a pid file is what conmon and containerd's runc shim reap."""
    sandbox = create("exit", "42", exit_with_init=True)
    sandbox.start()

    assert os.waitstatus_to_exitcode(os.waitpid(sandbox.pid, 0)[1]) == 42
    assert sandbox.status() == "stopped"


HOOK = """#!/bin/sh
cat >> {out}
echo " $1" >> {out}
"""


def test_hooks_run_in_order_with_the_state_on_stdin(create, tmp_path):
    out, script = tmp_path / "out", tmp_path / "hook"
    script.write_text(HOOK.format(out=out))
    script.chmod(0o755)
    points = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    hooks = {point: [{"path": str(script), "args": ["hook", point]}] for point in points}
    sandbox = create("sleep", hooks=hooks)
    sandbox.start()
    sandbox.delete(force=True)

    lines = [line.rsplit(" ", 1) for line in out.read_text().splitlines()]
    states = [json.loads(line[0]) for line in lines]
    assert [line[1] for line in lines] == points
    assert [s["status"] for s in states] == ["creating"] * 3 + ["created", "running", "stopped"]
    assert all(s["pid"] == sandbox.pid for s in states[:5]) and states[5]["pid"] == 0
    assert all(s["bundle"] == str(tmp_path / "bundle") for s in states)


def test_poststop_runs_after_a_failed_create_hook_too(create, tmp_path):
    out = tmp_path / "out"
    hooks = {
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo went wrong >&2; exit 3"]}],
        "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo undone > {out}"]}],
    }
    with pytest.raises(SandboxError, match="exit status 3: went wrong"):
        create("sleep", hooks=hooks)

    assert out.read_text() == "undone\n"


def test_a_hook_that_takes_too_long_is_killed(create):
    with pytest.raises(SandboxError, match="no end after 1 s"):
        create("sleep", hooks={"prestart": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]})


def test_a_killed_sentry_counts_as_stopped_and_can_be_deleted(create, root):
    sandbox = create("sleep")
    sandbox.start()
    os.kill(sandbox.pid, signal.SIGKILL)
    assert wait_gone(sandbox.record.sentry, 10)

    assert sandbox.status() == "stopped"
    with pytest.raises(NotFound):
        sandbox.signal(signal.SIGTERM)
    sandbox.delete()
    assert everything_of(sandbox.id, root) == []


KILLED_CREATOR = """
import os, signal, sys
from pathlib import Path
from sandbox import launch, spawn
from sandbox.sandbox import Options, Sandbox, Stdio
from sandbox.spec import load_spec
from tests.unit.sandbox import standin
spawn._BOOTSTRAP = standin.BOOTSTRAP
def die(self, *args):
    os.kill(os.getpid(), signal.SIGKILL)
launch._Launch._create_container = die
bundle = Path(sys.argv[3])
Sandbox.create(Path(sys.argv[1]), sys.argv[2], bundle, load_spec(bundle), Options(), Stdio())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_a_killed_creator_left_can_be_deleted(root, new_id, tmp_path):
    bundle = write_bundle(tmp_path, "sleep")
    done = subprocess.run([sys.executable, "-c", KILLED_CREATOR, str(root), new_id, str(bundle)], check=False)
    assert done.returncode == -signal.SIGKILL
    sandbox = Sandbox.load(root, new_id)
    assert sandbox.status() == "creating"
    with pytest.raises(FailedPrecondition, match="it is creating"):
        sandbox.delete()

    processes = processes_of(sandbox)
    sandbox.delete(force=True)

    assert not any(map(is_alive, processes))
    assert everything_of(new_id, root) == []


def test_a_folder_without_a_record_can_be_deleted(root):
    (root / "half").mkdir(parents=True)
    sandbox = Sandbox.load(root, "half")

    sandbox.delete()

    assert state.list_ids(root) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(("owner", "mode"), [(12345, 0o700), (0, 0o777)])
def test_a_state_folder_that_others_could_change_is_refused(root, tmp_path, owner, mode):
    os.chown(root, owner, 0)
    root.chmod(mode)
    bundle = write_bundle(tmp_path, "sleep")

    with pytest.raises(SandboxError, match="not safe"):
        Sandbox.create(root, "x", bundle, load_spec(bundle), Options(), Stdio())
    assert os.listdir(root) == []


def test_listing(root, create):
    assert state.list_ids(Path("/nonexistent")) == []
    sandbox = create("sleep")

    assert state.list_ids(root) == [sandbox.id]


def test_the_start_timeout_leaves_room_for_slow_hosts():
    assert spawn.START_TIMEOUT >= 30
