"""A containerd of our own: private root, state and socket, with the shim on its PATH and a busybox image."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

IMAGE = "docker.io/library/busybox:test"
RUNTIME = "io.containerd.pysc.v1"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0

SHIM = f"""#!{sys.executable} -I
import sys
sys.path.append({str(ROOT)!r})
from {{module}} import main
sys.exit(main())
"""

CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
[debug]
level = "debug"
"""


def write_image(path: Path, rootfs: Path) -> None:
    """An OCI image of one layer, as an archive that `ctr images import` reads."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(rootfs, arcname=".")
    blobs: dict[str, bytes] = {}

    def descriptor(content: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    layer_descriptor = descriptor(layer.getvalue(), "layer.v1.tar")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_descriptor["digest"]]},
    }
    config_descriptor = descriptor(json.dumps(config).encode(), "config.v1+json")
    manifest = {"schemaVersion": 2, "config": config_descriptor, "layers": [layer_descriptor]}
    entry = descriptor(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"io.containerd.image.name": IMAGE}
    blobs["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in blobs.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


class Containerd:
    """The daemon, and ctr to talk to it."""

    def __init__(self, folder: Path, shim_module: str = "shim.main") -> None:
        self.folder = folder
        self.address = folder / "containerd.sock"
        self.namespace = f"test-{os.getpid()}"
        self._log = (folder / "log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "config.toml").write_text(CONFIG.format(folder=folder))
        shim = folder / "bin" / "containerd-shim-pysc-v1"
        shim.parent.mkdir()
        shim.write_text(SHIM.format(module=shim_module))
        shim.chmod(0o755)

    def start(self) -> None:
        """Start it and wait until it answers."""
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        self._process = subprocess.Popen(
            ["containerd", "-c", str(self.folder / "config.toml")],
            env=environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while self.ctr("version", check=False).returncode != 0:
            assert time.monotonic() < deadline, self.log()[-4000:]
            time.sleep(0.05)

    def stop(self, signo: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon only; shims and containers go on."""
        assert self._process is not None
        self._process.send_signal(signo)
        self._process.wait(PATIENCE_S)

    def close(self) -> None:
        """End the daemon and remove its folder."""
        self.stop()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def ctr(self, *words: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run ctr to its end."""
        done = subprocess.run(self.command(*words), input=stdin, capture_output=True, timeout=PATIENCE_S)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def command(self, *words: str) -> list[str]:
        return ["ctr", "--address", str(self.address), "--namespace", self.namespace, *words]

    def run(
        self, container_id: str, *words: str, flags: Sequence[str] = ("--rm",), check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """ctr run with our runtime."""
        return self.ctr("run", *flags, "--runtime", RUNTIME, IMAGE, container_id, *words, check=check)

    def status(self, container_id: str) -> str:
        """What `ctr tasks ls` says of a container; "" if it has no task."""
        for line in self.ctr("tasks", "ls").stdout.decode().splitlines():
            words = line.split()
            if words and words[0] == container_id:
                return words[2]
        return ""

    def wait_status(self, container_id: str, status: str) -> None:
        """Wait until a task has that status."""
        deadline = time.monotonic() + PATIENCE_S
        while self.status(container_id) != status:
            assert time.monotonic() < deadline, (self.status(container_id), self.log()[-4000:])
            time.sleep(0.05)

    def shim_pids(self) -> list[int]:
        """The serving processes of this daemon's namespace."""
        pids = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"-namespace" in words and self.namespace.encode() in words:
                    pids.append(int(entry.name))
        return pids
