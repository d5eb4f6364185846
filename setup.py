"""Builds the C cores with cffi in API mode, and the vDSO's image; everything else is in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

IMAGE = "sentry/vdso/linux-vdso.so"


class BuildCores(build_ext):
    """Puts the image where the extension modules go: beside its package's source, or into the wheel."""

    def run(self) -> None:
        super().run()
        target = Path("." if self.inplace else self.build_lib) / IMAGE
        subprocess.run([sys.executable, "sentry/vdso/build_image.py", target], check=True)


setup(
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # the cores use no more of Python than its stable ABI
    cmdclass={"build_ext": BuildCores},
    cffi_modules=[
        "platform_ptrace/core/build.py:ffibuilder",
        "platform_kvm/core/build.py:ffibuilder",
        "sandbox/hostcalls_build.py:ffibuilder",
        "sandbox/common_heap_build.py:ffibuilder",
        "sentry/vdso/build.py:ffibuilder",
    ],
)
