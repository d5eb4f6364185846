"""The OCI commands, as engines call them, against the stand-in Sentry."""

import json
import os
import select
import signal
import socket
import stat
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from cli.version import VERSION
from sandbox import hostcalls as hc
from tests.unit.cli.conftest import REPOSITORY, TIMEOUT

pytestmark = pytest.mark.slow


def wait_for(path):
    """Until the file is there; its creator is on its way."""
    deadline = time.monotonic() + TIMEOUT
    while not os.path.exists(path):
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.01)
    return Path(path).read_text()


def read_until(fd, text):
    data = b""
    deadline = time.monotonic() + TIMEOUT
    while text not in data:
        assert select.select([fd], [], [], max(0, deadline - time.monotonic()))[0], data
        data += os.read(fd, 1000)
    return data


@pytest.fixture
def as_subreaper():
    hc.prctl(hc.PR_SET_CHILD_SUBREAPER, 1)
    yield
    hc.prctl(hc.PR_SET_CHILD_SUBREAPER, 0)


def test_run_passes_output_and_status_through_and_leaves_nothing(cli):
    bundle = cli.bundle("echo", "hello", "world")

    assert cli("run", "--bundle", bundle, cli.name).stdout == "hello world\n"
    cli.bundle("exit", "42")
    cli("run", "-b", bundle, cli.name, status=42)
    assert cli.leftovers() == []


def test_run_passes_input_through(cli):
    bundle = cli.bundle("cat")

    assert cli("run", "--bundle", bundle, cli.name, input="some\ninput").stdout == "some\ninput"


