"""`#!` lines: fs/binfmt_script.c."""

from __future__ import annotations

import re
from typing import Final

from sentry.abi.errno import ENOEXEC

HEAD_SIZE: Final = 256  # BINPRM_BUF_SIZE: what is read of a program to tell what it is

_END_OF_WORD: Final = re.compile(rb"[ \t\0]")


def parse_script(head: bytes) -> tuple[bytes, bytes | None]:
    """(interpreter, its one argument or None).  ENOEXEC: no interpreter, or a name that head cuts off.

    Only spaces and tabs separate: a carriage return belongs to the word it ends.
    """
    buffer = head[:HEAD_SIZE].ljust(HEAD_SIZE, b"\0")
    end = buffer.find(b"\n")
    if end >= 0:
        line = buffer[2:end].strip(b" \t")
    else:
        # A short file is followed by zeros, which end a word but are not trimmed away.
        line = buffer[2 : HEAD_SIZE - 1].lstrip(b" \t")
        if not _END_OF_WORD.search(line):
            raise ENOEXEC("the interpreter's name is too long")
    name = _END_OF_WORD.split(line, 1)[0]
    if not name:
        raise ENOEXEC("no interpreter")
    rest = line[len(name) :]
    if not rest or rest[0] == 0:
        return name, None
    return name, rest.lstrip(b" \t").split(b"\0")[0]
