"""Real programs in a Debian root: how long each takes inside the container, its start not counted.

What they work on is prepared once, natively; in each round a container runs all of them, one after the other.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from bench.ground import Ground, finish
from bench.micro import complete, parse
from bench.runtimes import PROJECT, Runtime
from bench.stats import Value

CACHE = PROJECT / ".cache" / "bench"
SUITE = "bookworm"
PACKAGES = ("python3", "gcc", "libc6-dev", "sqlite3", "git")
PREPARE_SECONDS = 120
MAKE_SECONDS = 900

PREPARE = """
set -eu
mkdir c repo
for i in 1 2 3 4 5; do
    printf '#include <stdio.h>\\n#include <stdlib.h>\\n' >c/part$i.c
    printf 'int part_%d(int n) { return printf("%%d", n); }\\n' $i >>c/part$i.c
done
printf 'int main(void) { return 0; }\\n' >c/main.c
{
    echo 'CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT);'
    for i in $(seq 50); do echo "INSERT INTO t (word) VALUES ('committed $i');"; done
    echo 'BEGIN;'
    for i in $(seq 10000); do echo "INSERT INTO t (word) VALUES ('word $i');"; done
    echo 'COMMIT; SELECT count(*), max(word) FROM t;'
} >inserts.sql
cd repo
git init -q
for folder in $(seq 20); do
    mkdir "folder$folder"
    for file in $(seq 50); do echo "$folder $file" >"folder$folder/file$file"; done
done
# What the index remembers of a file must be what every runtime shows of it, or each would read all files again.
git config core.checkStat minimal
git config core.trustctime false
git -c user.name=bench -c user.email=bench@localhost add .
git -c user.name=bench -c user.email=bench@localhost commit -q -m all
git status
"""

COMMANDS = {
    "bash": "for i in {1..200}; do /bin/true; done",
    "python": "for i in 1 2 3 4 5; do python3 -c pass; done",
    "tar": "tar cf - /usr/lib/python3.11 | wc -c",
    "gcc": "cd c && gcc -O1 -o /tmp/program *.c",
    "sqlite": "rm -f db && sqlite3 db <inserts.sql",
    "git": "cd repo && for i in 1 2 3 4 5; do git status; done",
}


class Programs:
    def __init__(self, ground: Ground, rows: list[str], seconds: float) -> None:
        self.ground = ground
        self.rows = rows
        self.seconds = seconds
        self.root = ground.add_root(debian_root())
        work = self.root / ground.unique
        (work / "prepare.sh").write_text(PREPARE)
        for name, command in COMMANDS.items():
            (work / f"{name}.sh").write_text(f"{command}\n")
        prepared = ground.run(Runtime("native"), self.root, self.in_work("bash prepare.sh"), PREPARE_SECONDS)
        if prepared.status != 0:
            raise RuntimeError(f"the programs' files: {prepared.reason()}")

    def measure(self, runtime: Runtime) -> dict[str, Value]:
        loop = f"for name in {' '.join(self.rows)}; do ./micro time $name bash $name.sh; done"
        outcome = self.ground.run(runtime, self.root, self.in_work(loop), self.seconds)
        values = complete(parse(outcome.output), self.rows, outcome)
        return {row: value if isinstance(value, str) else value / 1e6 for row, value in values.items()}

    def in_work(self, script: str) -> list[str]:
        return ["/bin/bash", "-c", f"export HOME=/tmp && cd {self.ground.work} && {script}"]


def debian_root() -> Path:
    """Made once with mmdebstrap and kept; what a benchmark writes, it writes in a folder that it removes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    done = CACHE / "-".join([SUITE, *PACKAGES])
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            making = CACHE / "making"
            shutil.rmtree(making, ignore_errors=True)
            include = f"--include={','.join(PACKAGES)}"
            command = ["mmdebstrap", "--mode=root", "--variant=minbase", include, SUITE, str(making)]
            made = finish(command, MAKE_SECONDS)
            if made.status != 0:
                raise RuntimeError(f"mmdebstrap: {made.output[-1000:]}")
            making.rename(done)
    return done
