"""The micro-benchmark itself, natively with tiny counts, and what is read from its output."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench.ground import Outcome, build
from bench.micro import complete, parse
from bench.table import MICRO

NAMES = [row.name for row in MICRO.rows]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("micro") / "micro")


def lines_of(*command: object) -> list[str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_program_has_the_rows_of_the_table(program: Path):
    assert sorted(lines_of(program, "list")) == sorted(NAMES)


@pytest.mark.slow
def test_every_row_runs_on_linux(program: Path, tmp_path: Path):
    output = "\n".join(lines_of(program, tmp_path, 1))
    values = parse(output)
    assert sorted(values) == sorted(NAMES)
    assert [row for row, value in values.items() if isinstance(value, str) or value <= 0] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_rows_can_be_chosen(program: Path, tmp_path: Path):
    assert list(parse("\n".join(lines_of(program, tmp_path, 1, "stat", "getpid")))) == ["getpid", "stat"]


@pytest.mark.slow
def test_a_row_that_fails_names_the_call_and_the_error(program: Path, tmp_path: Path):
    limited = ["sh", "-c", 'ulimit -n 3; exec "$@"', "sh"]
    assert parse("\n".join(lines_of(*limited, program, tmp_path, 1, "pipe")))["pipe"] == "pipe: EMFILE"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "error"), [("exit 3", "exit status 3"), ("kill -9 $$", "killed by SIGKILL"), ("exit 0", None)]
)
def test_a_timed_command_tells_how_it_ended(program: Path, script: str, error: str | None):
    record = json.loads(lines_of(program, "time", "name", "sh", "-c", f"echo dropped; {script}")[0])
    assert record.get("error") == error
    assert error is not None or record["ns"] > 0


def test_other_lines_are_passed_over():
    output = 'warning: x\n{"row": "stat", "ns": 12.5, "n": 3}\n{"row": "tcp", "error": "socket: EPERM"}\n{"row": "cut'
    assert parse(output) == {"stat": 12.5, "tcp": "socket: EPERM"}


def test_rows_that_printed_nothing_have_the_reason_of_the_end():
    hung = Outcome(None, "", 60.0)
    assert complete({"getpid": 1.0}, ["getpid", "stat"], hung) == {"getpid": 1.0, "stat": "no end within its time"}


def test_the_reason_is_the_last_line_that_is_no_result():
    outcome = Outcome(128, '{"row": "stat", "ns": 12.5, "n": 3}\nstarting\nFATAL: no memory\n', 1.0)
    assert outcome.reason() == "exit status 128: FATAL: no memory"
