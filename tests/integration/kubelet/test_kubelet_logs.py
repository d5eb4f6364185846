"""A container's log in CRI's format: every line, in order, whatever its rate and length."""

from __future__ import annotations

import pytest

from tests.integration.daemon import until
from tests.integration.kubelet.pods import Pod

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

STREAMS = "i=0; while [ $i -lt %d ]; do echo out $i; echo err $i >&2; i=$((i+1)); %s; done"
PAUSE = "[ $((i % 50)) -ne 0 ] || sleep 0.09"
CRI_LINE = 16384
LONG = 40000


def logged(pod: Pod, script: str, seconds: float, count: int) -> list[tuple[str, str, str]]:
    """All that a container logs until it ends: so many entries, of which the last may come a moment later."""
    container = pod.started("main", "sh", "-c", script)
    assert container.ended(seconds).exit_code == 0
    assert until(lambda: len(container.log()) >= count), container.log()[-10:]
    return container.log()


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(400)])])
def test_a_thousand_lines_a_second(pod: Pod, seconds: int) -> None:
    """Half of them on standard error: each stream keeps its order."""
    count = seconds * 500
    log = logged(pod, STREAMS % (count, PAUSE), seconds * 5 + 60, 2 * count)
    for stream, word in (("stdout", "out"), ("stderr", "err")):
        assert [row for row in log if row[0] == stream] == [(stream, "F", f"{word} {n}") for n in range(count)]
    assert len(log) == 2 * count


def test_line_that_is_too_long_for_one(pod: Pod) -> None:
    """It is logged in parts (P), the last of them full (F); what no newline ends is a part, too."""
    script = f"head -c {LONG} /dev/zero | tr '\\0' x; echo; printf end"
    pieces = [("P", CRI_LINE)] * (LONG // CRI_LINE) + [("F", LONG % CRI_LINE), ("P", len("end"))]
    rows = logged(pod, script, 60, len(pieces))
    assert {stream for stream, _, _ in rows} == {"stdout"}
    assert [(flag, len(text)) for _, flag, text in rows] == pieces
    assert "".join(text for _, _, text in rows) == "x" * LONG + "end"
