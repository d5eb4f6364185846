"""Volumes as the kubelet mounts them: folders and files of the host, one in another, with and without propagation."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from tests.integration.kubelet import runtime_pb2 as api
from tests.integration.kubelet.pods import Container, Kubelet, Pod

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cri")]


def test_a_writable_and_a_read_only_view_of_one_folder(pod: Pod) -> None:
    container = pod.container("main").mount(pod.volume, "/rw").mount(pod.volume, "/ro", readonly=True).start()
    assert container.sh("echo hello >/rw/file; cat /ro/file; rm /ro/file") == (
        "hello\nrm: can't remove '/ro/file': Read-only file system\n"
    )
    (pod.volume / "file").write_text("from outside\n")
    assert container.sh("cat /ro/file") == "from outside\n"


def test_a_file(pod: Pod) -> None:
    """As a subPath of a ConfigMap is, and /etc/hosts; where the image has no such path one is made."""
    file = pod.volume / "settings"
    file.write_text("one\n")
    container = pod.container("main").mount(file, "/etc/app/settings").mount(file, "/etc/hosts", readonly=True).start()
    assert container.sh("cat /etc/hosts; echo two >>/etc/app/settings; cat /etc/hosts") == "one\none\ntwo\n"
    assert container.sh("ls /etc/app; echo >/etc/hosts") == (
        "settings\nsh: can't create /etc/hosts: Read-only file system\n"
    )
    assert file.read_text() == "one\ntwo\n"


def test_a_part_of_a_folder(pod: Pod) -> None:
    """Nothing of the rest is reached from it."""
    part = pod.volume / "part"
    part.mkdir()
    (pod.volume / "secret").write_text("secret")
    container = pod.container("main").mount(part, "/data").start()
    assert container.sh("ls /data/..") == container.sh("ls /")
    assert "No such file" in container.sh("ln -s ../secret /data/link; cat /data/link")


def test_volumes_in_volumes(pod: Pod) -> None:
    outer, inner = pod.volume / "outer", pod.volume / "inner"
    (outer / "nested").mkdir(parents=True)
    (outer / "nested" / "hidden").touch()
    inner.mkdir()
    container = pod.container("main").mount(outer, "/data", readonly=True).mount(inner, "/data/nested").start()
    assert container.sh("touch /data/nested/file; ls /data/nested; touch /data/other") == (
        "file\ntouch: /data/other: Read-only file system\n"
    )
    assert (inner / "file").exists()


def test_links_on_a_volume_lead_where_they_do_inside(pod: Pod) -> None:
    """A ConfigMap's volume is made of these."""
    data = pod.volume / "..2026"
    data.mkdir()
    (data / "key").write_text("value")
    (pod.volume / "..data").symlink_to("..2026")
    (pod.volume / "key").symlink_to("..data/key")
    (pod.volume / "host").symlink_to("/etc/hostname")
    container = pod.container("main").mount(pod.volume, "/config", readonly=True).start()
    assert container.sh("cat /config/key") == "value"
    assert container.sh("cat /config/host") == container.sh("cat /etc/hostname")
    newer = pod.volume / "..2027"
    newer.mkdir()
    (newer / "key").write_text("new value")
    (pod.volume / "..new").symlink_to("..2027")
    (pod.volume / "..new").rename(pod.volume / "..data")  # at once, as the kubelet updates it
    assert container.sh("cat /config/key") == "new value"


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A mount of the host whose mounts others may see, with a folder to mount over."""
    path = tmp_path / "shared"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    try:
        subprocess.run(["mount", "--make-shared", path], check=True)
        (path / "over").mkdir()
        yield path
    finally:
        subprocess.run(["umount", "--recursive", path], check=True)


def mounted(pod: Pod, shared: Path, propagation: api.MountPropagation) -> Container:
    container = pod.container("main")
    container.config.mounts.add(container_path="/shared", host_path=str(shared), propagation=propagation)
    return container


def mount_over(shared: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", shared / "over"], check=True)
    (shared / "over" / "later").touch()


def test_later_mounts_of_the_host_are_not_seen(pod: Pod, shared: Path) -> None:
    container = mounted(pod, shared, api.PROPAGATION_PRIVATE).start()
    mount_over(shared)
    assert container.sh("ls /shared/over") == ""


def test_later_mounts_of_the_host_are_seen_if_asked_for(pod: Pod, shared: Path) -> None:
    """Not with pysc, whose view of a volume is that of the start."""
    container = mounted(pod, shared, api.PROPAGATION_HOST_TO_CONTAINER).start()
    mount_over(shared)
    assert container.sh("ls /shared/over") == ("later\n" if pod.kubelet.handler == "runc" else "")


def test_mounts_of_a_container_are_seen_on_the_host_or_refused(
    new_pod: Callable[[str], Pod], shared: Path, kubelet: Kubelet
) -> None:
    pod = new_pod("pod")
    pod.config.linux.security_context.privileged = True
    container = mounted(pod.run(), shared, api.PROPAGATION_BIDIRECTIONAL)
    container.security.privileged = True
    if kubelet.handler == "pysc":
        with pytest.raises(grpc.RpcError, match="/shared cannot be shared"):
            container.start()
    else:
        container.start().sh("mount -t tmpfs none /shared/over && touch /shared/over/inside")
        assert (shared / "over" / "inside").exists()
