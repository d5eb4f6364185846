"""The README's section on Kubernetes, up to the API server: containerd with the lines that it says to add."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.cri import CRI_CONFIG, CriDaemon
from tests.integration.stubs import platform_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

REPOSITORY = Path(__file__).resolve().parents[2]
KUBERNETES = REPOSITORY / "packaging" / "kubernetes"
OURS = re.compile(r"    \[.*\.runtimes\.pysc\]\n(?:      .*\n)*")


def handler_in(document: str) -> str:
    """The TOML that a document says to add for containerd 1.6."""
    blocks = re.findall(r"^( *)```toml\n(.*?)^ *```", (REPOSITORY / document).read_text(), re.MULTILINE | re.DOTALL)
    (found,) = (text for _, text in blocks if '"io.containerd.grpc.v1.cri".containerd.runtimes.pysc' in text)
    return str(found)


class Documented(CriDaemon):
    """The tests' containerd, with the documented handler in the place of the tests' own."""

    config = OURS.sub("", CRI_CONFIG) + handler_in("README.md")


@pytest.fixture(scope="module")
def cri() -> Iterator[CriDaemon]:
    with tempfile.TemporaryDirectory(prefix="cri-", ignore_cleanup_errors=True) as folder:
        daemon = Documented(Path(folder))
        try:
            yield daemon
        finally:
            daemon.close()


def test_both_documents_say_the_same() -> None:
    lines = [[line.strip() for line in handler_in(name).splitlines()] for name in ("README.md", "docs/kubernetes.md")]
    assert lines[0] == lines[1]
    assert "runtimes.pysc" not in OURS.sub("", CRI_CONFIG)


def test_the_example_runs_through_the_handler_of_the_class(cri: CriDaemon) -> None:
    """As the kubelet would do it: the handler is the class's, command and annotations are the pod's."""
    handler = yaml.safe_load((KUBERNETES / "runtimeclass.yaml").read_text())["handler"]
    example = yaml.safe_load((KUBERNETES / "example.yaml").read_text())
    (main,) = example["spec"]["containers"]
    pod = cri.run_pod("sandboxed", handler, example["metadata"]["annotations"])
    try:
        container = cri.run_container(pod, "sandboxed", "main", *main["command"])
        assert cri.is_running(container)
        assert cri.exec_sync(container, "uname", "-s") == (b"Linux\n", b"", 0)
    finally:
        cri.remove_pod(pod)


def test_an_option_comes_in_by_an_annotation_of_the_pod(cri: CriDaemon) -> None:
    pod = cri.run_pod("annotated", "pysc", {"dev.pysc.platform": "ptrace"})
    try:
        container = cri.run_container(pod, "annotated", "main", "sleep", "1000")
        assert platform_of(cri, container) == "ptrace"
    finally:
        cri.remove_pod(pod)
