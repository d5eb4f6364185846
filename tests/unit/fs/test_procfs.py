"""procfs, read as programs read it: by path, through a mount, by a process in the namespace."""

import os
import re
import struct

import pytest

from sentry.abi import signal as sig
from sentry.abi.errno import EACCES, EINVAL, EIO, ENOENT, EPERM, ESRCH
from sentry.abi.fcntl import F_RDLCK, F_WRLCK, LOCK_EX, O_CLOEXEC, O_RDONLY, O_RDWR, O_WRONLY
from sentry.abi.stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from sentry.fs import pipefs
from sentry.fs.devpts import DevPts
from sentry.fs.proc_net import FILES as NET_FILES
from sentry.fs.proc_status import cpu_list, cpu_mask
from sentry.fs.procfs import ProcFs
from sentry.fs.tmpfs import TmpFs
from sentry.kernel.creds import Creds
from sentry.kernel.exit import exit_task, reap
from sentry.platform import Mapping
from sentry.vfs.caller import Caller
from sentry.vfs.dentry import MS_NODEV, MS_NOSUID, MS_RDONLY, Dentry, Path
from sentry.vfs.iov import BytesSink, BytesSource
from sentry.vfs.locks import OFFSET_MAX
from sentry.vfs.open import open_name
from sentry.vfs.walk import walk
from tests.fakeguest import Guest
from tests.unit.fs.conformance import run

ROOT = Caller(caps=~0)
USER = Creds(1000, 1000, 1000, 1000, 100, 100, 100, 100)


@pytest.fixture
def guest():
    guest = Guest()
    guest.init = guest.process()
    guest.kernel.facts.cpuinfo = "processor\t: 0\n\n"
    mount_at(guest, ProcFs(guest.container), "proc")
    yield guest
    NET_FILES.pop("test", None)


def mount_at(guest, fs, name, flags=0, source=None):
    """Mount fs at /name."""
    run(guest.root.inode.mkdir(name, 0o755, ROOT))
    ns = guest.root.mount.ns
    mount = ns.new_mount(fs, Dentry("", None, run(fs.root())), flags, source or fs.NAME)
    ns.attach(mount, run(walk(guest.init.where(), "/" + name)))
    return Path(mount, mount.root)


@pytest.fixture
def t(guest):
    t = guest.process(guest.init.tg)
    t.task_name = "prog"
    return t


def on_behalf(guest, t, make):
    """The result of a coroutine run as task t."""
    results = []

    async def body(_):
        results.append(await make())
        return 0

    guest.call(t, body)
    return results[0]


def opened(guest, t, name, flags=O_RDONLY):
    return on_behalf(guest, t, lambda: open_name(t.where(), name, flags, 0))


def cat(guest, t, name):
    file = opened(guest, t, name)

    async def read_all():
        data = b""
        while True:
            sink = BytesSink(4096)
            if not file.read(sink):
                return data
            data += sink.data

    return on_behalf(guest, t, read_all).decode()


def echo(guest, t, text, name):
    file = opened(guest, t, name, O_WRONLY)

    async def write_all():
        return file.write(BytesSource(text.encode()))

    return on_behalf(guest, t, write_all)


def ls(guest, t, name):
    file = opened(guest, t, name)

    async def read_all():
        await file.load_entries()
        return [entry.name for entry in file.entries(2)]

    return on_behalf(guest, t, read_all)


def link(guest, t, name):
    async def read_it():
        return await (await walk(t.where(), name, False)).inode.readlink()

    return on_behalf(guest, t, read_it)


def found(guest, t, name, follow=True):
    return on_behalf(guest, t, lambda: walk(t.where(), name, follow))


def fields(text):
    return dict(line.split(":", 1) for line in text.splitlines())


# -- processes and their directories --


def test_processes_are_listed_and_self_is_the_reader(guest, t):
    names = ls(guest, t, "/proc")
    assert [name for name in names if name.isdigit()] == ["1", str(t.tid)]
    assert {"self", "thread-self", "meminfo", "sys", "mounts", "net"} <= set(names)
    assert link(guest, t, "/proc/self") == str(t.tid)
    assert link(guest, guest.init, "/proc/self") == "1"
    assert cat(guest, t, "/proc/self/comm") == "prog\n"


