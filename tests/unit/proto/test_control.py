"""The control records: what goes out comes back, and a peer's nonsense is named."""

import pytest

from proto.control import (
    METHODS,
    BootConfig,
    CreateContainer,
    Empty,
    ExitStatus,
    MessageError,
    Mount,
    Process,
    ProcessesResponse,
    Signal,
    StateResponse,
    gofer_role,
)

EXAMPLES = [
    CreateContainer(
        id="c1",
        spec={"process": {"args": ["sh", "-c", "echo \u00e9"]}, "n": [1, None, True]},
        mounts=[Mount("/", "bind", "/rootfs", ["ro"], 0), Mount("/proc", "proc")],
        terminal=True,
        fds=["console", gofer_role(0), "cgroup", "cgroup"],
    ),
    ProcessesResponse([Process(1, 0, 3, 0, "S", "?", 10**18, 5, "sh", ["sh", "-c", "true"])]),
    ExitStatus(137, 1_700_000_000_000_000_000),
    Signal("c1", 9, all=True),
    BootConfig(id="s", control_fd=3, ready_fd=4, log_fd=5, proc_fd=6),
    Empty(),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_wire(message):
    assert type(message).from_json(message.to_json()) == message


def test_bytes_that_are_not_utf8_survive_the_wire():
    message = Signal(id=b"caf\xe9".decode("utf-8", "surrogateescape"), signal=15)

    assert b"caf\xe9" in message.to_json()
    assert Signal.from_json(message.to_json()) == message


def test_unknown_keys_are_ignored_and_missing_ones_defaulted():
    assert Signal.from_json(b'{"id": "x", "signal": 2, "later": 1}') == Signal("x", 2, "", False)
    assert Empty.from_json(b"") == Empty()


@pytest.mark.parametrize(
    ("kind", "data", "named"),
    [
        (Signal, b'{"id": "x"}', "Signal.signal: missing"),
        (Signal, b'{"id": "x", "signal": "9"}', "Signal.signal: int expected"),
        (Signal, b'{"id": "x", "signal": true}', "Signal.signal: int expected"),
        (Signal, b"[]", "Signal: object expected"),
        (Signal, b"{", "not JSON"),
        (Signal, b"\xff\xfe", "not JSON"),
        (CreateContainer, b'{"id": "x", "spec": {}, "mounts": {}}', "mounts: list expected"),
        (CreateContainer, b'{"id": "x", "spec": {}, "mounts": [1]}', r"mounts\[0\]: object expected"),
        (CreateContainer, b'{"id": "x", "spec": [], "mounts": []}', "spec: object expected"),
        (CreateContainer, b'{"id": "x", "spec": {}, "mounts": [{"destination": "/", "type": "t", "gofer": "0"}]}',
         r"mounts\[0\].gofer: int expected"),
        (StateResponse, b'{"status": null}', "status: str expected"),
    ],
)  # fmt: skip
def test_a_malformed_message_is_refused_and_the_field_named(kind, data, named):
    with pytest.raises(MessageError, match=named):
        kind.from_json(data)


def test_deeply_nested_json_is_refused_not_crashed_on():
    with pytest.raises(MessageError):
        Signal.from_json(b'{"id":' * 100_000)


def test_every_method_names_its_request_and_response():
    assert set(METHODS) >= {"CreateContainer", "StartContainer", "Exec", "Wait", "Signal", "Shutdown"}
    assert METHODS["Wait"][1] is ExitStatus
