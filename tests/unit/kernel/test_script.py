"""`#!` lines; what each does was tried on Linux."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentry.abi.errno import ENOEXEC
from sentry.kernel.script import HEAD_SIZE, parse_script


@pytest.mark.parametrize(
    ("head", "interpreter", "argument"),
    [
        (b"#!/bin/sh\n", b"/bin/sh", None),
        (b"#!/bin/sh", b"/bin/sh", None),
        (b"#! /bin/sh\n", b"/bin/sh", None),
        (b"#!\t \t/bin/sh \t\nnext line", b"/bin/sh", None),
        (b"#!/bin/sh -e\n", b"/bin/sh", b"-e"),
        (b"#!/bin/sh  -e -x \t\n", b"/bin/sh", b"-e -x"),  # one argument, whatever is in it
        (b"#!/usr/bin/env\tpython3\n", b"/usr/bin/env", b"python3"),
        (b"#!/bin/sh\r\n", b"/bin/sh\r", None),  # "bad interpreter: /bin/sh^M"
        (b"#!/bin/sh -e\r\n", b"/bin/sh", b"-e\r"),
        (b"#!/bin/sh\0junk\n", b"/bin/sh", None),
        (b"#!/bin/sh -e\0junk\n", b"/bin/sh", b"-e"),
        (b"#!/bin/sh arg ", b"/bin/sh", b"arg "),  # the end of the file does not trim
        (b"#!/bin/sh ", b"/bin/sh", b""),
        (b"#!relative\n", b"relative", None),
        (b"#!/bin/sh " + b"x" * 300, b"/bin/sh", b"x" * (HEAD_SIZE - 1 - 10)),  # a long argument is cut
    ],
)
def test_interpreter_and_argument(head: bytes, interpreter: bytes, argument: bytes | None) -> None:
    assert parse_script(head[:HEAD_SIZE]) == (interpreter, argument)


@pytest.mark.parametrize("head", [b"#!", b"#!\n", b"#!  \t\n/bin/sh", b"#!/" + b"x" * 300, b"#!" + b" " * 300])
def test_no_interpreter_or_one_that_is_cut_off(head: bytes) -> None:
    with pytest.raises(ENOEXEC):
        parse_script(head[:HEAD_SIZE])


@given(st.binary(max_size=HEAD_SIZE - 2))
def test_any_line_is_a_name_or_an_error(line: bytes) -> None:
    try:
        interpreter, argument = parse_script(b"#!" + line)
    except ENOEXEC:
        return
    assert interpreter and not set(interpreter) & set(b" \t\0\n")
    assert argument is None or not set(argument) & set(b"\0\n")
