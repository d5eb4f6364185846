"""The page-fault error code, against instructions whose faults a processor was asked about."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentry.abi.signal import SEGV_ACCERR, SEGV_MAPERR
from sentry.arch.x86_fault import FETCH, PRESENT, USER, WRITE, decode, error_code, stores
from sentry.mm.mm import MAP_ANONYMOUS, MAP_FIXED, PROT_EXEC, PROT_READ, PROT_WRITE
from tests.fakes import Registers, ScriptedSpace

TABLE = Path(__file__).with_name("instructions.txt")
ROWS = [line.split(None, 2) for line in TABLE.read_text().splitlines() if not line.startswith("#")]
CODE, DATA, NOWHERE, STACK = 0x400000, 0x500000, 0x2000, 0x600000


@pytest.mark.parametrize(("kind", "code", "text"), [pytest.param(*row, id=row[2]) for row in ROWS])
def test_whether_an_instruction_stores(kind: str, code: str, text: str) -> None:
    for following in (b"\x90", b"\0", b"\xff"):
        assert stores(decode(bytes.fromhex(code).ljust(15, following))) is (kind == "+"), text


@pytest.mark.skipif(not shutil.which("as"), reason="no assembler")
def test_the_table_is_what_the_assembler_makes(tmp_path: Path) -> None:
    source = "".join(f".p2align 6, 0xcc\n{text}\n" for _, _, text in ROWS)
    subprocess.run(["as", "-o", tmp_path / "t.o"], input=source.encode(), check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "t.o", tmp_path / "t"], check=True)
    binary = (tmp_path / "t").read_bytes()
    for n, (_, code, text) in enumerate(ROWS):
        assert binary[64 * n :].startswith(bytes.fromhex(code)), text


@given(st.binary(max_size=20))
def test_any_bytes_have_an_answer(code: bytes) -> None:
    assert stores(decode(code)) in (True, False)


@pytest.fixture
def regs() -> Registers:
    regs = Registers()
    regs.rip, regs.rsp = CODE, STACK
    return regs


@pytest.fixture
def space() -> ScriptedSpace:
    """Code, and a read-only page of data."""
    space = ScriptedSpace()
    for addr, prot in ((CODE, PROT_READ | PROT_WRITE | PROT_EXEC), (DATA, PROT_READ)):
        space.map(addr, 4096, prot, MAP_ANONYMOUS | MAP_FIXED, -1, 0)
    return space


def instruction(text: str) -> bytes:
    return next(bytes.fromhex(code) for _, code, name in ROWS if name == text)


@pytest.mark.parametrize(
    ("text", "addr", "si_code", "expected"),
    [
        ("mov (%rdi), %rax", NOWHERE, SEGV_MAPERR, USER),
        ("mov %rax, (%rdi)", NOWHERE, SEGV_MAPERR, USER | WRITE),
        ("mov %rax, (%rdi)", DATA, SEGV_ACCERR, USER | WRITE | PRESENT),
        ("mov (%rdi), %rax", (1 << 47) + 5, SEGV_MAPERR, USER | PRESENT),
        ("mov %rax, (%rdi)", 0xFFFF880000000000, SEGV_MAPERR, USER | PRESENT | WRITE),
    ],
)
def test_the_error_code(
    space: ScriptedSpace, regs: Registers, text: str, addr: int, si_code: int, expected: int
) -> None:
    space.write(CODE, instruction(text))
    assert error_code(space, regs, addr, si_code) == expected


def test_a_readable_page_can_only_have_been_written_to(space: ScriptedSpace, regs: Registers) -> None:
    """Whatever the instruction looks like: it was changed meanwhile, or is not known here."""
    space.write(CODE, instruction("mov (%rdi), %rax"))
    assert error_code(space, regs, DATA, SEGV_ACCERR) == USER | PRESENT | WRITE


def test_fetches(space: ScriptedSpace, regs: Registers) -> None:
    regs.rip = NOWHERE
    assert error_code(space, regs, NOWHERE, SEGV_MAPERR) == USER | FETCH
    regs.rip = DATA  # readable, not executable
    assert error_code(space, regs, DATA, SEGV_ACCERR) == USER | PRESENT | FETCH
    regs.rip = CODE + 4090  # an instruction that goes on in the next page, which is not there
    assert error_code(space, regs, CODE + 4096, SEGV_MAPERR) == USER | FETCH


def test_code_that_writes_to_itself_does_not_fetch(space: ScriptedSpace, regs: Registers) -> None:
    space.write(CODE, instruction("mov %rax, (%rdi)"))
    space.protect(CODE, 4096, PROT_READ | PROT_EXEC)
    assert error_code(space, regs, CODE, SEGV_ACCERR) == USER | PRESENT | WRITE


@pytest.mark.parametrize(
    ("text", "addr", "write"),
    [
        ("movsb", NOWHERE, False),
        ("movsb", STACK, True),
        ("rep movsq", STACK, True),
        ("pushq (%rdi)", NOWHERE, False),
        ("pushq (%rdi)", STACK - 8, True),
        ("call *(%rdi)", NOWHERE, False),
        ("call *(%rdi)", STACK - 8, True),
        ("popq (%rdi)", NOWHERE, True),
        ("popq (%rdi)", STACK, False),
    ],
)
def test_what_copies_from_memory_to_memory(
    space: ScriptedSpace, regs: Registers, text: str, addr: int, write: bool
) -> None:
    regs.rdi = STACK
    space.write(CODE, instruction(text))
    assert error_code(space, regs, addr, SEGV_MAPERR) == (USER | WRITE if write else USER)
