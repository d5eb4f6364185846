"""crictl, the CRI's own client, as one at a node's shell uses it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cri import BUSYBOX, CriDaemon
from tests.integration.daemon import until
from tests.integration.engines.nerdctl import built
from tests.integration.kubelet import runtime_pb2 as api
from tests.integration.terminal import Terminal

pytestmark = [pytest.mark.slow, pytest.mark.engines, pytest.mark.xdist_group("crictl")]


class Crictl:
    """crictl, and the daemon that it talks to."""

    def __init__(self, daemon: CriDaemon, program: str, handler: str) -> None:
        self.daemon = daemon
        self.program = program
        self.handler = handler
        self.config = daemon.folder / "crictl.yaml"
        socket = f"unix://{daemon.folder}/containerd.sock"
        self.config.write_text(f"runtime-endpoint: {socket}\nimage-endpoint: {socket}\ntimeout: 30\n")

    def command(self, *words: str) -> list[str]:
        return [self.program, "--config", str(self.config), *words]

    def call(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"crictl {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def json(self, command: str, *words: str) -> Any:
        return json.loads(self.call(command, "-o", "json", *words).stdout)

    def _file(self, name: str, content: dict[str, Any]) -> str:
        path = self.daemon.folder / f"{name}.json"
        path.write_text(json.dumps(content))
        return str(path)

    def pod_file(self) -> str:
        options = {"network": api.NODE, "pid": api.CONTAINER}
        return self._file("pod", {
            "metadata": {"name": "pod", "namespace": "default", "uid": "u1", "attempt": 1},
            "log_directory": f"{self.daemon.folder}/logs",
            "linux": {
                "cgroup_parent": f"/{self.daemon.namespace}", "security_context": {"namespace_options": options},
            },
        })  # fmt: skip

    def container_file(self, *command: str, **options: bool) -> str:
        return self._file("container", {
            "metadata": {"name": "main"}, "image": {"image": BUSYBOX}, "command": list(command), "log_path": "main.log",
            "linux": {}, **options,
        })  # fmt: skip

    def run_pod(self) -> str:
        return self.call("runp", "--runtime", self.handler, self.pod_file()).stdout.strip()

    def start(self, pod: str, *command: str, **options: bool) -> str:
        """A container in the pod, created and started; options are members of CRI's ContainerConfig."""
        file = self.container_file(*command, **options)
        made = self.call("create", "--no-pull", pod, file, self.pod_file()).stdout.strip()
        self.call("start", made)
        return made

    def state(self, container: str) -> str:
        return str(self.json("inspect", container)["status"]["state"])


@pytest.fixture(scope="module", params=["runc", "pysc"])
def module_crictl(request: pytest.FixtureRequest) -> Iterator[Crictl]:
    program, reason = built("crictl")
    if not program:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="crictl-", ignore_cleanup_errors=True) as folder:
        daemon = CriDaemon(Path(folder))
        try:
            yield Crictl(daemon, program, request.param)
        finally:
            daemon.close()


@pytest.fixture
def crictl(module_crictl: Crictl) -> Iterator[Crictl]:
    """With a check that the pods of a test left nothing."""
    yield module_crictl
    for pod in module_crictl.call("pods", "-q").stdout.split():
        module_crictl.call("rmp", "-f", pod, check=False)
    assert until(lambda: not module_crictl.daemon.left_behind()), module_crictl.daemon.left_behind()


def test_life_of_a_pod(crictl: Crictl) -> None:
    pod = crictl.run_pod()
    assert crictl.json("inspectp", pod)["status"]["state"] == "SANDBOX_READY"
    assert crictl.json("inspectp", pod)["status"]["runtimeHandler"] == crictl.handler
    container = crictl.start(pod, "sh", "-c", "trap 'exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.1; done")
    assert crictl.state(container) == "CONTAINER_RUNNING"
    assert [each["id"] for each in crictl.json("ps")["containers"]] == [container]
    assert until(lambda: crictl.call("logs", container).stdout == "out\n")
    assert "err\n" in crictl.call("logs", container).stderr
    crictl.call("stop", "--timeout", "10", container)
    assert crictl.state(container) == "CONTAINER_EXITED"
    assert crictl.json("inspect", container)["status"]["exitCode"] == 3
    crictl.call("rm", container)
    crictl.call("stopp", pod)
    assert crictl.json("inspectp", pod)["status"]["state"] == "SANDBOX_NOTREADY"
    crictl.call("rmp", pod)
    assert crictl.call("pods", "-q").stdout == ""


def test_exec(crictl: Crictl) -> None:
    container = crictl.start(crictl.run_pod(), "sleep", "1000")
    done = crictl.call("exec", "--sync", container, "sh", "-c", "echo out; echo err >&2")
    assert done.stdout.split() == ["out", "err"]
    done = crictl.call("exec", "--sync", container, "sh", "-c", "exit 5", check=False)
    assert done.returncode != 0
    done = crictl.call("exec", container, "echo", "streamed")
    assert done.stdout == "streamed\n"
    shown = Terminal(crictl.command("exec", "-it", container, "sh"))
    try:
        shown.expect(b"# ")
        shown.type(b"tty; echo sum $((40 + 2))\n")
        shown.expect(b"/dev/")
        shown.expect(b"sum 42\r")
        shown.type(b"exit\n")
        assert shown.wait() == 0
    finally:
        shown.close()


def test_attach(crictl: Crictl) -> None:
    """By SPDY, where a client can end its input."""
    container = crictl.start(crictl.run_pod(), "sh", "-c", "cat; echo end", stdin=True, stdin_once=True)
    attach = crictl.command("attach", "-i", container)
    done = subprocess.run(attach, input="hello\n", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("hello\n")
    assert until(lambda: crictl.state(container) == "CONTAINER_EXITED")
    assert crictl.call("logs", container).stdout == "hello\nend\n"


def test_figures(crictl: Crictl) -> None:
    container = crictl.start(crictl.run_pod(), "sleep", "1000")
    stats = crictl.json("stats", container)["stats"]
    assert [each["attributes"]["id"] for each in stats] == [container]
    assert int(stats[0]["memory"]["workingSetBytes"]["value"]) > 0
    assert int(stats[0]["cpu"]["usageCoreNanoSeconds"]["value"]) > 0
