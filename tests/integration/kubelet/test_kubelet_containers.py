"""The life of a container as the kubelet sees it: created, started, stopped, listed, restarted, removed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc  # type: ignore[import-untyped]
import pytest

from tests.integration.daemon import until
from tests.integration.kubelet import runtime_pb2 as api
from tests.integration.kubelet.pods import MIB, Container, Kubelet, Pod

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

TRAP = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


def listed(kubelet: Kubelet, **wanted: object) -> list[str]:
    """Ids of ListContainers with a filter."""
    request = api.ListContainersRequest(filter=api.ContainerFilter(**wanted))  # type: ignore[arg-type]
    return [each.id for each in kubelet.call("ListContainers", request, api.ListContainersResponse).containers]


def ready(container: Container) -> Container:
    """Started, and as far as to have said so."""
    container.start()
    assert until(lambda: ("stdout", "F", "ready") in container.log())
    return container


def test_states_and_times(pod: Pod) -> None:
    before = time.time_ns()
    # containerd takes the time when Start has returned, which is after the end of what ends at once.
    container = pod.container("main", "sh", "-c", "until [ -e /volume/go ]; do sleep 0.05; done; exit 5")
    container.mount(pod.volume, "/volume").create()
    created = container.status()
    assert (created.state, created.started_at, created.finished_at) == (api.CONTAINER_CREATED, 0, 0)
    container.start()
    (pod.volume / "go").touch()
    ended = container.ended()
    assert before <= ended.created_at < ended.started_at < ended.finished_at <= time.time_ns()
    assert (ended.exit_code, ended.reason) == (5, "Error")


@pytest.mark.parametrize(("script", "code", "reason"), [
    ("exit 0", 0, "Completed"), ("exit 255", 255, "Error"), ("kill -TERM $$", 143, "Error"),
    ("kill -KILL $$; sleep 9", 137, "Error"),
])  # fmt: skip
def test_how_it_ended(pod: Pod, script: str, code: int, reason: str) -> None:
    """A signal to oneself ends PID 1 only with nobody's handler: a child of the shell sends it to itself."""
    status = pod.started("main", "sh", "-c", f"sh -c '{script}'; exit $?").ended()
    assert (status.exit_code, status.reason) == (code, reason)


def test_out_of_memory_is_the_reason(pod: Pod) -> None:
    container = pod.container("main", "awk", "BEGIN { x = 1; while (1) x = x x }")
    container.config.linux.resources.memory_limit_in_bytes = 48 * MIB
    status = container.start().ended(30)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_program_that_is_not_there(pod: Pod) -> None:
    container = pod.container("main", "/no/such/program").create()
    with pytest.raises(grpc.RpcError, match="no such file or directory"):
        container.start()
    status = container.ended()
    assert (status.exit_code, status.reason) == (128, "StartError")
    assert "/no/such/program" in status.message


def test_stop_asks_first(pod: Pod) -> None:
    container = ready(pod.container("main", "sh", "-c", TRAP))
    container.stop(20)
    assert container.status().exit_code == 3
    container.wait_printed("ready\nasked\n")


def test_stop_kills_what_does_not_listen(pod: Pod) -> None:
    container = ready(pod.container("main", "sh", "-c", DEAF))
    container.stop(1)
    status = container.status()
    assert (status.state, status.exit_code) == (api.CONTAINER_EXITED, 137)


def test_stop_and_removal_may_come_twice(pod: Pod) -> None:
    container = pod.started("main")
    for _ in range(2):
        container.stop()
    for _ in range(2):
        container.remove()
    with pytest.raises(grpc.RpcError) as caught:
        container.status()
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_running_container_is_removed_by_force(pod: Pod) -> None:
    container = pod.started("main")
    container.remove()
    assert listed(pod.kubelet, pod_sandbox_id=pod.id) == []


def test_a_created_container_is_removed(pod: Pod) -> None:
    pod.container("main").create().remove()
    assert listed(pod.kubelet, pod_sandbox_id=pod.id) == []


