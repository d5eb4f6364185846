"""execve(2): fs/exec.c and fs/binfmt_elf.c.

The new image is built in a fresh address space beside the old one, so every failure before
the switch leaves the caller as it was.  Then the other threads end, and the task moves over.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from proto.slotted import slotted
from sentry.abi.errno import E2BIG, EACCES, EFAULT, ELOOP, ENOEXEC, ENOMEM, ETXTBSY, LinuxError
from sentry.abi.fcntl import O_RDONLY
from sentry.abi.signal import SS_DISABLE
from sentry.abi.stat import S_IFMT, S_IFREG, S_ISGID, S_ISUID, S_IXGRP
from sentry.kernel.answers import approve_memory, keep_current
from sentry.kernel.creds import SECBIT_KEEP_CAPS, SECBIT_NOROOT, Creds
from sentry.kernel.exit import leave_memory
from sentry.kernel.rlimits import RLIM_INFINITY, RLIMIT_STACK
from sentry.kernel.script import HEAD_SIZE, parse_script
from sentry.kernel.signals import SignalHandlers
from sentry.mm.elf import ET_DYN, Image, Segment, parse_header, parse_image
from sentry.mm.mm import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    Mm,
    page_down,
    page_up,
)
from sentry.platform import PAGE_SIZE, AddressSpace, Context, SpaceGone
from sentry.vfs.caller import MAY_EXEC
from sentry.vfs.dentry import MS_NOEXEC, MS_NOSUID, Path
from sentry.vfs.file import File
from sentry.vfs.iov import BytesSink
from sentry.vfs.walk import Where, walk
from sentry.wait import park

if TYPE_CHECKING:
    from sentry.kernel.task import Task

MAX_SCRIPTS: Final = 5
MAX_ARG_STRLEN: Final = 131072
ARG_MAX_FLOOR: Final = 131072
ARG_MAX_CEILING: Final = 6 << 20

ELF_ET_DYN_BASE: Final = 0x555555554000
RANDOM_BASE_PAGES: Final = 1 << 26
RANDOM_STACK_PAGES: Final = 1 << 18
RANDOM_BRK_PAGES: Final = 1 << 13
DEFAULT_STACK: Final = 8 << 20
MAX_STACK: Final = 64 << 20

AT_NULL: Final = 0
AT_PHDR: Final = 3
AT_PHENT: Final = 4
AT_PHNUM: Final = 5
AT_PAGESZ: Final = 6
AT_BASE: Final = 7
AT_FLAGS: Final = 8
AT_ENTRY: Final = 9
AT_UID: Final = 11
AT_EUID: Final = 12
AT_GID: Final = 13
AT_EGID: Final = 14
AT_PLATFORM: Final = 15
AT_HWCAP: Final = 16
AT_CLKTCK: Final = 17
AT_SECURE: Final = 23
AT_RANDOM: Final = 25
AT_HWCAP2: Final = 26
AT_EXECFN: Final = 31
AT_SYSINFO_EHDR: Final = 33
AT_MINSIGSTKSZ: Final = 51


@slotted
class Program:
    """What is to run: after scripts are resolved, an ELF file and its arguments."""

    file: File
    path: Path
    head: bytes
    argv: list[bytes]
    envp: list[bytes]
    filename: bytes  # as execve was given it: AT_EXECFN, and the task's name
    called: bytes  # what an interpreter is to run: filename, or the interpreter that is a script itself


@slotted
class Loaded:
    """A new image in its new address space."""

    context: Context
    mm: Mm
    entry: int
    sp: int
    creds: Creds


def _random_below(limit: int) -> int:
    """From the host's generator, of which no fork has a copy."""
    return int.from_bytes(os.urandom(8), "little") % limit


# -- finding the program --


async def open_program(where: Where, name: str, argv: list[bytes], envp: list[bytes], follow: bool = True) -> Program:
    """Open name and resolve `#!` lines.  ENOENT, EACCES, ENOEXEC, ELOOP, and what walking raises."""
    return await open_executable(where, await walk(where, name, follow), argv, envp, os.fsencode(name))


