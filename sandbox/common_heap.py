"""Pages that a process and its forks have in common, and how an idle fork goes back to them.

A fork shares the memory of what was imported until it writes there, and Python writes wherever it looks: how many
references there are to an object is part of the object, and code notes beside its instructions how they are run
faster.  A fork that has served a request has thus made a third of its memory its own, though next to nothing in it has
a new meaning.

hold() prepares that this can be undone.  All objects that there are become immortal: so many references are added that
from then on the number does not matter.  What is in memory then goes into a file (a memfd, sealed), and is mapped from
there, privately: what a process writes it has for itself, and can give up again for what the file has.

go_back() does that, page by page.  A page goes back if it differs from the file in nothing but

- the number of references to objects that are immortal,
- the code of functions, so far as the interpreter changes it by itself: how often it ran, and instructions that were
  exchanged for faster ones of the same meaning.  A function that runs again warms up again.

All else stays: whatever a process has made or changed is where it was.  A page without anything immortal may have been
given up since, and be somebody else's now, so it is left alone.  The cost of going back: 10 ms, and 1 ms for the pages
that are written again.  So a process does it when it has had nothing to do for a while.

All this knows how CPython 3.11 lays out its objects (common_heap.c).  Elsewhere hold() raises ENOSYS, and go_back()
does nothing, as it does in any process that nobody held in common.
"""

from __future__ import annotations

import gc
import os

from sandbox._common_heap import ffi, lib

PATIENCE_S = 5
"""A process that has had nothing to do for so long goes back."""


def hold() -> None:
    """Make common what is there, for the forks that are to come; once, by a process with one thread.

    Raises OSError; nothing is in common then, and nothing is lost.
    """
    gc.collect()
    writable, constant = _mappings()
    objects = gc.get_objects()
    gc.freeze()
    if lib.ch_hold(ffi.new("uintptr_t[]", writable), len(writable) // 2, id(objects)):
        raise OSError(ffi.errno, f"the heap can't be held in common: {os.strerror(ffi.errno)}")
    lib.ch_unmap_pages(ffi.new("uintptr_t[]", constant), len(constant) // 2)


def go_back() -> int:
    """Give up our own copies of pages in which nothing has changed that matters; the number of pages that are common.

    No other thread may be running, and none be about to.
    """
    pages: int = lib.ch_go_back()
    return pages


def _mappings() -> tuple[list[int], list[int]]:
    """Start and end of each: private memory, but the stack, where objects may be; and parts of files as the files are.

    Of such a library or program, which was looked through when it was loaded, the pages that are needed come back.
    """
    writable: list[int] = []
    constant: list[int] = []
    ends, rights, name = [0, 0], "", ""
    with open("/proc/self/smaps") as file:
        for line in file:
            key, *rest = line.split(maxsplit=5)
            if not key.endswith(":"):
                ends = [int(number, 16) for number in key.split("-")]
                rights, name = rest[0], rest[4].strip() if len(rest) > 4 else ""
                if rights == "rw-p" and name != "[stack]":
                    writable += ends
            elif key == "Anonymous:" and rest[0] == "0" and rights in ("r--p", "r-xp") and name.startswith("/"):
                constant += ends
    return writable, constant