def test_threads_have_directories(guest, t):
    second = guest.thread(t)
    second.task_name = "worker"
    assert ls(guest, t, "/proc/self/task") == [str(t.tid), str(second.tid)]
    assert cat(guest, t, f"/proc/self/task/{second.tid}/comm") == "worker\n"
    assert link(guest, second, "/proc/thread-self") == f"{t.tid}/task/{second.tid}"
    assert str(second.tid) not in ls(guest, t, "/proc")
    assert cat(guest, t, f"/proc/{second.tid}/comm") == "worker\n"
    assert "task" not in ls(guest, t, f"/proc/self/task/{second.tid}")
    assert "children" in ls(guest, t, f"/proc/self/task/{second.tid}")
    with pytest.raises(ENOENT):
        cat(guest, t, "/proc/self/task/1/comm")


def test_a_name_keeps_its_inode_while_the_process_lives(guest, t):
    first = found(guest, t, "/proc/1/status")
    assert found(guest, t, "/proc/1/status").dentry is first.dentry
    assert first.inode.mode == S_IFREG | 0o444
    assert found(guest, t, "/proc/1").inode.mode == S_IFDIR | 0o555


def test_a_process_that_is_gone_is_gone(guest, t):
    child = guest.process(t.tg)
    child.context.release = lambda: None
    name = f"/proc/{child.tid}"
    directory = found(guest, t, name)
    file = opened(guest, t, name + "/status")
    exit_task(child)
    assert fields(cat(guest, t, name + "/status"))["State"] == "\tZ (zombie)"
    assert cat(guest, t, name + "/cmdline") == ""
    assert ls(guest, t, name + "/fd") == []
    with pytest.raises(ENOENT):
        link(guest, t, name + "/exe")

    reap(child.tg)

    with pytest.raises(ENOENT):
        found(guest, t, name)
    with pytest.raises(ENOENT):
        run(directory.inode.lookup("status"))
    with pytest.raises(ESRCH):
        file.read(BytesSink(10))
    with pytest.raises(ENOENT):
        found(guest, t, "/proc/0")
    with pytest.raises(ENOENT):
        found(guest, t, "/proc/01")


def test_a_new_process_with_an_old_number_has_a_new_directory(guest, t):
    child = guest.process(t.tg)
    child.context.release = lambda: None
    old = found(guest, t, f"/proc/{child.tid}").inode
    number = child.tid
    exit_task(child)
    reap(child.tg)
    guest.container.pidns._last = number - 1
    second = guest.process(t.tg)
    assert second.tid == number

    assert found(guest, t, f"/proc/{number}").inode is not old
    assert cat(guest, t, f"/proc/{number}/stat").startswith(f"{number} ")


def test_other_namespaces_processes_are_not_there(guest, t):
    other = Guest()
    assert other.process().tid == 1
    assert len([name for name in ls(guest, t, "/proc") if name.isdigit()]) == 2


# -- texts about a process --


def test_stat_has_52_fields_and_survives_names_with_blanks(guest, t):
    t.task_name = "a) R (b"
    text = cat(guest, t, "/proc/self/stat")
    head, _, rest = text.rpartition(") ")
    assert head == f"{t.tid} (a) R (b"
    values = rest.split()
    assert len(values) == 50
    state, ppid, pgrp, session, tty, tpgid = values[:6]
    assert (state, ppid, pgrp, session, tty, tpgid) == ("R", "1", str(t.tid), str(t.tid), "0", "-1")
    assert values[15:18] == ["20", "0", "1"]  # priority, nice, threads
    assert int(values[20]) == 3 * 4096
    assert int(values[21]) == 2


def test_stat_names_the_terminal(guest, t):
    fs = DevPts()
    slave = fs.new_slave(0, 0)
    slave.tty.make_controlling(t.tg)
    assert cat(guest, t, "/proc/self/stat").split()[6:8] == [str(136 << 8), str(t.tid)]


