"""The kernel log."""

from sentry.kernel.dmesg import BOOT_LINES, BUFFER_BYTES, KernelLog, kmsg_line


def log_at(*times_ns):
    clock = iter((0, *times_ns))
    return KernelLog(lambda: next(clock))


def test_a_line_has_level_and_time_since_start():
    log = log_at(12_345_678_000)
    log.add("hello", 4)
    assert log.read_all(1000) == b"<4>[   12.345678] hello\n"
    assert kmsg_line(log.records[0]) == b"4,0,12345678,-;hello\n"


def test_several_lines_are_several_records():
    log = log_at(0)
    log.add("a\nb")
    assert log.read_all(1000).count(b"\n") == 2


def test_the_oldest_are_forgotten():
    log = KernelLog(lambda: 0)
    for n in range(10_000):
        log.add(f"line {n}")
    everything = log.read_all(1 << 20)
    assert len(everything) < BUFFER_BYTES
    assert b"line 0\n" not in everything
    assert everything.endswith(b"line 9999\n")


def test_reading_takes_whole_lines_once():
    log = KernelLog(lambda: 0)
    log.add("one")
    log.add("two")
    assert log.read(25).endswith(b"one\n")
    assert log.read(1000).endswith(b"two\n")
    assert log.read(1000) == b""


def test_booting_ends_well():
    log = KernelLog(lambda: 0)
    log.add_boot_lines()
    assert log.read_all(1 << 16).decode().endswith("] Ready!\n")
    assert len(log.records) == len(BOOT_LINES)
