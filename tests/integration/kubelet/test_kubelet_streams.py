"""kubectl exec, attach and port-forward, as the API server passes them on."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import grpc  # type: ignore[import-untyped]
import pytest

from tests.integration.daemon import until
from tests.integration.kubelet import runtime_pb2 as api
from tests.integration.kubelet.pods import Container, Pod
from tests.integration.kubelet.streams import ERROR, STDERR, STDIN, STDOUT, Stream, opened

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

SIZED = "until [ \"$(stty size)\" = '%s' ]; do sleep 0.05; done; echo sized"


def exec_in(
    container: Container, *command: str, tty: bool = False, stdin: bool = False
) -> AbstractAsyncContextManager[Stream]:
    request = api.ExecRequest(container_id=container.id, cmd=command, tty=tty, stdin=stdin, stdout=True, stderr=not tty)
    return opened(container.kubelet.call("Exec", request, api.StreamResponse).url)


def attach_to(container: Container, *, tty: bool = False, stdin: bool = False) -> AbstractAsyncContextManager[Stream]:
    request = api.AttachRequest(container_id=container.id, tty=tty, stdin=stdin, stdout=True, stderr=not tty)
    return opened(container.kubelet.call("Attach", request, api.StreamResponse).url)


async def test_exec_has_both_streams_and_success(pod: Pod) -> None:
    async with exec_in(pod.started("main"), "sh", "-c", "echo out; echo err >&2") as stream:
        assert (await stream.end())["status"] == "Success"
    assert (stream.received[STDOUT], stream.received[STDERR]) == (b"out\n", b"err\n")


async def test_exec_tells_the_exit_code(pod: Pod) -> None:
    async with exec_in(pod.started("main"), "sh", "-c", "exit 42") as stream:
        status = await stream.end()
    assert (status["status"], status["reason"]) == ("Failure", "NonZeroExitCode")
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "42"}]


async def test_exec_of_what_is_not_there(pod: Pod) -> None:
    async with exec_in(pod.started("main"), "/no/such/program") as stream:
        status = await stream.end()
    assert status["status"] == "Failure"
    assert "no such file or directory" in status["message"]


async def test_exec_with_standard_input(pod: Pod) -> None:
    async with exec_in(pod.started("main"), "sh", "-c", "read line; echo got $line", stdin=True) as stream:
        await stream.send(STDIN, b"hello\n")
        assert (await stream.end())["status"] == "Success"
    assert stream.received[STDOUT] == b"got hello\n"


async def test_exec_with_a_terminal(pod: Pod) -> None:
    """Its size is what the client says, also later; ^C interrupts."""
    script = f"trap 'echo interrupted; exit 3' INT; tty; {SIZED % '33 99'}; while :; do sleep 0.1; done"
    async with exec_in(pod.started("main"), "sh", "-c", script, tty=True, stdin=True) as stream:
        await stream.expect(b"/dev/")
        await stream.resize(33, 99)
        await stream.expect(b"sized\r\n")
        await stream.send(STDIN, b"\x03")
        await stream.expect(b"^Cinterrupted\r\n")
        status = await stream.end()
    assert status["details"]["causes"][0]["message"] == "3"


async def test_exec_ends_with_its_client(pod: Pod) -> None:
    """The shell reads the end of its input, or of its terminal, and the container goes on."""
    container = pod.started("main")
    async with exec_in(container, "sh", "-c", "cat; echo >/tmp/ended", stdin=True) as stream:
        await stream.send(STDIN, b"hello\n")
        await stream.expect(b"hello\n")
    assert until(lambda: container.exec("test", "-e", "/tmp/ended").exit_code == 0)


async def test_much_output_of_an_exec(pod: Pod) -> None:
    async with exec_in(pod.started("main"), "sh", "-c", "head -c 3000000 /dev/zero") as stream:
        assert (await stream.end())["status"] == "Success"
    assert stream.received[STDOUT] == bytes(3_000_000)


async def test_exec_in_a_container_that_has_ended(pod: Pod) -> None:
    container = pod.started("main", "true")
    container.ended()
    with pytest.raises(grpc.RpcError, match=r"CONTAINER_EXITED|not in running"):
        exec_in(container, "true")


async def test_attach_shows_what_comes(pod: Pod) -> None:
    container = pod.started("main", "sh", "-c", "while :; do echo out; echo err >&2; sleep 0.1; done")
    async with attach_to(container) as one, attach_to(container) as other:
        for stream in (one, other):
            await stream.expect(b"out\nout\n")
            await stream.expect(b"err\n", STDERR)
    assert container.status().state == api.CONTAINER_RUNNING
    assert until(lambda: ("stderr", "F", "err") in container.log())


async def test_attach_to_standard_input(pod: Pod) -> None:
    """It stays open for the next who attaches."""
    container = pod.container("main", "sh", "-c", "while read line; do echo got $line; done; echo end")
    container.config.stdin = True
    container.start()
    for word in (b"one", b"two"):
        async with attach_to(container, stdin=True) as stream:
            await stream.send(STDIN, word + b"\n")
            await stream.expect(b"got " + word)
    assert container.status().state == api.CONTAINER_RUNNING
    container.wait_printed("got one\ngot two\n")


async def test_standard_input_for_one_client(pod: Pod) -> None:
    """stdin_once: with the first who attached, the input ends."""
    container = pod.container("main", "sh", "-c", "cat; echo end")
    container.config.stdin = container.config.stdin_once = True
    container.start()
    async with attach_to(container, stdin=True) as stream:
        await stream.send(STDIN, b"hello\n")
        await stream.expect(b"hello\n")
    assert container.ended().exit_code == 0
    container.wait_printed("hello\nend\n")


async def test_a_terminal_of_the_containers_own(pod: Pod) -> None:
    """It outlives who attached to it."""
    script = f"{SIZED % '44 77'}; while read line; do echo got $line; [ $line != end ] || exit 6; done"
    container = pod.container("main", "sh", "-c", script)
    container.config.tty = container.config.stdin = True
    container.start()
    async with attach_to(container, tty=True, stdin=True) as stream:
        await stream.resize(44, 77)
        await stream.expect(b"sized\r\n")
    async with attach_to(container, tty=True, stdin=True) as stream:
        await stream.send(STDIN, b"end\n")
        await stream.expect(b"end\r\ngot end\r\n")
        await stream.end()
    assert container.ended().exit_code == 6
    # The log leaves the carriage returns out.
    assert until(lambda: container.printed().endswith("sized\nend\ngot end\n")), container.log()


async def test_no_input_where_none_was_asked_for(pod: Pod) -> None:
    container = pod.started("main", "sh", "-c", "cat; echo end")
    assert container.ended().exit_code == 0
    container.wait_printed("end\n")


async def test_forward_of_a_port_where_nobody_listens(pod: Pod) -> None:
    """containerd itself connects, in the pod's network; an application of pysc has no network yet to listen in."""
    request = api.PortForwardRequest(pod_sandbox_id=pod.id, port=[1])
    url = pod.kubelet.call("PortForward", request, api.StreamResponse).url
    async with opened(f"{url}?port=1") as stream:
        await stream.until(lambda: b"refused" in stream.received.get(1, b""))
    assert ERROR not in stream.received
