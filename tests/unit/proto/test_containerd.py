"""containerd's messages against bytes that containerd itself sends or accepts, and against the hand-written codec."""

from google.protobuf import any_pb2

from proto.containerd import bootstrap_pb2, events_pb2, metrics_v1_pb2, metrics_v2_pb2, options_pb2, task_pb2
from proto.ttrpc import protobuf


def test_create_request_reads_fields_by_their_numbers() -> None:
    mount = protobuf.text_field(1, "overlay") + protobuf.text_field(2, "overlay") + protobuf.text_field(4, "index=off")
    data = b"".join(
        [
            protobuf.text_field(1, "c1"),
            protobuf.text_field(2, "/bundle"),
            protobuf.bytes_field(3, mount),
            protobuf.int_field(4, 1),
            protobuf.text_field(6, "/fifo/out"),
        ]
    )
    request = task_pb2.CreateTaskRequest.FromString(data)
    assert (request.id, request.bundle, request.terminal, request.stdout) == ("c1", "/bundle", True, "/fifo/out")
    assert (request.rootfs[0].type, list(request.rootfs[0].options)) == ("overlay", ["index=off"])


def test_runtime_options_as_containerd_packs_them() -> None:
    data = bytes.fromhex("0a19") + b"runtimeoptions.v1.Options" + bytes.fromhex("1206") + b"\x12\x04/a/b"
    wrapped = any_pb2.Any.FromString(data)
    assert wrapped.type_url == options_pb2.Options.DESCRIPTOR.full_name
    assert options_pb2.Options.FromString(wrapped.value).config_path == "/a/b"


def test_names_that_serve_as_type_urls() -> None:
    assert events_pb2.TaskExit.DESCRIPTOR.full_name == "containerd.events.TaskExit"
    assert metrics_v1_pb2.Metrics.DESCRIPTOR.full_name == "io.containerd.cgroups.v1.Metrics"
    assert metrics_v2_pb2.Metrics.DESCRIPTOR.full_name == "io.containerd.cgroups.v2.Metrics"


def test_negative_log_level_is_read_by_the_small_codec() -> None:
    params = bootstrap_pb2.BootstrapParams(instance_id="c1", log_level=-4, socket_dir="/run/x")
    decoded = dict(protobuf.fields(params.SerializeToString()))
    assert protobuf.as_text(decoded[1]) == "c1"
    assert protobuf.as_int(decoded[3]) == -4
    assert protobuf.as_text(decoded[9]) == "/run/x"
