"""/proc/PID/maps: the host's map of an address space, with the sandbox's names and numbers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sentry.fs.proc_view import TaskView, reader_root
from sentry.platform import Mapping, SpaceGone
from sentry.vfs.dentry import Path, display_name

if TYPE_CHECKING:
    from sentry.mm.mm import Mm

NAME_COLUMN: Final = 73
# Of a file on overlayfs the host's map and fstat(2) tell different devices, and numbers that differ in their
# high bits (xino=).  The low bits agree, and one process does not map many files.
INO_MASK: Final = 0xFFFFFFFF


def mappings(view: TaskView) -> list[Mapping]:
    """The application's mappings; none of a zombie's."""
    mm = view.mm
    try:
        return mm.space.mappings() if mm is not None else []
    except SpaceGone:
        return []


def maps(view: TaskView) -> str:
    """proc(5), /proc/PID/maps."""
    mm = view.mm
    if mm is None:
        return ""
    root = reader_root(view)
    by_number = {ino & INO_MASK: file for (_, ino), file in mm.files.items()}
    lines = []
    for mapping in mappings(view):
        file = mm.file_at(mapping.dev, mapping.ino) or by_number.get(mapping.ino & INO_MASK)
        lines.append(_line(mapping, _identity(mapping, mm, file, root)))
    return "".join(lines)


def _line(mapping: Mapping, identity: tuple[int, int, str]) -> str:
    dev, ino, name = identity
    line = (
        f"{mapping.start:08x}-{mapping.end:08x} {mapping.perms} {mapping.offset:08x} "
        f"{os.major(dev):02x}:{os.minor(dev):02x} {ino} "
    )
    return (line.ljust(NAME_COLUMN) + name if name else line) + "\n"


def _identity(mapping: Mapping, mm: Mm, file: Path | str | None, root: Path) -> tuple[int, int, str]:
    """(device, inode, name) as the application knows them."""
    if not mapping.ino:
        return 0, 0, area_name(mapping, mm)
    if file is None:
        # Shared anonymous memory, which Linux shows under the name of the file it could have been.
        return 1, mapping.ino, "/dev/zero (deleted)"
    if isinstance(file, str):
        return 1, mapping.ino, file
    name = display_name(file, root).replace("\n", "\\012")
    inode = file.dentry.inode
    return (inode.fs.dev, inode.ino, name) if inode is not None else (0, 0, name)


def area_name(mapping: Mapping, mm: Mm) -> str:
    """What Linux calls memory without a file: arch_vma_name(), and the heap and the stack."""
    if mapping.kind:
        return f"[{mapping.kind}]"
    if mapping.start <= mm.brk and mapping.end >= mm.brk_start and mm.brk > mm.brk_start:
        return "[heap]"
    if mapping.start < mm.stack_end and mapping.end > mm.stack_start:
        return "[stack]"
    return ""
