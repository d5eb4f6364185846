"""Forks that go back to the pages that they have in common: what they give up, and that nothing else is lost.

Each case is a program of its own, since hold() is for once in a process's life.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="knows the objects of CPython 3.11")

PRELUDE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import asyncio, collections, enum, json, re, textwrap  # something to share
from sandbox import common_heap

def own_kib():
    with open("/proc/self/smaps") as file:
        blocks = file.read().split("pysc-common")[1:]
    return sum(int(block.split("Anonymous:")[1].split()[0]) for block in blocks)

def in_fork(run):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
"""


def check(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", PRELUDE + program, str(ROOT)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_fork_that_has_worked_gives_up_most_of_what_it_has_written():
    output = check("""
common_heap.hold()

def run():
    for i in range(200):
        json.loads(json.dumps({"a": [i, str(i)]}, indent=1))
        re.sub("a+", "b", "caat")
        textwrap.wrap("some text " * 20, 30)
        asyncio.run(asyncio.sleep(0))
    worked = own_kib()
    common_heap.go_back()
    print(worked, own_kib(), flush=True)

in_fork(run)
""")
    worked, rested = map(int, output.split())
    assert worked > 500
    assert rested < worked / 2


def test_what_a_fork_has_changed_stays_changed():
    check("""
class Thing:
    def __init__(self):
        self.value = 1

    def answer(self):
        return self.value

numbers, names, things = list(range(1000)), {str(i): i for i in range(1000)}, [Thing() for _ in range(100)]
counter = collections.Counter()
common_heap.hold()

def run():
    for turn in range(1, 4):
        for i in range(0, 1000, 7):
            numbers[i] = -turn * i
            names[str(i)] = -turn * i
        for thing in things[::3]:
            thing.value = turn * 10
        Thing.extra = turn
        counter["turns"] += 1
        new = [{"turn": turn, "i": i} for i in range(1000)]
        common_heap.go_back()
        assert numbers == [-turn * i if i % 7 == 0 else i for i in range(1000)]
        assert names == {str(i): n for i, n in enumerate(numbers)}
        assert [thing.answer() for thing in things] == [turn * 10 if i % 3 == 0 else 1 for i in range(100)]
        assert (Thing.extra, things[0].extra, counter) == (turn, turn, {"turns": turn})
        assert new == [{"turn": turn, "i": i} for i in range(1000)]

in_fork(run)
in_fork(lambda: None if numbers == list(range(1000)) else os._exit(1))
""")


def test_code_that_has_warmed_up_runs_on_and_warms_up_again():
    check("""
class Point:
    def __init__(self, x):
        self.x = x

    @property
    def twice(self):
        return self.x + self.x

def work(items, get):
    total = 0
    for item in items:
        total += get(item)
        if total < 0:
            total = -total
    return total

def generate(n):
    for i in range(n):
        yield Point(i).twice + numbers[i % 3]

numbers = (1, 2, 3)
common_heap.hold()

def run():
    unfinished = generate(200)
    got = [next(unfinished) for _ in range(100)]
    for turn in range(5):
        assert work(range(100), lambda i: i) == 4950
        assert work([Point(i) for i in range(100)], lambda p: p.twice) == 9900
        assert work([1.5] * 4, float) == 6.0
        assert work(["ab", "c"], len) == 3
        common_heap.go_back()
    got += unfinished
    assert got == [2 * i + numbers[i % 3] for i in range(200)]

in_fork(run)
""")


def test_immortal_objects_survive_what_would_end_others():
    check("""
import gc
text, pair = "a text that is nobody's but ours", ("x", ["y"])
common_heap.hold()

def run():
    global text, pair
    kept = [text, pair]
    for turn in range(3):
        more = [kept] * 1000
        common_heap.go_back()  # forgets these references
        del more
        gc.collect()
        assert kept == ["a text that is nobody's but ours", ("x", ["y"])]
    del text, pair
    kept.clear()
    gc.collect()

in_fork(run)
""")


def test_a_process_without_a_hold_has_nothing_to_go_back_to():
    assert check("print(common_heap.go_back())") == "0\n"


def test_the_file_behind_it_is_nobodys_to_write():
    check("""
common_heap.hold()
links = [f"/proc/self/fd/{fd}" for fd in range(100)]
assert not [link for link in links if os.path.lexists(link) and "pysc-common" in os.readlink(link)]
for line in open("/proc/self/maps"):
    if "pysc-common" in line:
        assert line.split()[1] in ("rw-p", "r--p"), line
""")
