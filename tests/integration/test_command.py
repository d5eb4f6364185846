"""The command `pysc` as a container engine and as a person use it: the life of a container, and bad input."""

from __future__ import annotations

import array
import json
import os
import re
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.daemon import command_line, processes_in, until
from tests.integration.host import Host, assert_one_line
from tests.integration.terminal import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("command")]


def test_run_passes_output_and_status(host: Host) -> None:
    done = host.pysc("run", "--bundle", host.bundle("sh", "-c", "echo hello; echo oops >&2; exit 7"), host.name())
    assert (done.returncode, done.stdout, done.stderr) == (7, "hello\n", "oops\n")


def test_name_of_the_machine(host: Host) -> None:
    """Without a hostname in the config a container has the host's, as with runc."""
    done = host.pysc("run", "--bundle", host.bundle("uname", "-n", hostname=""), host.name())
    assert done.stdout == f"{os.uname().nodename}\n"
    done = host.pysc("run", "--bundle", host.bundle("uname", "-n", hostname="given"), host.name())
    assert done.stdout == "given\n"


def test_run_reads_standard_input(host: Host) -> None:
    command = host.command("run", "--bundle", host.bundle("wc", "-c"), host.name())
    done = subprocess.run(command, input=b"x" * 100000, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, b"100000")


def test_output_to_a_shared_file_keeps_its_offset(host: Host) -> None:
    log = host.folder / "shared.log"
    log.write_text("")
    with log.open("w") as out:
        out.write("before\n")
        out.flush()
        command = host.command("run", "--bundle", host.bundle("echo", "inside"), host.name())
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, check=True, timeout=60)
        out.seek(0, os.SEEK_CUR)
        os.write(out.fileno(), b"after\n")
    assert log.read_text() == "before\ninside\nafter\n"


def test_life_of_a_container(host: Host) -> None:
    name, pid_file = host.name(), host.folder / "pid"
    bundle = host.bundle("sh", "-c", "trap 'exit 5' TERM; echo started > /started; while :; do sleep 0.1; done")
    host.background("create", "--bundle", bundle, "--pid-file", pid_file, name)
    assert host.status(name) == "created"
    state = json.loads(host.pysc("state", name).stdout)
    assert state["id"] == name
    assert state["bundle"] == str(bundle)
    assert state["pid"] == int(pid_file.read_text())
    assert Path(f"/proc/{state['pid']}").is_dir()
    assert not (host.rootfs / "started").exists()

    assert host.pysc("start", name).returncode == 0
    assert host.status(name) == "running"
    assert until(lambda: (host.rootfs / "started").exists())
    assert host.pysc("exec", name, "sh", "-c", "exit 3").returncode == 3
    assert name in host.pysc("list").stdout
    assert name in host.pysc("list", "-q").stdout.split()
    assert "sh" in host.pysc("ps", name).stdout
    assert_one_line(host.pysc("start", name))
    assert_one_line(host.pysc("delete", name))

    assert host.pysc("kill", name, "TERM").returncode == 0
    assert until(lambda: host.status(name) == "stopped")
    assert_one_line(host.pysc("kill", name, "TERM"))
    assert_one_line(host.pysc("exec", name, "true"))
    assert host.pysc("delete", name).returncode == 0
    assert host.status(name) == ""
    (host.rootfs / "started").unlink()


