"""pysc run and create: a container from an OCI bundle."""

from __future__ import annotations

import os
from contextlib import ExitStack

from cli.args import Command, Flag, UsageError, Values, ignored
from cli.attach import OWN_STREAMS, check_console, send_console, write_pid_file
from cli.options import sandbox_options, state_root
from sandbox.console import open_console, window_size
from sandbox.sandbox import Options, Sandbox, Stdio
from sandbox.spec import Spec, load_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _bundle(values: Values) -> str:
    return os.path.abspath(values["bundle"] or ".")


def _create(flags: Values, values: Values, words: list[str]) -> int:
    _create_detached(flags, values, words[0])
    return 0


def _create_detached(flags: Values, values: Values, container_id: str) -> Sandbox:
    bundle = _bundle(values)
    spec = load_spec(bundle)
    check_console(spec.terminal, values["console-socket"], detached=True)
    with ExitStack() as cleanup:
        stdio, master = OWN_STREAMS, None
        if spec.terminal:
            master, slave = open_console(spec.console_size)
            cleanup.callback(os.close, master)
            cleanup.callback(os.close, slave)
            stdio = Stdio(console=slave)
        options = sandbox_options(flags, container_id, spec.annotations, foreground=False)
        sandbox = _made(state_root(flags), container_id, spec, options, stdio)
        undo = cleanup.enter_context(ExitStack())
        undo.callback(sandbox.destroy)
        if master is not None:
            send_console(values["console-socket"], master)
        if values["pid-file"]:
            write_pid_file(values["pid-file"], sandbox.pid)
        undo.pop_all()
    return sandbox


def _made(root: str, container_id: str, spec: Spec, options: Options, stdio: Stdio) -> Sandbox:
    try:
        return Sandbox.create(root, container_id, spec.bundle, spec, options, stdio)
    finally:
        if options.nursery is not None:
            options.nursery.close()


def _run(flags: Values, values: Values, words: list[str]) -> int:
    if values["detach"]:
        sandbox = _create_detached(flags, values, words[0])
        try:
            sandbox.start()
        except BaseException:
            sandbox.destroy()
            raise
        return 0
    bundle = _bundle(values)
    spec = load_spec(bundle)
    if values["console-socket"]:
        raise UsageError("run: --console-socket needs --detach")

    def created(sandbox: Sandbox) -> None:
        if values["pid-file"]:
            write_pid_file(values["pid-file"], sandbox.pid)

    return run_foreground(flags, words[0], spec, created, keep=values["keep"])


def run_foreground(
    flags: Values, container_id: str, spec: Spec, created: Callable[[Sandbox], None], keep: bool = False
) -> int:
    """Create, start, stay until the end, take away; returns the container's exit status."""
    from cli.foreground import flush_output, supervise
    from sandbox import hostcalls

    # Sentry and gofer come back to us when their creator has gone: nobody else might reap them.
    hostcalls.prctl(hostcalls.PR_SET_CHILD_SUBREAPER, 1)
    flush_output()
    with ExitStack() as cleanup:
        stdio, master, slave = OWN_STREAMS, None, None
        if spec.terminal:
            master, slave = open_console(window_size(0) or spec.console_size)
            cleanup.callback(os.close, master)
            stdio = Stdio(console=slave)
        options = sandbox_options(flags, container_id, spec.annotations, foreground=True)
        try:
            sandbox = _made(state_root(flags), container_id, spec, options, stdio)
        finally:
            if slave is not None:
                os.close(slave)
        # In any case while we cannot know that it ended well; afterwards only if it is not to be kept.
        undo = cleanup.enter_context(ExitStack())
        undo.callback(sandbox.destroy)
        created(sandbox)
        status = supervise(sandbox, console=master, start=True)
        if keep:
            undo.pop_all()
    return status


_IGNORED = (
    *ignored("no-pivot", "no-new-keyring", "no-subreaper", "no-mount-fallback", "file-locks"),
    *ignored("preserve-fds", kind=int),
    *ignored("pidfd-socket", "user-log", "process-label", "apparmor", kind=str),
)
_CREATE_FLAGS = (
    Flag("bundle", "folder with config.json (default: here)", str, short="b", value="DIR"),
    Flag("pid-file", "write the host pid of the container's sandbox there", str, value="FILE"),
    Flag("console-socket", "unix socket that gets the terminal", str, value="PATH"),
)

COMMANDS = (
    Command(
        "run", "ID", "Create and start a container, wait for its end and remove it.", _run,
        (*_CREATE_FLAGS, Flag("detach", "do not wait", short="d"),
         Flag("keep", "do not remove it at the end"), *_IGNORED), (1, 1),
    ),
    Command(
        "create", "ID", "Create a container, ready to start.", _create, (*_CREATE_FLAGS, *_IGNORED), (1, 1),
    ),
)  # fmt: skip
