"""How the kvm platform ends when it can't begin, or can't go on: one clear line, and nobody else is touched."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyseccomp
import pytest

from platform_kvm.core._core import ffi, lib
from platform_kvm.platform import KvmContext, KvmPlatform, is_emulated
from platform_kvm.platform import probe as probe_of
from sentry.platform import PAGE_SIZE, Context, ExitTrap, PlatformError
from tests.bare import DATA, LOOP, Bare, call
from tests.integration import guest
from tests.integration.host import Host, assert_one_line
from tests.integration.hostile import Wall
from tests.integration.platforms import kvm_device, make_kvm, opened, probe_kvm, skip_without

own_process = pytest.mark.own_process
KILLED = ExitTrap(9)
LOST = "a virtual processor can't go on"


# -- hosts on which it can't begin --


@own_process
@pytest.mark.parametrize("path", ["", "/dev/null", "/proc/self/exe"])
def test_what_is_not_kvm_is_refused_with_a_reason(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else -1
    reason = "no virtual machine can be made with KVM: the device is not KVM's"
    for _ in range(2):
        with pytest.raises(PlatformError, match=reason):
            KvmPlatform(fd, 1 << 24, 1)
        assert probe_of(fd) == reason


@own_process
def test_a_machine_can_be_made_after_one_that_could_not() -> None:
    skip_without("kvm")
    assert probe_of(-1)
    with kvm_device() as fd:
        assert probe_of(fd) == ""


CHECK_EXTENSION = 0xAE03  # KVM_CHECK_EXTENSION
LACKS = {  # KVM_CAP_*, include/uapi/linux/kvm.h
    3: "it lacks guest memory of the user's",
    16: "it lacks guest memory that follows the user's mappings",
    41: "it lacks events of virtual CPUs",
    136: "it lacks immediate exits",
}
CAP_XSAVE = 55


def deny(capability: int) -> None:
    """From now on, KVM says to this process that it lacks it."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    request = pyseccomp.Arg(1, pyseccomp.EQ, CHECK_EXTENSION)
    rules.add_rule(pyseccomp.ERRNO(0), "ioctl", request, pyseccomp.Arg(2, pyseccomp.EQ, capability))
    rules.load()


@own_process
@pytest.mark.parametrize("capability", LACKS)
def test_a_kvm_that_lacks_something_is_refused_with_a_reason(capability: int) -> None:
    skip_without("kvm")
    deny(capability)
    with kvm_device() as fd:
        assert probe_of(fd) == f"no virtual machine can be made with KVM: {LACKS[capability]}"


@own_process
def test_a_kvm_that_neither_offers_nor_saves_what_ring_3_sees_is_refused() -> None:
    """Else one process would find what another had in its vector registers."""
    skip_without("kvm")
    if not is_emulated():
        pytest.skip("ring 3 sees here what KVM offers")
    if " avx " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no registers but those that FXSAVE saves")
    deny(CAP_XSAVE)
    with kvm_device() as fd:
        assert probe_of(fd).endswith("its virtual processors do not save the vector registers that programs see")


# -- processors that can't go on --


@pytest.fixture
def wall() -> Iterator[Wall]:
    with opened(probe_kvm, make_kvm) as platform:
        bare = Bare(platform)
        yield Wall(bare)
        bare.template.close()