def test_exec_passes_its_streams(host: Host) -> None:
    name = host.name()
    host.background("run", "--detach", "--bundle", host.bundle("sleep", "1000"), name)
    done = subprocess.run(host.command("exec", name, "cat"), input=b"through\n", capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"through\n", b"")
    done = subprocess.run(
        host.command("exec", "--env", "A=b", "--cwd", "/tmp", name, "sh", "-c", "echo $A $PWD >&2"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.stderr == b"b /tmp\n"
    assert host.pysc("exec", name, "nosuch").returncode in (127, 255)
    assert host.pysc("delete", "--force", name).returncode == 0


def test_deleting_a_running_container_by_force(host: Host) -> None:
    name = host.name()
    host.background("run", "--detach", "--bundle", host.bundle("sleep", "1000"), name)
    assert host.pysc("delete", "--force", name).returncode == 0
    assert host.pysc("delete", "--force", name).returncode == 0  # as with runc: force does not mind


def test_created_container_can_be_deleted(host: Host) -> None:
    name = host.name()
    host.background("create", "--bundle", host.bundle("true"), name)
    assert host.pysc("delete", "--force", name).returncode == 0


def receive_descriptor(listener: socket.socket) -> int:
    connection, _ = listener.accept()
    with connection:
        _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    received = array.array("i")
    received.frombytes(ancillary[0][2])
    return received[0]


def test_console_socket(host: Host) -> None:
    path, name = host.folder / "console.sock", host.name()
    bundle = host.bundle("sh", "-c", "tty; exit 0")
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["terminal"] = True
    (bundle / "config.json").write_text(json.dumps(config))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        host.background("create", "--bundle", bundle, "--console-socket", path, name)
        master = receive_descriptor(listener)
    path.unlink()
    assert host.pysc("start", name).returncode == 0
    assert b"/dev/" in os.read(master, 100)
    assert until(lambda: host.status(name) == "stopped")
    os.close(master)


def test_missing_executable(host: Host) -> None:
    done = host.pysc("run", "--bundle", host.bundle("nosuch"), host.name())
    assert 'exec: "nosuch": executable file not found in $PATH' in assert_one_line(done, 127)
    done = host.pysc("run", "--bundle", host.bundle("/no/such"), host.name())
    assert 'exec: "/no/such": no such file or directory' in assert_one_line(done, 127)


def test_file_that_is_not_executable(host: Host) -> None:
    done = host.pysc("run", "--bundle", host.bundle("/etc/passwd"), host.name())
    assert 'exec: "/etc/passwd": permission denied' in assert_one_line(done, 126)


def test_errors_reach_the_log_as_json(host: Host) -> None:
    log = host.folder / "log.json"
    done = host.pysc("--log", log, "--log-format", "json", "run", "--bundle", host.bundle("nosuch"), host.name())
    assert done.returncode == 127
    record = json.loads(log.read_text().splitlines()[-1])
    assert record["level"] == "error"
    assert "executable file not found" in record["msg"]
    assert record["time"]


BAD_WORDS = {
    "unknown command": ("frobnicate",),
    "unknown flag": ("--frobnicate", "list"),
    "unknown flag of a command": ("run", "--frobnicate", "x"),
    "no container name": ("state",),
    "flag without its value": ("run", "--bundle"),
    "too many words": ("state", "a", "b"),
    "unknown log format": ("--log-format", "xml", "list"),
}


@pytest.mark.parametrize("words", BAD_WORDS.values(), ids=BAD_WORDS.keys())
def test_wrong_usage(host: Host, words: tuple[str, ...]) -> None:
    done = host.pysc(*words)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


@pytest.mark.parametrize("command", ["state", "start", "kill", "delete", "ps", "exec"])
def test_unknown_container(host: Host, command: str) -> None:
    words = ["no-such-container", "true"] if command == "exec" else ["no-such-container"]
    assert "no-such-container" in assert_one_line(host.pysc(command, *words))


def test_name_in_use(host: Host) -> None:
    name = host.name()
    host.background("run", "--detach", "--bundle", host.bundle("sleep", "1000"), name)
    assert name in assert_one_line(host.pysc("run", "--bundle", host.bundle("true"), name))
    assert host.status(name) == "running"
    assert host.pysc("delete", "--force", name).returncode == 0


@pytest.mark.parametrize("name", ["../escape", "a/b", "", "."])
def test_names_that_are_no_names(host: Host, name: str) -> None:
    assert_one_line(host.pysc("run", "--bundle", host.bundle("true"), name))


def test_folder_without_a_config(host: Host) -> None:
    empty = host.folder / "empty"
    empty.mkdir(exist_ok=True)
    assert "config.json" in assert_one_line(host.pysc("run", "--bundle", empty, host.name()))


def test_config_that_is_not_json(host: Host) -> None:
    bundle = host.bundle("true")
    (bundle / "config.json").write_text('{"process": ')
    assert_one_line(host.pysc("run", "--bundle", bundle, host.name()))


BAD_CONFIGS: dict[str, dict[str, Any]] = {
    "no process": {"process": None},
    "no arguments": {"process": {"args": [], "cwd": "/"}},
    "relative working directory": {"process": {"args": ["true"], "cwd": "tmp"}},
    "no root": {"root": None},
    "missing root": {"root": {"path": "/no/such/root"}},
    "wrong type": {"mounts": "everything"},
    "unknown namespace": {"linux": {"namespaces": [{"type": "time-travel"}]}},
    "missing bind source": {
        "mounts": [{"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}]
    },
}


@pytest.mark.parametrize("changes", BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_wrong_config(host: Host, changes: dict[str, Any]) -> None:
    done = host.pysc("run", "--bundle", host.bundle("true", **changes), host.name())
    assert_one_line(done)


def test_unsupported_platform(host: Host) -> None:
    done = host.pysc("--platform", "abacus", "run", "--bundle", host.bundle("true"), host.name())
    assert "abacus" in assert_one_line(done)


def test_unknown_signal(host: Host) -> None:
    name = host.name()
    host.background("run", "--detach", "--bundle", host.bundle("sleep", "1000"), name)
    assert_one_line(host.pysc("kill", name, "SIGNONSENSE"))
    assert host.pysc("kill", name, "9").returncode == 0
    assert until(lambda: host.status(name) == "stopped")


def test_do_runs_on_the_hosts_root_without_changing_it(host: Host) -> None:
    marker = f"/var/tmp/pysc-do-{uuid.uuid4().hex[:8]}"
    done = host.pysc("do", "sh", "-c", f"echo kept > {marker}; cat {marker}; uname -s")
    assert (done.returncode, done.stdout) == (0, "kept\nLinux\n")
    assert not Path(marker).exists()


def test_do_passes_the_status(host: Host) -> None:
    assert host.pysc("do", "sh", "-c", "exit 9").returncode == 9
    assert_one_line(host.pysc("do", "no-such-program"), 127)


def test_system_calls_are_listed(host: Host) -> None:
    listing = host.pysc("syscalls").stdout
    assert "openat" in listing
    assert "execve" in listing


def test_doctor_says_what_works(host: Host) -> None:
    done = host.pysc("doctor")
    assert "ptrace" in done.stdout
    assert "Traceback" not in done.stderr


def test_spec_makes_a_bundle_that_runs(host: Host) -> None:
    bundle = host.folder / "fresh"
    bundle.mkdir(exist_ok=True)
    subprocess.run(host.command("spec"), cwd=bundle, check=True, timeout=60)
    config = json.loads((bundle / "config.json").read_text())
    config["root"]["path"] = str(host.rootfs)
    config["process"]["terminal"] = False
    config["process"]["args"] = ["echo", "made by spec"]
    (bundle / "config.json").write_text(json.dumps(config))
    assert host.pysc("run", "--bundle", bundle, host.name()).stdout == "made by spec\n"


def test_help_names_every_command(host: Host) -> None:
    done = host.pysc("--help")
    assert done.returncode == 0
    for name in ("run", "create", "start", "state", "kill", "delete", "exec", "list", "ps", "spec", "do", "syscalls"):
        assert name in done.stdout


@pytest.fixture
def running(host: Host) -> Iterator[subprocess.Popen[bytes]]:
    """`pysc run` of a container that is there until something ends it; its name is the host's last."""
    command = host.tracked("run", "--bundle", host.bundle("sleep", "1000"), host.name())
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: host.status(host.names[-1]) == "running")
        yield process
    finally:
        process.kill()
        process.wait()


def test_run_that_is_killed_takes_its_sandbox_along(host: Host, running: subprocess.Popen[bytes]) -> None:
    running.kill()
    running.wait()
    assert until(lambda: not processes_in(host.cgroup))
    assert host.pysc("delete", "--force", host.names[-1]).returncode == 0


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_run_hands_signals_on(host: Host, running: subprocess.Popen[bytes], signo: signal.Signals) -> None:
    """To process 1, which ignores what it has no handler for; a second container shows one that has."""
    script = f"trap 'exit 33' {signo.name.removeprefix('SIG')}; echo ready; while :; do sleep 0.1; done"
    command = host.tracked("run", "--bundle", host.bundle("sh", "-c", script), host.name())
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as trapping:
        assert trapping.stdout is not None
        assert trapping.stdout.readline() == b"ready\n"
        trapping.send_signal(signo)
        assert trapping.wait(60) == 33
    assert running.poll() is None


def test_run_ends_with_its_sandbox(host: Host, running: subprocess.Popen[bytes]) -> None:
    os.kill(json.loads(host.pysc("state", host.names[-1]).stdout)["pid"], signal.SIGKILL)
    assert running.wait(60) != 0
    assert until(lambda: not host.left_behind())


def test_run_ends_with_its_gofer(host: Host, running: subprocess.Popen[bytes]) -> None:
    gofers = [pid for pid in processes_in(host.cgroup) if re.search(r"sandbox.* gofer( |$)", command_line(pid))]
    assert len(gofers) == 1
    os.kill(gofers[0], signal.SIGKILL)
    assert running.wait(60) != 0
    assert until(lambda: not host.left_behind())


def test_run_on_a_terminal(host: Host) -> None:
    until_sized = 'read size; until [ "$(stty size)" = "$size" ]; do sleep 0.05; done; echo it is $size'
    bundle = host.bundle("sh", "-c", f"stty size; {until_sized}; read x; exit 8")
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["terminal"] = True
    (bundle / "config.json").write_text(json.dumps(config))
    shown = Terminal(host.tracked("run", "--bundle", bundle, host.name()))
    try:
        shown.expect(b"24 80\r")
        shown.resize(30, 90)
        shown.type(b"30 90\n")
        shown.expect(b"it is 30 90\r")
        shown.type(b"\x04")
        assert shown.wait() == 8
    finally:
        shown.close()