def test_list(pod: Pod) -> None:
    first, second = pod.started("first"), pod.container("second")
    second.config.labels["tier"] = "back"
    second.create()
    kubelet = pod.kubelet
    assert set(listed(kubelet, pod_sandbox_id=pod.id)) == {first.id, second.id}
    assert listed(kubelet, state=api.ContainerStateValue(state=api.CONTAINER_RUNNING)) == [first.id]
    assert listed(kubelet, label_selector={"tier": "back"}) == [second.id]
    assert listed(kubelet, id=first.id) == [first.id]


def test_status_says_what_was_asked_for(pod: Pod) -> None:
    container = pod.container("main").mount(pod.volume, "/volume", readonly=True)
    container.config.metadata.attempt = 4
    container.config.labels["a"] = "1"
    container.config.annotations["dev.example/b"] = "2"
    status = container.start().status()
    assert (status.id, status.metadata.name, status.metadata.attempt) == (container.id, "main", 4)
    assert (dict(status.labels), dict(status.annotations)) == ({"a": "1"}, {"dev.example/b": "2"})
    assert [(each.container_path, each.readonly) for each in status.mounts] == [("/volume", True)]


def test_a_crashed_container_is_made_again_in_the_living_pod(pod: Pod) -> None:
    """As CrashLoopBackOff does: the next attempt has the same volume and a log of its own."""
    other = pod.started("other")
    script = "echo start >>/volume/starts; wc -l </volume/starts; exit 1"
    attempts = []
    for attempt in range(3):
        container = pod.container("main", "sh", "-c", script).mount(pod.volume, "/volume")
        container.config.metadata.attempt = attempt
        container.config.log_path = f"main-{attempt}.log"
        assert container.start().ended().exit_code == 1
        attempts.append(container)
    for number, each in enumerate(attempts, 1):
        each.wait_printed(f"{number}\n")
    assert [each.status().metadata.attempt for each in attempts] == [0, 1, 2]
    attempts[0].remove()
    assert other.sh("echo here") == "here\n"


def test_termination_message(pod: Pod) -> None:
    """The kubelet mounts a file of the host, and reads it afterwards."""
    message = pod.volume / "message"
    message.touch()
    container = pod.container("main", "sh", "-c", "printf 'disk is full' >/dev/termination-log; exit 2")
    container.mount(message, "/dev/termination-log").start().ended()
    assert message.read_text() == "disk is full"


def test_log_has_both_streams_and_parts(pod: Pod) -> None:
    script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf rest >&2"
    container = pod.started("main", "sh", "-c", script)
    container.ended()
    assert until(lambda: ("stderr", "P", "rest") in container.log() and len(container.log()) == 5), container.log()
    out = [(flag, len(text)) for stream, flag, text in container.log() if stream == "stdout"]
    assert out == [("F", 3), ("P", 16384), ("F", 20000 - 16384)]
    assert [row for row in container.log() if row[0] == "stderr"] == [("stderr", "F", "err"), ("stderr", "P", "rest")]


def test_log_goes_on_in_a_new_file(pod: Pod) -> None:
    """The kubelet renames the file when it has become large, and has a new one opened."""
    container = pod.started("main", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    assert until(lambda: len(container.log()) > 3)
    logs = pod.volume / "logs"
    (logs / "main.log").rename(logs / "main.log.old")
    pod.kubelet.call("ReopenContainerLog", api.ContainerRequest(container_id=container.id), api.Empty)
    assert until(lambda: len(container.log()) > 3)
    container.stop()
    after = [text for _, _, text in container.log()]
    container.config.log_path = "main.log.old"
    numbers = [text for _, _, text in container.log()] + after
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]


def test_many_variables_and_volumes(pod: Pod) -> None:
    """As a pod in a namespace of many services has them."""
    container = pod.container("main")
    for number in range(2000):
        container.config.envs.add(key=f"SERVICE_{number}_PORT", value="tcp://10.96.0.1:443")
    for number in range(40):
        folder = pod.volume / f"v{number}"
        folder.mkdir()
        (folder / "name").write_text(f"{number} ")
        container.mount(folder, f"/etc/config/v{number}", readonly=True)
    container.start()
    assert container.sh("env | grep -c ^SERVICE_; cat /etc/config/*/name | wc -w") == "2000\n40\n"


