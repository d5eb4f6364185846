"""Turns the tables of filters.py into BPF, with libseccomp.

A module of its own because its libraries take a megabyte: a process from which many are forked has this done by a
child.
"""

import ctypes
import ctypes.util
import errno
import os
from typing import Final

from sandbox.filters import GOFER, NEVER, PLACEHOLDERS, REFUSED, SENTRY, Check

_find_by_programs = ctypes.util.find_library


def _find_library(name: str) -> str | None:
    """As ctypes.util's, which runs ldconfig or even a compiler to find what dlopen(3) finds by itself."""
    soname = {"c": "libc.so.6", "seccomp": "libseccomp.so.2"}.get(name)
    try:
        if soname is not None:
            ctypes.CDLL(soname)
            return soname
    except OSError:
        pass
    return _find_by_programs(name)


# Asked by pyseccomp when it is imported, twice: 10 ms of every process that is not forked from another of ours.
ctypes.util.find_library = _find_library
import pyseccomp  # noqa: E402

ctypes.util.find_library = _find_by_programs

_UNKNOWN: Final = -1
"""libseccomp's answer for a name it does not know."""


def compile_filter(role: str, debug: bool) -> bytes:
    """See filters.compiled."""
    if role == "sentry":
        default, table = pyseccomp.TRACE(REFUSED), SENTRY
    else:
        default, table = pyseccomp.KILL_PROCESS if debug else pyseccomp.ERRNO(errno.EPERM), GOFER
    program = pyseccomp.SyscallFilter(default)
    # Calls of another ABI (int 0x80, x32) are refused the same way.
    program.set_attr(pyseccomp.Attr.ACT_BADARCH, default)
    try:
        program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree over the call numbers
    except OSError:  # libseccomp < 2.5
        pass
    for rule in table:
        _add(program, pyseccomp.ALLOW, rule.calls, [_argument(check) for check in rule.checks])
    if role == "sentry":
        for calls, code in NEVER:
            _add(program, pyseccomp.ERRNO(code), calls, [])
    with open(os.memfd_create("pysc-filter", os.MFD_CLOEXEC), "w+b", buffering=0) as f:
        program.export_bpf(f)
        f.seek(0)
        return f.read()


def _argument(check: Check) -> "pyseccomp.Arg":
    value = PLACEHOLDERS[check.value] if isinstance(check.value, str) else check.value
    return pyseccomp.Arg(check.index, pyseccomp.MASKED_EQ, check.mask, value)


def _add(program: "pyseccomp.SyscallFilter", action: int, calls: str, checks: "list[pyseccomp.Arg]") -> None:
    for call in calls.split():
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call)
        if number == _UNKNOWN:  # a call younger than the installed libseccomp: nobody can use it, then
            continue
        program.add_rule(action, number, *checks)
