"""linux.sysctl of the OCI configuration: settings of the container's kernel, which is this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sentry.fs.proc_sys import value_of
from sentry.fs.procfs import ProcFs
from sentry.kernel.container import Container, StartError
from sentry.kernel.utsname import NAME_SIZE

_NAMES: Final = {"kernel.hostname": "nodename", "kernel.domainname": "domainname"}
"""Those that can be set -> the attribute of UtsNamespace."""


def apply(container: Container, values: Mapping[str, str]) -> None:
    """Set them.  StartError names one that this kernel has not, or has with another value for good.

    Those of the network are not looked at: they have been set in the sandbox's network namespace on the host.
    """
    for name, value in values.items():
        if name in _NAMES:
            setattr(container.uts, _NAMES[name], value.encode("utf-8", "surrogateescape")[:NAME_SIZE])
        elif not name.startswith("net."):
            _check(container, name, value)


def _check(container: Container, name: str, value: str) -> None:
    found = value_of(ProcFs(container), name.replace(".", "/").split("/"))
    if found is None:
        raise StartError(3, f"linux.sysctl: {name}: the sandbox's kernel has no such setting")
    if found.split() != value.split():
        shown = " ".join(found.split())
        raise StartError(3, f"linux.sysctl: {name} is {shown} in the sandbox's kernel and cannot be {value}")