def test_status_as_ps_and_top_read_it(guest, t):
    t.creds = Creds(1, 2, 3, 4, 5, 6, 7, 8, groups=(9, 10), permitted=0xFF, effective=0xF)
    t.sigmask = sig.bit(sig.SIGUSR1)
    shown = fields(cat(guest, guest.init, f"/proc/{t.tid}/status"))

    assert shown["Name"] == "\tprog"
    assert shown["Umask"] == "\t0022"
    assert shown["State"] == "\tR (running)"
    assert (shown["Tgid"], shown["Pid"], shown["PPid"]) == (f"\t{t.tid}", f"\t{t.tid}", "\t1")
    assert shown["Uid"] == "\t1\t2\t3\t4"
    assert shown["Gid"] == "\t5\t6\t7\t8"
    assert shown["Groups"] == "\t9 10 "
    assert shown["VmSize"] == "\t      12 kB"
    assert shown["VmRSS"] == "\t       8 kB"
    assert shown["RssAnon"] == "\t       4 kB"
    assert shown["Threads"] == "\t1"
    assert shown["SigBlk"] == f"\t{0x200:016x}"
    assert shown["CapPrm"] == f"\t{0xFF:016x}"
    assert shown["CapEff"] == f"\t{0xF:016x}"
    assert shown["NSpid"] == f"\t{t.tid}"
    assert shown["FDSize"] == "\t64"
    assert shown["Cpus_allowed_list"] == "\t0"


STATES = [("interruptible", "S"), ("killable", "D"), ("stopped", "T")]


@pytest.mark.parametrize(("attribute", "letter"), STATES)
def test_states(guest, t, attribute, letter):
    setattr(t, attribute, True)
    assert cat(guest, guest.init, f"/proc/{t.tid}/stat").split()[2] == letter


def set_arguments(t, arguments, environment):
    mm = t.mm
    mm.arg_start = t.mem.put(arguments + environment)
    mm.arg_end = mm.env_start = mm.arg_start + len(arguments)
    mm.env_end = mm.arg_end + len(environment)


def test_arguments_and_environment(guest, t):
    set_arguments(t, b"prog\0-v\0", b"A=1\0B=2\0")
    assert cat(guest, t, "/proc/self/cmdline") == "prog\0-v\0"
    assert cat(guest, t, "/proc/self/environ") == "A=1\0B=2\0"


def test_arguments_overwritten_by_setproctitle_may_go_on_into_the_environment(guest, t):
    set_arguments(t, b"prog: working", b" hard\0B=2\0")
    assert cat(guest, t, "/proc/self/cmdline") == "prog: working hard\0"


def test_limits(guest, t):
    lines = cat(guest, t, "/proc/self/limits").splitlines()
    assert lines[0] == "Limit                     Soft Limit           Hard Limit           Units     "
    assert lines[4] == "Max stack size            8388608              unlimited            bytes     "
    assert lines[14] == "Max nice priority         0                    0                              "
    assert len(lines) == 17


def test_statm_and_oom_score(guest, t):
    t.mem.mappings = lambda: [
        Mapping(0x1000, 0x3000, "r-xp", 0, 1, 2, ""),
        Mapping(0x3000, 0x6000, "rw-p", 0, 0, 0, ""),
    ]
    assert cat(guest, t, "/proc/self/statm") == "3 2 1 2 0 3 0\n"
    assert cat(guest, t, "/proc/self/oom_score") == "666\n"


def test_children(guest, t):
    child = guest.process(t.tg)
    assert cat(guest, t, f"/proc/self/task/{t.tid}/children") == f"{child.tid} "


def test_small_texts(guest, t):
    t.mm.auxv = struct.pack("<QQ", 6, 4096)
    assert cat(guest, t, "/proc/self/cgroup") == "0::/\n"
    assert cat(guest, t, "/proc/self/wchan") == "0"
    assert cat(guest, t, "/proc/self/uid_map") == "         0          0 4294967295\n"
    assert cat(guest, t, "/proc/self/auxv").encode() == t.mm.auxv
    assert cat(guest, t, "/proc/self/io").splitlines()[0] == "rchar: 0"
    with pytest.raises(EPERM):
        echo(guest, t, "0 0 1", "/proc/self/uid_map")


# -- what can be written --


def test_a_thread_can_be_named_by_its_process_only(guest, t):
    assert echo(guest, t, "a-name-longer-than-that\n", "/proc/self/comm") == 24
    assert t.task_name == "a-name-longer-t"
    with pytest.raises(EINVAL):
        echo(guest, guest.init, "x", f"/proc/{t.tid}/comm")


