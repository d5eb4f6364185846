"""ELF images, elf(5): parsing headers and laying out what execve maps.  No memory is touched here."""

from __future__ import annotations

import struct
from typing import Final

from proto.slotted import slotted
from sentry.abi.errno import EINVAL, ENOEXEC
from sentry.platform import PAGE_SIZE

EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR: Final = struct.Struct("<IIQQQQQQ")

ET_EXEC: Final = 2
ET_DYN: Final = 3
EM_X86_64: Final = 62
PT_LOAD: Final = 1
PT_INTERP: Final = 3
PT_PHDR: Final = 6
PT_GNU_STACK: Final = 0x6474E551
PF_X: Final = 1
PF_W: Final = 2
PF_R: Final = 4

MAX_PHDRS_SIZE: Final = 65536
PATH_MAX: Final = 4096
TASK_SIZE: Final = 1 << 47
MAX_OFFSET: Final = 1 << 62


@slotted
class Segment:
    """One PT_LOAD header."""

    vaddr: int
    offset: int
    file_size: int
    mem_size: int
    prot: int


@slotted
class Image:
    """What the headers say.  interp: (offset, size) of the interpreter's name in the file."""

    type: int
    entry: int
    phoff: int
    phentsize: int
    phnum: int
    phdr_vaddr: int
    segments: list[Segment]
    interp: tuple[int, int] | None
    exec_stack: bool
    align: int  # what a PT_LOAD's p_align asks of the load address, at least a page

    @property
    def low(self) -> int:
        return min(segment.vaddr for segment in self.segments) & ~(PAGE_SIZE - 1)

    @property
    def high(self) -> int:
        return max(segment.vaddr + segment.mem_size for segment in self.segments)


def parse_header(head: bytes) -> tuple[int, int, int, int, int]:
    """(type, entry, phoff, phentsize, phnum).  ENOEXEC: not an ELF file for this machine."""
    if len(head) < EHDR.size or head[:4] != b"\x7fELF" or head[4] != 2 or head[5] != 1:
        raise ENOEXEC
    _, kind, machine, _, entry, phoff, _, _, _, phentsize, phnum, *_ = EHDR.unpack_from(head)
    if machine != EM_X86_64 or kind not in (ET_EXEC, ET_DYN):
        raise ENOEXEC
    if phentsize != PHDR.size or not 1 <= phnum <= MAX_PHDRS_SIZE // PHDR.size or phoff >= MAX_OFFSET:
        raise ENOEXEC
    if entry >= TASK_SIZE:
        raise ENOEXEC
    return kind, entry, phoff, phentsize, phnum


def parse_image(head: bytes, phdrs: bytes) -> Image:
    """head: the file's start; phdrs: its program headers.  ENOEXEC, EINVAL."""
    kind, entry, phoff, phentsize, phnum = parse_header(head)
    if len(phdrs) < phentsize * phnum:
        raise ENOEXEC
    segments: list[Segment] = []
    interp: tuple[int, int] | None = None
    phdr_vaddr = 0
    exec_stack = False
    align = PAGE_SIZE
    for i in range(phnum):
        p_type, flags, offset, vaddr, _, file_size, mem_size, p_align = PHDR.unpack_from(phdrs, i * phentsize)
        if p_type == PT_LOAD:
            segments.append(_segment(flags, offset, vaddr, file_size, mem_size))
            if p_align & p_align - 1 == 0:
                align = max(align, p_align)
        elif p_type == PT_INTERP and interp is None:
            if not 2 <= file_size <= PATH_MAX or offset >= MAX_OFFSET:
                raise ENOEXEC
            interp = (offset, file_size)
        elif p_type == PT_PHDR:
            phdr_vaddr = vaddr
        elif p_type == PT_GNU_STACK:
            exec_stack = bool(flags & PF_X)
    if not segments:
        raise ENOEXEC
    if not phdr_vaddr:
        phdr_vaddr = _find_phdrs(segments, phoff)
    return Image(kind, entry, phoff, phentsize, phnum, phdr_vaddr, segments, interp, exec_stack, align)


def _segment(flags: int, offset: int, vaddr: int, file_size: int, mem_size: int) -> Segment:
    if file_size > mem_size or (vaddr - offset) % PAGE_SIZE or vaddr + mem_size >= TASK_SIZE or offset >= MAX_OFFSET:
        raise EINVAL("malformed PT_LOAD")
    prot = (1 if flags & PF_R else 0) | (2 if flags & PF_W else 0) | (4 if flags & PF_X else 0)
    return Segment(vaddr, offset, file_size, mem_size, prot)


def _find_phdrs(segments: list[Segment], phoff: int) -> int:
    """Where the program headers are in memory: AT_PHDR without a PT_PHDR."""
    for segment in segments:
        if segment.offset <= phoff < segment.offset + segment.file_size:
            return phoff - segment.offset + segment.vaddr
    return 0
