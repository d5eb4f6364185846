"""The making of a container, step by step: folder, cgroup, Sentry, gofer, hooks, the container in the Sentry.

A further container of a pod finds the Sentry there; else the gofer and the Sentry start side by side.  The record on
disk grows with each step; when one fails, or the creator is interrupted, what it lists is taken away again.
"""

from __future__ import annotations

import os
import time
from _socket import AF_UNIX, SOCK_STREAM, socket, socketpair
from contextlib import ExitStack, closing

from proto import control
from proto.control import BootConfig, CreateContainer, Mount, gofer_role
from sandbox import confine, mounts, pod, rlimits, spawn, state
from sandbox.cgroups import Cgroup, relative_path
from sandbox.errors import InvalidSpec, SandboxError
from sandbox.sandbox import START_TIMEOUT, Options, Sandbox, Stdio
from sandbox.spec import Resources, Spec, SpecMount
from sandbox.state import ContainerRecord, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from _typeshed import StrPath

MAX_DONATED = 253
"""SCM_MAX_FD: what one message can carry."""

_BACKLOG = 128


def launch(root: StrPath, sandbox_id: str, bundle: StrPath, spec: Spec, options: Options, stdio: Stdio) -> Sandbox:
    """A sandbox with its root container: see Sandbox.create."""
    directory = state.make_directory(root, sandbox_id)
    container = ContainerRecord(sandbox_id, os.fspath(bundle), spec.version, spec.terminal, spec.annotations)
    record = Record(sandbox_id, sandbox_id, None, options.exit_with_init, _described(options), container)
    sandbox = Sandbox(directory, record)
    _run(sandbox, lambda resources: _SandboxLaunch(sandbox, container, spec, options, stdio, resources))
    return sandbox


def join(
    root: StrPath, sandbox_id: str, container_id: str, bundle: StrPath, spec: Spec, options: Options, stdio: Stdio
) -> Sandbox:  # fmt: skip
    """A further container in a sandbox that is there: see Sandbox.create.

    Of the options only those about the container count; the others are the sandbox's.
    """
    pod_sandbox = pod.find(root, sandbox_id)
    directory = state.make_directory(root, container_id)
    container = ContainerRecord(container_id, os.fspath(bundle), spec.version, spec.terminal, spec.annotations)
    home = pod_sandbox.record
    record = Record(container_id, sandbox_id, home.sentry, home.exit_with_init, home.options, container)
    sandbox = Sandbox(directory, record)
    options = _as_created(home.options, options)
    _run(sandbox, lambda resources: _Joining(pod_sandbox, sandbox, container, spec, options, stdio, resources))
    return sandbox


def _run(sandbox: Sandbox, make: Callable[[ExitStack], _Launch]) -> None:
    """Under the container's lock; on failure all is undone."""
    with state.locked(sandbox.directory), ExitStack() as resources:
        try:
            make(resources).run()
        except BaseException as e:
            resources.close()
            _undo(sandbox)
            if isinstance(e, OSError):
                raise SandboxError(f"cannot create container {sandbox.id}: {e}") from e
            raise


def _undo(sandbox: Sandbox) -> None:
    """The first error is what the caller must hear of, not one from tidying up."""
    try:
        sandbox.destroy_locked()
    except SandboxError:
        pass


def _described(options: Options) -> dict[str, Any]:
    return {
        "platform": options.platform,
        "debug": options.debug,
        "strace": options.strace,
        "overlay": options.overlay,
        "log": str(options.log) if options.log else None,
    }


def _as_created(sandbox: dict[str, Any], options: Options) -> Options:
    """The options for a further container, of which the sandbox was told most when it was created."""
    log = sandbox.get("log")
    return options.replaced(
        debug=bool(sandbox.get("debug")),
        overlay=str(sandbox.get("overlay", options.overlay)),
        log=log or None,
    )


