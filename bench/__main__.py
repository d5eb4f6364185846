"""Runs the benchmarks: every runtime in turn, round after round; prints the medians and what misses its limit.

The defaults are for `make bench`; --only, --runtimes, --rows and --rounds narrow it down for work on one thing:

    python -m bench --only micro --runtimes native,pysc-ptrace,runsc-ptrace --rows getpid,stat --rounds 5

The record (JSON) and the picture (SVG) go to .cache/bench/last; with --write also to bench/results and docs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from bench import machine, plan, report, runtimes
from bench.containerd import Containerd
from bench.ground import Ground
from bench.memory import Memory
from bench.micro import Micro
from bench.picture import picture
from bench.plan import Scale, Step
from bench.programs import Programs
from bench.runtimes import PROJECT, Runtime
from bench.startup import Startup
from bench.stats import Results
from bench.table import MEMORY, MICRO, OURS, PROGRAMS, SECTIONS, STARTUP, Section
from tests.slowness import SLOWNESS

PROBE_SECONDS = 15 * SLOWNESS
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST = PROJECT / ".cache" / "bench" / "last"
RECORD = PROJECT / "bench" / "results" / "latest.json"
DOCUMENT = PROJECT / "docs" / "performance.md"
PICTURE = PROJECT / "docs" / "performance.svg"


def main(argv: list[str]) -> int:
    args = parse_args(argv)
    if args.render:
        publish(json.loads(args.render.read_text()), args.write)
        return 0
    if os.geteuid() != 0:
        print("bench: containers of all these runtimes need root", file=sys.stderr)
        return 1
    for number in ENDING:
        signal.signal(number, interrupted)
    try:
        with ExitStack() as stack:
            record = bench(args, stack)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    publish(record, args.write)
    if args.record:
        args.record.write_text(as_json(record))
    return 0


def parse_args(argv: list[str]) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    sections = ", ".join(section.name for section in SECTIONS)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, few pods")
    parser.add_argument("--only", type=names, default=[], metavar="SECTION,...", help=f"of {sections}")
    parser.add_argument("--runtimes", type=names, default=[], metavar="NAME,...", help="these runtimes")
    parser.add_argument("--rows", type=names, default=[], metavar="ROW,...", help="of micro and programs: these rows")
    parser.add_argument("--rounds", type=int, default=0, help="as many rounds of every section")
    parser.add_argument("--runsc", action="append", default=[], metavar="PROGRAM", help="a runsc besides PATH's")
    parser.add_argument("--write", action="store_true", help=f"also into {RECORD.parent.name}/ and docs/")
    parser.add_argument("--record", type=Path, metavar="JSON", help="save the record there too")
    parser.add_argument("--render", type=Path, metavar="JSON", help="measure nothing, show this record")
    return parser.parse_args(argv)


def interrupted(number: int, frame: FrameType | None) -> None:
    """The first signal ends the benchmark; cleaning up, which has time limits of its own, is not to be disturbed."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def bench(args: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    ground = stack.enter_context(Ground())
    chosen, left_out = find_runtimes(args, ground)
    where = machine.describe(chosen, load_before)
    results = Results()
    plan.run(steps(args, chosen, ground, stack), results)
    return {"machine": where, "left_out": left_out, "results": results.to_json()}


def find_runtimes(args: argparse.Namespace, ground: Ground) -> tuple[list[Runtime], dict[str, str]]:
    """Those that run `true`, the first of each name; and why others do not."""
    found: dict[str, Runtime] = {}
    left_out: dict[str, str] = {}
    for candidate in runtimes.candidates(args.runsc):
        if candidate.name in found or (args.runtimes and candidate.name not in args.runtimes):
            continue
        if not args.runtimes and (reason := runtimes.too_slow(candidate.name)):
            left_out[candidate.name] = reason
            continue
        outcome = ground.run(candidate, ground.small, ["true"], PROBE_SECONDS)
        if outcome.status == 0:
            found[candidate.name] = candidate
        else:
            left_out[candidate.name] = outcome.reason()
            plan.say(f"without {candidate.name}: {outcome.reason()}")
    refused = {f"{OURS}{name}": reason for name, reason in runtimes.our_platforms().items() if reason}
    return list(found.values()), {name: why for name, why in (left_out | refused).items() if name not in found}


def steps(args: argparse.Namespace, chosen: list[Runtime], ground: Ground, stack: ExitStack) -> list[Step]:
    """What the arguments ask for.  What a section needs, a daemon or a Debian root, is made when it is its turn."""
    scale: Scale = plan.QUICK if args.quick else plan.FULL
    containers = [runtime for runtime in chosen if not runtime.is_native]

    def rows_of(section: Section) -> list[str]:
        return [row.name for row in section.rows if not args.rows or row.name in args.rows]

    def new_daemon() -> Containerd:
        return Containerd(ground.small, containers)

    @cache
    def containerd() -> Containerd:
        return stack.enter_context(closing(new_daemon()))

    def step(section: Section, prepare: Any, on: list[Runtime]) -> Step:
        return Step(section, prepare, on, args.rounds or scale.rounds[section.name])

    every = [
        step(MICRO, lambda: Micro(ground, rows_of(MICRO), scale.row_ms), chosen),
        step(STARTUP, lambda: Startup(ground, containerd(), scale.startup_times), containers),
        step(PROGRAMS, lambda: Programs(ground, rows_of(PROGRAMS), scale.program_seconds), chosen),
        step(MEMORY, lambda: Memory(new_daemon, scale.few_pods, scale.many_pods), containers),
    ]
    return [each for each in every if not args.only or each.section.name in args.only]


def publish(record: dict[str, Any], write: bool) -> None:
    """Prints it and keeps it; with `write` in the repository too."""
    print(report.printed(record))
    save(record, LAST / "latest.json", LAST / "performance.svg")
    if write:
        save(record, RECORD, PICTURE)
        DOCUMENT.write_text(report.insert(DOCUMENT.read_text(), report.markdown(record)))


def save(record: dict[str, Any], json_path: Path, svg_path: Path) -> None:
    json_path.parent.mkdir(parents=True, exist_ok=True)
    json_path.write_text(as_json(record))
    svg_path.write_text(picture(record))


def as_json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
