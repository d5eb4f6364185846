"""Entry point of containerd-shim-pysc-v1: reads the flags and picks the action.

containerd runs `start` and `delete` once for every container and waits for both, so nothing is imported here before
it is known to be needed.  The serving process is forked by `start` or by the warm parent and never goes through here.
"""

import os
import sys

from shim.flags import Flags, UsageError, parse


def entry() -> None:
    """The process's program.  It ends without the interpreter's clean-up, which takes longer than most of our work."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Run one action; the process's exit status."""
    try:
        flags = parse(sys.argv[1:] if arguments is None else arguments)
        return _run(flags)
    except (UsageError, OSError) as e:
        print(f"containerd-shim-pysc-v1: {e}", file=sys.stderr)
        return 1


def _run(flags: Flags) -> int:
    if flags.version or flags.info:
        from shim import info

        return info.print_info() if flags.info else info.print_version()
    if not flags.namespace:
        raise UsageError("the flag -namespace is missing")
    if not flags.id:
        raise UsageError("the flag -id is missing")
    if flags.action == "start":
        from shim import warm_client

        return warm_client.run(flags)
    if flags.action == "delete":
        from shim import delete

        return delete.run(flags)
    raise UsageError(f"unknown action {flags.action!r}: expected start or delete")


if __name__ == "__main__":
    entry()
