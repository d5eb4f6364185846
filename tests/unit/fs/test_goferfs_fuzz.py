"""Random operations on a gofer's tree, by one task and by several at once: the caches must stay true.

After them the Sentry's view (names, attributes, contents) is compared with the host's.
"""

import gc
import os
import random

import pytest

from sentry.abi.errno import LinuxError
from sentry.abi.fcntl import (
    O_APPEND,
    O_CREAT,
    O_DIRECTORY,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
)
from sentry.abi.stat import is_dir, is_lnk, is_reg
from sentry.vfs import attrs, names
from sentry.vfs.cachedwalk import find_cached, walk_cached
from sentry.vfs.dentry import CACHE
from sentry.vfs.inode import AttrChange
from sentry.vfs.iov import BytesSink, BytesSource
from sentry.vfs.open import open_name
from sentry.vfs.walk import walk
from tests.descriptors import open_descriptors
from tests.gofertree import GoferTree

NAMES = ("a", "b", "c", "d")


@pytest.fixture(params=[(8, False), (8192, False), (8192, True)], ids=["tiny-cache", "large-cache", "shared"])
def tree(request, tmp_path, monkeypatch):
    limit, shared = request.param
    monkeypatch.setattr(type(CACHE), "LIMIT", limit)
    CACHE._entries.clear()
    folder = tmp_path / "tree"
    folder.mkdir()
    with GoferTree(folder, shared=shared) as tree:
        yield tree


class Worker:
    """One task: it does random things, and holds some files open over them."""

    def __init__(self, tree, rng):
        self.tree = tree
        self.rng = rng
        self.open = []

    def name(self):
        return "/" + "/".join(self.rng.choice(NAMES) for _ in range(self.rng.choice((1, 1, 2, 2, 3))))

    async def step(self):
        try:
            await getattr(self, self.rng.choice(self.ACTIONS))()
        except LinuxError:
            pass

    async def find(self):
        return walk_cached(self.tree.where, name := self.name(), False) or await walk(self.tree.where, name, False)

    async def make_dir(self):
        await names.make_dir(self.tree.where, self.name(), 0o755)

    async def make_symlink(self):
        await names.make_symlink(self.tree.where, self.name(), self.name())

    async def make_link(self):
        await names.make_link(self.tree.where, self.name(), await self.find())

    async def write(self):
        flags = O_CREAT | O_RDWR | self.rng.choice((0, O_TRUNC, O_APPEND))
        file = (await open_name(self.tree.where, self.name(), flags, 0o644)).hold()
        file.write(BytesSource(b"x" * self.rng.randrange(5000)))
        self.open.append(file)
        if len(self.open) > 3:
            self.open.pop(self.rng.randrange(len(self.open))).drop()

    async def write_more(self):
        if self.open:
            self.rng.choice(self.open).write(BytesSource(b"y" * self.rng.randrange(3000)))

    async def read(self):
        file = (await open_name(self.tree.where, self.name(), O_RDONLY, 0)).hold()
        try:
            file.read(BytesSink(100))
        finally:
            file.drop()

    async def list(self):
        file = (await open_name(self.tree.where, self.rng.choice(("/", self.name())), O_DIRECTORY, 0)).hold()
        try:
            await file.load_entries()
        finally:
            file.drop()

    async def unlink(self):
        await names.unlink(self.tree.where, self.name())

    async def remove_dir(self):
        await names.remove_dir(self.tree.where, self.name())

    async def rename(self):
        flags = self.rng.choice((0, 0, RENAME_EXCHANGE, RENAME_NOREPLACE))
        await names.rename(self.tree.where, self.name(), self.tree.where, self.name(), flags)

    async def change(self):
        inode = (await self.find()).inode
        await inode.setattr(AttrChange(mode=self.rng.choice((0o600, 0o755)), mtime_ns=self.rng.randrange(10**18)))

    async def truncate(self):
        await attrs.truncate_path(self.tree.caller, await self.find(), self.rng.randrange(4000))

    async def stat(self):
        await (await self.find()).inode.refresh()

    ACTIONS = (
        *("make_dir", "make_dir", "make_symlink", "make_link", "write", "write", "write_more", "read", "list"),
        *("unlink", "remove_dir", "rename", "rename", "change", "truncate", "stat"),
    )

    def close(self):
        while self.open:
            self.open.pop().drop()


