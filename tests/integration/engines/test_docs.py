"""The commands of docs/docker.md and docs/nerdctl.md, run as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.integration.bundle import PYSC
from tests.integration.engines.docker import Docker
from tests.integration.engines.engine import SECONDS, Engine
from tests.integration.engines.nerdctl import Nerdctl
from tests.integration.engines.podman import Podman

pytestmark = [pytest.mark.slow, pytest.mark.engines, pytest.mark.xdist_group("engine-docs")]

DOCS = Path(__file__).resolve().parents[3] / "docs"
NEEDS_A_PERSON = " -it "


def commands(page: str, heading: str) -> str:
    """The shell commands below a heading, without those that need somebody at a terminal."""
    _, _, below = (DOCS / page).read_text().partition(f"{heading}\n")
    blocks = re.findall(r"```sh\n(.*?)```", below.partition("\n## ")[0], re.DOTALL)
    assert blocks
    lines = "".join(blocks).splitlines()
    return "\n".join(line for line in lines if NEEDS_A_PERSON not in line)


@pytest.mark.parametrize(
    ("kind", "page", "heading"),
    [(Docker, "docker.md", "## Docker"), (Podman, "docker.md", "## podman"), (Nerdctl, "nerdctl.md", "# nerdctl")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_commands_of_the_page(kind: type[Engine], page: str, heading: str) -> None:
    if reason := kind.missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="eng-", ignore_cleanup_errors=True) as folder:
        engine = kind(Path(folder), "pysc")
        try:
            engine.call("tag", engine.image, "busybox")
            # Its own client with its flags, by its own name; what is for the host goes into the test's folder.
            functions = f'{engine.name}() {{ {shlex.join(engine.client())} "$@"; }}\nsystemctl() {{ :; }}\n'
            shown = commands(page, heading).replace("pysc install", f"pysc install --root {folder}/host")
            script = f"set -e\nPATH={PYSC.parent}:$PATH\n{functions}{shown}\n"
            done = subprocess.run(
                ["bash", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=2 * SECONDS, check=False, cwd=folder,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert "hello\n" in done.stdout
            assert "sleep 1000" in done.stdout
            assert engine.call("ps", "-aq").stdout == ""
        finally:
            engine.names.append("web")
            engine.remove_containers()
            engine.close()