class _Launch:
    """The making of one container; `resources` closes, at the end or on failure, what only that needs."""

    def __init__(
        self, sandbox: Sandbox, container: ContainerRecord, spec: Spec, options: Options, stdio: Stdio,
        resources: ExitStack,
    ) -> None:  # fmt: skip
        self.sandbox = sandbox
        self.container = container
        self.spec = spec
        self.options = options
        self.stdio = stdio
        self.resources = resources
        self.namespaces: dict[str, str] = {}
        self.when_it_died = "the sandbox died while it made the container"
        self.log_fd = self._own(_open_log(sandbox.home, options))

    def run(self) -> None:
        self._make_cgroup()
        self._save()
        self._start_sandbox()  # first, for it takes longer
        mount_list, connections, gofer = self._start_gofer()
        self.container.gofer = gofer.wait_ready()
        self._finish_sandbox()
        self._save()
        deputy = self._start_deputy()
        self._save()
        self._run_create_hooks()
        self._create_container(mount_list, connections, deputy)
        self.container.created_ns = time.time_ns()
        self._save()

    def _start_sandbox(self) -> None:
        """Begin to make what the container is to be in."""

    def _finish_sandbox(self) -> None:
        """Wait for that."""

    def _start_deputy(self) -> int | None:
        """The Sentry's end of its socket; None where nobody wants one."""
        sentry = self.sandbox.record.sentry
        if not self.options.exit_with_init or sentry is None:
            return None
        from sandbox import deputy

        files = self.container.cgroup.open_procs() if self.container.cgroup else []
        try:
            self.container.deputy, connection = deputy.start(self.container.id, files, sentry)
        finally:
            for fd in files:
                os.close(fd)
        self._own(connection)
        if self.spec.oom_score_adj is not None:
            rlimits.set_oom_score_adj(self.spec.oom_score_adj, self.container.deputy.pid)
        return connection

    def _own(self, fd: int) -> int:
        self.resources.callback(os.close, fd)
        return fd

    def _save(self) -> None:
        state.save(self.sandbox.directory, self.sandbox.record)

    def _make_cgroup(self) -> None:
        if self.options.ignore_cgroups:
            return
        path = relative_path(self.spec.cgroups_path, self.container.id, self.options.systemd_cgroup)
        self.container.resources = self.spec.resources
        cgroup = None
        try:
            cgroup = Cgroup.create(path, self.spec.resources, self._announce_cgroup)
        except OSError as e:
            # Without root there often is no cgroup to be had; that matters only if one was asked for.
            is_root = os.geteuid() == 0 and confine.in_initial_user_namespace()
            if is_root or self.spec.resources != Resources():
                raise SandboxError(f"cannot set up the cgroup: {e}") from None
        finally:
            self.container.cgroup = cgroup

    def _announce_cgroup(self, planned: Cgroup) -> None:
        self.container.cgroup = planned
        self._save()

    def _start_gofer(self) -> tuple[list[Mount], list[int], spawn.Starting]:
        """The container's mounts, our ends of the connections that serve them, and the gofer on its way."""
        mount_list: list[Mount] = []
        served: list[tuple[int, int, bool]] = []
        connections: list[int] = []
        with ExitStack() as given:  # if we kept the gofer's ends, the Sentry would not notice that it has died
            for mount in all_mounts(self.spec):
                entry = Mount(mount.destination, mount.type or "bind", mount.source, mount.options)
                mount_list.append(entry)
                if mount.is_bind:
                    tree = self._open_tree(mount)
                    given.callback(os.close, tree)
                    entry.gofer, entry.device = len(served), os.fstat(tree).st_dev
                    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
                    connections.append(self._own(ours.detach()))
                    given.callback(theirs.close)
                    served.append((theirs.fileno(), tree, mount.is_readonly))
            starting = spawn.start_gofer(
                self.container.id, served, self.log_fd, list(confine.GOFER_CAPABILITIES), self.options.debug,
                self.options.nursery,
            )  # fmt: skip
        self.resources.callback(self._abort, starting)
        return mount_list, connections, starting

    def _open_tree(self, mount: SpecMount) -> int:
        if mount.destination == "/" and self.options.overlay == "memory" and not mount.is_readonly:
            from sandbox.overlay import open_overlay

            return open_overlay(mount.source, memory_size(self.spec.resources))
        return mounts.open_root(mount.source, mount.is_recursive, mount.is_readonly)

    def _abort(self, starting: spawn.Starting) -> None:
        """End a process that is not in the record yet; those that are, destroy_locked ends."""
        recorded = (self.container.gofer, self.sandbox.record.sentry)
        if starting.process is None or starting.process not in recorded:
            starting.abort()

    def _run_create_hooks(self) -> None:
        if not any(self.spec.hooks.values()):
            return
        # From here on poststop is due, whatever happens: the record says so.
        later = ("startContainer", "poststart", "poststop")
        first = ("prestart", "createRuntime", "createContainer")
        self.container.hooks = {point: self.spec.hooks[point] for point in later if self.spec.hooks[point]}
        self._save()
        for point in first:
            if self.spec.hooks[point]:
                from sandbox.hooks import run_hooks

                run_hooks(point, self.spec.hooks[point], self.sandbox.oci_state("creating"))

    def _create_container(self, mount_list: list[Mount], connections: Sequence[int], deputy: int | None) -> None:
        roles, fds = self.stdio.donated()
        roles += [gofer_role(i) for i in range(len(connections))]
        fds += connections
        if deputy is not None:
            roles.append(control.DEPUTY)
            fds.append(deputy)
        if self.container.cgroup:
            procs = [self._own(fd) for fd in self.container.cgroup.open_procs()]
            roles += [control.CGROUP] * len(procs)
            fds += procs
        if len(fds) > MAX_DONATED:
            raise InvalidSpec(f"too many bind mounts: {len(connections)}")
        request = CreateContainer(self.container.id, self.spec.raw, mount_list, self.spec.terminal, roles)
        request.namespaces = self.namespaces
        request.ncpus, request.total_ram = cpu_count(self.spec.resources), memory_size(self.spec.resources)
        try:
            self.sandbox.call("CreateContainer", request, control.Empty, START_TIMEOUT, fds)
        except SandboxError:
            if self.sandbox.has_died(0.0):
                raise SandboxError(self.when_it_died) from None
            raise


