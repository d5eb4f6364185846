"""What a nursery is told; tests/integration/test_warm.py is about what it does."""

import subprocess
import sys

from proto.control import BootConfig
from sandbox.nursery import renumbered
from sandbox.spawn import StageConfig


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
