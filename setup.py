"""Builds the C cores with cffi in API mode; everything else is in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=[
        "platform_ptrace/core/build.py:ffibuilder",
        "platform_kvm/core/build.py:ffibuilder",
        "sandbox/hostcalls_build.py:ffibuilder",
    ]
)
