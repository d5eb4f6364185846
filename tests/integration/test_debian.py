"""Real programs in a minimal Debian root, run with `pysc run`: dynamic linking, threads, pipes, many files."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.integration import debian
from tests.integration.bundle import PYSC, Process, write_bundle

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("debian")]


@pytest.fixture(scope="module")
def root() -> Path:
    return debian.root()


def run(root: Path, scratch: Path, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    bundle = write_bundle(scratch / "bundle", root, Process(list(args)))
    config = json.loads((bundle / "config.json").read_text())
    config["root"]["readonly"] = True
    (bundle / "config.json").write_text(json.dumps(config))
    command = [str(PYSC), "--root", str(scratch / "state"), "run", "--bundle", str(bundle), f"d{uuid.uuid4().hex[:8]}"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)


def output(root: Path, scratch: Path, *args: str) -> str:
    done = run(root, scratch, *args)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_bash_pipelines_and_their_status(root: Path, tmp_path: Path) -> None:
    script = "for i in 1 2 3; do (echo $i; exit $i) | cat; echo ${PIPESTATUS[0]}; done"
    assert output(root, tmp_path, "bash", "-c", script).split() == ["1", "1", "2", "2", "3", "3"]


def test_find_sees_every_file(root: Path, tmp_path: Path) -> None:
    """Mount points of the container are other file systems to -xdev, except the mount points themselves."""
    ours = output(root, tmp_path, "sh", "-c", "find / -xdev | LC_ALL=C sort").splitlines()
    find = subprocess.run(["find", root, "-xdev"], check=True, capture_output=True, text=True).stdout.splitlines()
    below = {"/proc", "/dev", "/sys", "/tmp"}
    hosts = sorted(line.removeprefix(str(root)) or "/" for line in find)
    hosts = [path for path in hosts if not any(path.startswith(f"{mount}/") for mount in below)]
    assert [path for path in ours if not path.startswith("/dev/")] == sorted(hosts)


def test_perl(root: Path, tmp_path: Path) -> None:
    assert output(root, tmp_path, "perl", "-e", "print 6*7") == "42"


PYTHON = """
import json, ssl, subprocess, threading
results = []
def work(n):
    results.append(sum(i * i for i in range(n)))
threads = [threading.Thread(target=work, args=(n,)) for n in range(1000, 1008)]
[t.start() for t in threads]
[t.join() for t in threads]
child = subprocess.run(["sh", "-c", "echo from the child; exit 3"], capture_output=True, text=True)
print(json.dumps([sorted(results) == [sum(i * i for i in range(n)) for n in range(1000, 1008)],
                  child.stdout, child.returncode, ssl.OPENSSL_VERSION_INFO[0] >= 3]))
"""


def test_python_with_threads_and_a_subprocess(root: Path, tmp_path: Path) -> None:
    assert json.loads(output(root, tmp_path, "python3", "-c", PYTHON)) == [True, "from the child\n", 3, True]


def test_dpkg_lists_the_packages(root: Path, tmp_path: Path) -> None:
    installed = (root / "var/lib/dpkg/status").read_text().count("\nStatus: install ok installed\n")
    lines = output(root, tmp_path, "sh", "-c", "dpkg -l | grep -c ^ii")
    assert int(lines) == installed


def test_tar_packs_and_lists(root: Path, tmp_path: Path) -> None:
    count = output(root, tmp_path, "sh", "-c", "tar c /etc 2>/dev/null | tar t | wc -l")
    assert int(count) == sum(1 for _ in (root / "etc").rglob("*")) + 1


def test_files_have_the_hosts_content(root: Path, tmp_path: Path) -> None:
    command = "cd /usr/lib/python3.11 && find . -name '*.py' -type f | LC_ALL=C sort | head -200 | xargs cat | md5sum"
    host = subprocess.run(
        ["sh", "-c", f"cd {root} && {command.replace('/usr', 'usr')}"], capture_output=True, text=True
    )
    assert output(root, tmp_path, "sh", "-c", command) == host.stdout


def test_work_in_a_temporary_folder(root: Path, tmp_path: Path) -> None:
    script = """
        set -e
        cd $(mktemp -d)
        cp -r /etc/default copied
        for i in $(seq 50); do echo $i > file$i; done
        cat file* | sort -n | tail -1
        rm -r copied file*
        ls -A | wc -l
    """
    assert output(root, tmp_path, "bash", "-c", script).split() == ["50", "0"]


def test_sort_and_awk_over_much_data(root: Path, tmp_path: Path) -> None:
    script = "seq 50000 | sort -R | sort -n | awk '{ s += $1 } END { print NR, s }'"
    assert output(root, tmp_path, "sh", "-c", script).split() == ["50000", "1250025000"]