def test_environment_arguments_and_folder(pod: Pod) -> None:
    container = pod.container("main", "sh", "-c")
    container.config.args.extend(['echo "$0 $1 $GREETING $EMPTY|"; pwd', "zero", "one two"])
    container.config.envs.add(key="GREETING", value="hello = world")
    container.config.envs.add(key="EMPTY", value="")
    container.config.working_dir = "/usr"
    container.start().ended()
    container.wait_printed("zero one two hello = world |\n/usr\n")


def test_a_missing_working_folder_is_made(pod: Pod) -> None:
    container = pod.container("main", "sh", "-c", "pwd; stat -c '%u %a' .; touch file && echo made")
    container.config.working_dir = "/srv/deep/down"
    container.start().ended()
    container.wait_printed("/srv/deep/down\n0 755\nmade\n")


def test_exec_has_codes_streams_and_the_containers_surroundings(pod: Pod) -> None:
    container = pod.container("main")
    container.config.envs.add(key="GREETING", value="hello")
    container.config.working_dir = "/usr"
    container.start()
    done = container.exec("sh", "-c", 'echo "$GREETING"; pwd; echo err >&2; exit 42')
    assert (done.stdout, done.stderr, done.exit_code) == (b"hello\n/usr\n", b"err\n", 42)
    assert container.exec("sh", "-c", "kill -9 $$").exit_code == 137


def test_exec_of_what_is_not_there(pod: Pod) -> None:
    container = pod.started("main")
    with pytest.raises(grpc.RpcError, match=r"no such file or directory|not found"):
        container.exec("/no/such/program")
    assert container.sh("echo here") == "here\n"


def test_exec_that_takes_too_long(pod: Pod) -> None:
    """Its processes are gone then."""
    container = pod.started("main")
    with pytest.raises(grpc.RpcError) as caught:
        container.exec("sleep", "4321", seconds=1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert until(lambda: "4321" not in container.sh("ps | grep '[4]321'"))


def test_exec_in_a_container_that_has_ended(pod: Pod) -> None:
    container = pod.started("main", "true")
    container.ended()
    with pytest.raises(grpc.RpcError, match="CONTAINER_EXITED"):
        container.exec("true")


def test_exec_ends_with_its_container(pod: Pod) -> None:
    container = pod.started("main", "sh", "-c", "while :; do sleep 0.1; done")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(container.exec, "sh", "-c", "touch /tmp/begun; sleep 1000", seconds=60)
        assert until(lambda: container.exec("test", "-e", "/tmp/begun").exit_code == 0)
        container.stop()
        assert running.result(60).exit_code == 137


def test_descriptors_that_nobody_gave_are_the_null_device(pod: Pod) -> None:
    """In the first process and in an exec; it stays root's, whoever the user is."""
    show = "readlink /proc/self/fd/0; cat; echo lost >&0; stat -c '%u %a' /dev/null; echo end"
    container = pod.container("main", "sh", "-c", f"exec 2>/dev/null; {show}; sleep 1000")
    container.security.run_as_user.value = 1234
    container.start()
    assert until(lambda: container.printed() == "/dev/null\n0 666\nend\n"), container.log()
    assert container.exec("sh", "-c", show).stdout == b"/dev/null\n0 666\nend\n"


def test_container_and_its_output_outlive_a_restart_of_containerd(pod: Pod) -> None:
    container = pod.started("main", "sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done")
    assert until(lambda: "line 3\n" in container.printed())
    pod.kubelet.daemon.restart()
    assert until(lambda: runs_again(container))
    before = len(container.log())
    assert until(lambda: len(container.log()) > before + 5)
    numbers = [int(line.split()[1]) for line in container.printed().splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))  # none is lost
    assert container.exec("echo", "again").stdout == b"again\n"


def runs_again(container: Container) -> bool:
    """Whether it runs, once the service answers at all."""
    try:
        return container.is_running()
    except grpc.RpcError:
        return False
