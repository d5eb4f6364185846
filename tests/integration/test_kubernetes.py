"""The README's section on Kubernetes, up to the API server: containerd with the lines that it says to add."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from tests.integration.cri import CRI_CONFIG, CriDaemon
from tests.integration.kubelet.pods import Kubelet, Pod
from tests.integration.stubs import platform_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "docs/kubernetes.md")
OURS = re.compile(r"    \[.*\.runtimes\.pysc\]\n(?:      .*\n)*")


def handler_in(document: str) -> str:
    """The TOML that a document says to add for containerd 1.6."""
    blocks = re.findall(r"^( *)```toml\n(.*?)^ *```", (REPOSITORY / document).read_text(), re.MULTILINE | re.DOTALL)
    (found,) = (text for _, text in blocks if '"io.containerd.grpc.v1.cri".containerd.runtimes.pysc' in text)
    return str(found)


def kubectl_in(document: str) -> list[list[str]]:
    """The words of the commands that a document says to give once a node's containerd has the handler."""
    after = (REPOSITORY / document).read_text().partition(handler_in(document).splitlines()[0])[2]
    (block,) = (
        text for text in re.findall(r"^ *```sh\n(.*?)^ *```", after, re.MULTILINE | re.DOTALL) if "kubectl" in text
    )
    return [words[1:] for line in block.splitlines() if (words := shlex.split(line, comments=True))[0] == "kubectl"]


class Documented(CriDaemon):
    """The tests' containerd, with the documented handler in the place of the tests' own."""

    config = OURS.sub("", CRI_CONFIG) + handler_in("README.md")


@pytest.fixture(scope="module")
def cri() -> Iterator[CriDaemon]:
    """With a file of the node in its environment, so that the node's own does not matter."""
    with TemporaryDirectory(prefix="cri-", ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as p:
        file = Path(folder) / "node.toml"
        file.write_text('platform = "ptrace"\nannotations = ["platform"]\n')
        p.setenv("PYSC_CONFIG", str(file))
        daemon = Documented(Path(folder))
        try:
            yield daemon
        finally:
            daemon.close()


@contextmanager
def running_pod(cri: CriDaemon, handler: str, annotations: dict[str, str]) -> Iterator[Pod]:
    kubelet = Kubelet(cri, handler)
    pod = Pod(kubelet, "pod")
    pod.config.annotations.update(annotations)
    try:
        yield pod.run()
    finally:
        pod.close()
        kubelet.close()


def test_both_documents_say_the_same() -> None:
    lines = [[line.strip() for line in handler_in(name).splitlines()] for name in DOCUMENTS]
    assert lines[0] == lines[1]
    assert kubectl_in(DOCUMENTS[0]) == kubectl_in(DOCUMENTS[1])
    assert "runtimes.pysc]" not in OURS.sub("", CRI_CONFIG)


def test_what_the_commands_ask_for_runs(cri: CriDaemon) -> None:
    """As the API server, the scheduler and the kubelet would do it with what the commands give them."""
    label, *applied = kubectl_in("README.md")
    assert label[:3] == ["label", "node", "NODE"]
    assert all(words[:2] == ["apply", "-f"] for words in applied)
    documents = [yaml.safe_load((REPOSITORY / words[2]).read_text()) for words in applied]
    runtime_class, example = documents
    assert [document["kind"] for document in documents] == ["RuntimeClass", "Pod"]
    assert runtime_class["scheduling"]["nodeSelector"] == dict(word.split("=") for word in label[3:])
    assert example["spec"]["runtimeClassName"] == runtime_class["metadata"]["name"]
    handler = runtime_class["handler"]
    (main,) = example["spec"]["containers"]
    with running_pod(cri, handler, example["metadata"]["annotations"]) as pod:
        container = pod.started("main", *main["command"])
        assert container.is_running()
        assert container.exec("uname", "-s").stdout == b"Linux\n"


@pytest.mark.parametrize(
    ("annotations", "platform"), [({}, "ptrace"), ({"dev.pysc.platform": "systrap"}, "systrap")], ids=["node", "pod"]
)
def test_options_come_from_the_node_and_from_the_pod(
    cri: CriDaemon, annotations: dict[str, str], platform: str
) -> None:
    with running_pod(cri, "pysc", annotations) as pod:
        assert platform_of(cri, pod.started("main").id) == platform
