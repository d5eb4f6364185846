"""Finds a module whose bytecode is where Python keeps it with five host calls, where Python itself needs a dozen.

A start loads 260 modules.  The interpreter's own finder looks each up in every folder of sys.path, for each kind of
file that a module may be, and reads it through several layers of Python code: 50 microseconds a module.  This one knows
the two folders that nearly all come from, our installation and the standard library, and asks only whether the bytecode
there is that of the source beside it, by Python's own rule: the same time and the same size.  Whatever is otherwise, it
leaves to the finders that come after it.
"""

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType

_HEADER = 16
"""PEP 552: magic number, flags, the source's time and size, four bytes each; flags 0: these two decide."""


def install(installation: str) -> None:
    """For what is imported from now on.  `installation`: the folder of our packages."""
    tag = sys.implementation.cache_tag
    if tag and not sys.flags.optimize and sys.pycache_prefix is None:
        sys.meta_path.insert(-1, _Finder(installation, f".{tag}.pyc"))


class _Loader(SourceFileLoader):
    """Has the code already, for the one import that it is made for."""

    def __init__(self, name: str, path: str, code: "CodeType") -> None:
        super().__init__(name, path)
        self._code: CodeType | None = code

    def get_code(self, fullname: str) -> "CodeType | None":
        code, self._code = self._code, None
        return code if code is not None else super().get_code(fullname)


class _Finder:
    """To be asked after the finders of what is built in, and before the one that searches sys.path."""

    def __init__(self, installation: str, ending: str) -> None:
        self._installation = installation
        self._ours = frozenset(os.listdir(installation))
        self._library = os.__file__.rpartition("/")[0]
        self._ending = ending

    def find_spec(self, name: str, path: "Sequence[str] | None", target: object = None) -> "ModuleSpec | None":
        if path is None:
            return self._find(name, name, self._installation if name in self._ours else self._library)
        return self._find(name, name.rpartition(".")[2], path[0]) if len(path) == 1 else None

    def _find(self, name: str, last: str, folder: str) -> "ModuleSpec | None":
        return self._spec(name, folder, last, False) or self._spec(name, f"{folder}/{last}", "__init__", True)

    def _spec(self, name: str, folder: str, stem: str, is_package: bool) -> "ModuleSpec | None":
        cached = f"{folder}/__pycache__/{stem}{self._ending}"
        source = f"{folder}/{stem}.py"
        code = _code(cached, source)
        if code is None:
            return None
        spec = ModuleSpec(name, _Loader(name, source, code), origin=source, is_package=is_package)
        spec.has_location = True
        spec.cached = cached
        if is_package:
            spec.submodule_search_locations = [folder]
        return spec


def _code(cached: str, source: str) -> "CodeType | None":
    """The code in `cached`; None unless it is that of `source` as it is now."""
    try:
        fd = os.open(cached, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(fd, os.fstat(fd).st_size)
        now = os.stat(source)
    except OSError:
        return None
    finally:
        os.close(fd)
    expected = b"".join(
        number.to_bytes(4, "little") for number in (0, int(now.st_mtime) & 0xFFFFFFFF, now.st_size & 0xFFFFFFFF)
    )
    if data[:_HEADER] != MAGIC_NUMBER + expected:
        return None
    code: CodeType = marshal.loads(memoryview(data)[_HEADER:])
    return code
