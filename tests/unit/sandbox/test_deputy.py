"""The process that stands for a container on the host."""

import os
import signal
import socket

import pytest

from sandbox import deputy
from sandbox.errors import SandboxError
from sandbox.process import identify

ENOUGH_KIB = 300


@pytest.fixture
def started():
    """One in our own namespaces: its pid, and the Sentry's end."""
    process, connection = deputy.start("c1", [], identify(os.getpid()))
    with socket.socket(fileno=connection) as sentry:
        yield process.pid, sentry


def children():
    """All of ours: those of other tests' too, a fork server's for one."""
    folder = "/proc/self/task"
    return {pid for task in os.listdir(folder) for pid in open(f"{folder}/{task}/children").read().split()}


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("status", [0, 1, 137, 255])
def test_it_ends_with_the_status_that_it_is_told(started, status):
    pid, sentry = started
    sentry.send(bytes([status]))
    sentry.close()
    assert ended(pid) == status


def test_it_lives_until_the_sentry_lets_go(started):
    pid, sentry = started
    sentry.send(b"\x03")
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    sentry.close()
    assert ended(pid) == 3


def test_a_sentry_that_goes_without_a_word_was_killed(started):
    pid, sentry = started
    sentry.close()
    assert ended(pid) == -signal.SIGKILL


def test_signals_reach_the_sentry(started):
    pid, sentry = started
    for signo in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGSEGV, signal.SIGRTMAX):
        os.kill(pid, signo)
        assert sentry.recv(1) == bytes([signo])
    sentry.send(b"\x00")
    sentry.close()
    assert ended(pid) == 0


def test_the_sentry_sees_that_it_was_killed(started):
    pid, sentry = started
    os.kill(pid, signal.SIGKILL)
    assert sentry.recv(1) == b""
    assert ended(pid) == -signal.SIGKILL


def test_it_has_little_and_may_do_nothing(started):
    pid, sentry = started
    assert os.listdir(f"/proc/{pid}/fd") == ["0"]
    with open(f"/proc/{pid}/status") as f:
        status = dict(line.split(":", 1) for line in f)
    assert status["Name"].strip() == "pysc-deputy"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["Seccomp"].strip() == "1"
    with open(f"/proc/{pid}/smaps_rollup") as f:
        pss = next(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    assert pss < ENOUGH_KIB
    sentry.close()
    assert ended(pid) == -signal.SIGKILL


def test_one_that_finds_no_way_into_its_cgroup_is_an_error():
    before = children()
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(SandboxError, match="no way into the cgroup"):
            deputy.start("c1", [full], identify(os.getpid()))
    finally:
        os.close(full)
    assert children() == before
