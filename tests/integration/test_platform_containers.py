"""What `make demo` shows, by the command alone, on each platform.

So it is also tried where there is no containerd: in the machine with software SVM (tests/kvm), which runs this file.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.integration.host import Host

pytestmark = pytest.mark.slow


def run(host: Host, script: str, status: int = 0, errors: str = "") -> list[str]:
    """The lines that a container prints which runs one shell command."""
    done = host.pysc("run", "--bundle", host.bundle("sh", "-c", script), host.name(), timeout=300)
    assert (done.returncode, done.stderr) == (status, errors), done
    return done.stdout.splitlines()


def test_a_container_runs_on_a_kernel_of_its_own(host: Host, platform: str) -> None:
    (release,) = run(host, "uname -r")
    assert release != os.uname().release
    assert run(host, "dmesg")[0]


def test_a_container_sees_its_own_processes_and_no_others(host: Host, platform: str) -> None:
    until_it_sleeps = "until grep -q ^sleep /proc/$!/cmdline; do :; done"  # before it is a second shell
    header, *processes = run(host, f"sleep 1000 & {until_it_sleeps}; ps -o pid,comm,args; true")
    assert header.split() == ["PID", "COMMAND", "COMMAND"]
    shell, sleep, ps = (line.split(None, 2) for line in processes)
    assert shell[:2] == ["1", "sh"]
    assert sleep == ["2", "sleep", "sleep 1000"]
    assert ps[1] == "ps"


def test_a_pipeline_of_five_processes(host: Host, platform: str) -> None:
    script = "seq 1 20000 | grep 7 | sed s/7/0/ | sort -n | tail -n 3"
    here = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert run(host, script) == here.stdout.splitlines()


def test_statuses_arrive_and_process_1_is_safe_from_itself(host: Host, platform: str) -> None:
    script = 'kill -9 $$; (exec sh -c "kill -9 \\$\\$"); echo "the child: $?"; exit 42'
    assert run(host, script, status=42, errors="Killed\n") == ["the child: 137"]


def test_a_look_into_a_container_in_the_background(host: Host, platform: str) -> None:
    name = host.name()
    host.background("run", "--detach", "--bundle", host.bundle("sleep", "1000"), name)
    done = host.pysc("exec", name, "sh", "-c", "ps; exit 7", timeout=300)
    assert (done.returncode, done.stderr) == (7, "")
    assert "sleep 1000" in done.stdout.splitlines()[1]
    assert host.status(name) == "running"
    assert host.pysc("kill", name, "KILL").returncode == 0
    assert host.pysc("delete", "--force", name).returncode == 0
