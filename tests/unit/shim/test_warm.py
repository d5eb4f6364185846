"""The small parts of the warm parent; tests/integration/test_warm.py is about the whole."""

from __future__ import annotations

import os
import signal
import socket
import sys
import types
from pathlib import Path

import pytest

from sandbox import kinship, warm, warm_client
from sandbox.warm_start import start_warm_parent
from shim import warm_client as shim_client

PROGRAM = "shim.warm"


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(warm_client.FOLDER_VARIABLE, "")
    assert shim_client.socket_path() == ""


def test_every_user_and_installation_has_a_socket_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(warm_client.FOLDER_VARIABLE, "/w")
    path = shim_client.socket_path()
    assert path.startswith("/w/") and path == shim_client.socket_path()
    assert warm_client.socket_path("/w", "another.program") != path
    monkeypatch.setattr(warm_client, "INSTALLATION", "/elsewhere")
    assert shim_client.socket_path() != path


def test_where_nobody_listens_there_is_no_connection(tmp_path: Path) -> None:
    assert warm_client.connect(str(tmp_path / "none")) is None
    assert warm_client.connect(str(tmp_path / ("x" * 200))) is None


def test_a_frame_arrives_whole_or_not_at_all() -> None:
    request = (["-id", "c1"], {b"A": b"\xff"}, "/", bytes(100_000))
    data = warm_client.frame(request)
    near, far = socket.socketpair()
    with near, far:
        near.sendall(data[:7])
        near.sendall(data[7:])
        assert warm_client.receive_frame(far) == request
        near.sendall(data[:-1])
        near.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            warm_client.receive_frame(far)


def test_a_fork_has_its_parents_surroundings() -> None:
    pid = os.fork()
    if pid == 0:
        same = kinship.surroundings(os.getpid()) == kinship.surroundings(os.getppid())
        os._exit(0 if same and kinship.parent_of(os.getpid()) == os.getppid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def stay_on_one_processor() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@pytest.mark.parametrize(
    "change", [lambda: os.umask(0o27), lambda: os.nice(1), stay_on_one_processor], ids=["umask", "nice", "affinity"]
)
def test_a_changed_process_has_others(change) -> None:
    pid = os.fork()
    if pid == 0:
        before = kinship.surroundings(os.getpid())
        change()
        os._exit(0 if kinship.surroundings(os.getpid()) != before else 1)
    if len(os.sched_getaffinity(0)) > 1:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    else:
        os.waitpid(pid, 0)


def test_a_replaced_module_makes_the_stamp_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("pysc_test_stamp")
    module.__file__ = str(tmp_path / "module.py")
    Path(module.__file__).write_text("")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    stamp = warm.Stamp()
    assert stamp.is_current()
    new = tmp_path / "new.py"
    new.write_text("")
    new.rename(module.__file__)
    assert not stamp.is_current()
    Path(module.__file__).unlink()
    assert not stamp.is_current()


def test_one_is_started_and_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "w" / "socket")
    assert start_warm_parent(path, PROGRAM)
    try:
        inode = os.stat(path).st_ino
        assert start_warm_parent(path, PROGRAM)
        assert os.stat(path).st_ino == inode, "a second one has taken its place"
    finally:
        end(path)


def end(path: str) -> None:
    sock = warm_client.connect(path)
    assert sock is not None
    sock.close()
    peer = next(pid for pid in os.listdir("/proc") if pid.isdigit() and shows(int(pid), f"pysc\0shim.warm\0{path}\0"))
    os.kill(int(peer), signal.SIGKILL)


def shows(pid: int, command_line: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").startswith(command_line)
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_one_that_cannot_listen_is_waited_for_no_longer_than_it_lives(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 90))  # too long for a socket, not for a file
    assert start_warm_parent(path, PROGRAM)
    assert warm_client.connect(path) is None
    assert "AF_UNIX path too long" in Path(f"{path}.log").read_text()


def test_none_is_started_in_a_folder_that_others_can_write_to(tmp_path: Path) -> None:
    folder = tmp_path / "everybodys"
    folder.mkdir()
    folder.chmod(0o777)
    assert not start_warm_parent(f"{folder}/socket", PROGRAM)
    assert list(folder.iterdir()) == []


def test_where_none_can_be_started_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not start_warm_parent(f"{tmp_path}/file/socket", PROGRAM)
