"""Makes small ELF files, for tests that load or damage them."""

from __future__ import annotations

from typing import NamedTuple

from sentry.mm.elf import EHDR, EM_X86_64, ET_DYN, PHDR, PT_GNU_STACK, PT_INTERP, PT_LOAD

R, W, X = 4, 2, 1
CODE_OFFSET = 0x1000


class Load(NamedTuple):
    """A PT_LOAD header."""

    flags: int
    vaddr: int
    offset: int
    file_size: int
    mem_size: int
    align: int = 0x1000


TEXT = Load(R | X, 0, 0, 0x1800, 0x1800)
DATA = Load(R | W, 0x3000 + 0x800, 0x1800, 0x100, 0x2000)


def elf(
    *loads: Load,
    kind: int = ET_DYN,
    entry: int = CODE_OFFSET,
    interp: bytes = b"",
    stack: int = R | W,
    extra: list[bytes] | None = None,
) -> bytes:
    """A file of 0x1900 bytes or more: headers, zeros, 0x90s from CODE_OFFSET on, "data" at 0x1800."""
    headers = [PHDR.pack(PT_LOAD, s.flags, s.offset, s.vaddr, 0, s.file_size, s.mem_size, s.align) for s in loads]
    headers.append(PHDR.pack(PT_GNU_STACK, stack, 0, 0, 0, 0, 0, 16))
    if interp:
        headers.append(PHDR.pack(PT_INTERP, R, 0x800, 0x800, 0, len(interp), len(interp), 1))
    headers += extra or []
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    ehdr = EHDR.pack(ident, kind, EM_X86_64, 1, entry, EHDR.size, 0, 0, EHDR.size, PHDR.size, len(headers), 0, 0, 0)
    image = bytearray(0x1900)
    table = ehdr + b"".join(headers)
    image[: len(table)] = table
    image[0x800 : 0x800 + len(interp)] = interp
    image[CODE_OFFSET : CODE_OFFSET + 0x800] = b"\x90" * 0x800
    image[0x1800:0x1804] = b"data"
    return bytes(image)
