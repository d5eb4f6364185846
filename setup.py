"""Builds the C cores with cffi in API mode, the vDSO's image and the deputy; all else is in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

BUILDERS = {
    "sentry/vdso/linux-vdso.so": "sentry/vdso/build_image.py",
    "sandbox/deputy": "sandbox/deputy_build.py",
}


class BuildCores(build_ext):
    """Puts them where the extension modules go: beside their packages' source, or into the wheel."""

    def run(self) -> None:
        super().run()
        for name, builder in BUILDERS.items():
            target = Path("." if self.inplace else self.build_lib) / name
            subprocess.run([sys.executable, builder, target], check=True)


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