def test_run_forwards_signals(cli):
    bundle = cli.bundle("sigs")
    process = cli.start("run", "--bundle", bundle, "--pid-file", bundle / "pid", cli.name, stdout=subprocess.PIPE)
    wait_for(bundle / "pid")
    while json.loads(cli("state", cli.name).stdout)["status"] != "running":
        pass
    for signo in (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(signo)
        assert process.stdout.readline() == f"{signo.value}\n"
    process.send_signal(signal.SIGUSR1)

    assert process.communicate(timeout=TIMEOUT)[0] == f"{signal.SIGUSR1.value}\n"
    assert process.returncode == 0
    assert cli.leftovers() == []


def test_run_can_keep_the_container(cli):
    bundle = cli.bundle("exit", "0")
    cli("run", "--keep", "--bundle", bundle, cli.name)

    assert json.loads(cli("state", cli.name).stdout)["status"] == "stopped"
    cli("delete", cli.name)


def test_create_start_state_kill_delete(cli, as_subreaper):
    bundle = cli.bundle("sleep")
    cli("create", "--bundle", bundle, "--pid-file", bundle / "pid", "--no-pivot", "--no-new-keyring", cli.name)
    pid = int((bundle / "pid").read_text())

    state = json.loads(cli("state", cli.name).stdout)
    assert (state["status"], state["pid"], state["bundle"]) == ("created", pid, str(bundle))
    assert state["ociVersion"] == "1.0.2" and state["rootfs"] == str(bundle / "rootfs")
    cli("start", cli.name)
    assert json.loads(cli("state", cli.name).stdout)["status"] == "running"
    cli("delete", cli.name, status=1)
    cli("kill", cli.name, "KILL")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 137
    assert json.loads(cli("state", cli.name).stdout) | {"status": "stopped", "pid": 0} == json.loads(
        cli("state", cli.name).stdout
    )
    assert "container not running" in cli("kill", cli.name, "0", status=1).stderr
    cli("kill", "--all", cli.name, "KILL")
    cli("delete", cli.name)
    assert "does not exist" in cli("state", cli.name, status=1).stderr
    assert cli.leftovers() == []


def test_run_detached(cli, as_subreaper):
    bundle = cli.bundle("sleep")
    cli("run", "--detach", "--bundle", bundle, "--pid-file", bundle / "pid", cli.name)

    assert json.loads(cli("state", cli.name).stdout)["status"] == "running"
    cli("kill", cli.name, "SIGTERM")
    assert os.waitstatus_to_exitcode(os.waitpid(int((bundle / "pid").read_text()), 0)[1]) == 143


def test_delete_force_ends_what_runs_and_forgives_what_is_not_there(cli):
    cli("run", "-d", "--bundle", cli.bundle("sleep"), cli.name)

    cli("delete", "--force", cli.name)

    assert cli.leftovers() == []
    cli("delete", "-f", cli.name)
    cli("delete", cli.name, status=1)


def test_list_and_ps(cli):
    assert cli("list").stdout.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert json.loads(cli("list", "--format", "json").stdout) == []
    bundle = cli.bundle("sleep")
    cli("run", "-d", "--bundle", bundle, cli.name)

    assert cli("list", "-q").stdout == f"{cli.name}\n"
    (listed,) = json.loads(cli("list", "--format=json").stdout)
    assert (listed["id"], listed["status"], listed["bundle"]) == (cli.name, "running", str(bundle))
    assert cli.name in cli("list").stdout
    pid = json.loads(cli("state", cli.name).stdout)["pid"]
    assert json.loads(cli("ps", "--format", "json", cli.name).stdout) == [pid]
    assert cli("ps", cli.name).stdout.splitlines()[1].split()[-1] == "sleep"
    cli("list", "--format", "xml", status=2)


def test_exec_in_the_foreground(cli):
    cli("run", "-d", "--bundle", cli.bundle("sleep"), cli.name)

    assert cli("exec", cli.name, "echo", "-n", "x").stdout == "-n x\n"
    cli("exec", cli.name, "exit", "3", status=3)
    assert cli("exec", "--cwd", "/", "--user", "1:2", "--env", "A=b", cli.name, "cat", input="in").stdout == "in"
    assert "executable file not found" in cli("exec", cli.name, "missing", status=127).stderr
    assert "permission denied" in cli("exec", cli.name, "noexec", status=126).stderr
    cli("exec", cli.name, status=2)
    cli("exec", "--user", "nobody", cli.name, "echo", status=2)
    assert "does not exist" in cli("exec", "other", "echo", status=1).stderr


def test_exec_detached_leaves_a_process_with_the_commands_status(cli, as_subreaper, tmp_path):
    cli("run", "-d", "--bundle", cli.bundle("sleep"), cli.name)
    process = tmp_path / "process.json"
    process.write_text(json.dumps({"args": ["exit", "7"], "cwd": "/"}))
    cli("exec", "--detach", "--process", process, "--pid-file", tmp_path / "pid", cli.name)

    pid = int((tmp_path / "pid").read_text())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_signal_to_the_process_that_stands_for_an_exec_reaches_it(cli, as_subreaper, tmp_path):
    cli("run", "-d", "--bundle", cli.bundle("sleep"), cli.name)
    read_end, write_end = os.pipe()
    cli("exec", "-d", "--pid-file", tmp_path / "pid", cli.name, "sigs")
    os.close(read_end)
    os.close(write_end)
    pid = int((tmp_path / "pid").read_text())
    pidfd = os.pidfd_open(pid)
    # It may not be listening yet; USR1 is passed on as soon as it is, and would end it by default.
    while not select.select([pidfd], [], [], 0.05)[0]:
        os.kill(pid, signal.SIGWINCH)
        if catches(pid, signal.SIGUSR1):
            os.kill(pid, signal.SIGUSR1)
            break
    os.close(pidfd)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def catches(pid, signo):
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(mask >> (signo - 1) & 1)


def test_a_terminal_is_relayed_and_follows_its_size(cli):
    bundle = cli.bundle("cat", process={"args": ["cat"], "cwd": "/", "terminal": True})
    master, slave = os.openpty()
    subprocess.run(["stty", "rows", "30", "cols", "100"], stdin=slave, check=True)
    process = cli.start("run", "--bundle", bundle, cli.name, stdin=slave, stdout=slave, stderr=slave,
                        start_new_session=True)  # fmt: skip
    try:
        assert b"30 100\n" in read_until(master, b"\n"), "the size at the start"
        os.write(master, b"typed")
        assert read_until(master, b"typed") == b"typed", "raw: no echo of ours"
        subprocess.run(["stty", "rows", "31", "cols", "101"], stdin=slave, check=True)
        process.send_signal(signal.SIGWINCH)
        read_until(master, b"31 101\n")
        os.write(master, b"\x04")
        assert process.wait(TIMEOUT) == 0
        settings = subprocess.run(["stty", "-a"], stdin=slave, capture_output=True, text=True, check=True).stdout
        assert " icanon" in settings and " echo " in settings, "the terminal is as it was"
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)
    assert cli.leftovers() == []


def test_create_hands_the_terminal_over_the_console_socket(cli, tmp_path):
    bundle = cli.bundle("cat", process={"args": ["cat"], "cwd": "/", "terminal": True})
    assert "--console-socket is missing" in cli("create", "-b", bundle, cli.name, status=1).stderr
    path = f"/tmp/{cli.name}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        try:
            listener.listen()
            cli("create", "--bundle", bundle, "--console-socket", path, cli.name)
            connection, _ = listener.accept()
        finally:
            os.unlink(path)
    with connection:
        name, (master,), _, _ = socket.recv_fds(connection, 100, 1)
    try:
        assert name == b"/dev/ptmx"
        assert stat.S_ISCHR(os.fstat(master).st_mode)
        cli("start", cli.name)
        os.write(master, b"hi")
        assert read_until(master, b"hi") == b"hi"
    finally:
        os.close(master)


