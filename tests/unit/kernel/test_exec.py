"""execve(2): finding the program, its arguments, the new image, credentials, and the end of the old one."""

from __future__ import annotations

import itertools
import struct
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentry.abi import signal as sig
from sentry.abi.errno import E2BIG, EACCES, EAGAIN, EFAULT, ELOOP, ENOENT, ENOEXEC, ETXTBSY, LinuxError
from sentry.abi.fcntl import O_CLOEXEC
from sentry.kernel import exec as k
from sentry.kernel.creds import ALL_CAPS, CAP_CHOWN, CAP_KILL, SECBIT_KEEP_CAPS, SECBIT_NOROOT, Creds
from sentry.kernel.exec import Program, check_argument_size, exec_creds, push_stack, read_strings
from sentry.kernel.signals import Action, SigInfo
from sentry.kernel.task import Task
from sentry.mm.elf import ET_EXEC
from sentry.mm.mm import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE, Mm
from sentry.platform import SyscallTrap
from sentry.vfs.dentry import MS_NOEXEC, MS_NOSUID, Path
from sentry.vfs.file import File
from tests.elf import DATA as DATA_LOAD
from tests.elf import TEXT, Load, R, W, X, elf
from tests.fakes import ScriptedSpace
from tests.unit.kernel.world import DATA, STACK, World, call, context, drive, user

NAME, ARGV, ENVP, STRINGS = DATA, DATA + 0x1000, DATA + 0x2000, DATA + 0x4000
PROGRAM = elf(TEXT, DATA_LOAD)
SERIAL = itertools.count()


def put_strings(t: Task, addr: int, strings: list[bytes], at: int) -> int:
    """A NULL-terminated array at addr of pointers to strings that are put behind `at`; returns where these end."""
    pointers = []
    for text in strings:
        pointers.append(at)
        t.mem.write(at, text + b"\0")
        at += len(text) + 1
    t.mem.write(addr, struct.pack(f"<{len(pointers) + 1}Q", *pointers, 0))
    return at


def prepare(t: Task, name: bytes, argv: list[bytes], envp: list[bytes] | None = None) -> SyscallTrap:
    """An execve with these arguments."""
    t.mem.write(NAME, name + b"\0")
    put_strings(t, ENVP, envp or [], put_strings(t, ARGV, argv, STRINGS))
    return call("execve", NAME, ARGV, ENVP)


def run(world: World, t: Task, *calls: SyscallTrap) -> None:
    context(t).steps.extend(calls)
    context(t).interrupt()
    world.run()


def execed(world: World, name: bytes = b"/prog", argv: list[bytes] | None = None, creds: Creds | None = None) -> Task:
    """A process after its execve of name."""
    t = world.process(**({"creds": creds} if creds else {}))  # type: ignore[arg-type]
    old = context(t)
    run(world, t, prepare(t, name, argv or [b"prog"]))
    assert context(t) is not old, old.results
    return t


class Stack(NamedTuple):
    argv: list[bytes]
    envp: list[bytes]
    auxv: dict[int, int]


def parse_stack(space: ScriptedSpace, sp: int) -> Stack:
    """What a program finds at its start, System V ABI, "Initial Process Stack"."""
    addr = sp

    def word() -> int:
        nonlocal addr
        (value,) = struct.unpack("<Q", space.read(addr, 8))
        addr += 8
        return int(value)

    def texts() -> list[bytes]:
        found = []
        while pointer := word():
            found.append(space.read_cstr(pointer, 1 << 17))
        return found

    argc = word()
    argv, envp, auxv = texts(), texts(), dict[int, int]()
    assert argc == len(argv)
    while key := word():
        auxv[key] = word()
    assert word() == 0
    return Stack(argv, envp, auxv)


def stack_of(t: Task) -> Stack:
    return parse_stack(context(t).space, context(t).regs.rsp)


# -- a place for the new image --


