"""Credentials: what setuid(2) and its kin do to ids, capabilities(7)'s tables, and execve."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from sentry.abi.errno import EINVAL, EPERM
from sentry.kernel.creds import (
    ALL_CAPS,
    CAP_CHOWN,
    CAP_KILL,
    CAP_LAST,
    CAP_NAMES,
    CAP_SETGID,
    CAP_SETPCAP,
    CAP_SETUID,
    CAP_SYS_ADMIN,
    FS_CAPS,
    SECBIT_KEEP_CAPS,
    SECBIT_KEEP_CAPS_LOCKED,
    SECBIT_NO_CAP_AMBIENT_RAISE,
    SECBIT_NO_SETUID_FIXUP,
    SECBIT_NOROOT,
    Creds,
    fixup_for_fsuid,
    fixup_for_uids,
)
from sentry.kernel.task import Task
from tests.unit.kernel.world import DATA, ROOT, World, call, context, user

KEPT = -1
FULL = {"permitted": ALL_CAPS, "effective": ALL_CAPS}
NONE = {"permitted": 0, "effective": 0}


def results(world: World, creds: Creds, *calls: Any) -> tuple[list[int], Task]:
    t = world.process(*calls, creds=creds)
    world.run()
    return context(t).results, t


def uids(creds: Creds) -> tuple[int, int, int, int]:
    return creds.uid, creds.euid, creds.suid, creds.fsuid


def gids(creds: Creds) -> tuple[int, int, int, int]:
    return creds.gid, creds.egid, creds.sgid, creds.fsgid


def ids(*values: int, **more: Any) -> Creds:
    """Real, effective and saved uid; the file system's follows the effective one."""
    uid, euid, suid = values
    return Creds(uid, euid, suid, euid, uid, euid, suid, euid, **more)


# -- capabilities(7), "Effect of user ID changes on capabilities" --


def test_capability_numbers_are_linux_s() -> None:
    assert {CAP_NAMES.index(name): name for name in ("CHOWN", "SETPCAP", "SYS_ADMIN", "SETFCAP", "SYSLOG", "BPF")} == {
        0: "CHOWN",
        8: "SETPCAP",
        21: "SYS_ADMIN",
        31: "SETFCAP",
        34: "SYSLOG",
        39: "BPF",
    }
    assert CAP_LAST == 40 and ALL_CAPS == (1 << 41) - 1


@pytest.mark.parametrize(
    ("old", "new", "permitted", "effective", "ambient"),
    [
        # 1. One of the ids was 0 and all become nonzero: permitted, effective and ambient are cleared.
        ((0, 0, 0), (1, 1, 1), 0, 0, 0),
        ((1, 0, 1), (1, 1, 1), 0, 0, 0),
        ((0, 1, 1), (1, 1, 1), 0, 0, 0),
        ((1, 1, 0), (1, 1, 1), 0, 0, 0),
        # 2. The effective id changes from 0 to nonzero: effective is cleared.
        ((0, 0, 0), (0, 1, 0), 3, 0, 2),
        ((0, 0, 0), (1, 1, 0), 3, 0, 2),
        # 3. It changes from nonzero to 0: permitted is copied to effective.
        ((0, 1, 0), (0, 0, 0), 3, 3, 2),
        ((1, 1, 0), (1, 0, 0), 3, 3, 2),
        # Otherwise nothing happens.
        ((1, 1, 1), (2, 2, 2), 3, 1, 2),
        ((0, 0, 0), (1, 0, 1), 3, 1, 2),
    ],
)
def test_a_change_of_uids_changes_capabilities(
    old: tuple[int, int, int], new: tuple[int, int, int], permitted: int, effective: int, ambient: int
) -> None:
    before = ids(*old, permitted=3, effective=1, inheritable=2, ambient=2)
    after = fixup_for_uids(before, before.changed(uid=new[0], euid=new[1], suid=new[2]))
    assert (after.permitted, after.effective, after.ambient, after.inheritable) == (permitted, effective, ambient, 2)


def test_keep_caps_keeps_permitted_only() -> None:
    before = ids(0, 0, 0, permitted=3, effective=3, inheritable=3, ambient=3, securebits=SECBIT_KEEP_CAPS)
    after = fixup_for_uids(before, before.changed(uid=1, euid=1, suid=1))
    assert (after.permitted, after.effective, after.ambient) == (3, 0, 0)


def test_no_setuid_fixup_keeps_everything() -> None:
    before = ids(0, 0, 0, permitted=3, effective=3, ambient=3, securebits=SECBIT_NO_SETUID_FIXUP)
    changed = before.changed(uid=1, euid=1, suid=1, fsuid=1)
    assert fixup_for_uids(before, changed) == changed
    assert fixup_for_fsuid(before, changed) == changed