async def open_executable(where: Where, path: Path, argv: list[bytes], envp: list[bytes], name: bytes) -> Program:
    """As open_program, for a file that was found already (execveat with AT_EMPTY_PATH)."""
    program = await _open(where, path, argv, envp, name)
    for _ in range(MAX_SCRIPTS + 1):
        if program.head[:2] != b"#!":
            return program
        program = await _interpreter(where, program)
    program.file.drop()
    raise ELOOP


async def _open(where: Where, path: Path, argv: list[bytes], envp: list[bytes], name: bytes) -> Program:
    """do_open_execat(): a regular file, executable, on a mount that allows it.  EACCES, ETXTBSY."""
    inode = path.inode
    await inode.refresh()
    if inode.mode & S_IFMT != S_IFREG or path.mount.flags & MS_NOEXEC:
        raise EACCES
    where.caller.check(inode, MAY_EXEC)
    if inode.writers:
        raise ETXTBSY
    file = (await inode.open(path, O_RDONLY)).hold()
    try:
        head = read_exactly(file, 0, HEAD_SIZE, short=True)
    except LinuxError:
        file.drop()
        raise
    return Program(file, path, head, argv, envp, name, name)


async def _interpreter(where: Where, script: Program) -> Program:
    """The interpreter, its one argument, and the script's name before the old arguments."""
    script.file.drop()
    interpreter, argument = parse_script(script.head)
    argv = [interpreter, *([] if argument is None else [argument]), script.called, *script.argv[1:]]
    path = await walk(where, os.fsdecode(interpreter))
    program = await _open(where, path, argv, script.envp, script.filename)
    program.called = interpreter
    return program


def read_exactly(file: File, offset: int, size: int, short: bool = False) -> bytes:
    """size bytes of a regular file.  ENOEXEC if it ends before, unless short."""
    sink = BytesSink(size)
    while sink.remaining:
        if not file.read_at(sink, offset + len(sink.data)):
            break
    if sink.remaining and not short:
        raise ENOEXEC
    return bytes(sink.data)


# -- arguments --


def read_strings(mem: AddressSpace, addr: int) -> list[bytes]:
    """argv or envp: a NULL-terminated array of pointers to strings.  EFAULT, E2BIG."""
    strings: list[bytes] = []
    if not addr:
        return strings
    total = 0
    while True:
        step = max(PAGE_SIZE - addr % PAGE_SIZE, 8)  # the array need not be aligned
        chunk = mem.read_some(addr, step)
        usable = len(chunk) & ~7
        if not usable:
            raise EFAULT
        for (pointer,) in struct.iter_unpack("<Q", chunk[:usable]):
            if not pointer:
                return strings
            strings.append(_read_string(mem, pointer))
            total += len(strings[-1]) + 9
            if total > ARG_MAX_CEILING:
                raise E2BIG
        addr += usable


def _read_string(mem: AddressSpace, addr: int) -> bytes:
    try:
        return mem.read_cstr(addr, MAX_ARG_STRLEN)
    except EFAULT:
        raise
    except LinuxError:
        raise E2BIG from None