class _SandboxLaunch(_Launch):
    """The root container, and the Sentry for it."""

    _sentry: spawn.Starting

    def _start_sandbox(self) -> None:
        spec, options = self.spec, self.options
        pod.check_root_namespaces(spec)
        seen = Resources() if pod.is_root(spec.annotations) else spec.resources  # a pod's containers have limits each
        network = "" if options.network == "none" else spec.namespaces.get("network")
        stage = spawn.StageConfig(
            id=self.sandbox.id,
            report_fd=-1,
            keep_fds=[],
            namespaces=[*spawn.SANDBOX_NAMESPACES, *(["network"] if network == "" else [])],
            network_path=network or "",
            sysctl=spec.sysctl,
            oom_score_adj=spec.oom_score_adj,
            capabilities=sorted(confine.sentry_capabilities(network is None, _may_bind_low_ports(spec))),
            debug=options.debug,
        )
        lifeline = self._make_lifeline()
        boot = BootConfig(
            id=self.sandbox.id,
            control_fd=_listen(self.sandbox.directory),
            ready_fd=-1,
            log_fd=self.log_fd,
            proc_fd=-1,
            lifeline_fd=lifeline,
            log_level=options.log_level,
            log_format=options.log_format,
            watchdog_s=options.watchdog_s,
            watchdog_kills=options.watchdog_kills,
            debug=options.debug,
            strace=options.strace,
            strace_calls=list(options.strace_calls),
            platform=options.platform,
            exit_with_init=options.exit_with_init,
            hostname=spec.hostname or os.uname().nodename,  # a new UTS namespace starts with the old one's name
            ncpus=cpu_count(seen),
            total_ram=memory_size(seen),
        )
        try:
            self._sentry = spawn.start_sentry(stage, boot, options.nursery)
        finally:
            os.close(boot.control_fd)  # nor could we tell that the Sentry has died if we listened, too
        self.resources.callback(self._abort, self._sentry)

    def _finish_sandbox(self) -> None:
        self.sandbox.record.sentry = self._sentry.wait_ready()

    def _make_lifeline(self) -> int | None:
        if not self.options.lifeline:
            return None
        read_end, self.sandbox.lifeline = os.pipe()
        return self._own(read_end)


