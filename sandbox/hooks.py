"""OCI hooks: programs of the host that are told about a container's life cycle.

All points run in the runtime's own namespaces, createContainer and startContainer too, for there is no way for a
program of the host to run inside the sandbox.
"""

from __future__ import annotations

import json
import os

from sandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from sandbox.spec import Hook


def run_hooks(point: str, hooks: Sequence[Hook], state: Mapping[str, Any]) -> None:
    """Run the hooks of one point, in order; `state` is the OCI state, given on stdin.

    Raises SandboxError at the first that fails.
    """
    for hook in hooks:
        _run(point, hook, json.dumps(state).encode())


def _run(point: str, hook: Hook, state: bytes) -> None:
    import subprocess  # most containers have no hooks, and this import takes as long as starting one takes elsewhere

    environment = dict(entry.partition("=")[::2] for entry in hook.env) if hook.env else dict(os.environ)
    try:
        done = subprocess.run(
            hook.args or [hook.path], executable=hook.path, env=environment, input=state, timeout=hook.timeout,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SandboxError(f"{point} hook {hook.path}: no end after {hook.timeout} s") from None
    except OSError as e:
        raise SandboxError(f"{point} hook {hook.path}: {e.strerror}") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [""]
        status = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        raise SandboxError(f"{point} hook {hook.path}: {status}" + (f": {lines[-1]}" if lines[-1] else ""))
