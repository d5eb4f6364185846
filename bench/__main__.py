"""Runs the benchmarks: every runtime in turn, round after round; prints the medians.

The defaults are for `make bench`; --only, --runtimes, --rows and --rounds narrow it down for work on one thing:

    python -m bench --only micro --runtimes native,pysc-ptrace,runsc-ptrace --rows getpid,stat --rounds 5
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType

from bench import runtimes
from bench.ground import Ground
from bench.micro import Micro
from bench.runtimes import Runtime
from bench.stats import Results
from bench.table import MICRO

PROBE_SECONDS = 15


def main(argv: list[str]) -> int:
    args = parse_args(argv)
    if os.geteuid() != 0:
        print("bench: containers of all these runtimes need root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, interrupted)
    try:
        with Ground() as ground:
            return bench(args, ground)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


def parse_args(argv: list[str]) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", type=names, default=[], metavar="SECTION,...", help="these sections")
    parser.add_argument("--runtimes", type=names, default=[], metavar="NAME,...", help="these runtimes")
    parser.add_argument("--rows", type=names, default=[], metavar="ROW,...", help="these rows")
    parser.add_argument("--rounds", type=int, default=0, help="as many rounds of every section")
    parser.add_argument("--runsc", action="append", default=[], metavar="PROGRAM", help="a runsc besides PATH's")
    return parser.parse_args(argv)


def interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def bench(args: argparse.Namespace, ground: Ground) -> int:
    chosen = find_runtimes(args, ground)
    rows = [row.name for row in MICRO.rows if not args.rows or row.name in args.rows]
    micro = Micro(ground, rows, 40 if args.quick else 80)
    results = Results()
    for _ in range(args.rounds or 3):
        for runtime in chosen:
            results.add(MICRO.name, runtime.name, micro.measure(runtime))
    for row in rows:
        cells = [f"{results.summary('micro', row, r.name)!s:>12.12}" for r in chosen]
        ratios = [f"{results.ratio('micro', row, r.name, 'native') or 0:7.2f}" for r in chosen]
        print(f"{row:16}", *(part for pair in zip(cells, ratios) for part in pair))
    return 0


def find_runtimes(args: argparse.Namespace, ground: Ground) -> list[Runtime]:
    """Those that run `true`; the first of each name."""
    found: dict[str, Runtime] = {}
    for candidate in runtimes.candidates(args.runsc):
        if candidate.name in found or (args.runtimes and candidate.name not in args.runtimes):
            continue
        outcome = ground.run(candidate, ground.small, ["true"], PROBE_SECONDS)
        if outcome.status == 0:
            found[candidate.name] = candidate
        else:
            print(f"bench: without {candidate.name}: {outcome.reason()}", file=sys.stderr)
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
