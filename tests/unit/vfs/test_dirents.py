"""Packed directories come out the same in any portions."""

import random

from sentry.vfs.dirents import PackedEntries, dirent64


def test_an_entry_is_padded_and_ends_with_a_nul():
    assert dirent64("a", 7, 4, 3) == bytes.fromhex("0700000000000000 0300000000000000 1800 04 61 00000000")
    assert [len(dirent64("x" * n, 1, 8, 1)) for n in (4, 5, 12, 13)] == [24, 32, 32, 40]
    assert dirent64("\udcff", 1, 8, 1)[19:21] == b"\xff\0"


def test_portions_are_whole_entries_and_miss_none():
    rng = random.Random(5)
    entries = [("n" * rng.randrange(1, 60) + str(i), i + 100, 8) for i in range(50)]
    packed = PackedEntries(entries, 2)
    whole = b"".join(dirent64(name, ino, kind, at + 3) for at, (name, ino, kind) in enumerate(entries))

    for _ in range(20):
        data, position = b"", 2
        while position < packed.end:
            portion, position = packed.portion(position, rng.randrange(96, 500))
            assert portion
            data += portion
        assert data == whole


def test_without_room_nothing_comes():
    packed = PackedEntries([("abc", 1, 8)], 2)

    assert packed.portion(2, 23) == (b"", 2)
    assert packed.portion(2, 24)[1] == packed.end == 3
    assert PackedEntries([], 2).end == 2
