"""How an error reaches the user and the container engine: one line on stderr, one record in --log.

The log's format is that of runc, whose last error record is what containerd, podman and Docker show.
"""

import os
import sys
import time

from cli.args import Values
from proto import jsontext


def report(flags: Values, message: str, with_traceback: bool) -> None:
    """Say it once, in one line; a traceback goes to the log only."""
    line = " ".join(message.split())
    print(f"pysc: {line}", file=sys.stderr)
    if flags["log"]:
        if with_traceback:
            import traceback

            _append(flags, "debug", traceback.format_exc())
        _append(flags, "error", line)


def warn(flags: Values, message: str) -> None:
    """Something does not work as asked, but we carry on."""
    print(f"pysc: warning: {message}", file=sys.stderr)
    if flags["log"]:
        _append(flags, "warning", message)


def _append(flags: Values, level: str, message: str) -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09d}Z"
    if flags["log-format"] == "json":
        text = jsontext.dumps({"level": level, "msg": message, "time": stamp})
    else:
        text = f'time="{stamp}" level={level} msg={jsontext.dumps(message)}'
    try:
        fd = os.open(flags["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as e:
        print(f"pysc: cannot open {flags['log']}: {e.strerror}", file=sys.stderr)
        return
    with open(fd, "w") as f:
        f.write(text + "\n")
