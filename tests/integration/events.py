"""What containerd publishes, as `ctr events` shows it."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from tests.integration.daemon import Daemon, until


class Events:
    """A running `ctr events`."""

    def __init__(self, daemon: Daemon, log: Path) -> None:
        self.daemon = daemon
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(daemon.command("events"), stdout=out, stderr=out)

    def about(self, topic: str, name: str) -> list[str]:
        return [line for line in self.text().splitlines() if f" {topic} " in line and f'"{name}"' in line]

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def is_live(self) -> bool:
        """Whether events arrive yet: makes one, and looks for it."""
        label = f"probe={time.monotonic_ns()}"
        self.daemon.ctr("namespaces", "label", self.daemon.namespace, label)
        return until(lambda: label.partition("=")[2] in self.text(), seconds=0.2)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def topics(self, name: str) -> list[str]:
        """Of the events about a container's tasks, in the order in which they came."""
        about = [line for line in self.text().splitlines() if f'"{name}"' in line]
        return re.findall(r" (/tasks/\S+) ", "\n".join(about))
