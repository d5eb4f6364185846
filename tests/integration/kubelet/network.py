"""A containerd whose pods have a network of their own: CNI's bridge plugin, without a route to the host."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.integration.cri import CRI_CONFIG, CriDaemon

PLUGINS = Path("/usr/lib/cni")


class NetworkDaemon(CriDaemon):
    """With a bridge of its own, which close() takes away."""

    config = CRI_CONFIG.replace(
        "restrict_oom_score_adj = true\n",
        f"""restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{{folder}}/cni"
""",
    )

    def start(self) -> subprocess.Popen[bytes]:
        folder = self.folder / "cni"
        folder.mkdir(exist_ok=True)
        plugin = {
            "type": "bridge", "bridge": self.bridge, "isGateway": False, "ipMasq": False,
            "ipam": {"type": "host-local", "subnet": "10.213.0.0/24", "dataDir": str(self.folder / "addresses")},
        }  # fmt: skip
        network = {"cniVersion": "0.4.0", "name": "tests", "plugins": [plugin]}
        (folder / "tests.conflist").write_text(json.dumps(network))
        return super().start()

    @property
    def bridge(self) -> str:
        return f"pysc-{self.namespace}"

    def close(self) -> None:
        super().close()
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)  # made by the first pod