def test_fsuid_takes_the_file_capabilities_along() -> None:
    """4. "If the filesystem user ID is changed from 0 to nonzero, then [these] are cleared from the effective set"."""
    before = Creds(permitted=ALL_CAPS, effective=ALL_CAPS)
    away = fixup_for_fsuid(before, before.changed(fsuid=1))
    assert away.effective == ALL_CAPS & ~FS_CAPS and away.permitted == ALL_CAPS
    back = fixup_for_fsuid(away, away.changed(fsuid=0))
    assert back.effective == ALL_CAPS
    assert {CAP_NAMES[n] for n in range(41) if FS_CAPS >> n & 1} == {
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "LINUX_IMMUTABLE", "MKNOD", "MAC_OVERRIDE"),
    }


# -- the calls --


@pytest.mark.parametrize(
    ("name", "args", "before", "after"),
    [
        ("setuid", (5,), (0, 0, 0), (5, 5, 5, 5)),
        ("setuid", (2,), (1, 3, 2), (1, 2, 2, 2)),  # without capability: to the real or saved id
        ("setuid", (1,), (1, 3, 2), (1, 1, 2, 1)),
        ("setuid", (3,), (1, 3, 2), EPERM),
        ("setuid", (KEPT,), (0, 0, 0), EINVAL),
        ("setreuid", (KEPT, 5), (0, 0, 0), (0, 5, 5, 5)),
        ("setreuid", (5, KEPT), (0, 0, 0), (5, 0, 0, 0)),
        ("setreuid", (5, 6), (0, 0, 0), (5, 6, 6, 6)),
        ("setreuid", (KEPT, KEPT), (1, 2, 3), (1, 2, 3, 2)),
        ("setreuid", (KEPT, 1), (1, 2, 3), (1, 1, 3, 1)),  # the saved id stays if the effective becomes the real one
        ("setreuid", (2, 1), (1, 2, 3), (2, 1, 1, 1)),
        ("setreuid", (KEPT, 3), (1, 2, 3), (1, 3, 3, 3)),
        ("setreuid", (3, KEPT), (1, 2, 3), EPERM),
        ("setreuid", (KEPT, 9), (1, 2, 3), EPERM),
        ("setresuid", (1, 2, 3), (0, 0, 0), (1, 2, 3, 2)),
        ("setresuid", (3, 1, 2), (1, 2, 3), (3, 1, 2, 1)),
        ("setresuid", (KEPT, KEPT, 1), (1, 2, 3), (1, 2, 1, 2)),
        ("setresuid", (KEPT, 9, KEPT), (1, 2, 3), EPERM),
    ],
)
def test_uids(world: World, name: str, args: tuple[int, ...], before: tuple[int, int, int], after: Any) -> None:
    caps = FULL if before == (0, 0, 0) else NONE
    result, t = results(world, ids(*before, **caps), call(name, *args))
    if isinstance(after, tuple):
        assert result == [0] and uids(t.creds) == after
    else:
        assert result == [-after.code] and uids(t.creds) == (*before, before[1])
    assert gids(t.creds) == (*before, before[1])


@pytest.mark.parametrize(
    ("name", "args", "before", "after"),
    [
        ("setgid", (5,), (0, 0, 0), (5, 5, 5, 5)),
        ("setgid", (2,), (1, 3, 2), (1, 2, 2, 2)),
        ("setgid", (3,), (1, 3, 2), EPERM),
        ("setregid", (5, 6), (0, 0, 0), (5, 6, 6, 6)),
        ("setregid", (KEPT, 1), (1, 2, 3), (1, 1, 3, 1)),
        ("setregid", (3, KEPT), (1, 2, 3), EPERM),
        ("setresgid", (3, 1, 2), (1, 2, 3), (3, 1, 2, 1)),
        ("setresgid", (9, KEPT, KEPT), (1, 2, 3), EPERM),
    ],
)
def test_gids(world: World, name: str, args: tuple[int, ...], before: tuple[int, int, int], after: Any) -> None:
    caps = FULL if before == (0, 0, 0) else NONE
    result, t = results(world, ids(*before, **caps), call(name, *args))
    if isinstance(after, tuple):
        assert result == [0] and gids(t.creds) == after
    else:
        assert result == [-after.code] and gids(t.creds) == (*before, before[1])
    # A change of group ids is none of capabilities.
    assert (t.creds.permitted, uids(t.creds)) == (caps["permitted"], (*before, before[1]))


