"""Sinks and sources over application memory."""

import pytest

from sentry.abi.errno import EFAULT
from sentry.vfs.iov import BytesSource, UserSink, UserSource
from tests.fakeguest import Memory


@pytest.fixture
def mem():
    return Memory()


def test_a_sink_fills_its_segments_in_order(mem):
    a, b = mem.alloc(3), mem.alloc(5)
    sink = UserSink(mem, [(a, 3), (0, 0), (b, 5)])

    assert sink.put(b"abcd") == 4
    assert sink.put(b"efghij") == 4
    assert sink.remaining == 0
    assert (mem.read(a, 3), mem.read(b, 5)) == (b"abc", b"defgh")


def test_a_single_segment_takes_several_puts(mem):
    a = mem.alloc(6)
    sink = UserSink(mem, [(a, 6)])
    assert [sink.put(b"ab"), sink.put(b"cd"), sink.put(b"efg"), sink.put(b"h")] == [2, 2, 2, 0]
    assert mem.read(a, 6) == b"abcdef"


def test_a_sink_is_short_at_unwritable_memory(mem):
    a = mem.alloc(3)
    assert UserSink(mem, [(mem.end - 2, 10)]).put(b"abcd") == 2
    assert UserSink(mem, [(a, 3), (8, 3)]).put(b"abcdef") == 3
    with pytest.raises(EFAULT):
        UserSink(mem, [(8, 3)]).put(b"abc")


def test_a_source_gives_its_segments_in_order(mem):
    a, b = mem.put(b"abc"), mem.put(b"defgh")
    source = UserSource(mem, [(a, 3), (0, 0), (b, 5)])
    assert [source.take(2), source.take(4), source.take(100), source.take(1)] == [b"ab", b"cdef", b"gh", b""]


def test_what_is_given_back_comes_again(mem):
    a, b = mem.put(b"abc"), mem.put(b"def")
    source = UserSource(mem, [(a, 3), (b, 3)])
    assert source.take(5) == b"abcde"
    source.give_back(4)
    assert source.remaining == 5
    assert source.take(9) == b"bcdef"
    source.give_back(6)
    assert source.take(9) == b"abcdef"

    single = UserSource(mem, [(a, 3)])
    single.take(2)
    single.give_back(1)
    assert single.take(5) == b"bc"

    ours = BytesSource(b"abc")
    ours.take(2)
    ours.give_back(2)
    assert ours.take(5) == b"abc"


def test_a_source_is_short_at_unreadable_memory(mem):
    a = mem.put(b"abc")
    assert len(UserSource(mem, [(mem.end - 2, 10)]).take(10)) == 2
    assert UserSource(mem, [(a, 3), (8, 3)]).take(6) == b"abc"
    with pytest.raises(EFAULT):
        UserSource(mem, [(8, 3)]).take(1)
