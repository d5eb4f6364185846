"""A container's security context: who it is, what it may do, what it sees of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable

import grpc  # type: ignore[import-untyped]
import pytest

from tests.integration.kubelet import runtime_pb2 as api
from tests.integration.kubelet.pods import Container, Pod

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]

DEFAULT_CAPABILITIES = 0xA80425FB
"""Those of containerd, as of Docker."""
SYS_ADMIN, NET_ADMIN, CHOWN = 1 << 21, 1 << 12, 1 << 0


def status_of(container: Container) -> dict[str, str]:
    """/proc/self/status of an exec, by field."""
    return dict(re.findall(r"^(\w+):\t(.*)$", container.sh("cat /proc/self/status"), re.MULTILINE))


def capabilities(container: Container) -> dict[str, int]:
    status = status_of(container)
    return {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def test_user_groups_and_what_is_theirs(pod: Pod) -> None:
    container = pod.container("main", "sh", "-c", "id -u; id -g; touch /volume/file; sleep 1000")
    container.mount(pod.volume, "/volume")
    pod.volume.chmod(0o777)
    container.security.run_as_user.value = 1234
    container.security.run_as_group.value = 2345
    container.security.supplemental_groups.extend([3456, 4567])
    container.start()
    assert container.sh("id -u; id -g") == "1234\n2345\n"
    assert set(status_of(container)["Groups"].split()) == {"2345", "3456", "4567"}
    assert container.sh("stat -c '%u %g' /volume/file") == "1234 2345\n"
    assert (pod.volume / "file").stat().st_uid == 1234
    assert "Permission denied" in container.sh("touch /etc/file")


def test_user_by_name(pod: Pod) -> None:
    container = pod.container("main")
    container.security.run_as_username = "nobody"
    container.start()
    assert container.sh("id -u; id -un; id -g") == "65534\nnobody\n65534\n"


def test_capabilities_of_the_root_user(pod: Pod) -> None:
    found = capabilities(pod.started("main"))
    assert (found["CapPrm"], found["CapEff"], found["CapBnd"]) == (DEFAULT_CAPABILITIES,) * 3
    assert found["CapAmb"] == 0


def test_capabilities_of_another_user(pod: Pod) -> None:
    container = pod.container("main")
    container.security.run_as_user.value = 1234
    found = capabilities(container.start())
    assert (found["CapPrm"], found["CapEff"], found["CapBnd"]) == (0, 0, DEFAULT_CAPABILITIES)


def test_capabilities_added_and_dropped(pod: Pod) -> None:
    container = pod.container("main")
    container.security.capabilities.add_capabilities.append("NET_ADMIN")
    container.security.capabilities.drop_capabilities.append("CHOWN")
    container.start()
    found = capabilities(container)
    assert found["CapEff"] == found["CapBnd"] == (DEFAULT_CAPABILITIES | NET_ADMIN) & ~CHOWN
    assert "Operation not permitted" in container.sh("touch /tmp/file; chown 5 /tmp/file")


def test_all_capabilities_dropped(pod: Pod) -> None:
    container = pod.container("main")
    container.security.capabilities.drop_capabilities.append("ALL")
    assert set(capabilities(container.start()).values()) == {0}


def test_read_only_root(pod: Pod) -> None:
    container = pod.container("main").mount(pod.volume, "/volume")
    container.security.readonly_rootfs = True
    container.start()
    assert container.sh("touch /file") == "touch: /file: Read-only file system\n"
    assert container.sh("echo hello >/volume/file; cat /volume/file; echo shared >/dev/shm/x; cat /dev/shm/x") == (
        "hello\nshared\n"
    )


def test_a_missing_working_folder_in_a_read_only_root(pod: Pod) -> None:
    container = pod.container("main", "sh", "-c", "pwd; touch file")
    container.security.readonly_rootfs = True
    container.config.working_dir = "/srv/deep"
    container.start().ended()
    assert container.printed() == "/srv/deep\n"
    assert container.printed("stderr") == "touch: file: Read-only file system\n"


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges(pod: Pod, wanted: bool) -> None:
    container = pod.container("main", "sh", "-c", "grep NoNewPrivs /proc/self/status; sleep 1000")
    container.security.no_new_privs = wanted
    container.start()
    assert status_of(container)["NoNewPrivs"] == str(int(wanted))


def test_masked_and_read_only_paths(pod: Pod) -> None:
    container = pod.container("main")
    container.security.masked_paths.extend(["/etc/passwd", "/usr", "/not/there"])
    container.security.readonly_paths.extend(["/var", "/etc/group", "/not/there"])
    container.start()
    assert container.sh("cat /etc/passwd; ls /usr; ls -d /not") == "ls: /not: No such file or directory\n"
    assert container.sh("touch /var/file") == "touch: /var/file: Read-only file system\n"
    assert "Read-only file system" in container.sh("echo >>/etc/group")
    assert container.sh("touch /tmp/file && echo fine") == "fine\n"


def test_what_is_masked_by_default(pod: Pod) -> None:
    """The kubelet sends the lists; without them in the request nothing is masked."""
    container = pod.container("main")
    container.security.masked_paths.extend(["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"])
    container.security.readonly_paths.extend(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"])
    container.start()
    assert container.sh("for file in kcore keys timer_list; do [ ! -s /proc/$file ] || echo $file; done") == ""
    assert container.sh("ls -A /sys/firmware") in ("", "ls: /sys/firmware: No such file or directory\n")
    assert "Read-only file system" in container.sh("echo other >/proc/sys/kernel/hostname")


def test_privileged(new_pod: Callable[[str], Pod]) -> None:
    """All capabilities and no masks; as root of what is there, which with pysc is its own kernel."""
    pod = new_pod("pod")
    pod.config.linux.security_context.privileged = True  # CRI wants that of a privileged container's pod
    container = pod.run().container("main")
    container.security.privileged = True
    container.start()
    found = capabilities(container)
    assert found["CapEff"] == found["CapPrm"] == found["CapBnd"]
    assert found["CapEff"] & SYS_ADMIN
    assert container.sh("mkdir /tmp/m && mount -t tmpfs none /tmp/m && touch /tmp/m/file && ls /tmp/m") == "file\n"


@pytest.mark.parametrize("kind", [api.SecurityProfile.Unconfined, api.SecurityProfile.RuntimeDefault])
def test_profiles_that_every_node_has(pod: Pod, kind: api.SecurityProfile.ProfileType) -> None:
    container = pod.container("main")
    container.security.seccomp.profile_type = kind
    container.security.apparmor.profile_type = api.SecurityProfile.Unconfined
    container.start()
    assert container.sh("echo here") == "here\n"
    filtered = kind == api.SecurityProfile.RuntimeDefault and pod.kubelet.handler == "runc"
    assert status_of(container)["Seccomp"] == ("2" if filtered else "0")


def test_a_seccomp_profile_of_the_node(pod: Pod) -> None:
    """With pysc no profile holds: the application never reaches the system calls that it would keep it from."""
    profile = pod.volume / "profile.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}'
    )
    container = pod.container("main")
    container.security.seccomp.profile_type = api.SecurityProfile.Localhost
    container.security.seccomp.localhost_ref = f"localhost/{profile}"
    container.start()
    refused = "mkdir: can't create directory '/tmp/x': Operation not permitted\n"
    assert container.sh("mkdir /tmp/x") == (refused if pod.kubelet.handler == "runc" else "")


def test_a_seccomp_profile_that_is_not_there(pod: Pod) -> None:
    container = pod.container("main")
    container.security.seccomp.profile_type = api.SecurityProfile.Localhost
    container.security.seccomp.localhost_ref = "localhost//no/such/profile.json"
    with pytest.raises(grpc.RpcError, match="no such file or directory"):
        container.create()
