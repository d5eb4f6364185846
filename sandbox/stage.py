"""From an interpreter that has nothing of anybody's to a confined Sentry or gofer: the last code with privilege.

spawn.py starts it as `python -I ... sandbox.stage ROLE CONFIG_FD`, or nursery.py forks it; the configuration
(StageConfig) is JSON in a memfd.  Two processes:

    A  enters new namespaces, forks B, ends: B is now a child of the nearest subreaper
    B  pid 1 of the pid namespace: reports "pid <its pid>", enters the network namespace, imports what is not there yet,
       enters the empty root, drops privileges, loads the filter, and runs the Sentry or the gofer, which reports "ok"

Reports are lines on `report_fd`.  A line that is neither is the reason for a failure, and the last one; the traceback
goes to the log, which is stderr.  End of file without "ok" means that B died.

This is the only module outside sentry that imports sentry.boot, and the only one outside gofer that imports gofer.
"""

import faulthandler
import os
import sys
import traceback
from _signal import SIGKILL  # type: ignore[import-not-found]
from _socket import socket
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NoReturn

from proto import jsontext
from proto.ninep import codec
from proto.slotted import slotted
from sandbox import common_heap, confine, filters, hostcalls, network, rlimits

Config = dict[str, Any]
"""What spawn.StageConfig says, as it comes out of JSON."""


def main() -> NoReturn:
    """sys.argv: role, config fd."""
    role, config_fd = sys.argv[-2], int(sys.argv[-1])
    config = read_config(config_fd)
    try:
        close_others(config["keep_fds"])
        born = enter(set(config["namespaces"]) - {"network"})
    except BaseException as e:
        report_failure(config["report_fd"], e)
        _exit(1)
    run(role, config, born)


def read_config(fd: int) -> Config:
    """What spawn.py has written; closes fd."""
    with open(fd, encoding="utf-8", errors="surrogatepass") as f:
        config: Config = jsontext.loads(f.read())
    return config


def load(role: str) -> None:
    """Import what the role will need, in a process that will have no other."""
    if role == "gofer":
        from gofer import server

        server.prepare()
    else:
        import sentry.boot

        sentry.boot.load()


def preload() -> None:
    """Import all that either role will need; for whoever is going to be forked."""
    load("sentry")


def prepare() -> None:
    """As preload(), and make what each would otherwise make for itself: for one that will be forked many times."""
    import sentry.boot

    sentry.boot.prepare()
    codec.prepare()
    filters.compile_apart(ROLES)


@slotted
class Born:
    """What the second process knows of its birth."""

    pid: int
    """Its own, as its creator sees it."""
    own_pid: bool
    """Whether it has a pid namespace of its own."""
    leash: int = -1
    """The first process ends when this is closed; -1: it has."""

    def leave(self) -> None:
        """Become the subreaper's child, if it has not happened yet."""
        if self.leash >= 0:
            hostcalls.prctl(hostcalls.PR_SET_PDEATHSIG, 0)
            os.close(self.leash)
            self.leash = -1


def enter(kinds: Collection[str], at_once: bool = True) -> Born:
    """Steps A and B so far as they do not depend on the configuration; returns in B.

    `at_once`: whether A ends now.  Else it and B end with their creator, until B calls leave().
    """
    read_end, write_end = os.pipe()
    held, leash = (-1, -1) if at_once else os.pipe()
    namespaces = confine.enter(kinds)
    pid = os.fork()
    if pid:
        os.write(write_end, b"%d" % pid)
        if held >= 0:
            hostcalls.prctl(hostcalls.PR_SET_PDEATHSIG, SIGKILL)
            os.close(leash)
            os.read(held, 1)
        os._exit(0)
    if held >= 0:
        hostcalls.prctl(hostcalls.PR_SET_PDEATHSIG, SIGKILL)
        os.close(held)
    os.close(write_end)
    own = os.read(read_end, 32)
    os.close(read_end)
    if not own:
        raise RuntimeError("it was killed while it entered its namespaces")
    os.setsid()
    os.umask(0)
    rlimits.raise_limits()
    return Born(int(own), namespaces.own_pid, leash)


