"""The files of packaging/kubernetes and packaging/containerd: valid, and saying the same as each other."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.settings import ANNOTATION_PREFIX, BY_NAME
from tests.unit.project.kubeschema import check

ROOT = Path(__file__).resolve().parents[3]
KUBERNETES = ROOT / "packaging" / "kubernetes"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MANIFESTS = ("runtimeclass.yaml", "node.yaml", "example.yaml")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def document(name: str, kind: str) -> Any:
    (found,) = (item for item in documents(name) if item["kind"] == kind)
    return found


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_what_the_api_takes(name: str) -> None:
    for item in documents(name):
        check(item)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"handlr": "pysc"}, "handlr\n"),
        ({"handler": None}, "handler\n"),
        ({"runtime_handler": "pysc"}, "RuntimeClass.runtime_handler: there is no such field"),
        ({"overhead": {"podFixed": [1]}}, "overhead.podFixed\n"),
        ({"metadata": {"name": 1}}, "metadata.name\n"),
    ],
)
def test_the_check_finds_mistakes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(document("runtimeclass.yaml", "RuntimeClass") | change)


def test_the_check_finds_what_is_missing() -> None:
    runtime_class = document("runtimeclass.yaml", "RuntimeClass")
    del runtime_class["handler"]
    with pytest.raises(ValueError, match="handler\n"):
        check(runtime_class)


def test_the_kustomization_names_every_manifest_for_nodes() -> None:
    (kustomization,) = documents("kustomization.yaml")
    assert set(kustomization) == {"apiVersion", "kind", "resources", "images"}
    assert set(kustomization["resources"]) == set(MANIFESTS) - {"example.yaml"}
    (image,) = kustomization["images"]
    assert (image["name"], image["newTag"]) == ("pysc-node", VERSION)


def test_the_daemonset_is_where_the_runtime_class_sends_pods() -> None:
    template = document("node.yaml", "DaemonSet")["spec"]["template"]
    selector = document("runtimeclass.yaml", "RuntimeClass")["scheduling"]["nodeSelector"]
    assert selector.items() <= template["spec"]["nodeSelector"].items()
    assert document("node.yaml", "DaemonSet")["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    assert container["image"] == f"pysc-node:{VERSION}"
    assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in template["spec"]["volumes"]}


def test_the_example_uses_the_class_and_an_option_that_pods_may_choose() -> None:
    pod = document("example.yaml", "Pod")
    assert pod["spec"]["runtimeClassName"] == document("runtimeclass.yaml", "RuntimeClass")["metadata"]["name"]
    for annotation in pod["metadata"]["annotations"]:
        assert BY_NAME[annotation.removeprefix(ANNOTATION_PREFIX)].by_annotation


def handlers(name: str, plugin: str) -> dict[str, Any]:
    table = tomllib.loads((ROOT / "packaging" / "containerd" / name).read_text())
    runtimes: dict[str, Any] = table["plugins"][plugin]["containerd"]["runtimes"]
    return runtimes


@pytest.mark.parametrize(
    ("name", "plugin", "version"),
    [("pysc-v2.toml", "io.containerd.grpc.v1.cri", 2), ("pysc-v3.toml", "io.containerd.cri.v1.runtime", 3)],
)
def test_the_handler_of_the_class_is_in_the_drop_in(name: str, plugin: str, version: int) -> None:
    assert tomllib.loads((ROOT / "packaging" / "containerd" / name).read_text())["version"] == version
    handler = handlers(name, plugin)[document("runtimeclass.yaml", "RuntimeClass")["handler"]]
    assert handler["runtime_type"] == "io.containerd.pysc.v1"
    assert handler["pod_annotations"] == [f"{ANNOTATION_PREFIX}*"]


def test_containerd_takes_the_drop_in(tmp_path: Path) -> None:
    """The one that is installed here, whose main file says nothing of CRI.  A newer one would translate it."""
    config = tmp_path / "config.toml"
    config.write_text(f'version = 2\nimports = ["{ROOT}/packaging/containerd/pysc-v2.toml"]\n')
    done = subprocess.run(["containerd", "-c", config, "config", "dump"], check=True, stdout=subprocess.PIPE, text=True)
    dumped = str(tomllib.loads(done.stdout)["plugins"])
    assert "'runtime_type': 'io.containerd.pysc.v1'" in dumped
    assert "'runtime_type': 'io.containerd.runc.v2'" in dumped


@pytest.mark.parametrize("script", ["node", "node-tree"])
def test_scripts_are_shell(script: str) -> None:
    shell = (KUBERNETES / script).read_text().splitlines()[0].removeprefix("#!")
    subprocess.run([shell, "-n", KUBERNETES / script], check=True)
