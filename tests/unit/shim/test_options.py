"""Runtime options, as containerd wraps them."""

from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from proto.containerd.options_pb2 import Options as RuntimeOptions
from proto.ttrpc.status import INVALID_ARGUMENT, RpcError
from sandbox.sandbox import Options
from sandbox.spec import Spec
from shim.options import sandbox_options


@pytest.fixture(autouse=True)
def no_file_of_this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSC_CONFIG", "")


def make(
    wrapped: Any, cgroups_path: str = "/x", debug: bool = False, annotations: dict[str, str] | None = None
) -> Options:
    process = {"args": ["true"], "cwd": "/"}
    raw = {"ociVersion": "1.0.2", "root": {"path": "r"}, "process": process, "linux": {"cgroupsPath": cgroups_path}}
    raw["annotations"] = annotations or {}
    return sandbox_options(wrapped, Spec.from_json(raw, "/b"), "c1", debug)


def wrap(options: RuntimeOptions, prefix: str = "") -> Any:
    return Any(type_url=prefix + "runtimeoptions.v1.Options", value=options.SerializeToString())


def test_no_options() -> None:
    options = make(Any())
    assert (options.platform, options.debug, options.lifeline, options.exit_with_init) == ("auto", False, True, False)
    assert make(Any(), debug=True).debug


@pytest.mark.parametrize("prefix", ["", "types.containerd.io/", "type.googleapis.com/"])
def test_file_of_options(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "pysc.toml"
    path.write_text('platform = "ptrace"\nstrace = true\nlog = "/var/log/%ID%.log"\n')
    options = make(wrap(RuntimeOptions(config_path=str(path)), prefix))
    assert (options.platform, options.strace, options.log) == ("ptrace", True, "/var/log/c1.log")


def test_table_in_the_configuration_of_containerd() -> None:
    body = b'TypeUrl = "io.containerd.pysc.v1.options"\nplatform = "systrap"\n'
    assert make(wrap(RuntimeOptions(config_body=body))).platform == "systrap"


def test_options_of_other_runtimes_are_ignored() -> None:
    assert make(Any(type_url="containerd.runc.v1.Options", value=b"\x08\x01")).platform == "auto"


@pytest.mark.parametrize(
    ("body", "annotation", "chosen"),
    [
        (b"", None, "auto"),
        (b"", "", "auto"),
        (b"", "ptrace", "ptrace"),
        (b"platform = 'auto'", "systrap", "auto"),
        (b"platform = 'systrap'\nannotations = ['platform']", "ptrace", "ptrace"),
        (b"annotations = []", "ptrace", "auto"),
        (b"platform = 'systrap'", "ptrace", "systrap"),
        (b"platform = 'systrap'", None, "systrap"),
    ],
)
def test_an_annotation_chooses_the_platform_where_the_options_do_not(
    body: bytes, annotation: str | None, chosen: str
) -> None:
    annotations = {} if annotation is None else {"dev.pysc.platform": annotation}
    assert make(wrap(RuntimeOptions(config_body=body)), annotations=annotations).platform == chosen


def test_the_file_of_the_node_counts_less_than_what_containerd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "node.toml"
    path.write_text('platform = "ptrace"\nstrace = ["open"]\n')
    monkeypatch.setenv("PYSC_CONFIG", str(path))
    options = make(wrap(RuntimeOptions(config_body=b"platform = 'systrap'")))
    assert (options.platform, options.strace, options.strace_calls) == ("systrap", True, ("open",))
    assert make(Any()).platform == "ptrace"


def test_a_debugging_containerd_counts_less_than_any_file() -> None:
    assert make(Any(), debug=True).log_level == "debug"
    assert not make(wrap(RuntimeOptions(config_body=b"debug = false")), debug=True).debug


@pytest.mark.parametrize("annotation", ["abacus", "kvm ptrace"])
def test_a_platform_that_does_not_exist_is_an_error(annotation: str) -> None:
    with pytest.raises(RpcError, match=r"annotation dev.pysc.platform: one of .* expected") as e:
        make(Any(), annotations={"dev.pysc.platform": annotation})
    assert e.value.code == INVALID_ARGUMENT


def test_an_annotation_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(RpcError, match=r"dev.pysc.plattform: there is no such option; did you mean platform"):
        make(Any(), annotations={"dev.pysc.plattform": "ptrace"})


@pytest.mark.parametrize("body", [b"platform = 1", b"debug = 'yes'", b"= nonsense", b"\xff", b"plattform = 'kvm'"])
def test_broken_options_are_an_error(body: bytes) -> None:
    with pytest.raises(RpcError) as e:
        make(wrap(RuntimeOptions(config_body=body)))
    assert e.value.code == INVALID_ARGUMENT


def test_missing_file_is_an_error() -> None:
    with pytest.raises(RpcError, match="/no/such/file"):
        make(wrap(RuntimeOptions(config_path="/no/such/file")))


@pytest.mark.parametrize(("driver", "systemd"), [("auto", None), ("systemd", True), ("cgroupfs", False)])
def test_cgroup_driver_is_told_by_the_path_unless_it_is_named(driver: str, systemd: bool | None) -> None:
    options = make(wrap(RuntimeOptions(config_body=f"cgroup_driver = '{driver}'".encode())))
    assert options.systemd_cgroup is systemd