def test_a_console_socket_nobody_listens_on_undoes_the_create(cli):
    bundle = cli.bundle("cat", process={"args": ["cat"], "cwd": "/", "terminal": True})

    done = cli("create", "-b", bundle, "--console-socket", "/nonexistent", cli.name, status=1)

    assert "cannot hand over the console" in done.stderr
    assert cli.leftovers() == []


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (["missing"], 127, 'pysc: exec: "missing": executable file not found in $PATH\n'),
        (["noexec"], 126, 'pysc: exec: "noexec": permission denied\n'),
    ],
)
def test_a_program_that_cannot_run(cli, args, status, text):
    bundle = cli.bundle(*args)

    assert cli("run", "-b", bundle, cli.name, status=status).stderr == text
    assert cli("create", "-b", bundle, cli.name, status=status).stderr == text
    assert cli.leftovers() == []


def test_errors_are_one_line_and_a_record_in_the_log(cli, tmp_path):
    log = tmp_path / "log.json"
    done = cli("--log", log, "--log-format", "json", "create", "--bundle", tmp_path / "nowhere", cli.name, status=1)

    assert done.stderr.startswith("pysc: cannot read ") and done.stderr.count("\n") == 1
    (record,) = map(json.loads, log.read_text().splitlines())
    assert record["level"] == "error" and f"pysc: {record['msg']}\n" == done.stderr
    assert record["time"].endswith("Z")
    cli("--log", log, "state", "nobody", status=1)
    assert 'level=error msg="container nobody does not exist"' in log.read_text()


@pytest.mark.parametrize(
    "words",
    [
        [], ["nope"], ["run"], ["run", "a", "b"], ["start", "--what", "a"], ["--log-format", "xml", "list"],
        ["kill", "a", "X"], ["exec", "a"],
    ],
)  # fmt: skip
def test_usage_errors(cli, words):
    done = cli(*words, status=2)

    assert done.stderr.startswith("pysc: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_create_leaves_nothing(cli, signo, tmp_path):
    """A hook that never ends holds the creation; the signal comes then."""
    started = tmp_path / "started"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"touch {started}; exec sleep 60"]}
    bundle = cli.bundle("sleep", hooks={"prestart": [hook]})
    process = cli.start("create", "--bundle", bundle, cli.name, stderr=subprocess.PIPE)
    wait_for(started)

    process.send_signal(signo)

    assert process.communicate(timeout=TIMEOUT)[1] == f"pysc: interrupted by {signo.name}\n"
    assert process.returncode == 128 + signo
    assert cli.leftovers() == []


def test_the_sandbox_dies_with_a_foreground_run_that_is_killed(cli):
    bundle = cli.bundle("sleep")
    process = cli.start("run", "--bundle", bundle, "--pid-file", bundle / "pid", cli.name)
    pidfd = os.pidfd_open(int(wait_for(bundle / "pid")))
    process.kill()
    process.wait()

    assert select.select([pidfd], [], [], TIMEOUT)[0]
    os.close(pidfd)
    cli("delete", cli.name)
    assert cli.leftovers() == []


def test_a_sandbox_that_dies_under_a_foreground_run_is_reported(cli):
    bundle = cli.bundle("sleep")
    process = cli.start("run", "--bundle", bundle, "--pid-file", bundle / "pid", cli.name, stderr=subprocess.PIPE)
    pid = int(wait_for(bundle / "pid"))
    while json.loads(cli("state", cli.name).stdout)["status"] != "running":
        pass
    (cli.root / cli.name / "sandbox.log").write_text("first\nlast words\n\n")
    os.kill(pid, signal.SIGKILL)

    assert process.communicate(timeout=TIMEOUT)[1] == "pysc: the sandbox has died: last words\n"
    assert process.returncode == 1
    assert cli.leftovers() == []


def test_spec_is_valid_and_runs(cli, tmp_path):
    folder = tmp_path / "new"
    (folder / "rootfs").mkdir(parents=True)
    cli("spec", "--bundle", folder, "echo", "made")
    spec = json.loads((folder / "config.json").read_text())
    assert spec["process"]["args"] == ["echo", "made"]
    assert "already exists" in cli("spec", "-b", folder, status=1).stderr

    spec["process"]["terminal"] = False
    (folder / "config.json").write_text(json.dumps(spec))
    assert cli("run", "--bundle", folder, cli.name).stdout == "made\n"