def run(role: str, config: Config, born: Born) -> NoReturn:
    """In B: become what the configuration says."""
    report_fd = config["report_fd"]
    try:
        os.write(report_fd, b"pid %d\n" % born.pid)
        serve = _second_process(role, config, born.own_pid)
    except BaseException as e:
        report_failure(report_fd, e)
        _exit(1)
    _exit(_guarded(serve))


def _guarded(run: Callable[[], int]) -> int:
    """From here on whoever runs reports for itself: report_fd may have been closed and its number used again."""
    try:
        return run()
    except BaseException as e:
        traceback.print_exception(e)
        return 1


def _exit(status: int) -> NoReturn:
    """Without the interpreter's clean-up, which takes longer than the kernel's and finds nothing to do."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
    os._exit(status)


def report_failure(report_fd: int, error: BaseException) -> None:
    """The reason to the starter, the traceback to the log."""
    traceback.print_exception(error)
    text = str(error) or type(error).__name__
    if not isinstance(error, (OSError, RuntimeError)):
        text = f"{type(error).__name__}: {text}"
    try:
        os.write(report_fd, text.partition("\n")[0].encode("utf-8", "replace")[:4000] + b"\n")
    except OSError:
        pass  # nobody listens any more: the log has it


def close_others(keep: Sequence[int]) -> None:
    """Whatever the creator let slip must not reach a process that the container may take over."""
    first = 3
    for fd in sorted(keep):
        os.set_inheritable(fd, False)
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX") + first)


def _second_process(role: str, config: Config, own_pid: bool) -> Callable[[], int]:
    hostcalls.set_name(f"pysc-{role}")
    faulthandler.enable()  # a crash in a C core then leaves the Python frames in the log
    if config["oom_score_adj"] is not None:
        rlimits.set_oom_score_adj(config["oom_score_adj"])
    _enter_network(config)
    return ROLES[role](config, own_pid)


def _enter_network(config: Config) -> None:
    host_network = network.namespace_inode()
    confine.enter_network("network" in config["namespaces"], config["network_path"])
    if network.namespace_inode() != host_network:
        network.bring_up_loopback()
        network.open_to_unprivileged()
        network.set_sysctls(config["sysctl"])


def confine_as(role: str, config: Config, own_pid: bool) -> int:
    """Empty root, privileges, filter.  Returns the descriptor of /proc."""
    filters.compiled(role, config["debug"])  # while its libraries can be loaded
    proc_fd = confine.enter_empty_root(own_pid)
    is_sentry = role == "sentry"
    # The Sentry's children are born traceable by it only if it is itself; nobody else of its user sees its pids.
    confine.drop_privileges(config["capabilities"], become_nobody=is_sentry, dumpable=is_sentry)
    filters.load(role, {"proc_fd": proc_fd}, config["debug"])
    return proc_fd


def prepare_sentry(config: Config, own_pid: bool) -> Callable[[], int]:
    from sentry import boot

    boot.preload(config["boot"])
    proc_fd = confine_as("sentry", config, own_pid)
    boot_config = {**config["boot"], "proc_fd": proc_fd}
    return lambda: boot.main(boot_config, common_heap.PATIENCE_S, common_heap.go_back)


def prepare_gofer(config: Config, own_pid: bool) -> Callable[[], int]:
    from gofer import server

    mounts = [(socket(fileno=fd), root_fd, readonly) for fd, root_fd, readonly in config["mounts"]]
    for sock, _, _ in mounts:
        server.limit_patience(sock, common_heap.PATIENCE_S)
    proc_fd = confine_as("gofer", config, own_pid)

    os.write(config["report_fd"], b"ok\n")
    os.close(config["report_fd"])
    return lambda: server.serve(mounts, proc_fd, common_heap.PATIENCE_S, common_heap.go_back)


ROLES: Final[dict[str, Callable[[Config, bool], Callable[[], int]]]] = {
    "sentry": prepare_sentry,
    "gofer": prepare_gofer,
}
"""Each confines this process and returns what is then to run; its result is the exit status."""
