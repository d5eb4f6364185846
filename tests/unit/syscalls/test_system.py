"""Calls about the whole machine."""

import struct

import pytest

from sentry.abi.errno import EAFNOSUPPORT, EBADF, EFAULT, EINVAL, ENOTSOCK, EPERM
from sentry.abi.signal import SIGINT
from sentry.kernel.creds import Creds
from sentry.syscalls import socket as sockets
from sentry.syscalls import system as calls
from sentry.syscalls.eventfd import eventfd2

NOBODY = Creds(uid=5, euid=5, suid=5)


def names(guest, t):
    addr = t.mem.alloc(390)
    guest.call(t, calls.uname, addr)
    data = t.mem.read(addr, 390)
    return [data[at : at + 65].split(b"\0")[0] for at in range(0, 390, 65)]


class TestNames:
    def test_uname(self, guest, t):
        sysname, nodename, release, _, machine, _ = names(guest, t)
        assert (sysname, nodename, machine) == (b"Linux", b"guest", b"x86_64")
        assert release[0:1].isdigit()

    def test_root_sets_them(self, guest, t):
        guest.call(t, calls.sethostname, t.mem.put(b"new"), 3)
        guest.call(t, calls.setdomainname, t.mem.put(b"dom"), 3)
        assert names(guest, t)[1::4] == [b"new", b"dom"]

    def test_others_do_not(self, guest, t):
        t.creds = NOBODY
        with pytest.raises(EPERM):
            guest.call(t, calls.sethostname, 8, 3)

    def test_errors(self, guest, t):
        with pytest.raises(EINVAL):
            guest.call(t, calls.sethostname, t.mem.alloc(65), 65)
        with pytest.raises(EINVAL):
            guest.call(t, calls.sethostname, t.mem.alloc(65), -1)
        with pytest.raises(EFAULT):
            guest.call(t, calls.sethostname, 8, 3)
        with pytest.raises(EFAULT):
            guest.call(t, calls.uname, 8)


def test_sysinfo_counts_processes_and_memory(guest, t):
    addr = t.mem.alloc(112)
    guest.call(t, calls.sysinfo, addr)
    data = t.mem.read(addr, 112)
    assert struct.unpack_from("<Q", data, 32)[0] == guest.kernel.facts.total_ram
    assert struct.unpack_from("<H", data, 80)[0] == 2
    assert struct.unpack_from("<I", data, 104)[0] == 1


class TestGetrandom:
    def test_fills_memory(self, guest, t):
        addr = t.mem.alloc(300_000)
        assert guest.call(t, calls.getrandom, addr, 300_000, 0) == 300_000
        assert t.mem.read(addr + 299_000, 1000).count(0) < 100

    def test_stops_at_unwritable_memory(self, guest, t):
        assert guest.call(t, calls.getrandom, t.mem.end - 5, 100, 0) == 5
        with pytest.raises(EFAULT):
            guest.call(t, calls.getrandom, 8, 100, 0)

    def test_bad_flags(self, guest, t):
        for flags in (8, 6):
            with pytest.raises(EINVAL):
                guest.call(t, calls.getrandom, t.mem.alloc(8), 8, flags)


class TestSyslog:
    @pytest.fixture
    def log(self, guest):
        log = guest.kernel.log
        log.add("one")
        log.add("two", 3)
        return log

    def read(self, guest, t, action, size=1000):
        addr = t.mem.alloc(size)
        return t.mem.read(addr, guest.call(t, calls.syslog, action, addr, size)).decode()

    def test_everybody_reads_all_of_it(self, guest, t, log):
        t.creds = NOBODY
        lines = self.read(guest, t, calls.SYSLOG_READ_ALL).splitlines()
        assert lines[0].startswith("<6>[    0.0") and lines[0].endswith("] one")
        assert lines[1].startswith("<3>[") and lines[1].endswith("] two")
        with pytest.raises(EPERM):
            self.read(guest, t, calls.SYSLOG_READ)

    def test_the_newest_lines_that_fit(self, guest, t, log):
        assert self.read(guest, t, calls.SYSLOG_READ_ALL, 25).endswith("] two\n")
        assert self.read(guest, t, calls.SYSLOG_READ_ALL, 5) == ""

    def test_clearing_hides_but_reading_goes_on(self, guest, t, log):
        assert "two" in self.read(guest, t, calls.SYSLOG_READ_CLEAR)
        assert self.read(guest, t, calls.SYSLOG_READ_ALL) == ""
        assert "one" in self.read(guest, t, calls.SYSLOG_READ)
        assert guest.call(t, calls.syslog, calls.SYSLOG_SIZE_UNREAD, 0, 0) == 0

    def test_reading_waits_for_more(self, guest, t, log):
        self.read(guest, t, calls.SYSLOG_READ)
        reading = guest.start(t, calls.syslog, calls.SYSLOG_READ, t.mem.alloc(100), 100)
        guest.settle()
        assert not reading.done
        log.add("three")
        guest.settle()
        assert reading.value() > 10

    def test_console_levels_and_errors(self, guest, t, log):
        assert guest.call(t, calls.syslog, calls.SYSLOG_CONSOLE_LEVEL, 0, 8) == 0
        with pytest.raises(EINVAL):
            guest.call(t, calls.syslog, calls.SYSLOG_CONSOLE_LEVEL, 0, 9)
        with pytest.raises(EINVAL):
            guest.call(t, calls.syslog, 11, 0, 0)
        with pytest.raises(EINVAL):
            guest.call(t, calls.syslog, calls.SYSLOG_READ_ALL, 0, 1)
        assert guest.call(t, calls.syslog, calls.SYSLOG_SIZE_BUFFER, 0, 0) == 131072


class TestReboot:
    POWER_OFF = 0x4321FEDC

    def test_power_off_ends_the_container(self, guest, t):
        assert guest.call(t, calls.reboot, calls.REBOOT_MAGIC, 0x28121969, self.POWER_OFF, 0) == 0
        init = guest.container.pidns.init
        assert init.exiting and init.exit_code == SIGINT

    def test_errors(self, guest, t):
        with pytest.raises(EINVAL):
            guest.call(t, calls.reboot, 1, 2, self.POWER_OFF, 0)
        with pytest.raises(EINVAL):
            guest.call(t, calls.reboot, calls.REBOOT_MAGIC, 0x28121969, 0x89ABCDEF, 0)
        t.creds = NOBODY
        with pytest.raises(EPERM):
            guest.call(t, calls.reboot, 1, 2, 3, 0)


def test_personality_is_linux(guest, t):
    assert guest.call(t, calls.personality, 0xFFFFFFFF) == 0
    assert guest.call(t, calls.personality, 0) == 0
    with pytest.raises(EINVAL):
        guest.call(t, calls.personality, 8)


def test_there_are_no_sockets(guest, t):
    with pytest.raises(EAFNOSUPPORT):
        guest.call(t, sockets.socket, 2, 1, 0)
    with pytest.raises(EINVAL):
        guest.call(t, sockets.socket, 2, 99, 0)
    fd = guest.call(t, eventfd2, 0, 0)
    with pytest.raises(ENOTSOCK):
        guest.call(t, sockets.listen, fd, 1)
    with pytest.raises(EBADF):
        guest.call(t, sockets.listen, 99, 1)
