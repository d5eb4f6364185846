"""What a confined process can still see and do, asked from within it."""

import ast
import os
import socket
import subprocess
import sys

import pytest

from proto.control import BootConfig
from sandbox import confine, spawn
from sandbox.errors import SandboxError
from sandbox.mounts import open_root
from sandbox.process import is_alive, kill, wait_gone
from tests.unit.gofer.goferclient import Client
from tests.unit.sandbox import unprivileged

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BOOTSTRAP = "import sys; sys.path.append(sys.argv[1]); from tests.unit.sandbox.probe import main; main()"


class Probe:
    """A confined process of one role; calling it evaluates an expression there."""

    def __init__(self, role, network_path="", namespaces=(*spawn.SANDBOX_NAMESPACES, "network"), **config):
        question_read, self._questions = os.pipe()
        self._answers, answer_write = os.pipe()
        log = os.open(os.devnull, os.O_RDWR)
        try:
            if role == "gofer":
                starting = spawn.start_gofer("probe", [(question_read, answer_write, False)], log, **config)
            else:
                boot = BootConfig("probe", question_read, -1, log, -1, lifeline_fd=answer_write)
                stage = spawn.StageConfig("probe", -1, [], list(namespaces), network_path=network_path, **config)
                starting = spawn.start_sentry(stage, boot)
            self.process = starting.wait_ready()
        finally:
            for fd in (question_read, answer_write, log):
                os.close(fd)

    def __call__(self, expression):
        os.write(self._questions, expression.encode())
        data = os.read(self._answers, 1 << 20)
        assert data, "the probe died"
        return ast.literal_eval(data.decode())

    def close(self):
        os.close(self._questions)
        os.close(self._answers)
        kill(self.process)
        assert wait_gone(self.process, 10)


@pytest.fixture
def probe(monkeypatch):
    monkeypatch.setattr(spawn, "_BOOTSTRAP", BOOTSTRAP)
    made = []

    def make(role, **config):
        made.append(Probe(role, **config))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def sentry(probe):
    return probe("sentry")


@pytest.fixture
def gofer(probe):
    return probe("gofer", capabilities=list(confine.GOFER_CAPABILITIES), debug=False)


def status_of(process):
    with open(f"/proc/{process.pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def test_the_sentry_is_nobody_without_capabilities_under_a_filter(sentry):
    status = status_of(sentry.process)

    assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
    assert status["Groups"].strip() == ""
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Name"] == "pysc-sentry"


def test_the_gofer_keeps_only_the_capabilities_of_the_table(gofer):
    status = status_of(gofer.process)

    expected = sum(1 << capability for capability in confine.GOFER_CAPABILITIES)
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {expected}
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_it_is_process_1_in_namespaces_of_its_own(sentry):
    assert sentry("os.getpid()") == 1
    for kind in ("pid", "mnt", "ipc", "uts", "cgroup", "net"):
        assert os.stat(f"/proc/{sentry.process.pid}/ns/{kind}").st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino, kind


def test_its_root_holds_nothing_but_a_proc_of_its_own_processes(sentry):
    root = f"/proc/{sentry.process.pid}/root"

    assert os.listdir(root) == ["proc"]
    assert [name for name in os.listdir(f"{root}/proc") if name.isdigit()] == ["1"]
    mounts = [line.split() for line in open(f"/proc/{sentry.process.pid}/mountinfo")]
    assert [fields[4] for fields in mounts] == ["/", "/proc"]
    assert all({"ro", "nosuid", "nodev", "noexec"} <= set(fields[5].split(",")) for fields in mounts)


def test_the_creators_other_descriptors_do_not_reach_it(probe):
    leaked = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        sentry = probe("sentry")
        assert sentry("os.getpid()") == 1  # it has closed the pipe on which it reported
        fds = f"/proc/{sentry.process.pid}/fd"
        targets = [os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds)]
    finally:
        os.close(leaked)
    assert sorted(target.partition(":")[0] for target in targets) == ["/dev/null"] * 4 + ["/proc"] + ["pipe"] * 2


