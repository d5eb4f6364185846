#!/usr/bin/env python3
"""Makes images without a network and without a registry.

image.py busybox-root DIR          a root file system: the static busybox of this host under all its names
image.py image NAME ROOT OUT.tar [WORD...]
                                   that root as a one-layer OCI image, for `ctr images import OUT.tar`; it runs the
                                   words, or a shell
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var")
ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n",
}
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def busybox_root(root: Path) -> None:
    """Fills the folder."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("there is no busybox here: apt-get install busybox-static")
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy2(busybox, root / "bin" / "busybox")
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    for name, text in ETC.items():
        (root / "etc" / name).write_text(text)


class Archive:
    """An OCI image layout in a tar file: blobs named by their digest, and an index."""

    def __init__(self, out: Path) -> None:
        self.tar = tarfile.open(out, "w")

    def add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = len(data), 0o644, int(time.time())
        self.tar.addfile(entry, io.BytesIO(data))

    def blob(self, media_type: str, data: bytes) -> dict[str, Any]:
        """Adds the data; its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self.add(f"blobs/sha256/{digest}", data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    def json_blob(self, media_type: str, value: object) -> dict[str, Any]:
        return self.blob(media_type, json.dumps(value).encode())


def layer_of(root: Path) -> bytes:
    """The root as a tar, with everything owned by root."""

    def own(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(root, arcname=".", filter=own)
    return buffer.getvalue()


def make_image(name: str, root: Path, out: Path, command: list[str]) -> None:
    layer = layer_of(root)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [PATH], "Cmd": command, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    archive = Archive(out)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": archive.json_blob("config.v1+json", config),
        "layers": [archive.blob("layer.v1.tar+gzip", gzip.compress(layer, compresslevel=1))],
    }
    entry = archive.json_blob("manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    archive.add("index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    archive.add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    archive.tar.close()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="image.py", description="Makes images without a network.")
    actions = parser.add_subparsers(dest="action", required=True)
    root = actions.add_parser("busybox-root", help="fill a folder with a busybox root file system")
    root.add_argument("root", type=Path)
    image = actions.add_parser("image", help="pack a folder as an OCI image")
    image.add_argument("name")
    image.add_argument("root", type=Path)
    image.add_argument("out", type=Path)
    image.add_argument("words", nargs="*", default=["sh"])
    args = parser.parse_args(argv)
    if args.action == "busybox-root":
        busybox_root(args.root)
    else:
        make_image(args.name, args.root, args.out, args.words)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