def check_argument_size(program: Program, stack_limit: int) -> None:
    """bprm_stack_limits(): a quarter of the stack, at least 128 KiB, at most 6 MiB."""
    limit = max(min(stack_limit // 4, ARG_MAX_CEILING), ARG_MAX_FLOOR)
    size = sum(len(s) + 9 for s in program.argv) + sum(len(s) + 9 for s in program.envp)
    if size > limit:
        raise E2BIG


# -- loading --


async def load(t: Task, program: Program) -> Loaded:
    """Build program's image in a fresh address space.  What fails leaves nothing behind."""
    stack_limit = t.tg.rlimits.get(RLIMIT_STACK)[0]
    check_argument_size(program, stack_limit)
    image = _parse(program.file, program.head)
    interpreter = await _open_interpreter(t, program, image)
    try:
        context = await t.container.space_for_exec()
        try:
            return await _load_into(t, program, image, interpreter, context, stack_limit)
        except (LinuxError, SpaceGone):
            context.release()
            raise
    finally:
        if interpreter is not None:
            interpreter[0].drop()


def _parse(file: File, head: bytes) -> Image:
    _, _, phoff, phentsize, phnum = parse_header(head)
    size = phentsize * phnum
    phdrs = head[phoff : phoff + size] if phoff + size <= len(head) else read_exactly(file, phoff, size)
    return parse_image(head, phdrs)


async def _open_interpreter(t: Task, program: Program, image: Image) -> tuple[File, Image, Path] | None:
    """PT_INTERP's file.  ENOENT, ELIBBAD as ENOEXEC."""
    if image.interp is None:
        return None
    offset, size = image.interp
    name = read_exactly(program.file, offset, size)
    if not name.endswith(b"\0"):
        raise ENOEXEC
    where = t.where()
    opened = await _open(where, await walk(where, os.fsdecode(name.split(b"\0")[0])), [], [], b"")
    try:
        return opened.file, _parse(opened.file, opened.head), opened.path
    except LinuxError:
        opened.file.drop()
        raise


async def _load_into(
    t: Task,
    program: Program,
    image: Image,
    interpreter: tuple[File, Image, Path] | None,
    context: Context,
    stack_limit: int,
) -> Loaded:
    space = context.space
    mm = Mm(space)
    bias = 0
    if image.type == ET_DYN:
        start = ELF_ET_DYN_BASE + _random_below(RANDOM_BASE_PAGES) * PAGE_SIZE
        bias = (start & -image.align) - image.low
    await _map_image(mm, program.file, program.path, image, bias, fixed=True)
    entry = image.entry + bias
    base = 0
    if interpreter is not None:
        file, interp_image, path = interpreter
        base = await _map_image(mm, file, path, interp_image, 0, fixed=interp_image.type != ET_DYN)
        start = interp_image.entry + base
    else:
        start = entry
    if start >= space.end:
        raise ENOEXEC("no such entry point")
    mm.brk_start = mm.brk = page_up(image.high + bias) + _random_below(RANDOM_BRK_PAGES) * PAGE_SIZE
    creds, secure = exec_creds(t, program)
    _map_stack(mm, stack_limit, image.exec_stack)
    auxv = [
        (AT_SYSINFO_EHDR, space.vdso),
        (AT_HWCAP, t.kernel.hwcap),
        (AT_PAGESZ, PAGE_SIZE),
        (AT_CLKTCK, 100),
        (AT_PHDR, image.phdr_vaddr + bias & (1 << 64) - 1),
        (AT_PHENT, image.phentsize),
        (AT_PHNUM, image.phnum),
        (AT_BASE, base),
        (AT_FLAGS, 0),
        (AT_ENTRY, entry),
        (AT_UID, creds.uid),
        (AT_EUID, creds.euid),
        (AT_GID, creds.gid),
        (AT_EGID, creds.egid),
        (AT_SECURE, int(secure)),
        (AT_HWCAP2, t.kernel.hwcap2),
        (AT_MINSIGSTKSZ, t.kernel.min_signal_stack),
    ]
    sp = push_stack(mm, program, [pair for pair in auxv if pair[0] != AT_SYSINFO_EHDR or pair[1]])
    mm.exe = program.path
    mm.set_exe(program.file)
    return Loaded(context, mm, start, sp, creds)


async def _map_image(mm: Mm, file: File, path: Path, image: Image, bias: int, fixed: bool) -> int:
    """Map the segments; returns the load bias.  The range is reserved first, so that parts never collide."""
    space = mm.space
    low, size = image.low, page_up(image.high) - image.low
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (MAP_FIXED_NOREPLACE if fixed else 0)
    wanted = low + bias if fixed else 0
    at = space.map(wanted, size, 0, flags, -1, 0)
    if fixed and at != wanted:
        raise ENOMEM
    bias = at - low
    fd = await file.host_fd(False)
    info = os.fstat(fd)
    mm.note_file(info.st_dev, info.st_ino, path)
    end = at
    for segment in image.segments:
        start = page_down(segment.vaddr + bias)
        if start > end:
            space.unmap(end, start - end)
        end = max(end, _map_segment(space, segment, bias, fd))
    return bias


def _map_segment(space: AddressSpace, segment: Segment, bias: int, fd: int) -> int:
    """One PT_LOAD: file pages, the zeroed rest of the last one, anonymous pages.  Returns the page after."""
    start = page_down(segment.vaddr + bias)
    lead = segment.vaddr + bias - start
    file_end = segment.vaddr + bias + segment.file_size
    mapped_end = start
    if segment.file_size:
        mapped_end = page_up(file_end)
        flags = MAP_PRIVATE | MAP_FIXED
        space.map(start, mapped_end - start, segment.prot, flags, fd, segment.offset - lead)
        if segment.mem_size > segment.file_size and mapped_end > file_end and segment.prot & PROT_WRITE:
            space.write(file_end, bytes(mapped_end - file_end))
    end = page_up(segment.vaddr + bias + segment.mem_size)
    if end > mapped_end:
        space.map(mapped_end, end - mapped_end, segment.prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
    return end


def _map_stack(mm: Mm, limit: int, executable: bool) -> None:
    """The whole stack at once: it is reserved, not committed, and needs no growing later."""
    size = MAX_STACK if limit == RLIM_INFINITY else page_up(max(min(limit, MAX_STACK), 1 << 17))
    prot = PROT_READ | PROT_WRITE | (PROT_EXEC if executable else 0)
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
    for _ in range(16):
        top = mm.space.end - (1 + _random_below(RANDOM_STACK_PAGES)) * PAGE_SIZE
        try:
            if mm.space.map(top - size, size, prot, flags, -1, 0) == top - size:
                mm.stack_start, mm.stack_end = top - size, top
                return
        except LinuxError:
            continue
    raise ENOMEM


def push_stack(mm: Mm, program: Program, auxv: list[tuple[int, int]]) -> int:
    """Lay out strings, auxv, envp and argv below the stack's end, as create_elf_tables() does; returns rsp."""
    top = mm.stack_end - 8
    strings = program.argv, program.envp
    area = b"\0".join([*strings[0], *strings[1], program.filename]) + b"\0"
    area_start = top - len(area)
    addr = area_start
    pointers: list[list[int]] = [[], []]
    for which in (0, 1):
        for text in strings[which]:
            pointers[which].append(addr)
            addr += len(text) + 1
    mm.arg_start = area_start
    mm.arg_end = mm.env_start = area_start + sum(len(s) + 1 for s in program.argv)
    mm.env_end = addr
    random_addr = ((area_start - 256 - _random_below(256) * 16) & ~15) - 16
    platform = b"x86_64\0"
    platform_addr = random_addr - 16
    auxv = [*auxv, (AT_RANDOM, random_addr), (AT_EXECFN, addr), (AT_PLATFORM, platform_addr), (AT_NULL, 0)]
    mm.auxv = b"".join(struct.pack("<QQ", key, value) for key, value in auxv)
    words = [len(program.argv), *pointers[0], 0, *pointers[1], 0]
    table = struct.pack(f"<{len(words)}Q", *words) + mm.auxv
    sp = (platform_addr - len(table)) & ~15
    name = os.path.basename(program.filename)
    mm.space.show(name, (mm.arg_start, mm.arg_end), (mm.env_start, mm.env_end), scratch=sp)  # which comes next
    middle = platform.ljust(16, b"\0") + os.urandom(16)
    mm.space.write(sp, table.ljust(platform_addr - sp, b"\0") + middle)
    mm.space.write(area_start, area)
    return sp


# -- credentials --


def exec_creds(t: Task, program: Program) -> tuple[Creds, bool]:
    """(new credentials, AT_SECURE): set-user-ID bits and capabilities(7), "Transformation during execve()"."""
    old = t.creds
    inode = program.path.inode
    euid, egid = old.euid, old.egid
    honoured = not t.no_new_privs and not program.path.mount.flags & MS_NOSUID
    if honoured and inode.mode & S_ISUID:
        euid = inode.uid
    if honoured and inode.mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP:
        egid = inode.gid
    privileged = not old.securebits & SECBIT_NOROOT and (euid == 0 or old.uid == 0)
    gained = euid != old.euid or egid != old.egid
    ambient = 0 if gained else old.ambient
    if privileged:
        permitted = old.inheritable | old.bounding
        if t.no_new_privs:
            permitted &= old.permitted
        effective = permitted if euid == 0 else ambient
    else:
        permitted = effective = ambient
    creds = old.changed(
        euid=euid,
        suid=euid,
        fsuid=euid,
        egid=egid,
        sgid=egid,
        fsgid=egid,
        permitted=permitted,
        effective=effective,
        ambient=ambient & permitted,
        securebits=old.securebits & ~SECBIT_KEEP_CAPS,
    )
    secure = gained or old.uid != creds.euid or old.gid != creds.egid
    # Mostly they stay as they are, and what is known to them with them (FsContext).
    return old if creds == old else creds, secure


# -- switching over --


async def execve(t: Task, program: Program) -> None:
    """Replace the task's process by program.  After the switch nothing fails any more."""
    try:
        loaded = await load(t, program)
    finally:
        program.file.drop()
    if not await _end_other_threads(t):
        loaded.context.release()
        loaded.mm.release()
        return
    switch_to(t, loaded, comm_of(program))


def comm_of(program: Program) -> str:
    """The task's new name: the last component of the file's name, at most 15 bytes."""
    return os.fsdecode(program.filename.rsplit(b"/", 1)[-1][:15])


async def _end_other_threads(t: Task) -> bool:
    """de_thread(): the caller survives and becomes the leader.  False: it is to end, by another thread's doing."""
    tg = t.tg
    if t.exiting or tg.exec_waiter is not None:
        return False
    tg.exec_waiter = t
    for other in tg.tasks:
        if other is not t:
            other.exiting = True
            other.notify()
    while len(tg.tasks) > 1:
        await park()
    tg.exec_waiter = None
    if t.exiting:
        return False
    if tg.leader is not t:
        old = tg.leader
        t.kernel.swap_numbers(t, old)
        tg.leader = t
        t.kernel.unnumber_task(old)
    return True


def switch_to(t: Task, loaded: Loaded, name: str) -> None:
    """Move the task to its new image: begin_new_exec() and setup_new_exec()."""
    tg = t.tg
    leave_memory(t)
    t.cpu_before_ns = t.cpu_ns
    tg.ended_cpu_ns += t.context.process_cpu_ns()
    old_context, old_mm = t.context, t.mm
    t.context, t.mm, t.mem = loaded.context, loaded.mm, loaded.mm.space
    t.context.owner = t
    old_context.owner = None
    old_context.release()
    old_mm.release()
    _unshare(t)
    for file in t.files.close_on_exec():
        file.flush()
        file.drop()
    t.creds = loaded.creds
    if loaded.creds.euid != loaded.creds.uid:
        t.parent_death_signal = 0
    tg.did_exec = True
    tg.exit_signal = 17
    creds = loaded.creds
    tg.dumpable = int((creds.euid, creds.egid) == (creds.uid, creds.gid))
    t.altstack = (0, SS_DISABLE, 0)
    t.task_name = name
    if tg.timers is not None:
        tg.timers.on_exec()
    regs = t.context.regs
    for register in (
        *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
        *("fs_base", "gs_base"),
    ):
        setattr(regs, register, 0)
    regs.rip, regs.rsp = loaded.entry, loaded.sp
    regs.eflags = 0x200
    keep_current(t)
    approve_memory(t)


def _unshare(t: Task) -> None:
    """A table shared with another process (CLONE_FILES, CLONE_SIGHAND) is left to that one."""
    if t.files.refs > 1:
        shared, t.files = t.files, t.files.copy()
        shared.refs -= 1
    handlers: SignalHandlers = t.tg.handlers.for_exec()
    t.tg.handlers = handlers
