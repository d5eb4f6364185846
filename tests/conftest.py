"""For all tests: the mark own_process, which runs a test with its fixtures in a forked child."""

from __future__ import annotations

import json
import os
import select
import signal
import traceback

import pytest
from _pytest.runner import runtestprotocol

from tests.slowness import SLOWNESS

SECONDS = 120 * SLOWNESS

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"  # or grpc would have threads in those children, too


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if item.get_closest_marker("own_process") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports_of_child(item):
        item.ihook.pytest_runtest_logreport(report=report)
    # What the test before has left for this one, its siblings' fixtures, is not the next one's.
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def reports_of_child(item: pytest.Item) -> list[pytest.TestReport]:
    """Runs the test in a child; its reports come through a pipe. A child that says nothing has failed."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        run_in_child(item, write_end)
    os.close(write_end)
    data = read_all(read_end, pid)
    os.close(read_end)
    _, status = os.waitpid(pid, 0)
    try:
        serialized = json.loads(data)
    except ValueError:
        return [failure(item, f"its process ended with wait status {status:#x}\n{data.decode(errors='replace')}")]
    reports = [item.config.hook.pytest_report_from_serializable(config=item.config, data=one) for one in serialized]
    for report in reports:
        if isinstance(report.longrepr, list):  # a skip's place and reason; JSON knows no tuples
            report.longrepr = tuple(report.longrepr)
    return reports


def run_in_child(item: pytest.Item, write_end: int) -> None:
    """Leaves the fixtures of wider scope alone: they are the parent's."""
    try:
        reports = runtestprotocol(item, log=False, nextitem=sibling_of(item))
        to_data = item.config.hook.pytest_report_to_serializable
        text = json.dumps([to_data(config=item.config, report=report) for report in reports], default=str)
    except BaseException:
        text = traceback.format_exc()
    with os.fdopen(write_end, "w") as out:
        out.write(text)
    os._exit(0)


def sibling_of(item: pytest.Item) -> pytest.Item:
    """What pytest takes for the next test, to find out which fixtures are to end: those of the test itself."""
    twin = pytest.Function.from_parent(item.parent, name="next", callobj=lambda: None)
    assert isinstance(twin, pytest.Item)
    return twin


def read_all(fd: int, pid: int) -> bytes:
    """To the end of the pipe; a child that takes too long is killed."""
    data = b""
    while True:
        if not select.select([fd], [], [], SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
            return f"no end within {SECONDS} s".encode()
        chunk = os.read(fd, 65536)
        if not chunk:
            return data
        data += chunk


def failure(item: pytest.Item, text: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=text,
        when="call",
    )
