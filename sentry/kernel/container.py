"""A container inside the kernel: its namespaces, its files, its first process, and those exec'ed into it.

Containers of a pod may share namespaces.  What belongs to a container goes by `members` therefore, never by its PID
namespace: as with runc, where the cgroup tells.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Final

from proto.slotted import slotted
from sentry.abi import signal as sig
from sentry.abi.errno import EACCES, EAGAIN, ENOENT, ENOTDIR, LinuxError
from sentry.abi.poll import ANY
from sentry.abi.stat import DEV_NULL
from sentry.kernel import exec as execve
from sentry.kernel import run
from sentry.kernel.creds import Creds
from sentry.kernel.freeze import Freezer
from sentry.kernel.fscontext import FsContext
from sentry.kernel.ids import PidNamespace, ProcessGroup, Session
from sentry.kernel.passwd import with_home
from sentry.kernel.rlimits import Rlimits
from sentry.kernel.signals import SigInfo, SignalHandlers
from sentry.kernel.task import Task
from sentry.kernel.threadgroup import ThreadGroup
from sentry.kernel.timers import watch_inherited_limit
from sentry.kernel.utsname import UtsNamespace
from sentry.mm.mm import Mm
from sentry.platform import Context, SpaceGone, Template
from sentry.vfs.dentry import Dentry, MountNamespace, Path
from sentry.vfs.fdtable import FdTable
from sentry.vfs.file import File
from sentry.vfs.inode import FileSystem
from sentry.vfs.walk import Where, walk
from sentry.wait import Event, Waiter, park

if TYPE_CHECKING:
    from sentry.fs.memdata import Pool
    from sentry.fs.tty import Tty
    from sentry.kernel.kernel import Kernel

log = logging.getLogger(__name__)

EXEC_DELAYS_NS = tuple(1_000_000 << n for n in range(7))  # 127 ms in all
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def describe(e: LinuxError) -> str:
    """An errno as strerror(3) words it, in the lower case that Go's errors have."""
    return (e.__doc__ or e.name).rstrip(".").lower()


