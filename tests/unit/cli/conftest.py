"""Runs the command line in processes of its own, with a stand-in for the Sentry, and counts what is left."""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from sandbox.cgroups import host_hierarchies
from tests.unit.sandbox import unprivileged
from tests.unit.sandbox.conftest import write_bundle

REPOSITORY = str(Path(__file__).resolve().parents[3])
TIMEOUT = 60


class Cli:
    """pysc with a state folder of its own."""

    def __init__(self, root, bundle, name):
        self.root = root
        self.bundle_folder = bundle
        self.name = name
        self.prefix = [sys.executable]
        self.environment = {**os.environ, "PYTHONPATH": REPOSITORY, "TMPDIR": str(root.parent)}

    def command(self, *words):
        return [*self.prefix, "-m", "tests.unit.sandbox.standin", "--root", str(self.root), *map(str, words)]

    def __call__(self, *words, status=0, input="", **keywords):
        """Run to the end; returns what it printed.

        Into files: what is created and left running would keep pipes open.
        """
        with (
            tempfile.TemporaryFile("w+") as stdin,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            stdin.write(input)
            stdin.seek(0)
            done = subprocess.run(self.command(*words), stdin=stdin, stdout=out, stderr=err, timeout=TIMEOUT,
                                  check=False, env=self.environment, cwd=REPOSITORY, **keywords)  # fmt: skip
            for file in (out, err):
                file.seek(0)
            done.stdout, done.stderr = out.read(), err.read()
        assert done.returncode == status, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done

    def start(self, *words, **keywords):
        """Leave it running."""
        return subprocess.Popen(self.command(*words), env=self.environment, cwd=REPOSITORY, text=True, **keywords)

    def bundle(self, *args, **changes):
        return write_bundle(self.bundle_folder, *args, **changes)

    def leftovers(self):
        found = os.listdir(self.root) if self.root.exists() else []
        found += [name for name in os.listdir(self.root.parent) if name.startswith("pysc-")]
        for hierarchy in host_hierarchies()[1]:
            found += [name for name in os.listdir(hierarchy.mount_point) if name.startswith(f"pysc-{self.name}")]
        return found


@pytest.fixture
def cli(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = Path(tempfile.mkdtemp(prefix="pysc-test-", dir="/tmp"))
    made = Cli(folder / "root", tmp_path / "bundle", f"test-{uuid.uuid4().hex[:12]}")
    yield made
    for name in os.listdir(made.root) if made.root.exists() else []:
        made("delete", "--force", name)
    shutil.rmtree(folder)


@pytest.fixture
def unprivileged_cli(cli):
    """As a user without any privilege, in a folder that belongs to it."""
    if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
        pytest.skip("user namespaces are switched off")
    cli.prefix = [sys.executable, unprivileged.__file__]
    folder = cli.root.parent
    cli.bundle_folder = folder / "bundle"
    os.chown(folder, unprivileged.UID, unprivileged.UID)
    cli.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return cli
