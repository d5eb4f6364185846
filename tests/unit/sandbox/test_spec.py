"""config.json: what is accepted, what it becomes, and how a mistake is named."""

import copy
import json

import pytest

from sandbox.errors import InvalidSpec
from sandbox.spec import Resources, Spec, load_spec

MINIMAL = {
    "ociVersion": "1.0.2",
    "process": {"args": ["sh"], "cwd": "/"},
    "root": {"path": "rootfs"},
}
BUNDLE = "/bundle"


def spec_with(**changes):
    return Spec.from_json({**copy.deepcopy(MINIMAL), **changes}, BUNDLE)


def test_minimal_spec_gets_the_defaults():
    spec = spec_with()

    assert spec.root == f"{BUNDLE}/rootfs"
    assert spec.args == ["sh"]
    assert (spec.root_readonly, spec.terminal, spec.console_size, spec.oom_score_adj) == (False, False, None, None)
    assert spec.mounts == [] and spec.namespaces == {} and spec.resources == Resources()
    assert spec.raw["root"] == {"path": "rootfs"}


def test_absolute_root_is_kept_and_null_means_absent():
    spec = spec_with(root={"path": "/images/a", "readonly": None}, mounts=None, hooks=None, linux=None)

    assert spec.root == "/images/a"
    assert not spec.root_readonly


def test_bind_sources_are_relative_to_the_bundle():
    spec = spec_with(
        mounts=[
            {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "ro"]},
            {"destination": "/etc/hosts", "source": "/etc/hosts", "options": ["bind", "ro", "rw"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
        ]
    )
    data, hosts, proc = spec.mounts

    assert (data.source, data.is_bind, data.is_recursive, data.is_readonly) == ("/bundle/data", True, True, True)
    assert (hosts.source, hosts.is_bind, hosts.is_recursive, hosts.is_readonly) == ("/etc/hosts", True, False, False)
    assert (proc.source, proc.is_bind) == ("proc", False)


@pytest.mark.parametrize("word", ["shared", "rshared"])
def test_a_mount_that_the_host_is_to_see_into_is_refused(word):
    with pytest.raises(InvalidSpec, match=r"mounts\[0\]\.options: /data cannot be shared"):
        spec_with(mounts=[{"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", word]}])


def test_namespaces_hooks_and_resources_are_typed():
    spec = spec_with(
        linux={
            "namespaces": [{"type": "network", "path": "/run/netns/a"}, {"type": "pid"}],
            "resources": {
                "memory": {"limit": 1 << 20, "swap": -1},
                "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1"},
                "pids": {"limit": 0},
                "unified": {"memory.high": "1000"},
            },
            "cgroupsPath": "/a/b",
        },
        hooks={"createRuntime": [{"path": "/bin/true", "args": ["true", "x"], "timeout": 3}]},
    )

    assert spec.namespaces == {"network": "/run/netns/a", "pid": ""}
    assert spec.resources.memory_limit == 1 << 20 and spec.resources.memory_swap == -1
    assert spec.resources.pids_limit == 0 and spec.resources.cpus == "0-1"
    assert spec.resources.unified == {"memory.high": "1000"}
    assert [hook.timeout for hook in spec.hooks["createRuntime"]] == [3]
    assert spec.hooks["poststop"] == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ociVersion": ""}, "ociVersion: missing"),
        ({"ociVersion": "2.0"}, "ociVersion: '2.0' is not supported"),
        ({"process": {"args": [], "cwd": "/"}}, "process.args: must not be empty"),
        ({"process": {"args": ["a", 1], "cwd": "/"}}, "process.args: list of strings"),
        ({"process": {"args": ["a"], "cwd": "x"}}, "process.cwd: absolute path"),
        ({"process": {"args": ["a"], "cwd": "/", "terminal": "yes"}}, "process.terminal: bool expected"),
        ({"process": {"args": ["a"], "cwd": "/", "oomScoreAdj": True}}, "process.oomScoreAdj: int expected"),
        ({"root": {}}, "root.path: missing"),
        ({"root": "rootfs"}, "root: dict expected"),
        ({"mounts": [{"type": "proc"}]}, r"mounts\[0\].destination: missing"),
        ({"mounts": [{"destination": "/x", "type": "bind"}]}, r"mounts\[0\].source: missing"),
        ({"mounts": [{"destination": "/x"}]}, r"mounts\[0\].type: missing"),
        ({"mounts": ["x"]}, r"mounts\[0\]: object expected"),
        ({"linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}]}}, "a second namespace of type 'pid'"),
        ({"linux": {"namespaces": [{"type": "space"}]}}, r"namespaces\[0\].type: unknown type 'space'"),
        ({"linux": {"namespaces": [{"type": "network", "path": "x"}]}}, r"namespaces\[0\].path: absolute"),
        ({"linux": {"resources": {"memory": {"limit": "1M"}}}}, "linux.resources.memory.limit: int expected"),
        ({"linux": {"resources": {"unified": {"../x": "1"}}}}, "unified: a file name expected"),
        ({"linux": {"sysctl": {"a": 1}}}, "linux.sysctl: values must be strings"),
        ({"hooks": {"poststop": [{"path": "x"}]}}, r"hooks.poststop\[0\].path: absolute"),
        ({"hooks": {"poststop": [{"path": "/x", "timeout": 0}]}}, "timeout: must be greater"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(changes, named):
    with pytest.raises(InvalidSpec, match=named):
        spec_with(**changes)


def test_load_reads_the_bundle(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MINIMAL))

    assert load_spec(tmp_path).root == str(tmp_path / "rootfs")


@pytest.mark.parametrize(
    ("text", "named"), [(None, "cannot read"), ("{", "not valid JSON"), ("[1]", "object expected")]
)
def test_an_unreadable_bundle_is_named(tmp_path, text, named):
    if text is not None:
        (tmp_path / "config.json").write_text(text)

    with pytest.raises(InvalidSpec, match=named):
        load_spec(tmp_path)
