"""Mm: a process's memory as the kernel knows it (struct mm_struct).

The mappings themselves are the address space's; here is what only the kernel knows: the
heap's ends, where arguments and environment lie, which file backs which host inode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sentry.abi.errno import LinuxError
from sentry.platform import PAGE_SIZE, AddressSpace

if TYPE_CHECKING:
    from sentry.vfs.dentry import Path
    from sentry.vfs.file import File

PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4
MAP_SHARED: Final = 1
MAP_PRIVATE: Final = 2
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_NORESERVE: Final = 0x4000
MAP_FIXED_NOREPLACE: Final = 0x100000


def page_up(addr: int) -> int:
    return (addr + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)


def page_down(addr: int) -> int:
    return addr & ~(PAGE_SIZE - 1)


class Mm:
    """users counts the tasks that run in it.

    set by execve   exe, arg_start..env_end, auxv, stack_start, stack_end, brk_start
    later           brk by brk(2); files by mmap(2)
    """

    __slots__ = (
        "arg_end",
        "arg_start",
        "auxv",
        "brk",
        "brk_start",
        "env_end",
        "env_start",
        "exe",
        "exe_file",
        "files",
        "shared",
        "space",
        "stack_end",
        "stack_start",
        "users",
    )

    def __init__(self, space: AddressSpace) -> None:
        self.space = space
        self.users = 1
        self.exe: Path | None = None
        self.exe_file: File | None = None
        self.files: dict[tuple[int, int], Path | str] = {}
        self.shared: list[tuple[int, int]] = []  # (start, end) of what was ever mapped shared; it may be gone again
        self.brk_start = self.brk = 0
        self.arg_start = self.arg_end = self.env_start = self.env_end = 0
        self.stack_start = self.stack_end = 0
        self.auxv = b""

    def copy(self, space: AddressSpace) -> Mm:
        """For fork."""
        mm = Mm(space)
        for name in self.__slots__:
            if name not in ("space", "users", "files", "shared"):
                setattr(mm, name, getattr(self, name))
        mm.files = dict(self.files)
        mm.shared = list(self.shared)
        if mm.exe_file is not None:
            mm.set_exe(mm.exe_file)
        return mm

    def set_exe(self, file: File) -> None:
        """Run file: it can't be written to as long as this memory lasts."""
        self.exe_file = file.hold()
        file.inode.executing += 1

    def release(self) -> None:
        """One user less."""
        self.users -= 1
        if self.users == 0 and self.exe_file is not None:
            self.exe_file.inode.executing -= 1
            self.exe_file.drop()
            self.exe_file = None

    def note_file(self, dev: int, ino: int, path: Path | str) -> None:
        """Remember what a mapped host file is called here."""
        self.files[(dev, ino)] = path

    def file_at(self, dev: int, ino: int) -> Path | str | None:
        return self.files.get((dev, ino))

    def note_shared(self, start: int, end: int) -> None:
        """Remember that memory of this range may be shared."""
        if (start, end) not in self.shared:
            self.shared.append((start, end))

    def may_be_shared(self, addr: int) -> bool:
        """False only if the page at addr is certainly no part of a shared mapping."""
        for start, end in self.shared:  # noqa: SIM110 (any() takes four times as long)
            if start <= addr < end:
                return True
        return False

    def set_brk(self, new: int, data_limit: int) -> int:
        """brk(2): move the heap's end; returns where it is afterwards."""
        if new < self.brk_start or new - self.brk_start > data_limit or new >= self.space.end:
            return self.brk
        old_end, new_end = page_up(self.brk), page_up(new)
        try:
            if new_end > old_end:
                flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
                got = self.space.map(old_end, new_end - old_end, PROT_READ | PROT_WRITE, flags, -1, 0)
                if got != old_end:
                    self.space.unmap(got, new_end - old_end)
                    return self.brk
            elif new_end < old_end:
                self.space.unmap(new_end, old_end - new_end)
        except LinuxError:
            return self.brk
        self.brk = new
        return new

    def command_line(self) -> bytes:
        """/proc/PID/cmdline."""
        return self._read(self.arg_start, self.arg_end)

    def environment(self) -> bytes:
        """/proc/PID/environ."""
        return self._read(self.env_start, self.env_end)

    def _read(self, start: int, end: int) -> bytes:
        try:
            return self.space.read_some(start, min(end - start, 1 << 20)) if end > start else b""
        except LinuxError:
            return b""
