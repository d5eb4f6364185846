"""A container's log in CRI's format: every line, in order, whatever its rate and length."""

from __future__ import annotations

import os
import re

import pytest

from tests.integration.cri import CriDaemon
from tests.integration.daemon import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

HANDLER = os.environ.get("PYSC_TEST_HANDLER", "pysc")
STREAMS = "i=0; while [ $i -lt %d ]; do echo out $i; echo err $i >&2; i=$((i+1)); %s; done"
PAUSE = "[ $((i % 50)) -ne 0 ] || sleep 0.09"
CRI_LINE = 16384
LONG = 40000


def logged(cri: CriDaemon, name: str, script: str, seconds: float) -> str:
    """All that a container of a pod of its own has logged."""
    pod = cri.run_pod(name, HANDLER)
    try:
        container = cri.run_container(pod, name, f"{name}-c", "sh", "-c", script)
        assert until(lambda: not cri.is_running(container), seconds)
        assert cri.exit_code_of(container) == 0
        cri.remove_container(container)
    finally:
        cri.remove_pod(pod)
    assert until(lambda: not cri.left_behind()), cri.left_behind()
    return cri.log_of(f"{name}-c")


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(400)])])
def test_a_thousand_lines_a_second(cri_session: CriDaemon, seconds: int) -> None:
    """Half of them on standard error: each stream keeps its order."""
    count = seconds * 500
    log = logged(cri_session, f"lines{seconds}", STREAMS % (count, PAUSE), seconds * 5)
    for stream, word in (("stdout", "out"), ("stderr", "err")):
        found = re.findall(rf"^\S+ {stream} F {word} (\d+)$", log, re.MULTILINE)
        assert [int(number) for number in found] == list(range(count))
    assert len(log.splitlines()) == 2 * count


def test_line_that_is_too_long_for_one(cri_session: CriDaemon) -> None:
    """It is logged in parts (P), the last of them full (F); what no newline ends is a part, too."""
    script = f"head -c {LONG} /dev/zero | tr '\\0' x; echo; printf end"
    log = logged(cri_session, "long-line", script, 60)
    rows = [line.split(" ", 3) for line in log.splitlines()]
    assert {row[1] for row in rows} == {"stdout"}
    pieces = [("P", CRI_LINE)] * (LONG // CRI_LINE) + [("F", LONG % CRI_LINE), ("P", len("end"))]
    assert [(row[2], len(row[3])) for row in rows] == pieces
    assert "".join(row[3] for row in rows) == "x" * LONG + "end"