def test_oom_score_adj(guest, t):
    echo(guest, t, "500\n", "/proc/self/oom_score_adj")
    assert cat(guest, t, "/proc/self/oom_score_adj") == "500\n"
    for bad in ("1001", "x", "-1001"):
        with pytest.raises(EINVAL):
            echo(guest, t, bad, "/proc/self/oom_score_adj")
    t.creds = USER
    echo(guest, t, "600", "/proc/self/oom_score_adj")
    with pytest.raises(EACCES):
        echo(guest, t, "100", "/proc/self/oom_score_adj")


def test_loginuid_is_set_once_and_inherited(guest, t):
    assert cat(guest, t, "/proc/self/loginuid") == "4294967295"
    echo(guest, t, "1000", "/proc/self/loginuid")
    child = guest.process(t.tg)
    assert cat(guest, child, "/proc/self/loginuid") == "1000"
    assert cat(guest, guest.init, "/proc/self/loginuid") == "4294967295"
    child.creds = Creds()
    with pytest.raises(EPERM):
        echo(guest, child, "2000", "/proc/self/loginuid")


# -- who may look --


def test_strangers_see_no_more_than_they_may(guest, t):
    user = guest.process(guest.init.tg, USER)
    other = guest.process(guest.init.tg, USER.changed(uid=2000, euid=2000, suid=2000, fsuid=2000))
    name = f"/proc/{other.tid}"
    assert cat(guest, user, name + "/status")
    assert cat(guest, user, name + "/cmdline") == ""
    with pytest.raises(EACCES):
        cat(guest, user, name + "/environ")
    with pytest.raises(EACCES):
        cat(guest, user, name + "/maps")
    for entry in ("/exe", "/cwd", "/root", "/ns/pid"):
        with pytest.raises(EACCES):
            link(guest, user, name + entry)
    with pytest.raises(EACCES):
        ls(guest, user, name + "/fd")
    assert link(guest, t, name + "/cwd") == "/"


def test_files_belong_to_the_process_s_user(guest, t):
    user = guest.process(guest.init.tg, USER)
    inode = found(guest, t, f"/proc/{user.tid}/environ").inode
    assert (inode.uid, inode.gid) == (1000, 100)
    user.tg.dumpable = 0
    assert found(guest, t, f"/proc/{user.tid}/environ").inode.uid == 0
    assert found(guest, t, f"/proc/{user.tid}").inode.uid == 1000
    same = guest.process(guest.init.tg, USER)
    with pytest.raises(EACCES):
        cat(guest, same, f"/proc/{user.tid}/environ")


# -- links and descriptors --


def test_links_to_directories_and_programs_are_magic(guest, t):
    run(guest.root.inode.mkdir("d", 0o755, ROOT))
    where = found(guest, t, "/d")
    t.fs.cwd = where
    t.mm.exe = where
    assert link(guest, t, "/proc/self/cwd") == "/d"
    assert link(guest, t, "/proc/self/exe") == "/d"
    assert link(guest, t, "/proc/self/root") == "/"
    assert found(guest, t, "/proc/self/cwd").dentry is where.dentry
    run(guest.root.inode.rmdir("d", where.inode))
    where.dentry.unhash()
    assert link(guest, t, "/proc/self/cwd") == "/d (deleted)"
    t.mm.exe = None
    with pytest.raises(ENOENT):
        link(guest, t, "/proc/self/exe")