def attributes(inode):
    return inode.ino, inode.mode, inode.nlink, inode.size, inode.mtime_ns, inode.blocks()


def compare(tree, host, name="/"):
    """Every name below `name` is known as the host has it, and no other."""
    found = sorted(os.listdir(host))
    directory = tree.open(name, O_DIRECTORY)
    tree.run(directory.load_entries())
    assert sorted(e.name for e in directory.entries(2)) == found, name
    directory.drop()
    for child in NAMES:
        path = f"{name.rstrip('/')}/{child}"
        if child not in found:
            with pytest.raises(LinuxError):
                tree.walk(path)
            continue
        st = os.lstat(host / child)
        theirs = (st.st_ino, st.st_mode, st.st_nlink, st.st_size, st.st_mtime_ns, st.st_blocks)
        glimpse = find_cached(tree.root, tree.root, tree.caller, path, False, glance=True)
        assert glimpse is None or not glimpse.inode.fresh() or attributes(glimpse.inode) == theirs, path
        inode = (walk_cached(tree.where, path, False) or tree.walk(path)).inode
        tree.run(inode.refresh())
        assert attributes(inode) == theirs, path
        if is_dir(inode.mode):
            compare(tree, host / child, path)
        elif is_lnk(inode.mode):
            assert tree.run(inode.readlink()) == os.readlink(host / child)
        elif is_reg(inode.mode):
            file = tree.open(path, O_RDONLY)
            sink = BytesSink(1 << 20)
            file.read(sink)
            file.drop()
            assert bytes(sink.data) == (host / child).read_bytes()


@pytest.mark.parametrize("seed", range(4))
def test_one_task(tree, seed):
    worker = Worker(tree, random.Random(seed))

    async def some_steps():
        for _ in range(40):
            await worker.step()

    for _ in range(12):
        tree.run(some_steps())
        compare(tree, tree.folder)
    worker.close()
    compare(tree, tree.folder)


@pytest.mark.parametrize("seed", range(4))
def test_several_tasks_at_once(tree, seed):
    workers = [Worker(tree, random.Random(100 * seed + n)) for n in range(4)]

    async def some_steps(worker, left):
        try:
            for _ in range(20):
                await worker.step()
        finally:
            left.remove(worker)

    async def all_at_once():
        left = list(workers)
        for worker in workers:
            tree.loop.spawn(some_steps(worker, left), "worker")
        while left:
            await tree.fs.statfs()

    for _ in range(12):
        tree.run(all_at_once())
        compare(tree, tree.folder)
    for worker in workers:
        worker.close()


def test_nothing_is_left_behind(tree):
    worker = Worker(tree, random.Random(7))
    gc.collect()  # not later: what earlier tests left holds descriptors
    before, of_the_gofer = open_descriptors(), tree.gofer_fds()

    async def some_steps():
        for _ in range(400):
            await worker.step()

    tree.run(some_steps())
    worker.close()
    tree.fs.close_all_idle()
    for name in ("/a", "/b", "/c", "/d"):
        tree.run(remove_tree(tree.where, name))
    tree.flush_clunks()

    assert os.listdir(tree.folder) == []
    assert open_descriptors() <= before
    assert tree.gofer_fds() == of_the_gofer


async def remove_tree(where, name):
    for child in NAMES:
        try:
            await names.unlink(where, f"{name}/{child}")
        except LinuxError:
            pass
        if len(name) < 8:
            try:
                await remove_tree(where, f"{name}/{child}")
            except LinuxError:
                pass
    for remove in (names.remove_dir, names.unlink):
        try:
            await remove(where, name)
        except LinuxError:
            pass
