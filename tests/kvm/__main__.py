"""python -m tests.kvm [--seconds N] [--env NAME=VALUE] COMMAND...

Runs the command in the machine, in this checkout's folder, and ends with its status.
"""

from __future__ import annotations

import argparse
import sys

from tests.kvm.command import finish, to_stdout
from tests.kvm.machine import run


def main() -> int:
    description = "Runs a command in the machine with software SVM."
    parser = argparse.ArgumentParser(prog="python -m tests.kvm", description=description)
    parser.add_argument("--seconds", type=float, default=600, help="time limit, boot included (default: 600)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="an environment variable")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run; a shell's words go in sh -c '...'")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("what is to be run?")
    environment = dict(variable.split("=", 1) for variable in arguments.env)
    return finish(lambda: run(arguments.command, arguments.seconds, to_stdout, environment))


if __name__ == "__main__":
    sys.exit(main())
