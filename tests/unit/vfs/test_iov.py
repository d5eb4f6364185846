"""Sinks and sources over application memory."""

import os
import tempfile

import pytest

from sentry.abi.errno import EBADF, EFAULT
from sentry.vfs import iov
from sentry.vfs.iov import BytesSink, BytesSource, user_sink, user_source
from tests.fakeguest import Memory


@pytest.fixture
def mem():
    return Memory()


def test_a_sink_fills_its_segments_in_order(mem):
    a, b = mem.alloc(3), mem.alloc(5)
    sink = user_sink(mem, [(a, 3), (0, 0), (b, 5)])

    assert sink.put(b"abcd") == 4
    assert sink.put(b"efghij") == 4
    assert sink.remaining == 0
    assert (mem.read(a, 3), mem.read(b, 5)) == (b"abc", b"defgh")


def test_a_single_segment_takes_several_puts(mem):
    a = mem.alloc(6)
    sink = user_sink(mem, [(a, 6)])
    assert [sink.put(b"ab"), sink.put(b"cd"), sink.put(b"efg"), sink.put(b"h")] == [2, 2, 2, 0]
    assert mem.read(a, 6) == b"abcdef"


def test_a_sink_is_short_at_unwritable_memory(mem):
    a = mem.alloc(3)
    assert user_sink(mem, [(mem.end - 2, 10)]).put(b"abcd") == 2
    assert user_sink(mem, [(a, 3), (8, 3)]).put(b"abcdef") == 3
    with pytest.raises(EFAULT):
        user_sink(mem, [(8, 3)]).put(b"abc")


def test_a_source_gives_its_segments_in_order(mem):
    a, b = mem.put(b"abc"), mem.put(b"defgh")
    source = user_source(mem, [(a, 3), (0, 0), (b, 5)])
    assert [source.take(2), source.take(4), source.take(100), source.take(1)] == [b"ab", b"cdef", b"gh", b""]


def test_what_is_given_back_comes_again(mem):
    a, b = mem.put(b"abc"), mem.put(b"def")
    source = user_source(mem, [(a, 3), (b, 3)])
    assert source.take(5) == b"abcde"
    source.give_back(4)
    assert source.remaining == 5
    assert source.take(9) == b"bcdef"
    source.give_back(6)
    assert source.take(9) == b"abcdef"

    single = user_source(mem, [(a, 3)])
    single.take(2)
    single.give_back(1)
    assert single.take(5) == b"bc"

    ours = BytesSource(b"abc")
    ours.take(2)
    ours.give_back(2)
    assert ours.take(5) == b"abc"


def test_a_source_is_short_at_unreadable_memory(mem):
    a = mem.put(b"abc")
    assert len(user_source(mem, [(mem.end - 2, 10)]).take(10)) == 2
    assert user_source(mem, [(a, 3), (8, 3)]).take(6) == b"abc"
    with pytest.raises(EFAULT):
        user_source(mem, [(8, 3)]).take(1)


# ---- Host files.


@pytest.fixture
def host_file():
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        yield file.fileno()


def test_a_sink_fills_itself_from_a_host_file(mem, host_file):
    a, b = mem.alloc(3), mem.alloc(5)
    sink = user_sink(mem, [(a, 3)])
    assert (sink.fill(host_file, 7), sink.remaining, mem.read(a, 3)) == (3, 0, b"789")
    sink = user_sink(mem, [(a, 3), (0, 0), (b, 5)])
    assert (sink.fill(host_file, 2), sink.remaining) == (8, 0)
    assert (mem.read(a, 3), mem.read(b, 5)) == (b"234", b"56789")

    ours = BytesSink(100)
    assert (ours.fill(host_file, 8), bytes(ours.data), ours.remaining) == (2, b"89", 98)


def test_filling_goes_on_behind_what_was_put(mem, host_file):
    a = mem.alloc(4)
    sink = user_sink(mem, [(a, 4)])
    sink.put(b"ab")
    assert sink.fill(host_file, 0) == 2
    assert (mem.read(a, 4), sink.fill(host_file, 0)) == (b"ab01", 0)


@pytest.mark.parametrize("more", [[], [(0, 0)]], ids=["one segment", "several"])
def test_filling_ends_with_the_file_or_with_the_memory(mem, host_file, more):
    a = mem.alloc(100)
    assert user_sink(mem, [(a, 100), *more]).fill(host_file, 4) == 6
    assert user_sink(mem, [(a, 100), *more]).fill(host_file, 10) == 0
    assert user_sink(mem, [(mem.end - 2, 10), *more]).fill(host_file, 0) == 2
    with pytest.raises(EFAULT):
        user_sink(mem, [(8, 10), *more]).fill(host_file, 0)
    with pytest.raises(EBADF):
        user_sink(mem, [(a, 10), *more]).fill(1 << 20, 0)


def test_a_source_pours_itself_into_a_host_file(mem, host_file):
    a, b = mem.put(b"abc"), mem.put(b"defgh")
    source = user_source(mem, [(a, 3), (b, 5)])
    source.take(1)
    assert (source.pour(host_file, 1), source.remaining) == (7, 0)
    assert os.pread(host_file, 20, 0) == b"0bcdefgh89"
    assert user_source(mem, [(a, 3)]).pour(host_file, 10) == 3
    assert BytesSource(b"xy").pour(host_file, 0) == 2
    assert os.pread(host_file, 20, 0) == b"xycdefgh89abc"


@pytest.mark.parametrize("more", [[], [(0, 0)]], ids=["one segment", "several"])
def test_pouring_ends_with_the_memory(mem, host_file, more):
    assert user_source(mem, [(mem.end - 2, 10), *more]).pour(host_file, 0) == 2
    with pytest.raises(EFAULT):
        user_source(mem, [(8, 10), *more]).pour(host_file, 0)
    with pytest.raises(EBADF):
        user_source(mem, [(mem.alloc(4), 4), *more]).pour(1 << 20, 0)


def test_what_was_poured_counts_though_the_next_slice_is_unreadable(mem, host_file, monkeypatch):
    monkeypatch.setattr(iov, "SLICE", 2)
    assert user_source(mem, [(mem.put(b"abc"), 2), (8, 3)]).pour(host_file, 0) == 2
