"""A stand-in for the Sentry or the gofer: confined like the real one, it answers questions about itself.

One Python expression in, its repr out.  The pipes arrive under names that the role's configuration already has.
"""

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct

from sandbox import stage

libc = ctypes.CDLL(None, use_errno=True)
SURROUNDINGS = (socket,)
"""For the questions: nothing can be imported once confined."""


def syscall(number, *arguments):
    """ "ok" or the name of the errno."""
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def read_at(dir_fd, path):
    fd = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


def seize_child():
    """Fork, trace the child although it has not asked for it, and kill it.  Outcome and wait status."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    outcome = syscall(101, 0x4206, pid, 0, 0)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    os.close(read_end)
    os.close(write_end)
    return outcome, status


def statement(code, k=0, jt=0, jf=0):
    """One struct sock_filter."""
    return struct.pack("HBBI", code, jt, jf, k)


def child_with_a_listener(number, report, go):
    """In a forked child: a filter of its own that turns `number` into a notification; then, told to, make that call."""
    program = (
        statement(0x20)  # load the number
        + statement(0x15, number, 0, 1)
        + statement(0x06, 0x7FC00000)  # USER_NOTIF
        + statement(0x06, 0x7FFF0000)
    )
    instructions = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("H6xQ", len(program) // 8, ctypes.addressof(instructions)))
    listener = libc.syscall(317, 1, 8, header)
    os.write(report, struct.pack("i", listener))
    os.read(go, 1)
    name = syscall(number, 0, 0, 0, 0, 0)
    os._exit(getattr(errno, name, 0))


def notified_call(number):
    """What a child of ours gets from a call that its own filter hands to us; we answer EXDEV, if we are asked."""
    read_end, write_end = os.pipe()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        child_with_a_listener(number, write_end, go_read)
    remote = struct.unpack("i", os.read(read_end, 4))[0]
    pidfd = os.pidfd_open(pid)
    listener = libc.syscall(438, pidfd, remote, 0)
    os.write(go_write, b"!")
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    if poller.poll(10_000)[0][1] & select.POLLIN:
        request = bytearray(80)
        fcntl.ioctl(listener, 0xC0502100, request)
        fcntl.ioctl(listener, 0xC0182101, struct.pack("QqiI", struct.unpack_from("Q", request)[0], 0, -errno.EXDEV, 0))
    status = os.waitpid(pid, 0)[1]
    for fd in (read_end, write_end, go_read, go_write, pidfd, listener):
        os.close(fd)
    return errno.errorcode[os.waitstatus_to_exitcode(status)]


def answer(questions, answers, names):
    while question := os.read(questions, 65536):
        try:
            text = repr(eval(question.decode(), names))
        except Exception as e:
            text = repr(f"{type(e).__name__}: {e}")
        os.write(answers, text.encode())
    return 7


def pipes(config):
    """The ends for questions and for answers."""
    if config["boot"]:
        return config["boot"]["control_fd"], config["boot"]["lifeline_fd"]
    return config["mounts"][0][:2]


def prepare(role):
    def confine(config, own_pid):
        proc_fd = stage.confine_as(role, config, own_pid)
        names = {**globals(), "proc_fd": proc_fd, "own_pid": own_pid}
        os.write(config["report_fd"], b"ok\n")
        os.close(config["report_fd"])
        questions, answers = pipes(config)
        return lambda: answer(questions, answers, names)

    return confine


def main():
    stage.ROLES.update({role: prepare(role) for role in ("sentry", "gofer")})
    stage.main()
