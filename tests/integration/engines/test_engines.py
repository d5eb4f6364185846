"""What people do with an engine, done with each, on runc and on pysc: the same must come of it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.daemon import remove_cgroup, runs, until
from tests.integration.engines.engine import SECONDS, Engine
from tests.integration.terminal import Terminal

pytestmark = pytest.mark.slow

NO_CAPABILITIES = "CapEff:\t0000000000000000"
STOPPABLE = "trap 'echo stopping; exit 3' TERM; echo ready; while :; do sleep 0.1; done"


def only_with(engine: Engine, *names: str) -> None:
    if engine.name not in names:
        pytest.skip(f"not of {engine.name}")


def is_running(engine: Engine, name: str) -> bool:
    return engine.inspect(name, ".State.Running") == "true"


def has_logged(engine: Engine, name: str, text: str) -> bool:
    done = engine.call("logs", name)
    return text in done.stdout + done.stderr


# Running.


def test_run_passes_streams_and_status(engine: Engine) -> None:
    done = engine.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "err\n" in done.stderr
    assert engine.run("sh", "-c", "sh -c 'kill -9 $$'; exit $?").returncode == 137


def test_run_reads_standard_input(engine: Engine) -> None:
    done = engine.run("cat", options=("-i",), text="typed\n")
    assert (done.returncode, done.stdout) == (0, "typed\n")
    done = engine.run("wc", "-c", options=("-i",), text="x" * 300_000)
    assert (done.returncode, done.stdout.strip()) == (0, "300000")


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [("nosuch", 127, "executable file not found in $PATH"), ("/etc/passwd", 126, "permission denied")],
)
def test_run_of_what_cannot_be_run(engine: Engine, program: str, status: int, reason: str) -> None:
    done = engine.run(program)
    assert done.returncode == (1 if engine.name == "nerdctl" else status)
    assert f'exec: "{program}": {reason}' in done.stderr.replace("\\", "")


def test_environment_user_and_working_directory(engine: Engine) -> None:
    options = ("-e", "A=b c", "-w", "/tmp", "-u", "1000:7")
    done = engine.run("sh", "-c", 'echo "$A" $PWD $(id -u) $(id -g) $HOME', options=options)
    assert done.stdout.split() == ["b", "c", "/tmp", "1000", "7", "/tmp" if engine.name == "podman" else "/"]
    assert engine.run("sh", "-c", "echo $HOME").stdout == "/root\n"


def test_volumes(engine: Engine) -> None:
    folder = engine.folder / "volume"
    folder.mkdir(exist_ok=True)
    (folder / "old").write_text("old\n")
    done = engine.run("sh", "-c", "cat /v/old; echo new > /v/new", options=("-v", f"{folder}:/v"))
    assert (done.returncode, done.stdout, (folder / "new").read_text()) == (0, "old\n", "new\n")
    done = engine.run("sh", "-c", "cat /v/old; echo new > /v/other", options=("-v", f"{folder}:/v:ro"))
    assert (done.returncode, done.stdout) == (1, "old\n")
    assert "Read-only file system" in done.stderr
    assert not (folder / "other").exists()


def test_read_only_root_and_tmpfs(engine: Engine) -> None:
    script = "echo x > /x || echo refused; echo y > /t/y && cat /t/y; df -k /t | tail -n 1"
    done = engine.run("sh", "-c", script, options=("--read-only", "--tmpfs", "/t:size=1m"))
    lines = done.stdout.splitlines()
    assert lines[:2] == ["refused", "y"]
    assert lines[2].split()[1] == "1024"


def test_capabilities(engine: Engine) -> None:
    done = engine.run("grep", "CapEff", "/proc/self/status", options=("--cap-drop", "ALL"))
    assert done.stdout.strip() == NO_CAPABILITIES
    options = ("--cap-drop", "ALL", "--cap-add", "CHOWN")
    assert engine.run("chown", "1", "/tmp", options=options).returncode == 0
    done = engine.run("grep", "NoNewPrivs", "/proc/self/status", options=("--security-opt", "no-new-privileges"))
    assert done.stdout.split() == ["NoNewPrivs:", "1"]


def test_limit_of_memory(engine: Engine) -> None:
    done = engine.run("sh", "-c", "tail /dev/zero; echo status $?", options=("--memory", "32m"))
    assert done.stdout == "status 137\n"


def test_limit_of_processes(engine: Engine) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo end"
    done = engine.run("sh", "-c", script, options=("--pids-limit", "5"))
    assert done.returncode != 0
    assert "can't fork" in done.stderr


def test_names_of_the_machine(engine: Engine) -> None:
    only_with(engine, "docker", "podman")  # nerdctl gives none to a container without a network
    done = engine.run("sh", "-c", "hostname; cat /etc/hostname", options=("--hostname", "given"))
    assert done.stdout.splitlines() == ["given", "given"]


def test_ulimit(engine: Engine) -> None:
    only_with(engine, "docker", "nerdctl")  # beside it podman sets others, which runc may not be able to
    done = engine.run("sh", "-c", "ulimit -n; ulimit -Hn", options=("--ulimit", "nofile=777:888"))
    assert done.stdout.split() == ["777", "888"]


# A container that runs on.


def test_life_of_a_detached_container(engine: Engine) -> None:
    name = engine.start("sh", "-c", STOPPABLE)
    assert until(lambda: has_logged(engine, name, "ready"))
    assert is_running(engine, name)
    assert name in engine.call("ps", "--format", "{{.Names}}").stdout.split()
    engine.call("stop", "-t", "10", name)
    assert not is_running(engine, name)
    assert engine.inspect(name, ".State.ExitCode") == "3"
    assert has_logged(engine, name, "stopping")
    engine.call("start", name)
    assert is_running(engine, name)
    engine.call("kill", name)
    assert until(lambda: not is_running(engine, name))
    assert engine.inspect(name, ".State.ExitCode") == "137"
    engine.call("rm", name)
    assert name not in engine.call("ps", "-a", "--format", "{{.Names}}").stdout.split()


def test_stop_kills_what_does_not_stop(engine: Engine) -> None:
    name = engine.start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    assert until(lambda: has_logged(engine, name, "ready"))
    engine.call("stop", "-t", "1", name)
    assert engine.inspect(name, ".State.ExitCode") == "137"


def test_signal_to_a_container(engine: Engine) -> None:
    name = engine.start("sh", "-c", "trap 'echo heard' USR1; echo ready; while :; do sleep 0.1; done")
    assert until(lambda: has_logged(engine, name, "ready"))
    engine.call("kill", "-s", "USR1", name)
    assert until(lambda: has_logged(engine, name, "heard"))
    assert is_running(engine, name)


def test_logs_have_both_streams_whole(engine: Engine) -> None:
    name = engine.start("sh", "-c", "echo err >&2; for i in $(seq 0 1999); do echo line $i; done; exit 5")
    assert engine.call("wait", name).stdout.split() == ["5"]
    done = engine.call("logs", name)
    assert done.stdout.splitlines() == [f"line {i}" for i in range(2000)]
    assert done.stderr == "err\n"


def test_removal_by_force(engine: Engine) -> None:
    name = engine.start("sleep", "1000")
    engine.call("rm", "-f", *(("-t", "0") if engine.name == "podman" else ()), name)
    assert name not in engine.call("ps", "-a", "--format", "{{.Names}}").stdout.split()


def test_created_container_is_started_later(engine: Engine) -> None:
    name = "test-created"
    engine.names.append(name)
    words = engine.run_words("--name", name)
    engine.call("create", *words[1:], "sh", "-c", "echo created; exit 4")
    done = engine.call("start", "-a", name, check=False)
    assert (done.returncode, done.stdout) == (1 if engine.name == "nerdctl" else 4, "created\n")


def test_restart_after_failure(engine: Engine) -> None:
    only_with(engine, "docker", "podman")
    name = engine.start("sh", "-c", "echo run; exit 4", options=("--restart", "on-failure:2"))
    assert until(lambda: engine.call("logs", name).stdout.count("run") == 3)
    assert until(lambda: engine.inspect(name, ".State.Status") == "exited")
    assert engine.inspect(name, ".RestartCount") == "2"


def test_check_of_health(engine: Engine) -> None:
    only_with(engine, "docker")  # podman leaves it to timers of systemd
    options = ("--health-cmd", "test -f /healthy", "--health-interval", "1s", "--health-retries", "1")
    name = engine.start("sleep", "1000", options=options)
    assert until(lambda: engine.inspect(name, ".State.Health.Status") == "unhealthy")
    engine.call("exec", name, "touch", "/healthy")
    assert until(lambda: engine.inspect(name, ".State.Health.Status") == "healthy")


def test_files_are_copied_from_a_stopped_container(engine: Engine) -> None:
    only_with(engine, "docker", "podman")
    name = engine.start("sh", "-c", "echo made > /made")
    engine.call("wait", name)
    engine.call("cp", f"{name}:/made", str(engine.folder / "copied"))
    assert (engine.folder / "copied").read_text() == "made\n"


def test_hooks_of_the_engine_are_run(engine: Engine) -> None:
    """nerdctl's network is made, and taken away, by hooks; each leaves a log in the container's folder."""
    only_with(engine, "nerdctl")
    name = engine.start("sleep", "1000")
    assert [path.name for path in engine.folder.rglob("oci-hook.*.log")] == ["oci-hook.createRuntime.log"]
    engine.call("stop", "-t", "0", name)
    engine.call("start", name)  # the old task goes before the new one comes
    assert {path.name for path in engine.folder.rglob("oci-hook.*.log")} == {
        "oci-hook.createRuntime.log", "oci-hook.postStop.log",
    }  # fmt: skip
    assert [path.read_text() for path in engine.folder.rglob("oci-hook.*.log")] == ["", ""]


def test_containers_of_a_pod_share_its_name(engine: Engine) -> None:
    only_with(engine, "podman")
    pod = "test-pod"
    engine.call(
        "pod", "create", "--name", pod, "--hostname", "shared", "--network", "none",
        "--infra-image", engine.image, "--infra-command", "sleep 1000", "--cgroup-parent", f"/{engine.parent}",
    )  # fmt: skip
    try:
        for name in ("test-one", "test-two"):
            engine.call("run", "-d", "--pod", pod, "--name", name, engine.image, "sleep", "1000")
            assert engine.call("exec", name, "hostname").stdout == "shared\n"
        assert engine.call("ps", "-q").stdout.count("\n") == 3
        engine.call("pod", "stop", "-t", "0", pod)
        assert not is_running(engine, "test-one")
    finally:
        engine.call("pod", "rm", "-f", "-t", "0", pod, check=False)
        for path in engine.container_cgroups():
            remove_cgroup(path)  # the pod's own, which podman leaves in the hierarchy without controllers


# Pausing and limits.


def test_pausing(engine: Engine) -> None:
    name = engine.start("sh", "-c", "while :; do echo tick; sleep 0.1; done")
    assert until(lambda: has_logged(engine, name, "tick"))
    engine.call("pause", name)
    assert engine.inspect(name, ".State.Status") == "paused"
    quiet = ""

    def is_quiet() -> bool:
        """For a second.  Not at once: what was on its way is still logged."""
        nonlocal quiet
        quiet = engine.call("logs", name).stdout
        return not until(lambda: engine.call("logs", name).stdout != quiet, 1)

    assert until(is_quiet)
    engine.call("unpause", name)
    assert until(lambda: engine.call("logs", name).stdout != quiet)
    assert engine.inspect(name, ".State.Status") == "running"


def test_new_limits(engine: Engine) -> None:
    only_with(engine, "docker", "nerdctl")  # podman 4.3 has no such command yet
    name = engine.start("sleep", "1000", options=("--memory", "512m"))
    engine.call("update", "--memory", "32m", "--memory-swap", "32m", name)
    done = engine.call("exec", name, "sh", "-c", "tail /dev/zero; echo status $?", check=False)
    assert done.stdout == "status 137\n"


# Exec.


def test_exec(engine: Engine) -> None:
    name = engine.start("sleep", "1000", options=("-e", "X=1"))
    done = engine.call("exec", name, "sh", "-c", "echo $X $HOME; echo err >&2; exit 5", check=False)
    assert (done.returncode, done.stdout) == (1 if engine.name == "nerdctl" else 5, "1 /root\n")
    assert "err\n" in done.stderr or engine.name == "nerdctl"  # which at times loses it, with runc too
    done = engine.call("exec", "-i", name, "cat", text="typed\n")
    assert done.stdout == "typed\n"
    done = engine.call("exec", "-e", "Y=2", "-w", "/tmp", "-u", "1000", name, "sh", "-c", "echo $Y $PWD $(id -u)")
    assert done.stdout.split() == ["2", "/tmp", "1000"]
    assert "sleep 1000" in engine.call("exec", name, "ps").stdout


def test_exec_of_what_cannot_be_run(engine: Engine) -> None:
    name = engine.start("sleep", "1000")
    for program, status, reason in (
        ("nosuch", 127, "executable file not found in $PATH"),
        ("/etc/passwd", 126, "permission denied"),
    ):
        done = engine.call("exec", name, program, check=False)
        if engine.name == "nerdctl":
            status = 1
        elif engine.name == "docker":
            status = 126  # Docker of Debian 12: whatever the reason
        assert done.returncode == status
        assert f'exec: "{program}": {reason}' in (done.stdout + done.stderr).replace("\\", "")
    assert is_running(engine, name)


def test_detached_exec_goes_on(engine: Engine) -> None:
    name = engine.start("sleep", "1000")
    engine.call("exec", "-d", name, "sh", "-c", "sleep 0.5; echo done > /done; sleep 1000")
    assert until(lambda: engine.call("exec", name, "cat", "/done", check=False).stdout == "done\n")
    assert "sleep 1000" in engine.call("exec", name, "ps").stdout


# Terminals.


@pytest.fixture
def terminal(engine: Engine, request: pytest.FixtureRequest) -> Callable[..., Terminal]:
    """Makes terminals that a command runs under."""

    def make(*words: str) -> Terminal:
        shown = Terminal(engine.command(*words))
        request.addfinalizer(shown.close)
        return shown

    return make


def test_run_with_a_terminal(engine: Engine, terminal: Callable[..., Terminal]) -> None:
    engine.names.append("test-terminal")
    shown = terminal(*engine.run_words("--rm", "-it", "--name", "test-terminal"), "sh")
    shown.expect(b"# ")
    shown.type(b"tty; echo sum $((40 + 2))\n")
    shown.expect(b"/dev/")
    shown.expect(b"sum 42\r")
    shown.type(b"until stty size | grep '33 99'; do sleep 0.1; done; echo grew\n")

    shown.resize_until(33, 99, b"\n33 99\r")  # nerdctl shows the prompt before it listens for changes, with runc too
    shown.expect(b"\n33 99\r")
    shown.expect(b"grew\r")
    shown.type(b"sh -c \"trap 'echo re''sized; exit' WINCH; echo wait''ing; while :; do sleep 0.1; done\"\n")
    shown.expect(b"waiting\r")
    shown.resize(44, 111)
    shown.expect(b"resized\r")
    shown.type(b"exit 9\n")
    assert shown.wait() == 9


def test_exec_with_a_terminal(engine: Engine, terminal: Callable[..., Terminal]) -> None:
    name = engine.start("sleep", "1000")
    shown = terminal("exec", "-it", name, "sh", "-c", "trap 'exit 6' INT; tty; while :; do sleep 0.1; done")
    shown.expect(b"/dev/")
    shown.type(b"\x03")
    assert shown.wait() == (1 if engine.name == "nerdctl" else 6)


def test_detached_terminal_is_logged(engine: Engine) -> None:
    name = engine.start("sh", "-c", "tty; echo shown", options=("-t",))
    assert until(lambda: has_logged(engine, name, "shown"))
    assert "/dev/" in engine.call("logs", name).stdout


# What the engine says of a container.


def test_process_id_is_one_of_the_host(engine: Engine) -> None:
    name = engine.start("sleep", "1000")
    pid = int(engine.inspect(name, ".State.Pid"))
    assert Path(f"/proc/{pid}/ns/net").exists()
    assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


def test_signal_to_the_process_from_outside(engine: Engine) -> None:
    only_with(engine, "docker", "podman")  # containerd's shims: see docs/nerdctl.md
    name = engine.start("sh", "-c", "trap 'echo heard; exit 3' TERM; echo ready; while :; do sleep 0.1; done")
    assert until(lambda: has_logged(engine, name, "ready"))
    subprocess.run(["kill", engine.inspect(name, ".State.Pid")], check=True, timeout=SECONDS)
    assert until(lambda: not is_running(engine, name))
    assert engine.inspect(name, ".State.ExitCode") == "3"
    assert has_logged(engine, name, "heard")


def test_top_shows_the_processes(engine: Engine) -> None:
    name = engine.start("sh", "-c", "sleep 1001 & sleep 1002 & wait")
    # Without flags podman looks for them in the mounts of the container's process, and pysc has none there.
    flags = ["-ef"] if engine.name == "podman" and engine.is_pysc else []

    def shown() -> str:
        return engine.call("top", name, *flags).stdout

    assert until(lambda: runs(shown(), "sleep 1001") and runs(shown(), "sleep 1002")), shown()


def test_figures_are_the_containers_own(engine: Engine) -> None:
    script = 'BEGIN { x = sprintf("%60000000s", ""); print "ready"; fflush(); system("sleep 1000") }'
    name = engine.start("awk", script, options=("--memory", "512m"))
    assert until(lambda: has_logged(engine, name, "ready"))
    shown = engine.call("stats", "--no-stream", "--format", "{{.MemUsage}}", name).stdout.split()
    assert shown[2] in ("512MiB", "536.9MB"), shown
    assert 50 < float(shown[0].rstrip("MiB")) < 400, shown


def test_end_for_lack_of_memory_is_told(engine: Engine) -> None:
    only_with(engine, "docker")  # podman 4.3 says so of no container, with cgroup v1
    name = engine.start("tail", "/dev/zero", options=("--memory", "32m", "--memory-swap", "32m"))
    assert until(lambda: not is_running(engine, name))
    assert engine.inspect(name, ".State.ExitCode") == "137"
    assert until(lambda: engine.inspect(name, ".State.OOMKilled") == "true")


def test_container_dies_with_its_process(engine: Engine) -> None:
    """The one that the engine knows of, killed from outside."""
    name = engine.start("sleep", "1000")
    subprocess.run(["kill", f"-{signal.SIGKILL}", engine.inspect(name, ".State.Pid")], check=True, timeout=SECONDS)
    assert until(lambda: not is_running(engine, name))
    assert engine.inspect(name, ".State.ExitCode") == "137"


def test_inspection_shows_the_runtime(engine: Engine) -> None:
    only_with(engine, "docker", "podman")
    name = engine.start("sleep", "1000")
    shown = json.loads(engine.call("inspect", name).stdout)[0]
    named = shown["HostConfig"]["Runtime"] if engine.name == "docker" else shown["OCIRuntime"]
    assert named == engine.runtime
