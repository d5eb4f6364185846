"""MemData against a model: a bytearray that knows nothing of pages, descriptors and limits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sentry.abi.errno import ENOSPC
from sentry.fs.memdata import SMALL, MemData, Pool, pages_of
from sentry.vfs.iov import BytesSink, BytesSource

EDGES = [0, 1, 100, 4095, 4096, 4097, 8192, SMALL - 1, SMALL, SMALL + 1, 3 * SMALL]
offsets = some.one_of(some.sampled_from(EDGES), some.integers(0, 3 * SMALL))
lengths = some.one_of(some.sampled_from([1, 4096, 5000]), some.integers(1, 40_000))
steps = some.lists(
    some.one_of(
        some.tuples(some.just("write"), offsets, lengths),
        some.tuples(some.just("truncate"), offsets, some.just(0)),
        some.tuples(some.just("punch"), offsets, lengths),
        some.tuples(some.just("allocate"), offsets, lengths),
        some.tuples(some.just("map"), some.just(0), some.just(0)),
    ),
    max_size=12,
)


def read(data, offset=0, size=1 << 20):
    sink = BytesSink(size)
    data.read(sink, offset)
    return bytes(sink.data)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(steps)
def test_whatever_is_done_the_bytes_are_those_of_the_model(steps):
    pool = Pool(0)
    data = MemData(pool)
    model = bytearray()
    for number, (what, offset, length) in enumerate(steps):
        match what:
            case "write":
                chunk = bytes([number + 1]) * length
                assert data.write(BytesSource(chunk), offset) == length
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + length] = chunk
            case "truncate":
                data.truncate(offset)
                del model[offset:]
                model.extend(bytes(offset - len(model)))
            case "punch":
                data.punch(offset, length)
                end = min(offset + length, len(model))
                model[offset:end] = bytes(max(0, end - offset))
            case "allocate":
                data.allocate(offset, length, keep_size=False)
                model.extend(bytes(max(0, offset + length - len(model))))
            case "map":
                data.fd()
        assert data.size == len(model)
        assert pool.used == data.pages
        if what != "allocate":
            assert data.pages <= pages_of(len(model)) or "allocate" in {step[0] for step in steps}
    assert read(data) == bytes(model)
    data.close()
    assert pool.used == 0


def test_a_write_stops_at_memory_that_can_not_be_read():
    class Short(BytesSource):
        def take(self, limit):
            return super().take(min(limit, 10))

    data = MemData(Pool(0))
    assert data.write(Short(b"x" * 100), 0) == 10
    data.fd()
    assert data.write(Short(b"y" * 100), 0) == 10
    assert read(data) == b"y" * 10
    data.close()


def test_a_full_pool_refuses_what_needs_pages_and_takes_the_rest():
    pool = Pool(2)
    data, other = MemData(pool), MemData(pool)
    assert data.write(BytesSource(b"x" * 9000), 0) == 8192

    with pytest.raises(ENOSPC):
        other.write(BytesSource(b"x"), 0)
    with pytest.raises(ENOSPC):
        data.write(BytesSource(b"x"), 8192)
    assert data.write(BytesSource(b"y"), 8191) == 1
    data.truncate(100)
    assert other.write(BytesSource(b"x" * 5000), 0) == 4096
    data.close()
    other.close()


def test_pages_touched_through_a_mapping_are_counted_when_asked():
    import mmap

    pool = Pool(100)
    data = MemData(pool)
    data.truncate(10 * 4096)
    with mmap.mmap(data.fd(), 10 * 4096) as memory:
        memory[4096] = 1
    assert pool.used == 0

    data.recount()

    assert pool.used == 1
    data.close()


def test_a_pools_pages_are_its_parents_too() -> None:
    parent = Pool(3)
    pools = Pool(0, parent), Pool(2, parent)
    pools[0].take(2)
    assert (pools[1].free, parent.used) == (1, 2)
    with pytest.raises(ENOSPC):
        pools[1].take(2)
    pools[1].take(1)
    pools[0].count(-2)
    assert (pools[0].free, pools[1].free, parent.used) == (2, 1, 1)
