"""Naming, signalling and awaiting processes that may not be our children."""

import os
import signal
import subprocess
import sys

import pytest

from sandbox.process import ProcessId, identify, is_alive, kill, wait_gone


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_killed_child_is_awaited_and_reaped(sleeper):
    process = identify(sleeper.pid)
    assert is_alive(process)

    assert kill(process)

    assert wait_gone(process, 10)
    assert not is_alive(process)
    assert not kill(process)


def test_a_reused_pid_is_neither_alive_nor_signalled(sleeper):
    other = ProcessId(sleeper.pid, identify(sleeper.pid).start_time + 1)

    assert not is_alive(other)
    assert not kill(other)
    assert wait_gone(other, 0)
    assert sleeper.poll() is None


def test_waiting_ends_at_the_timeout(sleeper):
    assert not wait_gone(identify(sleeper.pid), 0.05)


def test_somebody_elses_child_can_be_awaited():
    script = "import os,sys\npid=os.fork()\nif pid: print(pid, flush=True); os._exit(0)\nos.close(1); sys.stdin.read()"
    read_end, write_end = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=read_end, stdout=subprocess.PIPE)
    os.close(read_end)
    grandchild = identify(int(parent.communicate()[0]))

    assert is_alive(grandchild)
    os.close(write_end)
    assert wait_gone(grandchild, 10)


def test_a_zombie_is_not_alive():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    process = identify(pid)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert not is_alive(process)
    assert wait_gone(process, 1)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_the_signal_sent_is_the_one_asked_for(sleeper):
    kill(identify(sleeper.pid), signal.SIGTERM)

    assert sleeper.wait(10) == -signal.SIGTERM


def test_a_name_survives_json():
    assert ProcessId.from_json(ProcessId(5, 77).to_json()) == ProcessId(5, 77)
