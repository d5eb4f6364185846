"""The machine's first root: busybox, the modules and init.sh, in the kernel's cpio format."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.kvm.kernel import Kernel, Unavailable

INIT = Path(__file__).with_name("init.sh")
# The share and the layer over it, then what all this is about.
MODULES = ("virtio_pci", "virtiofs", "overlay", "kvm_amd")
FOLDERS = ("dev", "proc", "sys", "host", "layer", "root", "modules")
DIRECTORY, PROGRAM = 0o040755, 0o100755


class Archive:
    """Entries in the "newc" format, Documentation/driver-api/early-userspace/buffer-format.rst."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.count = 0

    def add(self, name: str, mode: int, content: bytes = b"") -> None:
        self.count += 1
        raw = name.encode() + b"\0"
        #        ino         mode  uid gid links mtime size        major minor of the file and of its device
        fields = (self.count, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0)
        self.data += b"070701" + b"".join(b"%08x" % field for field in fields) + raw
        self.pad()
        self.data += content
        self.pad()

    def pad(self) -> None:
        self.data += bytes(-len(self.data) % 4)


def build(kernel: Kernel, changed: Mapping[str, Callable[[Path], bytes]]) -> bytes:
    """changed: modules, by name, of which not the file's content is to be loaded but what is made of it."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise Unavailable("there is no busybox here: apt-get install busybox-static")
    archive = Archive()
    for folder in FOLDERS:
        archive.add(folder, DIRECTORY)
    archive.add("busybox", PROGRAM, Path(busybox).read_bytes())
    archive.add("init", PROGRAM, INIT.read_bytes())
    modules = kernel.in_load_order(MODULES)
    for module in modules:
        content = changed.get(module.stem, Path.read_bytes)(module)
        archive.add(f"modules/{module.name}", PROGRAM, content)
    archive.add("modules/order", PROGRAM, "".join(f"{module.name}\n" for module in modules).encode())
    archive.add("TRAILER!!!", 0)
    return bytes(archive.data)
