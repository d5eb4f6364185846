"""Root filesystem mounts: options as fstab has them, and real mounts where that is allowed."""

import os
from pathlib import Path

import pytest

from shim import rootfs
from shim.rootfs import MS_BIND, MS_NODEV, MS_RDONLY, MS_REC, Mount

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.mark.parametrize(
    ("options", "flags", "data"),
    [
        ([], 0, ""),
        (["rw", "rbind"], MS_BIND | MS_REC, ""),
        (["ro", "bind", "nodev"], MS_RDONLY | MS_BIND | MS_NODEV, ""),
        (["ro", "rw"], 0, ""),
        (["nodev", "dev"], 0, ""),
        (["defaults"], 0, ""),
        (["index=off", "upperdir=/u", "lowerdir=/a:/b"], 0, "index=off,upperdir=/u,lowerdir=/a:/b"),
        (["X-containerd.mkdir.path=/x", "ro"], MS_RDONLY, ""),
    ],
)  # fmt: skip
def test_options_become_flags_and_data(options: list[str], flags: int, data: str) -> None:
    mount = Mount("t", "s", options)
    assert (mount.flags, mount.data, mount.propagation) == (flags, data, 0)


def test_propagation_is_kept_apart() -> None:
    mount = Mount("bind", "s", ["rbind", "rslave"])
    assert (mount.flags, mount.propagation) == (MS_BIND | MS_REC, rootfs.MS_SLAVE | MS_REC)


def test_overlay_data_are_shortened_to_relative_layers() -> None:
    layers = [f"/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/{n}/fs" for n in range(100)]
    data = "index=off,workdir=/w,upperdir=/u,lowerdir=" + ":".join(layers)
    assert len(data) > rootfs.MAX_DATA
    folder, shortened = rootfs.shorten_overlay(data)
    assert folder == "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    assert shortened.startswith("index=off,workdir=/w,upperdir=/u,lowerdir=0/fs:1/fs:")
    assert len(shortened) < rootfs.MAX_DATA


def test_data_that_cannot_be_shortened_are_refused() -> None:
    with pytest.raises(OSError, match="page"):
        rootfs.shorten_overlay("lowerdir=" + ":".join("/" + "x" * 200 + str(n) + "/y" for n in range(100)))


def test_target_outside_the_rootfs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="leaves"):
        rootfs.mount([Mount("tmpfs", "tmpfs", [], "../x")], str(tmp_path))


@as_root
def test_bind_mount_is_made_read_only_and_taken_away(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "root fs"
    source.mkdir()
    target.mkdir()
    (source / "file").touch()
    try:
        rootfs.mount([Mount("bind", str(source), ["rbind", "ro"])], str(target))
        assert (target / "file").exists()
        assert rootfs.mount_points(str(target)) == [str(target)]
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").touch()
    finally:
        rootfs.unmount(str(target))
    assert rootfs.mount_points(str(target)) == []
    rootfs.unmount(str(target))


@as_root
def test_nested_targets_are_unmounted_inside_out(tmp_path: Path) -> None:
    target = tmp_path / "rootfs"
    target.mkdir()
    try:
        rootfs.mount([Mount("tmpfs", "tmpfs", [])], str(target))
        (target / "a").mkdir()
        rootfs.mount([Mount("tmpfs", "tmpfs", ["size=4096"], "/a")], str(target))
        assert rootfs.mount_points(str(target)) == [str(target), str(target / "a")]
    finally:
        rootfs.unmount(str(target))
    assert rootfs.mount_points(str(target)) == []


@as_root
def test_failed_mount_leaves_none_of_the_earlier_ones(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        rootfs.mount([Mount("tmpfs", "tmpfs", []), Mount("nosuchfs", "x", [])], str(tmp_path))
    assert rootfs.mount_points(str(tmp_path)) == []


@as_root
def test_busy_mount_is_detached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfs, "BUSY_TIMEOUT_S", 0.0)
    rootfs.mount([Mount("tmpfs", "tmpfs", [])], str(tmp_path))
    with (tmp_path / "open").open("w"):
        rootfs.unmount(str(tmp_path))
    assert rootfs.mount_points(str(tmp_path)) == []


@as_root
def test_long_overlay_is_mounted_with_relative_layers(tmp_path: Path) -> None:
    """In a tmpfs, as an overlay on an overlay may not be stacked further."""
    base, target = tmp_path / "base", tmp_path / "rootfs"
    base.mkdir()
    target.mkdir()
    cwd = os.getcwd()
    try:
        rootfs.mount([Mount("tmpfs", "tmpfs", [])], str(base))
        layers = []
        for n in range(45):
            layer = base / ("layer" + "x" * 100) / str(n) / "fs"
            layer.mkdir(parents=True)
            (layer / f"file{n}").touch()
            layers.append(str(layer))
        mount = Mount("overlay", "overlay", ["lowerdir=" + ":".join(layers)])
        assert len(mount.data) > rootfs.MAX_DATA
        rootfs.mount([mount], str(target))
        assert len(list(target.iterdir())) == 45
    finally:
        rootfs.unmount(str(target))
        rootfs.unmount(str(base))
    assert os.getcwd() == cwd
