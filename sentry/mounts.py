"""The mount tree of a new container: the OCI spec's mounts over the gofer's root."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from proto.control import Mount as MountSpec
from sentry.abi import stat as st
from sentry.abi.errno import EPERM, EROFS, LinuxError
from sentry.fs.devfs import populate_dev
from sentry.fs.goferfs import GoferFs
from sentry.fs.simple import StaticDir, TextNode
from sentry.fs.table import FILESYSTEMS
from sentry.fs.tmpfs import TmpFs
from sentry.kernel.container import Container, StartError
from sentry.kernel.kernel import new_root_creds
from sentry.oci import mount_options
from sentry.vfs.dentry import CACHE, MS_RDONLY, Dentry, Path
from sentry.vfs.inode import FileSystem, Inode
from sentry.vfs.walk import Last, Where, child_of, walk_any, walk_parent

log = logging.getLogger(__name__)

# Types that are known but have nothing behind them: an empty directory is what a reader finds.
_EMPTY_TYPES = frozenset({"mqueue", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "bpf", "configfs"})
_MASK = "/dev/null"

Create = Callable[[Where, str, bool], Awaitable[Path]]
"""Makes a directory, or else a file, whose parent exists."""


class MountBuilder:
    """Builds one container's mounts in the order of its spec."""

    def __init__(self, container: Container, goferfs: Callable[[MountSpec], GoferFs], terminal: bool = False) -> None:
        self._terminal = terminal
        self._container = container
        self._goferfs = goferfs
        self._ns = container.mounts
        self._caller = new_root_creds().caller(0)

    async def build(self, mounts: list[MountSpec], spec: dict[str, Any]) -> None:
        """StartError names the mount that can't be made."""
        for mount in mounts:
            try:
                await self._mount(mount)
            except LinuxError as e:
                text = (e.__doc__ or e.name).rstrip(".").lower()
                raise StartError(3, f"mount {mount.destination}: {text}") from None
        await self._working_directory((spec.get("process") or {}).get("cwd") or "/")
        linux = spec.get("linux") or {}
        for path in linux.get("maskedPaths") or []:
            await self._mask(path)
        for path in linux.get("readonlyPaths") or []:
            await self._make_readonly(path)
        if (spec.get("root") or {}).get("readonly") and self._ns.root is not None:
            self._ns.root.flags |= MS_RDONLY

    def _where(self) -> Where:
        root = self._container.root()
        return Where(root, root, self._caller)

    async def _mount(self, spec: MountSpec) -> None:
        flags, data = mount_options(spec.options)
        fs = await self._new_fs(spec, data)
        inode = await fs.root()
        root = Dentry("", None, inode)
        # Where a bind mount comes from on the host is not the container's business.
        source = "none" if spec.gofer is not None else spec.source or spec.type
        mount = self._ns.new_mount(fs, root, flags, source)
        if self._ns.root is None:
            # The root is made read-only last: mount points may have to be created in it.
            mount.flags &= ~MS_RDONLY
            self._ns.attach(mount, None)
            return
        point = await self._mount_point(spec.destination, st.is_dir(inode.mode))
        self._ns.attach(mount, point)
        if spec.destination.rstrip("/") == "/dev" and isinstance(fs, TmpFs):
            await populate_dev(inode, console=self._terminal)

    async def _new_fs(self, spec: MountSpec, data: dict[str, str]) -> FileSystem:
        if spec.gofer is not None:
            return self._goferfs(spec)
        kind = "tmpfs" if spec.type in _EMPTY_TYPES else spec.type
        make = FILESYSTEMS.get(kind)
        if make is None:
            raise StartError(3, f"mount {spec.destination}: file system type {spec.type!r} is not supported")
        return make(self._container, data)

    async def _mount_point(self, destination: str, directory: bool) -> Path:
        """Where to mount; missing directories (or the file) are created, as OCI runtimes do."""
        path = await self._existing(destination)
        return path if path.dentry.inode is not None else await self._created(destination, directory, self._create)

    async def _created(self, destination: str, directory: bool, create: Create) -> Path:
        """A path that does not exist, and what is missing of the folders on the way to it."""
        path = self._container.root()
        parts = [part for part in destination.split("/") if part]
        where = self._where()
        for depth in range(1, len(parts) + 1):
            name = "/" + "/".join(parts[:depth])
            path = await self._existing(name)
            if path.dentry.inode is None:
                path = await create(where, name, directory or depth < len(parts))
        return path

    async def _working_directory(self, cwd: str) -> None:
        """process.cwd: made where it is missing, by root, as runc does.  StartError where it can't be."""
        if (await self._existing(cwd)).dentry.inode is None:
            try:
                await self._created(cwd, True, self._create_in_root)
            except LinuxError as e:
                text = (e.__doc__ or e.name).rstrip(".").lower()
                raise StartError(3, f"mkdir {cwd} (cwd in config.json): {text}") from None

    async def _existing(self, name: str) -> Path:
        try:
            return await walk_any(self._where(), name, True)
        except LinuxError:
            root = self._container.root()
            return Path(root.mount, Dentry(name, root.dentry, None))

    async def _create(self, where: Where, name: str, directory: bool) -> Path:
        try:
            return await self._create_for_good(where, name, directory)
        except (EROFS, EPERM):
            # In a tree that can't be written to, the mount point exists in memory only: what is mounted hides it.
            last = await walk_parent(where, name)
            fs = last.parent.inode.fs
            return await self._enter(last, StaticDir(fs, {}) if directory else TextNode(fs, None))

    async def _create_in_root(self, where: Where, name: str, directory: bool) -> Path:
        """In a root that the gofer serves read-only, in memory: nobody can tell, since it stays empty there too."""
        last = await walk_parent(where, name)
        if last.parent.mount is self._ns.root:
            return await self._create(where, name, directory)
        return await self._create_for_good(where, name, directory)

    async def _create_for_good(self, where: Where, name: str, directory: bool) -> Path:
        last = await walk_parent(where, name)
        parent = last.parent.inode
        if directory:
            return await self._enter(last, await parent.mkdir(last.name, 0o755, self._caller))
        return await self._enter(last, await parent.create(last.name, 0o644, self._caller))

    async def _enter(self, last: Last, inode: Inode) -> Path:
        """Makes the new file known under its name."""
        stale = last.parent.dentry.children.get(last.name)
        if stale is not None:
            stale.unhash()
        CACHE.add(Dentry(last.name, last.parent.dentry, inode))
        return await child_of(last)

    async def _mask(self, name: str) -> None:
        """linux.maskedPaths: an empty directory or /dev/null in its place; what does not exist needs no mask."""
        path = await self._existing(name)
        inode = path.dentry.inode
        if inode is None:
            return
        if st.is_dir(inode.mode):
            fs = TmpFs()
            mount = self._ns.new_mount(fs, Dentry("", None, await fs.root()), MS_RDONLY, "tmpfs")
        else:
            null = await self._existing(_MASK)
            if null.dentry.inode is None:
                return
            mount = self._ns.new_mount(null.mount.fs, null.dentry, 0, "devtmpfs")
        self._ns.attach(mount, path)

    async def _make_readonly(self, name: str) -> None:
        """linux.readonlyPaths: a read-only bind mount of the path onto itself."""
        path = await self._existing(name)
        if path.dentry.inode is not None:
            mount = self._ns.new_mount(path.mount.fs, path.dentry, path.mount.flags | MS_RDONLY, path.mount.source)
            self._ns.attach(mount, path)