class StartError(Exception):
    """A process can't be started; code is a gRPC status code, the text what OCI engines expect."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


MAX_UNCLAIMED: Final = 256
"""Ended execs that nobody has waited for yet; of more than these, the status of the oldest is lost."""


@slotted
class Process:
    """A process known by name to the outside: the container's init ("") or an exec.

    status: 0..255, 128 + signal when killed; valid once ended is set.
    """

    name: str
    ended: Event
    tg: ThreadGroup | None = None
    tty: Tty | None = None
    status: int = 0
    exited_at_ns: int = 0


@slotted
class ProcessSpec:
    """The OCI process object, checked."""

    args: list[str]
    env: list[str]
    cwd: str
    creds: Creds
    umask: int
    no_new_privs: bool
    rlimits: Rlimits
    oom_score_adj: int = 0


class IpcNamespace:
    """ipc_namespaces(7).  There is no System V IPC and no message queue to keep in it: only who shares it shows."""

    __slots__ = ("__weakref__",)


class Container:
    """One container.

    template  makes its address spaces, so that they are in its cgroup
    pidns, uts, ipc  perhaps shared with other containers
    members  its tasks, numbered as they are: zombies included
    facts  the host as it is to look from inside
    memory  what its memory files are counted in; None: in nothing but the sandbox's
    """

    def __init__(
        self,
        kernel: Kernel,
        container_id: str,
        template: Template,
        uts: UtsNamespace,
        pidns: PidNamespace | None = None,
        ipc: IpcNamespace | None = None,
    ) -> None:
        self.kernel = kernel
        self.id = container_id
        self.template = template
        self.owns_pidns = pidns is None
        self.pidns = pidns or PidNamespace(kernel.root_pidns)
        self.mounts = MountNamespace()
        self.uts = uts
        self.ipc = ipc or IpcNamespace()
        self.members: set[Task] = set()
        self.facts = kernel.facts
        self.memory: Pool | None = None
        self.processes: dict[str, Process] = {}
        self.status = "created"
        self.ended_cpu_ns = 0  # of processes that are gone
        self.frozen = False  # or being frozen; changed by freezer alone
        self.freezer = Freezer(self)
        self.max_tasks: int | None = None  # processes and threads, zombies included; the first one may always come

    # -- what tasks ask --

    def new_space(self) -> Context:
        return self.template.new_space()

    async def space_for_exec(self) -> Context:
        """A fresh address space for a process that has one already.

        Linux does not ask the limit of processes about it.  The host does, until the old one is gone; so when that
        limit is near, those of others that are just going are waited for.  EAGAIN: it did not help.
        """
        loop = self.kernel.loop
        for delay_ns in EXEC_DELAYS_NS:
            try:
                return self.new_space()
            except EAGAIN:
                later = Event(loop)
                loop.call_at(loop.now_ns() + delay_ns, later.set)
                await later.wait()
        return self.new_space()

    def task_count(self) -> int:
        """Processes and threads, zombies included."""
        return len(self.tasks())

    def cpu_ns(self) -> int:
        """Processor time of all its processes, past and present."""
        alive = {t.tg for t in self.tasks() if not t.tg.dead}
        return self.ended_cpu_ns + sum(sum(tg.cpu_ns()) for tg in alive)

    def tasks(self) -> list[Task]:
        """Its processes' threads; of a zombie, the one that stands for it."""
        return [t for t in self.pidns.tasks.values() if t.container is self]

    def process_ended(self, tg: ThreadGroup) -> None:
        """A process of this container ended; tell whoever waits for it by name."""
        self.ended_cpu_ns += sum(tg.cpu_ns())
        for process in list(self.processes.values()):
            if process.tg is tg and not process.ended.is_set:
                killed_by = tg.exit_code & 0x7F
                self.end(process, 128 + killed_by if killed_by else tg.exit_code >> 8)

    def end(self, process: Process, status: int) -> None:
        """Record a process's end, once, also of one that never ran.

        The container stops with its first process.  In a PID namespace of its own that was the others' init, too; in a
        shared one runc kills what is left in the cgroup.
        """
        process.status = status
        process.exited_at_ns = time.time_ns()
        if not process.name:
            self.status = "stopped"
            self.kill()
        process.ended.set()
        log.info("container %s: process %r ended with status %d", self.id, process.name, status)
        ended = [name for name, each in self.processes.items() if name and each.ended.is_set]
        for name in ended[:-MAX_UNCLAIMED]:
            del self.processes[name]

    def forget(self, process: Process) -> None:
        """Somebody has been told how it ended: its name is free.  The first process is never forgotten."""
        if process.name and self.processes.get(process.name) is process:
            del self.processes[process.name]

    # -- starting processes --

    def root(self) -> Path:
        mount = self.mounts.root
        assert mount is not None
        return Path(mount, mount.root)

    async def find_executable(self, spec: ProcessSpec) -> str:
        """args[0] as a path: through PATH if it has no slash.  StartError with the text runc gives."""
        name = spec.args[0]
        where = Where(self.root(), await self._cwd(spec), spec.creds.caller(spec.umask))
        if "/" in name:
            await self._check_executable(where, name, name)
            return name
        path = next((e[5:] for e in spec.env if e.startswith("PATH=")), DEFAULT_PATH)
        denied = False
        for folder in path.split(":"):
            candidate = f"{folder or '.'}/{name}"
            try:
                found = (await walk(where, candidate)).inode
                await found.refresh()
                if found.mode & 0o170000 == 0o100000:
                    where.caller.check(found, 1)
                    return candidate
            except EACCES:
                denied = True
            except LinuxError:
                continue
        if denied:
            raise StartError(7, f'exec: "{name}": permission denied')
        raise StartError(5, f'exec: "{name}": executable file not found in $PATH')

    async def _check_executable(self, where: Where, name: str, shown: str) -> None:
        try:
            inode = (await walk(where, name)).inode
            await inode.refresh()
            if inode.mode & 0o170000 == 0o040000:
                raise StartError(7, f'exec: "{shown}": is a directory')
            if inode.mode & 0o170000 != 0o100000:
                raise StartError(7, f'exec: "{shown}": permission denied')
            where.caller.check(inode, 1)
        except (ENOENT, ENOTDIR):
            raise StartError(5, f'exec: "{shown}": no such file or directory') from None
        except EACCES:
            raise StartError(7, f'exec: "{shown}": permission denied') from None
        except LinuxError as e:
            raise StartError(3, f'exec: "{shown}": {describe(e)}') from None

    async def _cwd(self, spec: ProcessSpec) -> Path:
        try:
            where = Where(self.root(), self.root(), spec.creds.caller(spec.umask))
            path = await walk(where, spec.cwd)
            if path.inode.mode & 0o170000 != 0o040000:
                raise ENOTDIR
            return path
        except LinuxError as e:
            raise StartError(3, f"chdir to cwd ({spec.cwd!r}) set in config.json failed: {describe(e)}") from None

    async def start_process(
        self, process: Process, spec: ProcessSpec, stdio: list[File | None], tty: Tty | None
    ) -> Task:
        """Make the process.  The first one of a PID namespace is its pid 1.  StartError."""
        path = await self.find_executable(spec)
        is_first = process.name == ""
        begins_namespace = is_first and self.owns_pidns
        if not begins_namespace:
            self._check_has_init()
        cwd = await self._cwd(spec)
        context = self.new_space()
        tg = ThreadGroup(self.kernel, self, self.pidns, None, SignalHandlers(), spec.rlimits.copy())
        t = Task(self.kernel, tg, context, Mm(context.space), spec.creds)
        tg.leader = t
        tg.oom_score_adj = spec.oom_score_adj
        self.kernel.number_task(t)
        tg.tasks.append(t)
        ProcessGroup(tg, Session(tg)).adopt(tg)
        t.fs = FsContext(self.root(), cwd, spec.umask)
        watch_inherited_limit(tg)
        t.files = FdTable(spec.rlimits.get(7)[0])
        for number, file in enumerate(stdio):
            if file is not None:
                t.files.install_at(number, file, False)
                # As runc gives them to the container's user, so that it may open /dev/stdout again; not /dev/null.
                if file.inode.rdev != DEV_NULL:
                    file.inode.uid, file.inode.gid = spec.creds.uid, spec.creds.gid
        t.no_new_privs = spec.no_new_privs
        try:
            await self._first_exec(t, path, spec)
        except LinuxError as e:
            self._undo_start(t)
            code = 7 if isinstance(e, EACCES) else 5 if isinstance(e, ENOENT) else 3
            raise StartError(code, f'exec: "{spec.args[0]}": {describe(e)}') from None
        except SpaceGone:
            self._undo_start(t)
            raise StartError(10, f'exec: "{spec.args[0]}": killed while it was started') from None
        if not begins_namespace:
            try:
                self._check_has_init()
            except StartError:
                self._undo_start(t)
                raise
        if not is_first and self.status != "running":
            self._undo_start(t)
            raise StartError(9, f"container {self.id!r} is not running")
        if begins_namespace:
            self.pidns.init = tg
            tg.unkillable = True
        if is_first:
            self.status = "running"
        # An exec'ed process has no parent in here, as one that runc starts: nobody waits for it, it leaves no zombie.
        if tty is not None:
            tty.make_controlling(tg)
        process.tg = tg
        process.tty = tty
        self.processes[process.name] = process
        t.attention = True
        t.start(run.run(t), f"{self.id}/{process.name or 'init'}")
        return t

    def _check_has_init(self) -> None:
        """Without its init nothing can be started in a PID namespace: pid_namespaces(7).  StartError."""
        if self.pidns.init is None:
            what = "is not running" if self.owns_pidns else "shares a pid namespace that has no init"
            raise StartError(9, f"container {self.id!r} {what}")

    async def _first_exec(self, t: Task, path: str, spec: ProcessSpec) -> None:
        argv = [os.fsencode(a) for a in spec.args]
        envp = [os.fsencode(e) for e in await with_home(spec.env, self.root(), spec.creds.uid)]
        program = await execve.open_program(t.where(), path, argv, envp)
        t.creds = spec.creds
        try:
            loaded = await execve.load(t, program)
        finally:
            program.file.drop()
        execve.switch_to(t, loaded, execve.comm_of(program))

    def _undo_start(self, t: Task) -> None:
        tg = t.tg
        t.context.owner = None
        t.context.release()
        t.mm.release()
        for file in t.files.clear():
            file.drop()
        tg.tasks.clear()
        tg.dead = True
        tg.pgrp.leave(tg)
        self.kernel.unnumber_task(t)

    # -- signals and the end --

    def thread_groups(self) -> list[ThreadGroup]:
        """Every process, zombies included, by pid."""
        return sorted((t.tg for t in self.members if t.tg.leader is t), key=lambda tg: tg.pid)

    def signal_all(self, signo: int) -> None:
        """Every process, from outside."""
        for tg in self.thread_groups():
            if not tg.dead:
                tg.send_signal(SigInfo(signo), forced=True)

    def kill(self) -> None:
        self.signal_all(sig.SIGKILL)

    async def destroy(self) -> None:
        """Kill what is left, wait for its end and give everything back."""
        self.kill()
        for process in list(self.processes.values()):
            if process.tg is not None:
                await process.ended.wait()
        for tg in self.thread_groups():
            await self._wait_for_end(tg)
        for mount in list(self.mounts.mounts):
            mount.fs.release()
        self._forget_files()
        self.template.close()
        self.kernel.containers.pop(self.id, None)

    def _forget_files(self) -> None:
        """Zombies keep the container, for as long as the init of a shared PID namespace likes; but not its trees."""
        self.mounts.forget()
        nowhere = MountNamespace().new_mount(FileSystem(), Dentry("", None, None))
        path = Path(nowhere, nowhere.root)
        for t in self.members:
            t.fs = FsContext(path, path)

    async def _wait_for_end(self, tg: ThreadGroup) -> None:
        loop = self.kernel.loop
        job = loop.current_job()
        waiter = Waiter(ANY, lambda _events: loop.wake(job))
        tg.end_queue.add(waiter)
        while not tg.dead:
            await park()
        tg.end_queue.remove(waiter)
