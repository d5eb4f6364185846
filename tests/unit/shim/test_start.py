"""The start and delete actions, piece by piece; tests/integration/test_shim.py runs them whole."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToJson

from proto.containerd.bootstrap_pb2 import BootstrapParams, BootstrapResult
from proto.containerd.task_pb2 import DeleteResponse
from proto.ttrpc.protobuf import bytes_field, text_field
from shim import address, delete, start
from shim.flags import Flags, UsageError


@pytest.fixture
def flags() -> Flags:
    flags = Flags()
    flags.namespace, flags.id = "default", "c1"
    return flags


@pytest.fixture
def socket_file(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "s" / "socket")


def test_socket_path_is_the_one_that_ctr_computes() -> None:
    """ctr shim: sha256 of /run/containerd/containerd.sock/default/c1"""
    path = address.socket_path("/run/containerd/containerd.sock", "default", "c1")
    assert path == "/run/containerd/s/d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"
    assert path == address.socket_path("/run//containerd/containerd.sock/", "default", "c1")
    assert path != address.socket_path("/run/containerd/containerd.sock", "default", "c2")
    assert address.socket_path("/a", "b", "c", "/dir").startswith("/dir/")


def test_bootstrap_params_are_recognised(flags: Flags) -> None:
    params = BootstrapParams(
        instance_id="c1", namespace="default", log_level=-8, containerd_ttrpc_address="/t", socket_dir="/sockets"
    )
    bootstrap = start.parse_bootstrap(params.SerializeToString(), flags)
    assert bootstrap is not None
    assert (bootstrap.ttrpc_address, bootstrap.socket_dir) == ("/t", "/sockets")
    assert bootstrap.debug


@pytest.mark.parametrize(
    "data",
    [
        b"",
        text_field(1, "runtimeoptions.v1.Options") + bytes_field(2, b"\x12\x04/a/b"),
        text_field(1, "c1") + bytes_field(2, b"\xff\xfe"),
        b"garbage",
        b"{",
        b'{"instanceId": "c2", "namespace": "default"}',
    ],
)
def test_anything_else_is_an_older_containerd(data: bytes, flags: Flags) -> None:
    assert start.parse_bootstrap(data, flags) is None


def test_answer_is_in_the_language_of_the_question() -> None:
    assert start.result("unix:///s", None) == b"unix:///s"
    bootstrap = start.Bootstrap()
    answer = BootstrapResult.FromString(start.result("unix:///s", bootstrap))
    assert (answer.version, answer.address, answer.protocol) == (2, "unix:///s", "ttrpc")
    bootstrap.is_json = True
    answer_json = json.loads(start.result("unix:///s", bootstrap))
    assert answer_json == {"version": 2, "address": "unix:///s", "protocol": "ttrpc"}


def test_bootstrap_params_as_json(flags: Flags) -> None:
    params = BootstrapParams(
        instance_id="c1", namespace="default", log_level=-8, containerd_ttrpc_address="/t", socket_dir="/sockets"
    )
    for keep_names in (False, True):
        data = MessageToJson(params, preserving_proto_field_name=keep_names).encode()
        bootstrap = start.parse_bootstrap(data, flags)
        assert bootstrap is not None
        assert (bootstrap.ttrpc_address, bootstrap.socket_dir) == ("/t", "/sockets")
        assert bootstrap.debug
        assert bootstrap.is_json


@pytest.mark.parametrize(
    ("annotations", "group"),
    [
        (None, "c1"),
        ({"a": "b"}, "c1"),
        ({"io.kubernetes.cri.sandbox-id": "pod"}, "pod"),
        ({"io.kubernetes.cri-o.SandboxID": "crio"}, "crio"),
        ({"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "mine"}, "mine"),
        ({"other": "io.kubernetes.cri.sandbox-id"}, "c1"),
    ],
)
def test_group_is_the_pod(annotations: dict[str, str] | None, group: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"annotations": annotations}))
    assert start.group_id(str(tmp_path), "c1") == group


def test_group_without_a_configuration_is_the_container(tmp_path: Path) -> None:
    assert start.group_id(str(tmp_path), "c1") == "c1"


def test_group_of_a_broken_configuration_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"io.kubernetes.cri.sandbox-id"')
    with pytest.raises(UsageError):
        start.group_id(str(tmp_path), "c1")


def test_listening_socket_is_private(socket_file: str) -> None:
    listener = start.listen(socket_file)
    assert listener is not None
    with closing(listener):
        assert Path(socket_file).stat().st_mode & 0o777 == 0o600
        assert Path(socket_file).parent.stat().st_mode & 0o777 == 0o700
        assert address.is_served(socket_file)


def test_second_start_of_a_group_finds_the_first(socket_file: str) -> None:
    listener = start.listen(socket_file)
    assert listener is not None
    with closing(listener):
        assert start.listen(socket_file) is None


def test_socket_of_a_dead_shim_is_taken_over(socket_file: str) -> None:
    first = start.listen(socket_file)
    assert first is not None
    first.close()
    assert not address.is_served(socket_file)
    second = start.listen(socket_file)
    assert second is not None
    with closing(second):
        assert address.is_served(socket_file)


def test_full_backlog_counts_as_served(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        assert address.is_served(path)


def test_address_file(tmp_path: Path) -> None:
    assert address.read_address(str(tmp_path)) == ""
    address.write_address(str(tmp_path), "unix:///run/s/x")
    assert (tmp_path / "address").read_text() == "unix:///run/s/x"
    assert address.read_address(str(tmp_path)) == "/run/s/x"
    assert [p.name for p in tmp_path.iterdir()] == ["address"]


def test_delete_response_says_killed() -> None:
    answer = DeleteResponse.FromString(delete.response(5_000_000_007))
    assert (answer.exit_status, answer.exited_at.seconds, answer.exited_at.nanos) == (137, 5, 7)


def test_delete_removes_only_a_socket_that_nobody_serves(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = start.listen(path)
    assert listener is not None
    with closing(listener):
        delete.remove_stale_socket(path, "the pod's first container has another")
        assert Path(path).exists()
    delete.remove_stale_socket(path, "")
    assert not Path(path).exists()
    delete.remove_stale_socket(path, "")


def test_delete_waits_for_the_end_of_a_shim_that_dies(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = start.listen(path)
    assert listener is not None
    dying = threading.Timer(0.1, listener.close)
    dying.start()
    delete.remove_stale_socket("", path)
    dying.join()
    assert not Path(path).exists()


def test_delete_finds_the_socket_of_a_bundle_that_is_gone(tmp_path: Path) -> None:
    """containerd removes the bundle of a container that could not be made while it runs the delete action."""
    flags = Flags()
    flags.namespace, flags.id, flags.address = f"test-{os.getpid()}", "c1", str(tmp_path)
    flags.bundle = str(tmp_path / "gone")
    path = address.socket_path(flags.address, flags.namespace, flags.id)
    listener = start.listen(path)
    assert listener is not None
    listener.close()
    delete.run(flags)
    assert not Path(path).exists()
