"""A containerd with its CRI service; tests.integration.kubelet.pods speaks to it as the kubelet does."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc  # type: ignore[import-untyped]

from tests.integration.bundle import IMAGE_MAKER, PYSC, busybox_rootfs
from tests.integration.daemon import CONFIG, Daemon, until

NAMESPACE = "k8s.io"
PAUSE = "docker.io/test/pause:latest"
BUSYBOX = "docker.io/test/busybox:latest"

CRI_CONFIG = (
    CONFIG.replace('  "io.containerd.grpc.v1.cri",\n', "")
    + f"""
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pysc]
      runtime_type = "io.containerd.pysc.v1"
      pod_annotations = ["dev.pysc.*"]
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pysc-by-runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.pysc-by-runc.options]
        BinaryName = "{PYSC}"
"""
)


class CriDaemon(Daemon):
    """containerd with its CRI plugin, and a pause and a busybox image for it."""

    config = CRI_CONFIG

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        root = busybox_rootfs(folder / "image-root")
        (root / "etc" / "resolv.conf").touch()  # where the kubelet's is mounted
        self._import(PAUSE, root, "sleep", "1000000")
        self._import(BUSYBOX, root)
        if not until(self._serves_cri):
            raise RuntimeError(f"the CRI service does not come up:\n{self.tail()}")

    def _import(self, name: str, root: Path, *command: str) -> None:
        archive = self.folder / "cri-image.tar"
        subprocess.run([sys.executable, IMAGE_MAKER, "image", name, root, archive, *command], check=True)
        ctr = ["ctr", "--address", f"{self.folder}/containerd.sock", "--namespace", NAMESPACE]
        subprocess.run([*ctr, "images", "import", archive], check=True, stdout=subprocess.DEVNULL)

    def _serves_cri(self) -> bool:
        with grpc.insecure_channel(f"unix://{self.folder}/containerd.sock") as channel:
            return bool(channel.unary_unary("/runtime.v1.RuntimeService/Status")(b"", timeout=30))


@contextmanager
def cri_daemon() -> Iterator[CriDaemon]:
    """One in a folder of its own, whose name is short because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="cri-", ignore_cleanup_errors=True) as folder:
        daemon = CriDaemon(Path(folder))
        try:
            yield daemon
        finally:
            daemon.close()
