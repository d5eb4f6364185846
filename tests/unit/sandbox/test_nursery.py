"""What a nursery is told; tests/integration/test_warm.py is about what it does."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proto.control import BootConfig
from sandbox.errors import SandboxError
from sandbox.nursery import renumbered
from sandbox.spawn import Nursery, StageConfig, start_gofer
from tests.slowness import SLOWNESS

AT_ONCE = "import sys; from sandbox import nursery, stage; {}; nursery.main_at_once(int(sys.argv[1]))"
REFUSE = "stage.enter = lambda *_, **__: 1 / 0"


def begin(preparation: str, *inherited: int) -> tuple[subprocess.Popen[bytes], int]:
    """The nursery of a command, and our end of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-c", AT_ONCE.format(preparation), str(theirs.fileno())]
        return subprocess.Popen(command, pass_fds=[theirs.fileno(), *inherited]), ours.detach()


def test_a_stage_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    process, fd = begin(REFUSE)
    nursery = Nursery(fd)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    try:
        starting = start_gofer("c1", [], log, [], False, nursery)
        with pytest.raises(SandboxError, match="cannot start the gofer: ZeroDivisionError"):
            starting.wait_ready()
    finally:
        os.close(log)
        nursery.close()
    assert process.wait(20 * SLOWNESS) == 0
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_stages_that_nobody_asked_for_end_with_their_nursery(end: str) -> None:
    read_end, write_end = os.pipe()
    process, fd = begin("pass", write_end)
    os.close(write_end)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    if end == "killed":
        process.kill()
    os.close(fd)
    process.wait(20 * SLOWNESS)
    with open(read_end, "rb") as rest:
        assert rest.read() == b""  # whoever is left would have the other end


def test_descriptors_are_renumbered_wherever_they_are_named():
    boot = BootConfig("c1", 7, 9, 8, -1, lifeline_fd=6, ncpus=7).to_dict()
    config = vars(StageConfig("c1", 9, [7, 8, 6, 9], ["pid"], boot=boot, mounts=[(7, 8, True)]))
    numbers = {7: 17, 8: 18, 6: 16, 9: 19}
    new = renumbered(config, numbers)
    assert (new["report_fd"], new["keep_fds"], new["mounts"]) == (19, [17, 18, 16, 19], [(17, 18, True)])
    assert {name: new["boot"][name] for name in ("control_fd", "ready_fd", "log_fd", "lifeline_fd", "proc_fd")} == {
        "control_fd": 17, "ready_fd": 19, "log_fd": 18, "lifeline_fd": 16, "proc_fd": -1,
    }  # fmt: skip
    assert new["boot"]["ncpus"] == 7
    assert new["boot"]["strace_fd"] is None


def test_a_gofers_configuration_has_no_boot():
    config = vars(StageConfig("c1", 3, [3], ["pid"]))
    assert renumbered(config, {3: 5})["boot"] is None


def test_the_command_line_shows_what_there_is_room_for():
    code = (
        "import sys; from sandbox import hostcalls; hostcalls.set_command_line(sys.argv[1].split()); "
        "sys.stdout.write(open('/proc/self/cmdline').read().rstrip('\\0'))"
    )
    for words in ("pysc shim", "x" * 5000):
        done = subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True, check=True)
        assert done.stdout == words.replace(" ", "\0") or words.startswith(done.stdout)
        assert done.stdout