def test_the_capability_is_what_counts_not_the_id(world: World) -> None:
    assert results(world, ids(0, 0, 0), call("setuid", 5), call("setgid", 5), call("setgroups", 0, 0))[0] == [-1] * 3
    creds = ids(7, 7, 7, permitted=CAP_SETUID | CAP_SETGID, effective=CAP_SETUID | CAP_SETGID)
    assert results(world, creds, call("setgid", 5), call("setuid", 5))[0] == [0, 0]


def test_setfsuid_returns_the_old_id_whatever_happens(world: World) -> None:
    steps = [call("setfsuid", n) for n in (9, -1, 2, -1)]
    result, t = results(world, ids(1, 2, 3), *steps)
    assert result == [2, 2, 2, 2]
    result, t = results(world, ids(1, 2, 3), call("setfsuid", 3), call("setfsuid", -1), call("setfsgid", 1))
    assert result == [2, 3, 2] and uids(t.creds) == (1, 2, 3, 3) and t.creds.fsgid == 1


def test_a_change_of_the_effective_ids_ends_dumpability_and_the_death_signal(world: World) -> None:
    t = world.process(call("prctl", 1, 9), call("setuid", 5))
    world.run()
    assert (t.tg.dumpable, t.parent_death_signal) == (0, 0)


def test_groups(world: World) -> None:
    t = world.process(
        call("setgroups", 3, DATA),
        call("getgroups", 0, 0),
        call("getgroups", 2, DATA),
        call("getgroups", -1, DATA),
        call("getgroups", 3, DATA + 64),
        call("setgroups", 65537, DATA),
    )
    t.mem.write(DATA, struct.pack("<3I", 30, 10, 20))
    world.run()
    assert context(t).results == [0, 3, -EINVAL.code, -EINVAL.code, 3, -EINVAL.code]
    assert struct.unpack("<3I", t.mem.read(DATA + 64, 12)) == (10, 20, 30)
    assert t.creds.in_group(20) and not t.creds.in_group(21)


# -- capset --

V1, V3 = 0x19980330, 0x20080522


def capset(world: World, creds: Creds, effective: int, permitted: int, inheritable: int) -> tuple[int, Creds]:
    t = world.process(call("capset", DATA, DATA + 16), creds=creds)
    t.mem.write(DATA, struct.pack("<Ii", V3, 0))
    halves = [(s >> shift) & 0xFFFFFFFF for shift in (0, 32) for s in (effective, permitted, inheritable)]
    t.mem.write(DATA + 16, struct.pack("<6I", *halves))
    world.run()
    return context(t).results[0], t.creds


@pytest.mark.parametrize(
    ("sets", "allowed"),
    [
        ((3, 3, 0), True),
        ((0, 3, 0), True),
        ((1, 1, 0), True),
        ((4, 3, 0), False),  # effective must be permitted
        ((3, 1, 0), False),
        ((3, 7, 0), False),  # permitted never grows
        ((3, 3, 3), True),  # inheritable: what is permitted
        ((3, 3, 4), False),  # more needs CAP_SETPCAP, even if it is in the bounding set
    ],
)
def test_capset_without_setpcap(world: World, sets: tuple[int, int, int], allowed: bool) -> None:
    creds = ids(7, 7, 7, permitted=3, effective=3, inheritable=0, bounding=7)
    result, after = capset(world, creds, *sets)
    assert result == (0 if allowed else -EPERM.code)
    if allowed:
        assert (after.effective, after.permitted, after.inheritable) == sets


@pytest.mark.parametrize(("inheritable", "result"), [(4, 0), (8, -EPERM.code)])
def test_with_setpcap_the_bounding_set_may_become_inheritable(world: World, inheritable: int, result: int) -> None:
    creds = ids(7, 7, 7, permitted=CAP_SETPCAP, effective=CAP_SETPCAP, bounding=CAP_SETPCAP | 4)
    assert capset(world, creds, CAP_SETPCAP, CAP_SETPCAP, inheritable)[0] == result


def test_ambient_capabilities_go_with_permitted_and_inheritable(world: World) -> None:
    creds = ids(7, 7, 7, permitted=7, effective=7, inheritable=7, ambient=7)
    assert capset(world, creds, 3, 3, 6)[1].ambient == 2


def test_capget_reads_the_versions(world: World) -> None:
    creds = ids(7, 7, 7, permitted=1 << 40 | 5, effective=1 << 40, inheritable=3)
    t = world.process(call("capget", DATA, DATA + 16), call("capget", DATA + 8, DATA + 64), creds=creds)
    t.mem.write(DATA, struct.pack("<IiIi", V3, 0, V1, 0))
    world.run()
    assert context(t).results == [0, 0]
    assert struct.unpack("<6I", t.mem.read(DATA + 16, 24)) == (0, 5, 3, 256, 256, 0)
    assert struct.unpack("<3I", t.mem.read(DATA + 64, 12)) == (0, 5, 3)


