"""How long `true` takes: in a container from containerd, in one by the OCI command, in one that runs already."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from statistics import median

from bench.containerd import Containerd, first_error
from bench.ground import Ground, Outcome, finish
from bench.runtimes import Runtime
from bench.stats import Value

LIMIT_SECONDS = 30
WARM_IDLE_SECONDS = "3"


class Startup:
    """Each row is the median of `times` times in a round."""

    def __init__(self, ground: Ground, containerd: Containerd, times: int) -> None:
        self.ground = ground
        self.containerd = containerd
        self.times = times
        self.rows: dict[str, Callable[[Runtime], Value]] = {
            "ctr_run": self.ctr_run,
            "oci_run": self.oci_run,
            "oci_run_warm": self.oci_run_warm,
            "ctr_exec": self.ctr_exec,
            "oci_exec": self.oci_exec,
        }

    def measure(self, runtime: Runtime) -> dict[str, Value]:
        return {row: row_of(runtime) for row, row_of in self.rows.items()}

    def ctr_run(self, runtime: Runtime) -> Value:
        def once() -> Value:
            name = f"s{uuid.uuid4().hex[:8]}"
            command = self.containerd.run_command(runtime, name, ["true"], "--rm")
            value = timed(command)
            if isinstance(value, str):
                self.containerd.remove(name)
            return value

        return self.median_of(once)

    def oci_run(self, runtime: Runtime) -> Value:
        def once() -> Value:
            return milliseconds(self.ground.run(runtime, self.ground.small, ["true"], LIMIT_SECONDS))

        return self.median_of(once)

    def oci_run_warm(self, runtime: Runtime) -> Value:
        """Once more, and pysc's sandbox from a warm parent, which the uncounted first run starts; it ends by itself."""
        variables = {"PYSC_WARM_DIR": str(self.ground.folder / "warm"), "PYSC_WARM_IDLE": WARM_IDLE_SECONDS}

        def once() -> Value:
            return milliseconds(self.ground.run(runtime, self.ground.small, ["true"], LIMIT_SECONDS, variables))

        return self.median_of(once)

    def ctr_exec(self, runtime: Runtime) -> Value:
        try:
            name = self.containerd.start(runtime)
        except AssertionError as e:
            return first_error(str(e))

        def command() -> list[str]:
            return self.containerd.daemon.command("task", "exec", "--exec-id", f"e{uuid.uuid4().hex[:8]}", name, "true")

        try:
            return self.median_of(lambda: timed(command()))
        finally:
            self.containerd.remove(name)

    def oci_exec(self, runtime: Runtime) -> Value:
        name, outcome = self.ground.start(runtime, self.ground.small, ["sleep", "1000"], LIMIT_SECONDS)
        try:
            if outcome.status != 0:
                return outcome.reason()
            command = runtime.call(self.ground.state(runtime), "exec", name, "true")
            return self.median_of(lambda: timed(command))
        finally:
            self.ground.delete(name)

    def median_of(self, once: Callable[[], Value]) -> Value:
        """One failure is the result.  The first time does not count: what it reads from disk, the next ones find."""
        values: list[float] = []
        for _ in range(1 + self.times):
            value = once()
            if isinstance(value, str):
                return value
            values.append(value)
        return median(values[1:])


def timed(command: list[str]) -> Value:
    return milliseconds(finish(command, LIMIT_SECONDS))


def milliseconds(outcome: Outcome) -> Value:
    return outcome.seconds * 1000 if outcome.status == 0 else outcome.reason()
