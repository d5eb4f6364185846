"""Options of a file, in a sandbox that was made with them."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path

import pytest

from tests.integration.daemon import until
from tests.integration.host import Host

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("command")]


def options(folder: Path, **values: object) -> Path:
    """A file; JSON's strings, numbers and lists are TOML's."""
    path = folder / "options.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    return path


def test_each_log_is_in_the_folder_and_has_the_calls_that_were_named(host: Host, tmp_path: Path) -> None:
    file = options(tmp_path, log=f"{tmp_path}/logs/", strace=["write", "exit_group"])
    name = host.name()
    done = host.pysc("--config", file, "run", "--bundle", host.bundle("echo", "hello"), name)
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert os.listdir(tmp_path / "logs") == [f"{name}.log"]
    lines = (tmp_path / "logs" / f"{name}.log").read_text().splitlines()
    calls = {line.split("] ")[1].partition("(")[0] for line in lines if line.startswith("[pid") and "(" in line}
    assert calls == {"write", "exit_group"}


def test_a_call_that_does_not_exist_stops_the_container_with_one_line(host: Host, tmp_path: Path) -> None:
    file = options(tmp_path, strace=["opnat"])
    done = host.pysc("--config", file, "run", "--bundle", host.bundle("true"), host.name())
    assert done.returncode == 1
    assert done.stderr.endswith("strace: there is no system call 'opnat': pysc syscalls lists them\n")


@pytest.mark.parametrize(("level", "shown"), [("info", True), ("warning", False)])
def test_log_level_and_format(host: Host, tmp_path: Path, level: str, shown: bool) -> None:
    file = options(tmp_path, log=f"{tmp_path}/%ID%/log", log_level=level, log_format="json")
    name = host.name()
    assert host.pysc("--config", file, "run", "--bundle", host.bundle("true"), name).returncode == 0
    records = [json.loads(line) for line in (tmp_path / name / "log").read_text().splitlines()]
    assert any(record["level"] == "info" for record in records) is shown


@pytest.mark.parametrize(("network", "same"), [("container", True), ("none", False)])
def test_without_a_network_the_sentry_is_not_in_the_namespace_that_was_named(
    host: Host, tmp_path: Path, network: str, same: bool
) -> None:
    """A configuration without a network namespace means the caller's own."""
    file, name = options(tmp_path, network=network), host.name()
    bundle = host.bundle("sleep", "1000")
    config = json.loads((bundle / "config.json").read_text())
    spaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [item for item in spaces if item["type"] != "network"]
    (bundle / "config.json").write_text(json.dumps(config))
    host.background("--config", file, "run", "--detach", "--pid-file", tmp_path / "pid", "--bundle", bundle, name)
    pid = (tmp_path / "pid").read_text()
    assert (os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")) is same
    host.pysc("delete", "--force", name)


def test_with_an_overlay_in_memory_the_root_stays_as_it_is(host: Host, tmp_path: Path) -> None:
    file = options(tmp_path, overlay="memory")
    (host.rootfs / "kept").write_text("before")
    script = "echo after >/kept; rm /etc/hosts; mkdir /new; echo x >/new/file; cat /kept /new/file; ls /etc/hosts"
    done = host.pysc("--config", file, "run", "--bundle", host.bundle("sh", "-c", script), host.name())
    assert done.stdout == "after\nx\n"
    assert "No such file" in done.stderr
    assert ((host.rootfs / "kept").read_text(), (host.rootfs / "new").exists()) == ("before", False)
    assert (host.rootfs / "etc/hosts").exists()
    mounted = Path("/proc/self/mountinfo").read_text()
    assert "pysc-overlay" not in mounted
    assert str(host.rootfs) not in mounted


def test_an_overlay_holds_no_more_than_the_memory_limit(host: Host, tmp_path: Path) -> None:
    file = options(tmp_path, overlay="memory")
    bundle = host.bundle("dd", "if=/dev/zero", "of=/big", "bs=1M", "count=64")
    config = json.loads((bundle / "config.json").read_text())
    config["linux"]["resources"] = {"memory": {"limit": 32 << 20}}
    (bundle / "config.json").write_text(json.dumps(config))
    done = host.pysc("--config", file, "run", "--bundle", bundle, host.name())
    assert done.returncode != 0
    assert "No space left" in done.stderr
    assert not (host.rootfs / "big").exists()


PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


class Hung:
    """A process whose first thread stands still while its others run: as one that hangs in a host call."""

    def __init__(self, pid: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._pid = pid
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            assert self._libc.ptrace(request, pid, None, None) == 0, os.strerror(ctypes.get_errno())
        assert os.WIFSTOPPED(os.waitpid(pid, WALL)[1])

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        """Let it go on, or see it dead: its parent learns of that only after us."""
        if self._libc.ptrace(PTRACE_DETACH, self._pid, None, None) != 0:
            os.waitpid(self._pid, WALL)


@pytest.mark.parametrize(("action", "status"), [("log", "running"), ("kill", "stopped")])
def test_a_sentry_that_hangs_shows_its_stack(host: Host, tmp_path: Path, action: str, status: str) -> None:
    log = tmp_path / "log"
    file, name = options(tmp_path, log=str(log), watchdog=2, watchdog_action=action), host.name()
    bundle = host.bundle("sh", "-c", "while :; do sleep 0.1; done")
    host.background("--config", file, "run", "--detach", "--bundle", bundle, name)
    with Hung(host.process(name, "sentry")):
        assert until(lambda: "sentry/wait.py" in log.read_text(), 60)
        assert "Timeout (0:00:03)!" in log.read_text()
    if action == "log":
        assert until(lambda: "the loop did not come round for up to" in log.read_text())
    assert until(lambda: host.status(name) == status)
    host.pysc("delete", "--force", name)