def test_descriptors(guest, t):
    run(guest.root.inode.create("f", 0o644, ROOT))
    file = opened(guest, t, "/f", O_RDWR)
    reader, writer = pipefs.new_pair(ROOT, 0)
    for f, cloexec in ((file, False), (reader, True), (writer, False)):
        t.files.install(f, cloexec)
    file.offset = 7

    assert ls(guest, t, "/proc/self/fd") == ["0", "1", "2"]
    assert link(guest, t, "/proc/self/fd/0") == "/f"
    assert re.fullmatch(r"pipe:\[\d+\]", link(guest, t, "/proc/self/fd/1"))
    modes = [found(guest, t, f"/proc/self/fd/{fd}", False).inode.mode for fd in range(3)]
    assert modes == [S_IFLNK | 0o700, S_IFLNK | 0o500, S_IFLNK | 0o300]
    info = fields(cat(guest, t, "/proc/self/fdinfo/0"))
    assert info["pos"] == "\t7"
    assert info["flags"] == "\t02"
    assert info["mnt_id"] == f"\t{guest.root.mount.id}"
    assert info["ino"] == f"\t{file.inode.ino}"
    assert fields(cat(guest, t, "/proc/self/fdinfo/1"))["flags"] == f"\t0{O_CLOEXEC:o}"

    t.files.close(2)
    assert ls(guest, t, "/proc/self/fd") == ["0", "1"]
    for name in ("2", "00", "x", "-1"):
        with pytest.raises(ENOENT):
            found(guest, t, f"/proc/self/fd/{name}")


def test_descriptors_show_their_locks(guest, t):
    run(guest.root.inode.create("f", 0o644, ROOT))
    file = opened(guest, t, "/f", O_RDWR)
    t.files.install(file)
    locks = file.inode.locks()
    locks.set(t.files, F_WRLCK, 5, 9, t.tg)
    locks.set(file, F_RDLCK, 20, OFFSET_MAX)
    locks.set("somebody else", F_RDLCK, 30, 40)
    locks.flock(file, LOCK_EX)
    dev = file.inode.fs.dev
    where = f"{os.major(dev):02x}:{os.minor(dev):02x}:{file.inode.ino}"

    lines = [line for line in cat(guest, t, "/proc/self/fdinfo/0").splitlines() if line.startswith("lock:")]

    assert lines == [
        f"lock:\t1: POSIX  ADVISORY  WRITE {t.tid} {where} 5 9",
        f"lock:\t2: OFDLCK ADVISORY  READ -1 {where} 20 EOF",
        f"lock:\t3: FLOCK  ADVISORY  WRITE {t.tid} {where} 0 EOF",
    ]


def test_a_descriptor_s_link_leads_to_the_file_though_its_name_is_gone(guest, t):
    run(guest.root.inode.create("f", 0o644, ROOT))
    file = opened(guest, t, "/f", O_RDWR)
    t.files.install(file)
    file.write(BytesSource(b"kept"))
    run(guest.root.inode.unlink("f", file.inode))
    file.path.dentry.unhash()

    assert link(guest, t, "/proc/self/fd/0") == "/f (deleted)"
    assert cat(guest, t, "/proc/self/fd/0") == "kept"


def test_a_pipe_can_be_opened_again(guest, t):
    for end in pipefs.new_pair(ROOT, 0):
        t.files.install(end)
    again = opened(guest, t, "/proc/self/fd/1", O_WRONLY)
    again.hold()
    again.write(BytesSource(b"x"))
    sink = BytesSink(10)
    t.files.get(0).read(sink)
    assert sink.data == b"x"
    again.drop()


