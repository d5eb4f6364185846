"""Processors of one space that run while the Sentry changes it.

Each is a thread that enters the guest for one access at a time, as a virtual CPU does for many: not while the space is
stopped, and after that with an empty TLB.
"""

from __future__ import annotations

import random
import struct
import threading
from contextlib import suppress
from typing import Any

import pytest

from platform_kvm.core._core import ffi, lib
from tests.kvmwalk import ANONYMOUS, MAP_ANONYMOUS, MAP_FIXED, MAP_SHARED, PAGE, READ, READ_WRITE, WRITE, Core, Memory

AT = 0x10000000000
PAGES = 16  # of each thread
PROCESSORS = 2
ROUNDS = 300


class Guest(Core):
    """A space with a lock that is held while a processor executes in it."""

    def __init__(self, memory: Memory, account: Any) -> None:
        super().__init__(memory, account)
        self.running = threading.Lock()
        self.is_stopped = False

    def stop(self) -> None:
        with self.running:
            self.is_stopped = True

    def enter(self) -> None:
        """Take `running` at a time when the space is not being changed after a stop."""
        while True:
            self.running.acquire()
            if not self.is_stopped:
                return
            self.running.release()
            lib.kv_lock()
            self.is_stopped = False
            lib.kv_unlock()

    def attempt(self, addr: int, access: int, data: bytes, stock: Any) -> bytes | None:
        """One load or store, with what the tables say now and a frame of ring 0's; None: it faulted."""
        used = False
        self.enter()
        try:
            if access == WRITE and stock[0]:
                used = self.fill_mark_with(addr, stock[0])
            found = self.translation(addr)
            if found is None or (access == WRITE and not found[2] & 2):
                return None
            host = self.memory.host(found[1]) + addr % PAGE
            return exchange(host, data if access == WRITE else None)
        finally:
            self.running.release()
            if used:
                lib.kv_stock_used(self.space, stock[0])
            if used or not stock[0]:
                lib.kv_stock_take(stock, 1)


def exchange(host: int, data: bytes | None) -> bytes:
    pointer = ffi.cast("char *", host)
    if data is not None:
        ffi.memmove(pointer, data, len(data))
    return bytes(ffi.buffer(pointer, 8)[:])


class Processor(threading.Thread):
    """Writes numbers to pages of its own, and reads them back."""

    def __init__(self, guest: Guest, number: int) -> None:
        super().__init__()
        self.guest = guest
        self.base = AT + number * PAGES * PAGE
        self.values = dict.fromkeys(range(PAGES), 0)
        self.random = random.Random(number)
        self.wanted = True
        self.failure = ""
        self.stock = ffi.new("unsigned long[1]")

    def run(self) -> None:
        value = 0
        while self.wanted and not self.failure:
            page = self.random.randrange(PAGES)
            addr = self.base + page * PAGE
            value += 1
            if self.access(addr, WRITE, struct.pack("<Q", value)) is not None:
                self.values[page] = value
            page = self.random.randrange(PAGES)
            found = self.access(self.base + page * PAGE, READ, b"")
            if found is not None and struct.unpack("<Q", found)[0] != self.values[page]:
                self.failure = f"page {page}: {found!r}, not {self.values[page]}"

    def access(self, addr: int, access: int, data: bytes) -> bytes | None:
        """None: it is not allowed at present."""
        info = ffi.new("struct kv_fault_info *")
        while True:
            found = self.guest.attempt(addr, access, data, self.stock)
            if found is not None:
                return found
            result = lib.kv_fault(self.guest.space, addr, access, info)
            if result == 1:
                return None
            if result:
                self.failure = f"fault: {result}"
                return None


@pytest.mark.parametrize("flags", [ANONYMOUS, MAP_SHARED | MAP_ANONYMOUS])
def test_processors_keep_their_memory_while_the_space_is_changed(flags: int) -> None:
    memory = Memory()
    account = lib.kv_account_new(1 << 20)
    guest = Guest(memory, account)
    size = PROCESSORS * PAGES * PAGE
    guest.map(AT, size, READ_WRITE, flags | MAP_FIXED)
    processors = [Processor(guest, number) for number in range(PROCESSORS)]
    for processor in processors:
        processor.start()
    chance = random.Random(1)
    try:
        for _ in range(ROUNDS):
            start = AT + chance.randrange(PROCESSORS * PAGES) * PAGE
            with suppress(OSError):
                match chance.randrange(4):
                    case 0:
                        child = guest.fork()
                        if flags == ANONYMOUS:
                            child.write(AT, b"\xff" * size)
                        child.free()
                    case 1:
                        guest.protect(start, 4 * PAGE, 1)
                        guest.protect(start, 4 * PAGE, READ_WRITE)
                    case 2:
                        guest.protect(start, 4 * PAGE, 0)
                        guest.protect(start, 4 * PAGE, READ_WRITE)
                    case 3:
                        guest.map(AT + size, 4 * PAGE, READ_WRITE, ANONYMOUS | MAP_FIXED)
                        guest.write(AT + size, b"x")
                        guest.unmap(AT + size, 4 * PAGE)
            assert not any(processor.failure for processor in processors)
    finally:
        for processor in processors:
            processor.wanted = False
        for processor in processors:
            processor.join()
            lib.kv_stock_return(processor.stock, processor.stock[0] != 0)
        failures = [processor.failure for processor in processors]
        guest.free()
        handed_out = memory.frames().handed_out
        lib.kv_account_free(account)
        memory.close()
    assert failures == [""] * PROCESSORS and handed_out == 0
