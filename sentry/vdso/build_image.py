"""Builds the vDSO's image with the system's C compiler:  python build_image.py TARGET

Run by setup.py, and before anything of ours can be imported: it uses the standard library alone.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE_SIZE = 4096

COMPILE = [
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-ffreestanding", "-fPIC", "-fno-lto", "-U_FORTIFY_SOURCE"),
    "-fvisibility=hidden",  # what is not exported is addressed relative to the code
    "-fasynchronous-unwind-tables",  # profilers and thread cancellation look through us
    "-fno-stack-protector",  # its guard is in thread-local storage, which is not ours
    "-fno-jump-tables",
]
COMPILE_FOR = {
    "x86_64": ["-mgeneral-regs-only", "-fcf-protection=none"],
}
LINK = [
    *("-nostdlib", "-shared", "-Wl,-soname=linux-vdso.so.1", "-Wl,-Bsymbolic", "-Wl,--no-undefined", "-Wl,-s"),
    "-Wl,--hash-style=both",  # musl looks for one table, Go and glibc for the other
    "-Wl,--eh-frame-hdr",
    *("-Wl,--build-id=none", "-Wl,-z,max-page-size=4096", "-Wl,-z,noexecstack", "-Wl,-z,norelro"),
]


def build_image(target: Path) -> None:
    """Compile and link the image, and fill its last page: it is mapped by pages."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    flags = [*COMPILE, *COMPILE_FOR[platform.machine()], *LINK]
    sources = [str(HERE / "vdso.c"), f"-Wl,-T,{HERE / 'vdso.lds'}"]
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*compiler, *flags, *sources, "-o", str(target)], check=True)
    image = target.read_bytes()
    target.write_bytes(image.ljust(-(-len(image) // PAGE_SIZE) * PAGE_SIZE, b"\0"))
    target.chmod(0o644)


if __name__ == "__main__":
    build_image(Path(sys.argv[1]))
