"""Containers on a real containerd, started with ctr: exit statuses, stdio, terminals, and the life of a task."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.daemon import Daemon, until
from tests.integration.events import Events
from tests.integration.terminal import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("containerd")]


def test_exit_status(daemon: Daemon) -> None:
    assert daemon.run("sh", "-c", "exit 42").returncode == 42


def test_output_and_errors_are_apart(daemon: Daemon) -> None:
    done = daemon.run("sh", "-c", "echo out; echo err >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_first_process_cannot_be_killed_from_inside(daemon: Daemon) -> None:
    assert daemon.run("sh", "-c", "kill -9 $$; echo alive").stdout == "alive\n"


def test_status_of_a_killed_child(daemon: Daemon) -> None:
    done = daemon.run("sh", "-c", '(exec sh -c "kill -9 \\$\\$"); echo $?')
    assert done.stdout == "137\n"


def test_task_killed_from_outside(daemon: Daemon) -> None:
    name = "killed-from-outside"
    run = subprocess.Popen(
        daemon.run_command("sleep", "100", name=name),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert until(lambda: daemon.status(name) == "RUNNING")
        daemon.ctr("task", "kill", "-s", "9", name)
        assert run.wait(60) == 137
    finally:
        run.kill()
        run.communicate()


def test_terminating_signal_is_delivered(daemon: Daemon, tmp_path: Path) -> None:
    mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:rw"
    script = "trap 'exit 9' TERM; touch /mnt/ready; while :; do sleep 0.05; done"
    name = daemon.start_detached("sh", "-c", script, options=("--mount", mount))
    assert until((tmp_path / "ready").exists)
    daemon.ctr("task", "kill", "-s", "TERM", name)
    assert until(lambda: daemon.status(name) == "STOPPED")
    assert "exit code 9" in daemon.ctr("task", "rm", name, check=False).stderr


def test_standard_input(daemon: Daemon) -> None:
    """Its end comes after an answer: ctr 1.6 can miss an end of file that comes before the task has started."""
    wc = subprocess.Popen(
        daemon.run_command("sh", "-c", "read first; echo $first; wc -l"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert wc.stdin is not None and wc.stdout is not None
    wc.stdin.write(b"a\n")
    wc.stdin.flush()
    assert wc.stdout.readline() == b"a\n"
    output, _ = wc.communicate(b"b\nc\n", timeout=60)
    assert (output.strip(), wc.returncode) == (b"2", 0)


def test_shell_pipeline(daemon: Daemon) -> None:
    lines = daemon.run("sh", "-c", "ls -l /bin | sort | head -3; echo $?").stdout.splitlines()
    assert len(lines) == 4
    assert lines[3] == "0"


def test_much_output_arrives_whole(daemon: Daemon) -> None:
    done = daemon.run("sh", "-c", "dd if=/dev/zero bs=65536 count=160 2>/dev/null | tr '\\0' x")
    assert len(done.stdout) == 160 * 65536


def test_missing_executable(daemon: Daemon) -> None:
    done = daemon.run("nosuch")
    assert done.returncode != 0
    assert 'exec: "nosuch": executable file not found in $PATH' in done.stderr


def test_file_that_is_not_executable(daemon: Daemon) -> None:
    done = daemon.run("/etc/passwd")
    assert done.returncode != 0
    assert 'exec: "/etc/passwd": permission denied' in done.stderr


def test_environment_and_working_directory(daemon: Daemon) -> None:
    done = daemon.run("sh", "-c", "echo $COLOUR $PWD", options=("--env", "COLOUR=blue", "--cwd", "/tmp"))
    assert done.stdout == "blue /tmp\n"


def test_read_only_root(daemon: Daemon) -> None:
    done = daemon.run("sh", "-c", "echo x > /new; echo $?", options=("--read-only",))
    assert "Read-only file system" in done.stderr
    assert done.stdout == "1\n"


def test_bind_mounts(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("from the host\n")
    mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:rw"
    done = daemon.run("sh", "-c", "cat /mnt/given; echo from inside > /mnt/made", options=("--mount", mount))
    assert done.stdout == "from the host\n"
    assert (tmp_path / "made").read_text() == "from inside\n"


def test_read_only_bind_mount(daemon: Daemon, tmp_path: Path) -> None:
    mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:ro"
    done = daemon.run("touch", "/mnt/made", options=("--mount", mount))
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert not (tmp_path / "made").exists()


def test_twenty_containers_at_once(daemon: Daemon) -> None:
    def one(number: int) -> tuple[int, str]:
        done = daemon.run("sh", "-c", f"echo {number}; exit {number}", timeout=180)
        return done.returncode, done.stdout

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [(number, f"{number}\n") for number in range(20)]


def test_life_of_a_detached_task(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    assert daemon.status(name) == "RUNNING"
    done = daemon.ctr("task", "exec", "--exec-id", "e1", name, "sh", "-c", "echo inside; exit 5", check=False)
    assert (done.returncode, done.stdout) == (5, "inside\n")
    assert len(daemon.ctr("task", "ps", name).stdout.splitlines()) == 2
    daemon.ctr("task", "kill", "-s", "9", name)
    assert until(lambda: daemon.status(name) == "STOPPED")
    daemon.ctr("task", "rm", name, check=False)
    assert daemon.status(name) == ""
    daemon.ctr("container", "rm", name)


def test_output_goes_to_a_file(daemon: Daemon) -> None:
    log = daemon.folder / "logs" / "out.log"
    name = daemon.start_detached("sh", "-c", "echo out; echo err >&2", options=("--log-uri", f"file://{log}"))
    assert until(lambda: daemon.status(name) == "STOPPED")
    assert sorted(log.read_text().splitlines()) == ["err", "out"]
    log.unlink()
    daemon.ctr("task", "rm", name)
    daemon.ctr("container", "rm", name)


def test_exec_sees_the_containers_processes(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    assert "sleep 1000" in daemon.ctr("task", "exec", "--exec-id", "e2", name, "ps").stdout


def test_name_of_an_exec_is_free_again(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    for code in (3, 4):
        done = daemon.ctr("task", "exec", "--exec-id", "again", name, "sh", "-c", f"exit {code}", check=False)
        assert done.returncode == code, done.stderr


def test_exec_of_a_missing_program(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    done = daemon.ctr("task", "exec", "--exec-id", "e3", name, "nosuch", check=False)
    assert done.returncode != 0
    assert "executable file not found" in done.stderr
    assert daemon.status(name) == "RUNNING"


def test_exec_processes_end_with_the_container(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    results: list[int] = []

    def execute() -> None:
        results.append(daemon.ctr("task", "exec", "--exec-id", "e4", name, "sleep", "500", check=False).returncode)

    thread = threading.Thread(target=execute)
    thread.start()
    count = iter(range(1000))
    assert until(lambda: "sleep 500" in daemon.ctr("task", "exec", "--exec-id", f"p{next(count)}", name, "ps").stdout)
    daemon.ctr("task", "kill", "-s", "9", name)
    thread.join(60)
    assert results == [137]


SIZED = 'read size; until [ "$(stty size 2>&1)" = "$size" ]; do sleep 0.05; done; echo it is $size'
"""Waits for the size that is typed.  ctr tells the first one, too, when the task has started."""


@contextmanager
def terminal(daemon: Daemon, *args: str) -> Iterator[Terminal]:
    shown = Terminal(daemon.run_command(*args, options=("-t",)))
    try:
        yield shown
    finally:
        shown.close()


def test_terminal_size_follows(daemon: Daemon) -> None:
    with terminal(daemon, "sh", "-c", f"{SIZED}; {SIZED}; {SIZED}; read x; exit 6") as shown:
        for rows, columns in ((24, 80), (40, 132), (10, 20)):
            shown.type(f"{rows} {columns}\n".encode())
            told = f"it is {rows} {columns}\r".encode()
            shown.resize_until(rows, columns, told)
            shown.expect(told)
        shown.type(b"\x04")
        assert shown.wait() == 6


def test_interrupt_key_ends_the_foreground(daemon: Daemon) -> None:
    with terminal(daemon, "sh") as shown:
        shown.expect(b"# ")
        shown.type(b"sh -c 'echo read''y; exec sleep 1000'\n")
        shown.expect(b"ready\r")
        shown.type(b"\x03")
        shown.expect(b"# ")
        shown.type(b"echo still $((40 + 2))\n")
        shown.expect(b"still 42\r")
        shown.type(b"exit 3\n")
        assert shown.wait() == 3


def test_interrupt_key_ends_the_only_process(daemon: Daemon) -> None:
    with terminal(daemon, "sh", "-c", "trap 'exit 7' INT; echo ready; while :; do sleep 0.2; done") as shown:
        shown.expect(b"ready")
        shown.type(b"\x03")
        assert shown.wait() == 7


def test_terminal_is_a_terminal(daemon: Daemon) -> None:
    with terminal(daemon, "sh", "-c", "tty; test -t 0 && test -t 1 && test -t 2 && echo yes") as shown:
        shown.expect(b"/dev/")
        shown.expect(b"yes\r")
        assert shown.wait() == 0


def test_container_name_in_use(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    done = daemon.run("true", name=name)
    assert done.returncode != 0
    assert "already exists" in done.stderr
    assert daemon.status(name) == "RUNNING"


def test_wrong_executable_leaves_the_name_free(daemon: Daemon) -> None:
    assert daemon.run("nosuch", name="wrong-then-right").returncode != 0
    daemon.ctr("container", "rm", "wrong-then-right", check=False)
    assert daemon.run("echo", "right", name="wrong-then-right").stdout == "right\n"


def test_stopping_and_continuing(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    daemon.ctr("task", "kill", "-s", "STOP", name)
    daemon.ctr("task", "kill", "-s", "CONT", name)
    assert daemon.status(name) == "RUNNING"


def test_figures_of_a_task(daemon: Daemon) -> None:
    name = daemon.start_detached("sleep", "1000")
    assert "memory" in daemon.ctr("task", "metrics", name).stdout


def test_events_come_in_order(daemon: Daemon, events: Events) -> None:
    name = daemon.start_detached("sleep", "1000")
    daemon.ctr("task", "exec", "--exec-id", "e6", name, "true")
    daemon.ctr("task", "kill", "-s", "9", name)
    assert until(lambda: daemon.status(name) == "STOPPED")
    daemon.ctr("task", "rm", name, check=False)
    assert until(lambda: "/tasks/delete" in events.topics(name)), events.text()
    assert events.topics(name) == [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/exit",
        "/tasks/delete",
    ]
