"""walk_cached() must say what walk() says, or nothing."""

import random

import pytest

from sentry.abi.errno import LinuxError
from sentry.fs.tmpfs import TmpFs
from sentry.kernel.creds import ALL_CAPS
from sentry.vfs import mounting, names
from sentry.vfs.cachedwalk import walk_cached
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import Dentry, MountNamespace, Path
from sentry.vfs.open import open_name
from sentry.vfs.walk import Where, walk
from tests.unit.fs.conformance import run

NAMES = ("a", "b", "c", "d")


def random_name(random, depth=5):
    parts = [random.choice((*NAMES, *NAMES, ".", "..", "missing")) for _ in range(random.randint(1, depth))]
    name = random.choice(("", "/", "//")) + random.choice(("/", "/", "//")).join(parts)
    return name + random.choice(("", "", "", "/"))


def grow(random, where):
    """Some directories, files, links and mounts at random names; what cannot be made is left out."""
    for _ in range(60):
        name, kind = random_name(random), random.randrange(6)
        try:
            if kind < 3:
                run(names.make_dir(where, name, random.choice((0o755, 0o755, 0o700, 0o711))))
            elif kind == 3:
                run(open_name(where, name, 0o101, 0o644)).hold().drop()
            elif kind == 4:
                run(names.make_symlink(where, name, random_name(random, 3)))
            else:
                run(mounting.mount_new(TmpFs(), run(walk(where, name)), random.choice((0, 0, 256)), "none"))
        except LinuxError:
            continue


def walk_now(where, name, follow=True):
    return run(walk(where, name, follow))


def outcome(function, *args):
    try:
        return function(*args)
    except LinuxError as e:
        return type(e)


@pytest.mark.parametrize("seed", range(25))
def test_it_agrees_with_the_whole_algorithm(seed):
    rng = random.Random(seed)
    ns = MountNamespace()
    top = ns.new_mount(TmpFs(), Dentry("", None, run(TmpFs().root())))
    ns.attach(top, None)
    root = Path(top, top.root)
    grow(rng, Where(root, root, Caller(caps=ALL_CAPS, umask=0)))

    answered = 0
    for _ in range(400):
        caller = rng.choice((Caller(caps=ALL_CAPS), Caller(fsuid=5, fsgid=5)))
        start = outcome(walk_now, Where(root, root, Caller(caps=ALL_CAPS)), random_name(rng))
        where = Where(root, start if isinstance(start, Path) else root, caller)
        name, follow = random_name(rng), rng.random() < 0.5

        cached = outcome(walk_cached, where, name, follow)

        if cached is not None:
            answered += 1
            assert cached == outcome(walk_now, where, name, follow), (name, follow)
    assert answered > 100
