"""System calls on the kvm platforms, ours and runsc's, in the machine with software SVM (tests/kvm).

The times are those of an emulated processor, on which an instruction takes tens of times as long as on a real one and
a switch between host and guest thousands of times: only ratios between the columns of one run mean anything.

    python -m bench.emulated [--rounds N] [--rows ROW,...] [--runtimes NAME,...] [--write]

The record goes to .cache/bench/last/kvm.json; with --write also to bench/results and into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.report import MISSING, as_markdown, as_text, digits, insert, quantity, reasons, runtimes_markdown
from bench.runtimes import PROJECT
from bench.stats import Results
from bench.table import MICRO, NATIVE, Row
from tests.kvm import suite, xcr0
from tests.kvm.command import finish, to_stdout
from tests.kvm.machine import FOLDER_VARIABLE, run
from tests.slowness import VARIABLE

RUNTIMES = "native,pysc-kvm,pysc-systrap,runsc-kvm,runsc-ptrace"
ROWS = "getpid,clock_gettime,pread_4k,fstat,stat,mmap_munmap,page_fault,fork_exit,fork_exec,futex_pong,signal"
OURS, RIVAL = "pysc-kvm", "runsc-kvm"
RECORD = "kvm.json"
LAST = PROJECT / ".cache" / "bench" / "last" / RECORD
KEPT = PROJECT / "bench" / "results" / RECORD
DOCUMENT = PROJECT / "docs" / "performance.md"
BEGIN = "<!-- results: written by make bench-kvm -->"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.emulated", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=ROWS, metavar="ROW,...")
    parser.add_argument("--runtimes", default=RUNTIMES, metavar="NAME,...")
    parser.add_argument("--seconds", type=float, default=3600, help="time limit for all of it (default: 3600)")
    parser.add_argument("--write", action="store_true", help=f"also into {KEPT.parent.name}/ and docs/")
    args = parser.parse_args(argv)
    return finish(lambda: measure(args))


def measure(args: argparse.Namespace) -> int:
    """Runs the benchmark in the machine and shows what it recorded."""
    suite.prepare()
    LAST.parent.mkdir(parents=True, exist_ok=True)
    LAST.unlink(missing_ok=True)
    what = ["--only", MICRO.name, "--runtimes", args.runtimes, "--rows", args.rows, "--rounds", str(args.rounds)]
    script = f'exec "$@" --record "${FOLDER_VARIABLE}/{RECORD}" >/dev/null'
    status = run(
        ["sh", "-c", script, "bench", sys.executable, "-m", "bench", *what],
        args.seconds,
        to_stdout,
        {VARIABLE: str(suite.SLOWNESS)},
        keep=keep,
        modules={"kvm": xcr0.with_all_features},
    )
    if status == 0:
        publish(json.loads(LAST.read_text()), args.write)
    return status


def keep(folder: Path) -> None:
    if (folder / RECORD).exists():
        LAST.write_text((folder / RECORD).read_text())


def publish(record: dict[str, Any], write: bool) -> None:
    results, runtimes = Results.from_json(record["results"]), list(record["machine"]["runtimes"])
    print(as_text(table(results, runtimes)))
    for line in notes(record, results, runtimes):
        print(line)
    if write:
        KEPT.write_text(LAST.read_text())
        DOCUMENT.write_text(insert(DOCUMENT.read_text(), markdown(record), BEGIN))


def table(results: Results, runtimes: list[str]) -> list[list[str]]:
    """Times, each with its ratio to native, and last what matters: ours in terms of runsc's."""
    rows = [row for row in MICRO.rows if row.name in results.rows(MICRO.name)]
    header = ["Emulated", *runtimes, f"{OURS} / {RIVAL}"]
    body = [[row.title, *(cell(results, row, name) for name in runtimes), versus(results, row)] for row in rows]
    return [header, *body]


def cell(results: Results, row: Row, runtime: str) -> str:
    value = results.summary(MICRO.name, row.name, runtime)
    ratio = results.ratio(MICRO.name, row.name, runtime, NATIVE)
    if value is None or isinstance(value, str):
        return MISSING
    text = quantity(value, MICRO.unit)
    return text if ratio is None or runtime == NATIVE else f"{text} ×{digits(ratio)}"


def versus(results: Results, row: Row) -> str:
    ratio = results.ratio(MICRO.name, row.name, OURS, RIVAL)
    return MISSING if ratio is None else f"×{digits(ratio)}"


def notes(record: dict[str, Any], results: Results, runtimes: list[str]) -> list[str]:
    left_out = [f"without {name}: {reason}" for name, reason in record["left_out"].items()]
    return [f"{MISSING} {line}" for line in reasons(results, MICRO, runtimes)] + left_out


def markdown(record: dict[str, Any]) -> str:
    """What stands between the markers in docs/performance.md."""
    machine = record["machine"]
    results, runtimes = Results.from_json(record["results"]), list(machine["runtimes"])
    where = f"{machine['date']}, commit {machine['commit']}: {machine['cpus']} CPUs, Linux {machine['kernel']}."
    without = [f"- {line}" for line in reasons(results, MICRO, runtimes)]
    parts = [where, runtimes_markdown(record), as_markdown(table(results, runtimes))]
    return "\n\n".join([*parts, "\n".join(without)] if without else parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