def forget_ring_0(context: Context) -> None:
    """Take the upper half out of the space's top table, as a bug might: ring 0 can't be fetched then."""
    assert isinstance(context, KvmContext)
    top = lib.kv_space_root(context.space.c) - lib.KV_WINDOW_GPA
    ffi.memmove(lib.kv_window() + top + PAGE_SIZE // 2, bytes(PAGE_SIZE // 2), PAGE_SIZE // 2)


def spoil_extended_state(context: Context) -> None:
    """Bits that no processor has, in MXCSR and in XSAVE's header, past the check of write_xstate."""
    assert isinstance(context, KvmContext)
    ffi.memmove(context.c.xstate + 24, b"\xff" * 4, 4)
    ffi.memmove(context.c.xstate + 512, b"\xff" * 8, 8)
    context.c.replaced = 1


@own_process
@pytest.mark.parametrize("break_it", [forget_ring_0, spoil_extended_state])
def test_a_processor_that_breaks_takes_its_context_along_and_works_again(
    wall: Wall, caplog: pytest.LogCaptureFixture, break_it: object
) -> None:
    assert callable(break_it)
    bare = wall.bare
    for _ in range(2 * (os.cpu_count() or 1) + 1):
        spinning = bare.load(LOOP)
        broken = bare.load(call(1) + call(2))
        bare.syscall(broken)
        broken.space.write(DATA, b"touched")
        break_it(broken)
        bare.start(spinning)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert bare.run(broken) == KILLED
        (record,) = caplog.records
        assert record.getMessage().startswith(LOST)
        assert bare.run(broken) == KILLED
        broken.release()
        spinning.release()
        wall.holds()


@own_process
def test_a_thread_beside_one_that_broke_its_processor_goes_on(wall: Wall) -> None:
    bare = wall.bare
    first = bare.load(call(1) + call(2) + call(3))
    bare.syscall(first)
    second = first.clone(share_space=True, same_process=True)
    spoil_extended_state(second)
    assert bare.run(second) == KILLED
    assert bare.syscall(first).number == 2
    second.release()
    assert bare.syscall(first).number == 3
    first.space.write(DATA, b"x")
    first.release()
    wall.holds()


# -- the command --


@pytest.fixture
def kvm_host(host: Host) -> Iterator[Host]:
    host.platform = "kvm"
    yield host
    host.platform = "auto"


# In a mount namespace of its own, so that the device is another for this command alone.
OTHER_DEVICES = {
    "not KVM's": ("mount --bind /dev/null /dev/kvm", "kvm: no virtual machine can be made with KVM: the device is not"),
    "not allowed": (
        "mount --bind /dev/kvm /dev/kvm; mount -o remount,bind,nodev /dev/kvm",
        "kvm: /dev/kvm can't be opened: Permission denied",
    ),
    "not there": (
        'mount -t tmpfs none "$1"; for d in null zero full random urandom tty; do'
        ' touch "$1/$d"; mount --bind "/dev/$d" "$1/$d"; done;'
        ' mkdir "$1/pts" "$1/shm"; mount --rbind "$1" /dev',
        "kvm: /dev/kvm can't be opened: No such file or directory",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHER_DEVICES)
def test_a_device_that_does_not_do_is_told_of_in_one_line(kvm_host: Host, tmp_path: Path, kind: str) -> None:
    script, line = OTHER_DEVICES[kind]
    if not os.path.exists("/dev/kvm"):
        pytest.skip("there is no /dev/kvm that another device could stand for")
    command = kvm_host.tracked("run", "--bundle", kvm_host.bundle("true"), kvm_host.name())
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", f'{script}; shift; exec "$@"', "sh", str(tmp_path), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert line in assert_one_line(done)


@pytest.mark.slow
def test_memory_beyond_the_limit_ends_the_process_and_the_log_says_so(kvm_host: Host, tmp_path: Path) -> None:
    skip_without("kvm")
    neighbour = kvm_host.name()
    kvm_host.background("run", "--detach", "--bundle", kvm_host.bundle("sleep", "1000"), neighbour)
    shutil.copy2(guest.build("flood"), kvm_host.rootfs / "flood")
    for words, status, output in (
        (("sh", "-c", "/flood private; echo $?"), 0, "137\n"),
        (("/flood", "shared"), 137, ""),
    ):
        bundle = kvm_host.bundle(*words)
        config = json.loads((bundle / "config.json").read_text())
        config["linux"]["resources"] = {"memory": {"limit": 32 << 20}}
        (bundle / "config.json").write_text(json.dumps(config))
        log = tmp_path / f"log-{status}"
        done = kvm_host.pysc("--debug-log", log, "run", "--bundle", bundle, kvm_host.name())
        assert (done.returncode, done.stdout) == (status, output), done
        lines = log.read_text().splitlines()
        assert len([line for line in lines if "out of memory: a process is killed" in line]) == 1, lines
        assert not [line for line in lines if LOST in line or "nobody gave back" in line]
    done = kvm_host.pysc("exec", neighbour, "echo", "here")
    assert (done.returncode, done.stdout) == (0, "here\n"), done


@pytest.mark.slow
def test_a_container_gives_all_its_memory_back(kvm_host: Host, tmp_path: Path) -> None:
    skip_without("kvm")
    log = tmp_path / "log"
    script = "i=0; while [ $i -lt 20 ]; do /bin/true; (exit 3); echo $i >/tmp/f; cat /tmp/f; i=$((i+1)); done; exit 4"
    done = kvm_host.pysc("--debug-log", log, "run", "--bundle", kvm_host.bundle("sh", "-c", script), kvm_host.name())
    assert (done.returncode, len(done.stdout.splitlines())) == (4, 20), done
    assert "platform kvm" in log.read_text() and "nobody gave back" not in log.read_text()
