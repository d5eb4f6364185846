"""python -m sentry.syscalls: print the system call table."""

from __future__ import annotations

import argparse
import sys

from sentry.syscalls.listing import FORMATS, rows


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sentry.syscalls", description="Print the system call table.")
    parser.add_argument("--format", choices=FORMATS, default="table")
    chosen = parser.parse_args(arguments).format
    sys.stdout.write(FORMATS[chosen](rows()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