def refuse_spaces(world: World, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The host's limit of processes is reached, as often as that."""
    world.file("prog", PROGRAM)
    make, refusals = world.container.template.new_space, itertools.count()

    def new_space() -> object:
        if next(refusals) < times:
            raise EAGAIN
        return make()

    monkeypatch.setattr(world.container.template, "new_space", new_space)


def test_execve_waits_for_processes_that_are_just_going(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    t = world.process()
    refuse_spaces(world, monkeypatch, 5)
    old = context(t)
    run(world, t, prepare(t, b"/prog", [b"prog"]))
    assert context(t) is not old


def test_execve_gives_up_when_none_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    t = world.process()
    refuse_spaces(world, monkeypatch, 1000)
    old = context(t)
    run(world, t, prepare(t, b"/prog", [b"prog"]))
    assert context(t) is old
    assert old.results[-1] == -EAGAIN.code


# -- arguments --


def test_strings_are_read_wherever_they_lie(world: World) -> None:
    t = world.process()
    strings = [b"", b"x" * 5000, b"a b", b"\xff\xfe"]
    for addr in (ARGV, ARGV + 0xFF0, ARGV + 3, ARGV + 0xFFD):  # across pages, and not aligned
        put_strings(t, addr, strings, STRINGS)
        assert read_strings(t.mem, addr) == strings
    assert read_strings(t.mem, 0) == []


def test_strings_that_cannot_be_read(world: World) -> None:
    t = world.process()
    put_strings(t, ARGV, [b"a"], STRINGS)
    t.mem.write(ARGV, struct.pack("<Q", 8))
    for addr in (8, ARGV, 1 << 62, (1 << 64) - 8):
        with pytest.raises(EFAULT):
            read_strings(t.mem, addr)


def test_one_string_may_have_128_kib(world: World) -> None:
    t = world.process()
    big = 0x700000
    t.mem.map(big, 0x40000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
    put_strings(t, ARGV, [b"x" * 131071], big)
    assert len(read_strings(t.mem, ARGV)[0]) == 131071
    put_strings(t, ARGV, [b"x" * 131072], big)
    with pytest.raises(E2BIG):
        read_strings(t.mem, ARGV)


@pytest.mark.parametrize(
    ("stack", "size", "fits"),
    [
        (8 << 20, (2 << 20) - 9, True),
        (8 << 20, (2 << 20) + 1, False),
        (1 << 16, (128 << 10) - 9, True),  # never less than 128 KiB
        (1 << 40, (6 << 20) - 9, True),  # never more than 6 MiB
        (1 << 40, (6 << 20) + 1, False),
        ((1 << 64) - 1, (6 << 20) - 9, True),
    ],
)
def test_arguments_and_environment_have_a_quarter_of_the_stack(world: World, stack: int, size: int, fits: bool) -> None:
    program = Program(*open_nothing(world), argv=[b"x" * (size - 18)], envp=[b""], filename=b"", called=b"")
    if fits:
        check_argument_size(program, stack)
    else:
        with pytest.raises(E2BIG):
            check_argument_size(program, stack)


def open_nothing(world: World) -> tuple[File, Path, bytes]:
    path = world.file(f"nothing{next(SERIAL)}", b"")
    return drive(path.inode.open(path, 0)), path, b""


# -- the new stack --


def layout(world: World, argv: list[bytes], envp: list[bytes], filename: bytes = b"/bin/x") -> tuple[Mm, int, Stack]:
    mm = Mm(ScriptedSpace())
    mm.stack_start, mm.stack_end = STACK - 0x20000, STACK
    mm.space.map(mm.stack_start, 0x20000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
    program = Program(*open_nothing(world), argv=argv, envp=envp, filename=filename, called=b"")
    sp = push_stack(mm, program, [(k.AT_PAGESZ, 4096), (k.AT_ENTRY, 77)])
    assert isinstance(mm.space, ScriptedSpace)
    return mm, sp, parse_stack(mm.space, sp)


@given(st.lists(st.binary(max_size=50).map(lambda b: b.replace(b"\0", b"1")), min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_the_stack_is_laid_out_as_the_abi_says(world: World, texts: list[bytes]) -> None:
    argv, envp = texts[: len(texts) // 2 + 1], texts[len(texts) // 2 + 1 :]
    mm, sp, stack = layout(world, argv, envp)
    assert sp % 16 == 0
    assert (stack.argv, stack.envp) == (argv, envp)
    assert (stack.auxv[k.AT_PAGESZ], stack.auxv[k.AT_ENTRY]) == (4096, 77)
    assert mm.command_line() == b"".join(a + b"\0" for a in argv)
    assert mm.environment() == b"".join(e + b"\0" for e in envp)


def test_the_auxiliary_vector_points_at_random_bytes_platform_and_file_name(world: World) -> None:
    mm, _, stack = layout(world, [b"x"], [], b"/bin/name")
    space = mm.space
    assert space.read_cstr(stack.auxv[k.AT_PLATFORM], 10) == b"x86_64"
    assert space.read_cstr(stack.auxv[k.AT_EXECFN], 20) == b"/bin/name"
    random = space.read(stack.auxv[k.AT_RANDOM], 16)
    _, _, other = layout(world, [b"x"], [], b"/bin/name")
    assert random != bytes(16) and stack.auxv[k.AT_RANDOM] % 16 == 0 and other.auxv
    assert mm.auxv[-16:] == bytes(16)


# -- loading --


def test_a_program_is_loaded_and_started(world: World) -> None:
    world.file("prog", PROGRAM)
    t = world.process()
    run(world, t, prepare(t, b"/prog", [b"prog", b"-x"], [b"HOME=/root"]))
    space, regs = context(t).space, context(t).regs
    stack = stack_of(t)
    assert (stack.argv, stack.envp) == ([b"prog", b"-x"], [b"HOME=/root"])
    assert regs.rip == stack.auxv[k.AT_ENTRY] and regs.rsp % 16 == 0
    assert {name: value for name, value in regs.all().items() if value} == {
        **{name: getattr(regs, name) for name in ("rip", "rsp", "eflags", "cs", "ss")},
    }
    base = regs.rip - 0x1000
    assert space.read(regs.rip, 4) == b"\x90" * 4
    assert space.read(base + 0x3800, 4) == b"data"
    assert space.read(base + 0x3900, 0x1F00) == bytes(0x1F00)  # .bss
    assert stack.auxv[k.AT_PHDR] == base + 64 and (stack.auxv[k.AT_PHENT], stack.auxv[k.AT_PHNUM]) == (56, 3)
    assert t.mm.brk_start >= base + 0x6000 and t.mm.brk == t.mm.brk_start
    assert (t.task_name, t.mm.exe and t.mm.exe.dentry.name) == ("prog", "prog")
    assert context(t).approved


def test_segments_have_their_protection_and_nothing_lies_between_them(world: World) -> None:
    world.file("prog", elf(TEXT, DATA_LOAD._replace(vaddr=0x8800), Load(R, 0x10000, 0, 0x100, 0x100)))
    t = execed(world)
    base = context(t).regs.rip - 0x1000
    shown = {(m.start - base, m.end - base): m.perms for m in context(t).space.mappings() if m.start < base + (1 << 30)}
    assert shown == {
        (0, 0x2000): "r-xp",
        (0x8000, 0x9000): "rw-p",
        (0x9000, 0xB000): "rw-p",
        (0x10000, 0x11000): "r--p",
    }


def test_a_program_at_fixed_addresses_is_there(world: World) -> None:
    world.file("prog", elf(Load(R | X, 0x400000, 0, 0x1800, 0x1800), kind=ET_EXEC, entry=0x401000))
    t = execed(world)
    assert context(t).regs.rip == 0x401000 and stack_of(t).auxv[k.AT_PHDR] == 0x400040


def test_a_large_alignment_is_kept(world: World) -> None:
    world.file("prog", elf(TEXT._replace(align=1 << 21), DATA_LOAD))
    assert (context(execed(world)).regs.rip - 0x1000) % (1 << 21) == 0


def test_the_interpreter_is_loaded_beside_and_started_first(world: World) -> None:
    world.file("ld.so", elf(TEXT, entry=0x1100))
    world.file("prog", elf(TEXT, DATA_LOAD, interp=b"/ld.so\0"))
    t = execed(world)
    auxv = stack_of(t).auxv
    assert context(t).regs.rip == auxv[k.AT_BASE] + 0x1100
    assert auxv[k.AT_ENTRY] != context(t).regs.rip
    assert context(t).space.read(auxv[k.AT_ENTRY], 2) == b"\x90\x90"


def test_programs_are_at_other_addresses_each_time(world: World) -> None:
    world.file("prog", PROGRAM)
    starts = {(context(t).regs.rip, context(t).regs.rsp, t.mm.brk) for t in (execed(world) for _ in range(3))}
    assert all(len(set(column)) == 3 for column in zip(*starts))


def test_the_stack_is_executable_only_if_the_program_wants_it(world: World) -> None:
    for name, flags, perms in (("prog", R | W, "rw-p"), ("old", R | W | X, "rwxp")):
        world.file(name, elf(TEXT, stack=flags))
        t = execed(world, b"/" + name.encode())
        assert [m.perms for m in context(t).space.mappings() if m.end == t.mm.stack_end] == [perms]


# -- what cannot be run --


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"/missing", ENOENT),
        (b"", ENOENT),
        (b"/", EACCES),
        (b"/plain", EACCES),
        (b"/empty", ENOEXEC),
        (b"/text", ENOEXEC),
        (b"/half", ENOEXEC),
        (b"/nointerp", ENOENT),
        (b"/badinterp", ENOEXEC),
        (b"/huge", LinuxError),
    ],
)
def test_a_failure_leaves_the_caller_as_it_was(world: World, name: bytes, error: type[LinuxError]) -> None:
    world.file("plain", PROGRAM, 0o644)
    world.file("empty", b"")
    world.file("text", b"echo hello\n")
    world.file("half", PROGRAM[:100])
    world.file("nointerp", elf(TEXT, interp=b"/missing\0"))
    world.file("badinterp", elf(TEXT, interp=b"/text\0"))
    world.file("huge", elf(Load(R, 0, 0, 0x1000, (1 << 47) - 0x2000)))
    t = world.process()
    other = world.thread(t)
    old, mm = context(t), t.mm
    t.tg.handlers.set(sig.SIGUSR1, Action(0x1000))
    made = len(world.platform.contexts)
    run(world, t, prepare(t, name, [b"x"]))
    assert old.results and old.results[0] < 0
    if error is not LinuxError:
        assert old.results == [-error.code]
    assert context(t) is old and t.mm is mm and not other.exiting
    assert t.tg.handlers.get(sig.SIGUSR1).handler == 0x1000
    assert all(ctx.released for ctx in world.platform.contexts[made:])


def test_a_file_that_is_being_written_is_not_run(world: World) -> None:
    path = world.file("prog", PROGRAM)
    t = world.process()
    writer = drive(path.inode.open(path, 1)).hold()
    run(world, t, prepare(t, b"/prog", [b"x"]))
    assert context(t).results == [-ETXTBSY.code]
    writer.drop()


def test_a_noexec_mount(world: World) -> None:
    world.file("prog", PROGRAM)
    world.root.mount.flags |= MS_NOEXEC
    t = world.process()
    run(world, t, prepare(t, b"/prog", [b"x"]))
    assert context(t).results == [-EACCES.code]


def test_a_user_without_the_right_to(world: World) -> None:
    world.file("prog", PROGRAM, 0o700)
    t = world.process(creds=user())
    run(world, t, prepare(t, b"/prog", [b"x"]))
    assert context(t).results == [-EACCES.code]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from([0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF])), max_size=5))
def test_a_damaged_file_is_an_errno_or_runs(world: World, changes: list[tuple[int, int]]) -> None:
    data = bytearray(elf(TEXT, DATA_LOAD))
    for offset, value in changes:
        data[offset] = value
    name = f"damaged{next(SERIAL)}"
    world.file(name, bytes(data))
    t = world.process()
    run(world, t, prepare(t, b"/" + name.encode(), [b"x"]))
    t.tg.send_signal(SigInfo(sig.SIGKILL))
    world.run()


# -- scripts --


def test_a_script_runs_its_interpreter_with_its_name(world: World) -> None:
    world.file("sh", PROGRAM)
    world.file("script", b"#!/sh -e\necho\n")
    t = execed(world, b"/script", [b"called so", b"arg"])
    stack = stack_of(t)
    assert stack.argv == [b"/sh", b"-e", b"/script", b"arg"]
    assert context(t).space.read_cstr(stack.auxv[k.AT_EXECFN], 100) == b"/script"
    assert t.task_name == "script"  # not the interpreter's, as ps(1) shows it
    assert t.mm.exe is not None and t.mm.exe.dentry.name == "sh"


def test_scripts_may_be_interpreters_of_scripts(world: World) -> None:
    world.file("sh", PROGRAM)
    world.file("s1", b"#!/sh\n")
    for n in range(2, 8):
        world.file(f"s{n}", b"#!/s%d\n" % (n - 1))
    assert stack_of(execed(world, b"/s5")).argv == [b"/sh", b"/s1", b"/s2", b"/s3", b"/s4", b"/s5"]
    t = world.process()
    run(world, t, prepare(t, b"/s6", [b"x"]))
    assert context(t).results == [-ELOOP.code]


@pytest.mark.parametrize(
    ("script", "error"),
    [(b"#!/missing\n", ENOENT), (b"#!\n", ENOEXEC), (b"#!/text\n", ENOEXEC), (b"#!/plain\n", EACCES)],
)
def test_a_script_without_an_interpreter(world: World, script: bytes, error: type[LinuxError]) -> None:
    world.file("plain", PROGRAM, 0o644)
    world.file("text", b"no script")
    world.file("script", script)
    t = world.process()
    run(world, t, prepare(t, b"/script", [b"x"]))
    assert context(t).results == [-error.code]


# -- credentials --


class Old(NamedTuple):
    """Who calls execve.  caps: permitted, effective, inheritable, ambient."""

    uid: int
    caps: tuple[int, int, int, int]
    bounding: int = ALL_CAPS
    securebits: int = 0
    no_new_privs: bool = False
    nosuid: bool = False


@pytest.mark.parametrize(
    ("old", "mode", "owner", "euid", "caps", "secure"),
    [
        # capabilities(7), "Transformation of capabilities during execve()": without file capabilities, P' is ambient.
        (Old(5, (3, 3, 7, 2)), 0o755, 0, 5, (2, 2, 7, 2), False),
        # "Capabilities and execution of programs by root".
        (Old(0, (0, 0, 4, 0), bounding=3), 0o755, 9, 0, (7, 7, 4, 0), False),
        (Old(5, (0, 0, 4, 0), bounding=3), 0o4755, 0, 0, (7, 7, 4, 0), True),
        (Old(0, (3, 3, 0, 0), bounding=3), 0o4755, 5, 5, (3, 0, 0, 0), True),
        # A set-user-ID program clears the ambient set.
        (Old(5, (3, 3, 3, 3)), 0o4755, 6, 6, (0, 0, 3, 0), True),
        # The owner's own program: nothing is gained.
        (Old(5, (3, 3, 3, 3)), 0o4755, 5, 5, (3, 3, 3, 3), False),
        # SECBIT_NOROOT: root is a user like others.
        (Old(0, (3, 3, 0, 0), securebits=SECBIT_NOROOT), 0o755, 0, 0, (0, 0, 0, 0), False),
        # no_new_privs and nosuid: the bits mean nothing.
        (Old(5, (0, 0, 0, 0), no_new_privs=True), 0o4755, 0, 5, (0, 0, 0, 0), False),
        (Old(5, (0, 0, 0, 0), nosuid=True), 0o4755, 0, 5, (0, 0, 0, 0), False),
        (Old(0, (1, 1, 0, 0), bounding=7, no_new_privs=True), 0o755, 0, 0, (1, 1, 0, 0), False),
    ],
)
def test_credentials_after_execve(
    world: World, old: Old, mode: int, owner: int, euid: int, caps: tuple[int, int, int, int], secure: bool
) -> None:
    permitted, effective, inheritable, ambient = old.caps
    creds = Creds(
        *(old.uid, old.uid, old.uid, old.uid),
        permitted=permitted,
        effective=effective,
        inheritable=inheritable,
        ambient=ambient,
        bounding=old.bounding,
        securebits=old.securebits | SECBIT_KEEP_CAPS,
    )
    t = world.process(creds=creds)
    t.no_new_privs = old.no_new_privs
    world.root.mount.flags |= MS_NOSUID if old.nosuid else 0
    path = world.file("prog", PROGRAM, mode, uid=owner)
    file = drive(path.inode.open(path, 0))
    after, is_secure = exec_creds(t, Program(file, path, b"", [], [], b"", b""))
    assert (after.uid, after.euid, after.suid, after.fsuid) == (old.uid, euid, euid, euid)
    assert (after.permitted, after.effective, after.inheritable, after.ambient) == caps
    assert is_secure is secure and not after.securebits & SECBIT_KEEP_CAPS
    assert after.bounding == creds.bounding


@pytest.mark.parametrize(("mode", "egid"), [(0o2755, 9), (0o2745, 5)])
def test_set_group_id_needs_group_execution(world: World, mode: int, egid: int) -> None:
    """Without it, the bit once meant mandatory locking."""
    path = world.file("prog", PROGRAM, mode, gid=9)
    t = world.process(creds=user(5))
    file = drive(path.inode.open(path, 0))
    after, secure = exec_creds(t, Program(file, path, b"", [], [], b"", b""))
    assert (after.gid, after.egid, after.sgid, after.fsgid, secure) == (5, egid, egid, egid, egid == 9)


def test_a_set_user_id_program_is_secure_and_not_dumpable(world: World) -> None:
    world.file("su", PROGRAM, 0o4755)
    t = world.process(creds=user(5))
    t.parent_death_signal = 9
    run(world, t, prepare(t, b"/su", [b"su"]))
    auxv = stack_of(t).auxv
    assert (auxv[k.AT_UID], auxv[k.AT_EUID], auxv[k.AT_SECURE]) == (5, 0, 1)
    assert (t.tg.dumpable, t.parent_death_signal, t.creds.euid) == (0, 0, 0)


# -- what the process keeps --


def test_signals_descriptors_and_stacks(world: World) -> None:
    world.file("prog", PROGRAM)
    t = world.process(call("pipe2", DATA, 0), call("pipe2", DATA, O_CLOEXEC))
    t.tg.handlers.set(sig.SIGUSR1, Action(0x1000))
    t.tg.handlers.set(sig.SIGUSR2, Action(sig.SIG_IGN))
    t.sigmask = sig.bit(sig.SIGHUP)
    t.altstack = (DATA, 0, 4096)
    t.tg.send_signal(SigInfo(sig.SIGHUP))
    old = context(t)
    old.used_ns = 7
    world.run()
    run(world, t, prepare(t, b"/prog", [b"x"]))
    assert old.released and old.owner is None and context(t).owner is t
    assert t.tg.handlers.get(sig.SIGUSR1) == Action() and t.tg.handlers.is_ignored(sig.SIGUSR2)
    assert (t.sigmask, t.tg.pending.mask) == (sig.bit(sig.SIGHUP), sig.bit(sig.SIGHUP))
    assert t.altstack == (0, sig.SS_DISABLE, 0)
    assert sorted(fd for fd, _ in t.files.items()) == [0, 1]
    assert t.cpu_ns == 7 and t.tg.did_exec
    assert (t.creds.permitted, t.creds.effective) == (ALL_CAPS, ALL_CAPS)


def test_shared_tables_are_left_to_the_others(world: World) -> None:
    world.file("prog", PROGRAM)
    t = world.process(call("clone", 0xF00))  # VM, FS, FILES, SIGHAND
    world.platform.script()
    world.run()
    (child,) = t.tg.children
    other = child.leader
    other.tg.handlers.set(sig.SIGUSR1, Action(0x1000))
    run(world, t, prepare(t, b"/prog", [b"x"]))
    assert t.files is not other.files and other.files.refs == t.files.refs == 1
    assert other.tg.handlers.get(sig.SIGUSR1).handler == 0x1000 and t.tg.handlers is not other.tg.handlers
    assert other.mm.users == 1 and t.mm is not other.mm


def test_a_vfork_parent_goes_on(world: World) -> None:
    world.file("prog", PROGRAM)
    t = world.process(call("vfork"))
    trap = prepare(t, b"/prog", [b"x"])
    world.platform.script(trap)
    world.run()
    assert context(t).results == [3] and t.mm.users == 1
    assert t.tg.children[0].did_exec


# -- threads --


def test_execve_ends_the_other_threads(world: World) -> None:
    world.file("prog", PROGRAM)
    t = world.process()
    others = [world.thread(t, *steps) for steps in ((), (call("pause"),))]
    world.run()
    run(world, t, prepare(t, b"/prog", [b"x"]), call("getpid"))
    assert t.tg.tasks == [t] and all(context(other).released for other in others)
    assert t.mm.users == 1 and not t.tg.dead


def test_a_thread_that_execs_becomes_the_process(world: World) -> None:
    world.file("prog", PROGRAM)
    parent = world.process()
    leader = world.process(parent=parent)
    t = world.thread(leader)
    world.run()
    assert (leader.tid, t.tid) == (3, 4)
    run(world, t, prepare(t, b"/prog", [b"x"]))
    assert t.tg.leader is t and t.tid == 3 and t.tg.pid == 3
    assert world.container.pidns.find(3) is t and world.container.pidns.find(4) is None
    assert context(leader).released and not t.tg.dead and t.tg in parent.tg.children


def test_a_thread_execs_after_the_leader_has_ended(world: World) -> None:
    world.file("prog", PROGRAM)
    leader = world.process(call("exit", 0))
    t = world.thread(leader)
    world.run()
    run(world, t, prepare(t, b"/prog", [b"x"]))
    assert t.tg.leader is t and t.tid == 2 and world.container.pidns.find(3) is None


def test_two_threads_that_exec_at_once(world: World) -> None:
    """One wins; they once waited for each other's end for ever."""
    world.file("prog", PROGRAM)
    t = world.process()
    trap = prepare(t, b"/prog", [b"x"])
    other = world.thread(t, trap)
    context(t).steps.append(trap)
    world.run()
    assert t.tg.tasks == [t] and t.tg.did_exec and context(other).released
    assert [ctx.released for ctx in world.platform.contexts].count(False) == 2  # pid 1's and t's


def test_execve_and_exit_group_at_once(world: World) -> None:
    world.file("prog", PROGRAM)
    t = world.process()
    world.thread(t, call("exit_group", 3))
    context(t).steps.append(prepare(t, b"/prog", [b"x"]))
    world.run()
    assert t.tg.dead and t.tg.exit_code == 0x300
    assert [ctx.released for ctx in world.platform.contexts].count(False) == 1


def test_capabilities_of_root_come_back(world: World) -> None:
    world.file("prog", PROGRAM)
    t = world.process(creds=Creds(permitted=CAP_KILL, effective=0, bounding=CAP_KILL | CAP_CHOWN))
    run(world, t, prepare(t, b"/prog", [b"x"]))
    assert (t.creds.permitted, t.creds.effective) == (CAP_KILL | CAP_CHOWN, CAP_KILL | CAP_CHOWN)