class _Joining(_Launch):
    """A further container for a Sentry that is there."""

    def __init__(self, pod_sandbox: Sandbox, sandbox: Sandbox, *args: Any) -> None:
        super().__init__(sandbox, *args)
        self.namespaces = pod.shared_namespaces(pod_sandbox, self.spec)
        self.when_it_died = f"the pod's sandbox {pod_sandbox.id} has ended"

    def _create_container(self, mount_list: list[Mount], connections: Sequence[int], deputy: int | None) -> None:
        super()._create_container(mount_list, connections, deputy)
        self._set_oom_score()

    def _set_oom_score(self) -> None:
        """Of the stubs, which have that of their Sentry, and may have stubs of their own already."""
        if self.container.cgroup is None:
            return
        wanted = self.spec.oom_score_adj
        score = rlimits.own_oom_score_adj() if wanted is None else wanted
        done: set[int] = set()
        while new := self.container.cgroup.pids() - done:
            for pid in new:
                rlimits.set_oom_score_adj(score, pid)
            done |= new


def _open_log(directory: str, options: Options) -> int:
    path = options.log or f"{directory}/sandbox.log"
    try:
        if options.log is not None:
            os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise SandboxError(f"cannot open the log {path}: {e.strerror}") from None


def _listen(directory: str) -> int:
    """The control socket; bound through the folder's descriptor, for its path may be too long for an address."""
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with closing(socket(AF_UNIX, SOCK_STREAM)) as s:
            s.bind(f"/proc/self/fd/{folder}/control.sock")
            os.chmod(f"{directory}/control.sock", 0o600)
            s.listen(_BACKLOG)
            return s.detach()
    finally:
        os.close(folder)


def all_mounts(spec: Spec) -> list[SpecMount]:
    """The root first, as if it were a mount like the others."""
    if not os.path.isdir(spec.root):
        raise InvalidSpec(f"root.path: {spec.root} is not a directory")
    options = ["rbind", "ro"] if spec.root_readonly else ["rbind"]
    return [SpecMount("/", "bind", spec.root, options), *spec.mounts]


def _may_bind_low_ports(spec: Spec) -> bool:
    capabilities = (spec.raw.get("process") or {}).get("capabilities") or {}
    return "CAP_NET_BIND_SERVICE" in (capabilities.get("effective") or [])


def cpu_count(resources: Resources) -> int:
    """How many CPUs the application is to see: those we may use, fewer if it has a smaller share of time or set."""
    counts = [len(os.sched_getaffinity(0))]
    if resources.cpu_quota and resources.cpu_quota > 0:
        counts.append(-(-resources.cpu_quota // (resources.cpu_period or 100_000)))
    if resources.cpus:
        counts.append(_count_list(resources.cpus))
    return max(1, min(counts))


def _count_list(text: str) -> int:
    """CPUs in a list such as 0-3,8.  The kernel has accepted it by now; on nonsense we count none of it."""
    total = 0
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            total += int(last or first) - int(first) + 1
    return total


def memory_size(resources: Resources) -> int:
    """Bytes of memory that the application is to see."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = resources.memory_limit
    return min(total, limit) if limit and limit > 0 else total