def test_the_sentry_opens_files_of_proc_only_and_only_to_read(sentry):
    assert sentry("read_at(proc_fd, 'self/comm')") == "pysc-sentry\n"
    assert "Function not implemented" in sentry("os.open('/proc/self/comm', os.O_RDONLY)")
    assert "Function not implemented" in sentry("os.open('self/comm', os.O_WRONLY, dir_fd=proc_fd)")
    assert "Function not implemented" in sentry("os.listdir('/')")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("syscall(165, b'x', b'/', b'tmpfs', 0, None)", "ENOSYS"),
        ("syscall(272, 0x10000000)", "ENOSYS"),
        ("syscall(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)", "ENOSYS"),
        ("syscall(435, 0, 0)", "ENOSYS"),
        ("syscall(41, 17, 3, 0)", "ENOSYS"),
        ("syscall(41, 2, 1, 0)", "ok"),
        ("syscall(41, 16, 3, 0)", "ok"),
        ("syscall(41, 16, 3, 12)", "ENOSYS"),
        ("syscall(321, 0, 0, 0)", "EPERM"),
        ("syscall(425, 1, 0)", "ENOSYS"),
        ("syscall(16, 0, 0x5412, 0)", "ENOSYS"),
        ("syscall(0x40000000 | 39)", "ENOSYS"),
        ("syscall(319, b'x', 1)", "ok"),
        ("syscall(157, 4, 1, 0, 0, 0)", "ok"),
        ("syscall(157, 8, 1, 0, 0, 0)", "ENOSYS"),
    ],
    ids=["mount", "unshare", "clone NEWUSER", "clone3", "AF_PACKET", "AF_INET", "rtnetlink", "other netlink", "bpf",
         "io_uring_setup", "TIOCSTI", "x32 getpid", "memfd_create", "PR_SET_DUMPABLE", "PR_SET_KEEPCAPS"],
)  # fmt: skip
def test_the_sentrys_filter(sentry, expression, expected):
    assert sentry(expression) == expected


def test_the_sentry_may_trace_a_child_that_did_not_ask_for_it(sentry):
    outcome, status = sentry("seize_child()")

    assert outcome == "ok"
    assert os.WIFSIGNALED(status)


def test_a_stubs_own_filter_hears_of_calls_that_the_sentrys_refuses(sentry):
    """Had the Sentry's filter refused mount(2) with an errno, its stubs' applications would get that, unnoticed."""
    assert sentry("notified_call(165)") == "EXDEV"


def test_calls_that_nobody_may_make_are_refused_to_stubs_for_good(sentry):
    assert sentry("notified_call(321)") == "EPERM"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("syscall(165, b'x', b'/', b'tmpfs', 0, None)", "EPERM"),
        ("syscall(59, b'/x', 0, 0)", "EPERM"),
        ("syscall(101, 0, 0, 0, 0)", "EPERM"),
        ("syscall(304, 0, 0, 0)", "EPERM"),
        ("syscall(41, 1, 1, 0)", "EPERM"),
        ("syscall(57)", "EPERM"),
        ("syscall(62, 1, 0)", "EPERM"),
    ],
    ids=["mount", "execve", "ptrace", "open_by_handle_at", "socket", "fork", "kill"],
)
def test_the_gofers_filter(gofer, expression, expected):
    assert gofer(expression) == expected


def test_the_gofer_reopens_descriptors_through_its_proc(gofer):
    assert gofer("os.stat('self', dir_fd=proc_fd, follow_symlinks=False).st_size >= 0") is True
    assert gofer("read_at(proc_fd, 'self/comm')") == "pysc-gofer\n"


def test_a_refused_call_kills_the_gofer_when_debugging(probe):
    gofer = probe("gofer", capabilities=[], debug=True)
    os.write(gofer._questions, b"syscall(57)")

    assert os.read(gofer._answers, 100) == b""
    assert wait_gone(gofer.process, 10)


def test_a_new_network_namespace_has_its_loopback_up_and_low_ports_open(sentry):
    script = "socket.create_server(('127.0.0.1', 80)).close()"

    assert sentry(script) is None


