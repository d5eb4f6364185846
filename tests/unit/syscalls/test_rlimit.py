"""Resource limits and usage."""

import struct

import pytest

from sentry.abi.errno import EFAULT, EINVAL, EMFILE, EPERM, ESRCH
from sentry.kernel.creds import Creds
from sentry.kernel.rlimits import NR_OPEN, RLIM_INFINITY, RLIMIT_NOFILE, RLIMIT_STACK, Rlimits
from sentry.syscalls.eventfd import eventfd2
from sentry.syscalls.rlimit import getrlimit, getrusage, prlimit64, setrlimit


def limit(t, soft, hard):
    return t.mem.put(struct.pack("<QQ", soft, hard))


def read_limit(t, addr):
    return struct.unpack("<QQ", t.mem.read(addr, 16))


def get(guest, t, resource):
    addr = t.mem.alloc(16)
    guest.call(t, getrlimit, resource, addr)
    return read_limit(t, addr)


def test_defaults_are_linuxs(guest, t):
    assert get(guest, t, RLIMIT_NOFILE) == (1024, 1048576)
    assert get(guest, t, RLIMIT_STACK) == (8 << 20, RLIM_INFINITY)


def test_the_descriptor_limit_takes_effect(guest, t):
    guest.call(t, setrlimit, RLIMIT_NOFILE, limit(t, 2, 1024))
    guest.call(t, eventfd2, 0, 0)
    guest.call(t, eventfd2, 0, 0)
    with pytest.raises(EMFILE):
        guest.call(t, eventfd2, 0, 0)


def test_only_the_privileged_raise_a_hard_limit(guest, t):
    guest.call(t, setrlimit, RLIMIT_STACK, limit(t, 1, 100))
    guest.call(t, setrlimit, RLIMIT_STACK, limit(t, 1, 200))
    t.creds = Creds(uid=5, euid=5, suid=5)
    with pytest.raises(EPERM):
        guest.call(t, setrlimit, RLIMIT_STACK, limit(t, 1, 300))
    assert get(guest, t, RLIMIT_STACK) == (1, 200)


def test_nobody_passes_nr_open(guest, t):
    with pytest.raises(EPERM):
        guest.call(t, setrlimit, RLIMIT_NOFILE, limit(t, 1, NR_OPEN + 1))


def test_prlimit_sets_and_reads_another_process(guest, t):
    other = guest.process()
    old = t.mem.alloc(16)
    guest.call(t, prlimit64, other.tid, RLIMIT_NOFILE, limit(t, 5, 6), old)

    assert read_limit(t, old) == (1024, NR_OPEN)
    assert other.files.limit == 5
    assert get(guest, t, RLIMIT_NOFILE) == (1024, NR_OPEN)


def test_prlimit_needs_the_same_ids_or_a_capability(guest, t):
    other = guest.process(creds=Creds(uid=7, euid=7, suid=7))
    guest.call(t, prlimit64, other.tid, RLIMIT_NOFILE, 0, 0)
    t.creds = Creds(uid=5, euid=5, suid=5)
    with pytest.raises(EPERM):
        guest.call(t, prlimit64, other.tid, RLIMIT_NOFILE, 0, 0)
    t.creds = Creds(uid=7, euid=5, suid=5)
    assert guest.call(t, prlimit64, other.tid, RLIMIT_NOFILE, 0, 0) == 0


def test_errors(guest, t):
    with pytest.raises(EINVAL):
        get(guest, t, 16)
    with pytest.raises(EFAULT):
        guest.call(t, getrlimit, 0, 8)
    with pytest.raises(EINVAL):
        guest.call(t, setrlimit, 0, limit(t, 2, 1))
    with pytest.raises(ESRCH):
        guest.call(t, prlimit64, 4000, 0, 0, 0)


def test_oci_names_are_applied(guest):
    limits = Rlimits()
    limits.apply([("RLIMIT_NOFILE", 10, 20), ("RLIMIT_CORE", 0, (1 << 64) - 1)])
    assert limits.get(RLIMIT_NOFILE) == (10, 20)
    with pytest.raises(EINVAL):
        limits.apply([("RLIMIT_NONSENSE", 1, 1)])


def test_usage_has_times_and_size(guest, t):
    t.context.used_ns = 1_500_000_000
    t.tg.child_cpu_ns = (2_000_000, 0)
    addr = t.mem.alloc(144)
    guest.call(t, getrusage, 0, addr)
    assert struct.unpack("<5q", t.mem.read(addr, 40)) == (1, 500000, 0, 0, 8)
    guest.call(t, getrusage, 1, addr)
    assert t.mem.read(addr, 8) == struct.pack("<q", 1)
    guest.call(t, getrusage, -1, addr)
    assert struct.unpack("<2q", t.mem.read(addr, 16)) == (0, 2000)
    with pytest.raises(EINVAL):
        guest.call(t, getrusage, 2, addr)