def test_namespaces(guest, t):
    names = ls(guest, t, "/proc/self/ns")
    assert {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"} <= set(names)
    assert link(guest, t, "/proc/self/ns/pid") == f"pid:[{t.pidns.id}]"
    for name in names:
        assert link(guest, t, f"/proc/self/ns/{name}") == link(guest, t, f"/proc/1/ns/{name}")
        kind, number = re.fullmatch(r"(\w+):\[(\d+)\]", link(guest, t, f"/proc/self/ns/{name}")).groups()
        inode = found(guest, t, f"/proc/self/ns/{name}").inode
        assert inode.ino == int(number)
        assert inode is found(guest, t, f"/proc/1/ns/{name}").inode
        file = opened(guest, t, f"/proc/self/ns/{name}")
        assert file.describe() == f"{kind}:[{number}]"


def test_containers_have_namespaces_of_their_own(guest, t):
    from sentry.fs.nsfs import number_of

    other = Guest().process()
    assert number_of(t, "uts") != number_of(other, "uts")
    assert number_of(t, "net") == number_of(other, "net")


# -- memory --


def test_maps(guest, t):
    run(guest.root.inode.create("lib.so", 0o755, ROOT))
    path = found(guest, t, "/lib.so")
    mm = t.mm
    mm.note_file(5, 77, path)
    mm.note_file(5, 78, "/memfd:x (deleted)")
    mm.brk_start, mm.brk = 0x20000, 0x21000
    mm.stack_start, mm.stack_end = 0x7FF000000000, 0x7FF000800000
    t.mem.mappings = lambda: [
        Mapping(0x10000, 0x12000, "r-xp", 0x1000, 5, 77, ""),
        Mapping(0x20000, 0x21000, "rw-p", 0, 0, 0, ""),
        Mapping(0x30000, 0x31000, "rw-p", 0, 0, 0, ""),
        Mapping(0x40000, 0x41000, "rw-s", 0, 5, 78, ""),
        Mapping(0x50000, 0x51000, "rw-s", 0, 1, 9, ""),
        Mapping(0x7FF0007F0000, 0x7FF000800000, "rw-p", 0, 0, 0, ""),
        Mapping(0x7FFFF0000000, 0x7FFFF0001000, "r-xp", 0, 0, 0, "vdso"),
    ]
    inode = path.inode
    dev = f"{os.major(inode.fs.dev):02x}:{os.minor(inode.fs.dev):02x}"
    lines = cat(guest, t, "/proc/self/maps").splitlines()
    assert lines[0] == f"00010000-00012000 r-xp 00001000 {dev} {inode.ino} ".ljust(73) + "/lib.so"
    assert lines[1].endswith(" [heap]")
    assert lines[2] == "00030000-00031000 rw-p 00000000 00:00 0 "
    assert lines[3].endswith(" /memfd:x (deleted)")
    assert lines[4].endswith(" /dev/zero (deleted)")
    assert lines[5].endswith(" [stack]")
    assert lines[6].endswith(" [vdso]")
    assert lines[5].index("[stack]") == 73


def test_maps_of_files_on_overlayfs(guest, t):
    """There the host's map shows another device than fstat(2), and its inode number without the layer's bits."""
    run(guest.root.inode.create("prog", 0o755, ROOT))
    t.mm.note_file(41, 0x7700_0000_0000_004D, found(guest, t, "/prog"))
    t.mem.mappings = lambda: [Mapping(0x10000, 0x12000, "r-xp", 0, 39, 0x4D, "")]
    assert cat(guest, t, "/proc/self/maps").endswith(" /prog\n")


def test_mem(guest, t):
    addr = t.mem.put(b"secret")
    other = guest.process(guest.init.tg)
    file = opened(guest, other, f"/proc/{t.tid}/mem", O_RDWR)
    sink = BytesSink(6)
    file.read_at(sink, addr)
    assert sink.data == b"secret"
    file.write_at(BytesSource(b"public"), addr)
    assert t.mem.read(addr, 6) == b"public"
    with pytest.raises(EIO):
        file.read_at(BytesSink(6), 8)


# -- mounts --


def test_mounts_and_mountinfo(guest, t):
    tmp = mount_at(guest, TmpFs({"size": "64k"}), "a b", MS_NOSUID | MS_NODEV | MS_RDONLY, "src\t1")
    lines = cat(guest, t, "/proc/mounts").splitlines()
    assert lines == [
        "none / tmpfs rw,relatime 0 0",
        "proc /proc proc rw,relatime 0 0",
        "src\\0111 /a\\040b tmpfs ro,nosuid,nodev,relatime,size=64k 0 0",
    ]
    info = cat(guest, t, "/proc/self/mountinfo").splitlines()
    numbers = f"{tmp.mount.id} {guest.root.mount.id} 0:{os.minor(tmp.mount.fs.dev)}"
    assert info[2] == numbers + " / /a\\040b ro,nosuid,nodev,relatime - tmpfs src\\0111 rw,size=64k"


def test_bind_mounts_show_their_root_and_chroots_only_what_is_below(guest, t):
    for name in ("from", "jail"):
        run(guest.root.inode.mkdir(name, 0o755, ROOT))
    source, jail = found(guest, t, "/from"), found(guest, t, "/jail")
    run(jail.inode.mkdir("here", 0o755, ROOT))
    ns = guest.root.mount.ns
    bound = ns.new_mount(guest.root.mount.fs, source.dentry, 0, "none")
    ns.attach(bound, found(guest, t, "/jail/here"))
    assert cat(guest, t, "/proc/self/mountinfo").splitlines()[-1].split()[3:5] == ["/from", "/jail/here"]

    other = guest.process(guest.init.tg)
    other.fs = t.fs.copy()
    other.fs.root = jail
    lines = cat(guest, t, f"/proc/{other.tid}/mounts").splitlines()
    assert [line.split()[1] for line in lines] == ["/", "/here"]


# -- the machine --


def test_meminfo_as_free_reads_it(guest, t):
    guest.kernel.facts.total_ram = 1 << 30
    shown = fields(cat(guest, t, "/proc/meminfo"))
    assert shown["MemTotal"].split() == ["1048576", "kB"]
    used = 2 * 4  # two processes with a page each that they do not share
    assert shown["MemFree"].split() == [str(1048576 - used), "kB"]
    for name in ("MemAvailable", "Buffers", "Cached", "SReclaimable", "SwapTotal", "SwapFree", "Shmem", "Slab"):
        assert name in shown


def test_stat_as_top_reads_it(guest, t):
    guest.kernel.facts.ncpus = 2
    lines = cat(guest, t, "/proc/stat").splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["cpu", "cpu0", "cpu1"]
    assert all(len(line.split()) == 11 for line in lines[:3])
    values = dict(line.split(" ", 1) for line in lines[3:])
    assert int(values["btime"]) > 1_000_000_000
    assert int(values["processes"]) >= 2
    assert {"intr", "ctxt", "procs_running", "procs_blocked", "softirq"} <= set(values)


def test_uptime_and_loadavg(guest, t):
    assert re.fullmatch(r"\d+\.\d\d \d+\.\d\d\n", cat(guest, t, "/proc/uptime"))
    assert re.fullmatch(r"0\.00 0\.00 0\.00 2/2 \d+\n", cat(guest, t, "/proc/loadavg"))


def test_other_files_of_the_machine(guest, t):
    assert cat(guest, t, "/proc/cpuinfo") == "processor\t: 0\n\n"
    assert cat(guest, t, "/proc/version").startswith("Linux version ")
    assert "nodev\ttmpfs\n" in cat(guest, t, "/proc/filesystems")
    assert "nodev\tproc\n" in cat(guest, t, "/proc/filesystems")
    for line in ("136 pts", "  1 mem", "Block devices:"):
        assert line in cat(guest, t, "/proc/devices").splitlines()
    assert cat(guest, t, "/proc/swaps").split()[0] == "Filename"
    assert cat(guest, t, "/proc/partitions") == "major minor  #blocks  name\n\n"
    assert cat(guest, t, "/proc/interrupts").split() == ["CPU0"]
    for name in ("cmdline", "cgroups", "diskstats", "modules", "vmstat"):
        cat(guest, t, f"/proc/{name}")


def test_static_entries_keep_their_inodes_so_that_they_can_be_mounted_over(guest, t):
    path = found(guest, t, "/proc/meminfo")
    run(guest.root.inode.create("empty", 0o644, ROOT))
    source = found(guest, t, "/empty")
    ns = guest.root.mount.ns
    ns.attach(ns.new_mount(guest.root.mount.fs, source.dentry), path)

    assert cat(guest, t, "/proc/meminfo") == ""
    ls(guest, t, "/proc")
    assert cat(guest, t, "/proc/meminfo") == ""


def test_reading_in_pieces_gives_one_consistent_text(guest, t):
    file = opened(guest, t, "/proc/self/comm")
    sink = BytesSink(2)
    file.read(sink)
    t.task_name = "changed"
    rest = BytesSink(100)
    file.read(rest)
    assert sink.data + rest.data == b"prog\n"
    file.seek(0, 0)
    fresh = BytesSink(100)
    file.read(fresh)
    assert fresh.data == b"changed\n"


def test_net_shows_what_the_network_code_registered(guest, t):
    assert link(guest, t, "/proc/net") == "self/net"
    NET_FILES["test"] = lambda kernel: f"{kernel.forks}\n"
    assert "test" in ls(guest, t, "/proc/net")
    assert cat(guest, t, "/proc/net/test") == f"{guest.kernel.forks}\n"
    with pytest.raises(ENOENT):
        found(guest, t, "/proc/net/missing")


# -- /proc/sys --

SETTINGS = {
    "kernel/ostype": "Linux",
    "kernel/pid_max": "4194304",
    "kernel/cap_last_cap": "40",
    "kernel/ngroups_max": "65536",
    "kernel/shmmax": "18446744073692774399",
    "kernel/overflowuid": "65534",
    "kernel/random/poolsize": "256",
    "kernel/pty/nr": "0",
    "fs/nr_open": "1048576",
    "fs/pipe-max-size": "1048576",
    "fs/inotify/max_user_watches": "65536",
    "vm/overcommit_memory": "0",
    "vm/swappiness": "60",
    "net/core/somaxconn": "4096",
    "user/max_user_namespaces": "0",
}


def test_settings(guest, t):
    for name, value in SETTINGS.items():
        assert cat(guest, t, f"/proc/sys/{name}") == value + "\n"
    assert sorted(ls(guest, t, "/proc/sys")) == ["fs", "kernel", "net", "user", "vm"]
    assert "yama" not in ls(guest, t, "/proc/sys/kernel")
    assert cat(guest, t, "/proc/sys/fs/file-nr").split()[1] == "0"
    assert int(cat(guest, t, "/proc/sys/kernel/threads-max")) > 0


def test_uuids_are_random_and_the_boot_id_is_not(guest, t):
    pattern = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\n"
    first, second = (cat(guest, t, "/proc/sys/kernel/random/uuid") for _ in range(2))
    assert re.fullmatch(pattern, first)
    assert first != second
    boot = cat(guest, t, "/proc/sys/kernel/random/boot_id")
    assert re.fullmatch(pattern, boot)
    assert cat(guest, t, "/proc/sys/kernel/random/boot_id") == boot


def test_settings_are_read_only_but_for_the_host_s_names(guest, t):
    with pytest.raises(EACCES):
        echo(guest, t, "1", "/proc/sys/vm/swappiness")
    echo(guest, t, "new-name\n", "/proc/sys/kernel/hostname")
    assert guest.container.uts.nodename == b"new-name"
    assert cat(guest, t, "/proc/sys/kernel/hostname") == "new-name\n"
    with pytest.raises(EINVAL):
        echo(guest, t, "x" * 65, "/proc/sys/kernel/domainname")


def test_options_are_refused(guest):
    with pytest.raises(EINVAL):
        ProcFs(guest.container, {"hidepid": "2"})


def test_everything_can_be_read(guest, t):
    """Whatever is listed opens and reads without a bug, directories and links included."""
    t.mm.exe = guest.init.mm.exe = guest.root
    todo = ["/proc"]
    seen = 0
    while todo:
        name = todo.pop()
        for entry in ls(guest, t, name):
            path = f"{name}/{entry}"
            kind = found(guest, t, path, False).inode.mode & S_IFMT
            seen += 1
            if kind == S_IFDIR:
                todo.append(path)
            elif kind == S_IFLNK:
                link(guest, t, path)
            elif entry != "mem":
                cat(guest, t, path)
    assert seen > 150
    assert guest.kernel.bugs == 0


# -- helpers --


MASKS = [
    # mask, processors, as a mask, as a list
    (1, 1, "1", "0"),
    (0b1101, 4, "d", "0,2-3"),
    ((1 << 40) - 1, 40, "ff,ffffffff", "0-39"),
    (2, 64, "00000000,00000002", "1"),
]


@pytest.mark.parametrize(("mask", "ncpus", "shown", "ranges"), MASKS)
def test_processor_masks(mask, ncpus, shown, ranges):
    assert cpu_mask(mask, ncpus) == shown
    assert cpu_list(mask) == ranges


def test_processes_that_are_gone_are_forgotten(guest, t):
    """Names of theirs once kept thousands of dead processes, and all that those had had."""
    proc = run(walk(guest.init.where(), "/proc")).dentry
    for _ in range(1000):
        child = guest.process(guest.init.tg)
        child.context.release = lambda: None
        assert cat(guest, t, f"/proc/{child.tid}/comm") is not None
        exit_task(child)
        reap(child.tg)
    assert len(proc.children) <= 70