def test_a_network_namespace_can_be_joined_by_path(probe):
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        path = f"/proc/{holder.pid}/ns/net"
        sentry = probe("sentry", namespaces=spawn.SANDBOX_NAMESPACES, network_path=path,
                       sysctl={"net.ipv4.ip_default_ttl": "99", "kernel.shmmax": "5"})  # fmt: skip

        assert os.stat(f"/proc/{sentry.process.pid}/ns/net").st_ino == os.stat(path).st_ino
        command = ["nsenter", f"--net={path}", "cat", "/proc/sys/net/ipv4/ip_default_ttl"]
        assert subprocess.run(command, capture_output=True).stdout == b"99\n"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_on_the_hosts_network_the_sentry_may_keep_low_ports(probe):
    sentry = probe("sentry", namespaces=spawn.SANDBOX_NAMESPACES, capabilities=[confine.CAP_NET_BIND_SERVICE])
    status = status_of(sentry.process)

    assert status["Uid"].split() == ["65534"] * 4
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff")} == {1 << confine.CAP_NET_BIND_SERVICE}


def test_a_stage_that_fails_says_why_and_leaves_nothing(probe):
    with pytest.raises(SandboxError, match=r"cannot start the sentry: .*No such file.*/nonexistent"):
        probe("sentry", namespaces=(), network_path="/nonexistent")


PROBE_ITSELF = """
from sandbox import spawn
from tests.unit.sandbox.test_confine import BOOTSTRAP, Probe, status_of
spawn._BOOTSTRAP = BOOTSTRAP
probe = Probe("sentry")
status = status_of(probe.process)
print([probe("os.getpid()"), probe("os.getuid()"), status["Uid"].split(), int(status["CapEff"], 16), status["Seccomp"],
       probe("read_at(proc_fd, 'self/comm')"), probe("socket.create_server(('127.0.0.1', 80)).close()")])
probe.close()
"""


def test_an_unprivileged_user_gets_a_sandbox_in_a_user_namespace():
    if open("/proc/sys/user/max_user_namespaces").read().strip() == "0":
        pytest.skip("user namespaces are switched off")
    out = subprocess.run(
        [sys.executable, unprivileged.__file__, "-c", PROBE_ITSELF],
        capture_output=True, text=True, timeout=60, cwd="/", env={**os.environ, "PYTHONPATH": os.getcwd()}, check=False,
    )  # fmt: skip

    assert out.returncode == 0, out.stderr
    user = [str(unprivileged.UID)] * 4
    assert ast.literal_eval(out.stdout) == [1, 0, user, 0, "2", "pysc-sentry\n", None]


def test_the_real_gofer_serves_a_real_tree_in_its_confinement(tmp_path):
    (tmp_path / "f").write_text("served")
    ours, theirs = socket.socketpair()
    tree, log = open_root(str(tmp_path), True, False), os.open(os.devnull, os.O_RDWR)
    capabilities = list(confine.GOFER_CAPABILITIES)
    process = spawn.start_gofer("probe", [(theirs.fileno(), tree, False)], log, capabilities, debug=True).wait_ready()
    theirs.close()
    os.close(tree)
    os.close(log)
    try:
        client = Client(ours)
        assert client.read("f") == b"served"
        client.close()
        assert wait_gone(process, 10), "it ends with its last connection"
    finally:
        kill(process)


def test_an_aborted_start_leaves_no_process(monkeypatch):
    monkeypatch.setattr(spawn, "_BOOTSTRAP", "import time; time.sleep(60)")
    log = os.open(os.devnull, os.O_RDWR)
    starting = spawn.start_gofer("probe", [], log, [], False)
    os.close(log)

    with pytest.raises(SandboxError, match="did not start in time"):
        starting.wait_ready(timeout=0.05)
    assert starting._intermediate is not None
    with pytest.raises(ChildProcessError):
        os.waitpid(starting._intermediate, os.WNOHANG)


def test_a_closed_question_pipe_ends_the_probe_with_its_status(probe):
    sentry = probe("sentry")
    os.close(sentry._questions)
    sentry._questions = os.open(os.devnull, os.O_RDWR)

    assert wait_gone(sentry.process, 10)
    assert not is_alive(sentry.process)