def test_an_unknown_version_is_told_the_preferred_one(world: World) -> None:
    t = world.process(call("capget", DATA, 0), call("capget", DATA, DATA + 16), call("capget", DATA + 32, DATA + 16))
    t.mem.write(DATA + 32, struct.pack("<Ii", 5, 0))
    world.run()
    assert context(t).results == [0, 0, -EINVAL.code]  # the first one wrote the version that the second read
    assert struct.unpack("<I", t.mem.read(DATA, 4)) == (V3,)


# -- securebits, the bounding and the ambient set --


def test_locked_securebits_stay(world: World) -> None:
    locked = SECBIT_NOROOT | SECBIT_NOROOT << 1
    steps = [call("prctl", 28, bits) for bits in (locked, 0, locked | SECBIT_NO_SETUID_FIXUP, 1 << 8)]
    result, t = results(world, ROOT, *steps, call("prctl", 27))
    assert result == [0, -EPERM.code, 0, -EPERM.code, locked | SECBIT_NO_SETUID_FIXUP]
    assert results(world, user(), call("prctl", 28, 1))[0] == [-EPERM.code]
    assert t.creds.securebits == locked | SECBIT_NO_SETUID_FIXUP


def test_keep_caps_by_prctl(world: World) -> None:
    assert results(world, user(), call("prctl", 8, 1), call("prctl", 7), call("prctl", 8, 2))[0] == [0, 1, -EINVAL.code]
    locked = ROOT.changed(securebits=SECBIT_KEEP_CAPS_LOCKED)
    assert results(world, locked, call("prctl", 8, 1))[0] == [-EPERM.code]


def test_the_bounding_set_only_shrinks(world: World) -> None:
    steps = (
        call("prctl", 23, 5),
        call("prctl", 24, 5),
        call("prctl", 23, 5),
        call("prctl", 23, 41),
        call("prctl", 24, 41),
    )
    assert results(world, ROOT, *steps)[0] == [1, 0, 0, -EINVAL.code, -EINVAL.code]
    assert results(world, user(), call("prctl", 24, 5))[0] == [-EPERM.code]


def test_ambient_by_prctl(world: World) -> None:
    ambient = 47
    creds = ids(7, 7, 7, permitted=CAP_KILL | CAP_CHOWN, inheritable=CAP_KILL)
    result, t = results(
        world,
        creds,
        call("prctl", ambient, 2, 5),  # raise CAP_KILL
        call("prctl", ambient, 2, 0),  # CAP_CHOWN is not inheritable
        call("prctl", ambient, 1, 5),
        call("prctl", ambient, 3, 5),
        call("prctl", ambient, 1, 5),
        call("prctl", ambient, 2, 5),
        call("prctl", ambient, 4, 0),
        call("prctl", ambient, 4, 1),
        call("prctl", ambient, 2, 41),
    )
    assert result == [0, -EPERM.code, 1, 0, 0, 0, 0, -EINVAL.code, -EINVAL.code]
    assert t.creds.ambient == 0
    creds = creds.changed(securebits=SECBIT_NO_CAP_AMBIENT_RAISE)
    assert results(world, creds, call("prctl", ambient, 2, 5))[0] == [-EPERM.code]


def test_callers_are_made_once_per_umask() -> None:
    creds = Creds(fsuid=5, fsgid=6, groups=(7,), effective=CAP_SYS_ADMIN)
    caller = creds.caller(0o22)
    assert creds.caller(0o22) is caller and creds.caller(0o77) is not caller
    assert (caller.fsuid, caller.fsgid, caller.caps, caller.in_group(7)) == (5, 6, CAP_SYS_ADMIN, True)
    assert creds.changed(fsuid=8).caller(0o22).fsuid == 8


@pytest.mark.parametrize(
    ("creds", "caps"),
    [
        (Creds(uid=5, euid=0, permitted=7, effective=7), 0),
        (Creds(uid=0, euid=5, permitted=7, effective=0), 7),
        (Creds(uid=5, euid=0, permitted=7, effective=7, securebits=SECBIT_NO_SETUID_FIXUP), 7),
    ],
)
def test_access_judges_by_the_real_ids(creds: Creds, caps: int) -> None:
    caller = creds.real_caller(0)
    assert (caller.fsuid, caller.caps) == (creds.uid, caps)