def test_do_runs_on_the_hosts_root_and_leaves_nothing(cli):
    assert cli("do", "echo", "hi").stdout == "hi\n"
    cli("do", "exit", "9", status=9)
    cli("do", "missing", status=127)
    cli("do", "--volume", "a:b:c:d", "echo", status=2)
    cli("do", status=2)
    assert cli("do", "--volume", "/tmp:/mnt:ro", "fds").stdout.split()[:3] == ["gofer:0", "gofer:1", "stderr"]
    assert cli.leftovers() == []


def test_without_privilege_containers_run_in_a_user_namespace(unprivileged_cli):
    cli = unprivileged_cli
    bundle = cli.bundle("cat")

    assert cli("run", "--bundle", bundle, cli.name, input="through").stdout == "through"
    cli("run", "-d", "--bundle", cli.bundle("sleep"), cli.name)
    assert json.loads(cli("state", cli.name).stdout)["status"] == "running"
    cli("delete", "--force", cli.name)
    assert cli.leftovers() == []


def test_without_privilege_do_has_its_overlay_too(unprivileged_cli):
    done = unprivileged_cli("do", "echo", "hi")

    assert (done.stdout, done.stderr) == ("hi\n", "")
    assert unprivileged_cli.leftovers() == []


def test_help_and_version(cli):
    assert cli("--version").stdout.startswith(f"pysc version {VERSION}\n")
    for words in (["help"], ["--help"], ["help", "run"], ["run", "--help"]):
        assert cli(*words).stdout.startswith("Usage: pysc")
    with open(f"{REPOSITORY}/pyproject.toml", "rb") as f:
        assert tomllib.load(f)["project"]["version"] == VERSION


def test_the_sentry_is_asked_about_itself(cli):
    assert "openat" in cli("syscalls").stdout
    assert any(row["name"] == "openat" for row in json.loads(cli("syscalls", "--format", "json").stdout))
    cli("syscalls", "--format", "xml", status=2)
    findings = json.loads(cli("doctor", "--format", "json").stdout)
    assert {finding["status"] for finding in findings} <= {"ok", "warn"}
    assert {"python", "libseccomp", "C core", "platform", "cgroups"} <= {finding["subject"] for finding in findings}


def test_output_to_a_closed_pipe_is_no_error_message(cli):
    process = cli.start("help", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()

    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


def test_config_shows_what_holds_and_where_it_comes_from(cli, tmp_path):
    file = tmp_path / "pysc.toml"
    file.write_text('platform = "ptrace"\nstrace = ["open"]\n')
    annotation = ("--annotation", "dev.pysc.strace=true")

    done = cli("--config", file, "--log-level", "error", "config", *annotation)

    shown = tomllib.loads(done.stdout)
    assert (shown["platform"], shown["strace"], shown["log_level"]) == ("ptrace", ["open"], "error")
    assert f"# {file}" in next(line for line in done.stdout.splitlines() if line.startswith("platform"))
    assert "dev.pysc.strace is ignored" in done.stderr
    as_json = json.loads(cli("--config", file, "--debug", "config", "-f", "json").stdout)
    assert as_json["debug"] == {"value": True, "from": "flag --debug"}
    assert as_json["platform"] == {"value": "ptrace", "from": str(file)}


def test_config_gives_a_file_to_begin_with_that_is_valid(cli, tmp_path):
    file = tmp_path / "pysc.toml"
    file.write_text(cli("config", "--default").stdout)
    assert cli("config", "--validate", file).stdout == f"{file}: valid\n"
    assert tomllib.loads(file.read_text()) == {}
    file.write_text("".join(line.removeprefix("#") for line in file.read_text().splitlines(True) if " = " in line))
    assert set(tomllib.loads(file.read_text())) == {line.split()[0] for line in cli("config").stdout.splitlines()}


def test_a_wrong_file_is_one_line_and_stops_only_what_makes_sandboxes(cli, tmp_path):
    file = tmp_path / "pysc.toml"
    file.write_text('platfrom = "ptrace"\n')
    problem = f"pysc: {file}: platfrom: there is no such option; did you mean platform?\n"

    assert cli("config", "--validate", file, status=1).stderr == problem
    assert cli("--config", file, "run", "--bundle", cli.bundle("true"), cli.name, status=1).stderr == problem
    cli("--config", file, "list")
    assert cli.leftovers() == []


@pytest.mark.parametrize("flag", ["platform", "network", "log-level", "watchdog", "watchdog-action", "cgroup-manager"])
def test_flags_with_a_wrong_value_are_wrong_usage(cli, flag):
    assert f"flag --{flag}: " in cli(f"--{flag}", "x", "config", status=2).stderr
