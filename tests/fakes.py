"""Stand-ins for what is below the kernel: no application code runs in unit tests."""

from __future__ import annotations

import select
from collections.abc import Coroutine
from typing import Any, TypeVar

from sentry.platform import Context, Trap
from sentry.wait import Loop

T = TypeVar("T")


class IdlePlatform:
    """A platform without contexts: wait() only sleeps until the loop's epoll fd is readable."""

    name = "idle"

    def __init__(self) -> None:
        self._poll = select.poll()

    def watch(self, epoll_fd: int) -> None:
        self._poll.register(epoll_fd, select.POLLIN)

    def wait(self, timeout_ns: int) -> list[tuple[Context, Trap]]:
        self._poll.poll(None if timeout_ns < 0 else timeout_ns / 1_000_000)
        return []

    def new_template(self, cgroup_fds: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def run(loop: Loop, coro: Coroutine[Any, Any, T], seconds: float = 20) -> T:
    """Run the loop until coro ends; its result, or what it raised.  Fails after `seconds`."""
    outcome: list[T] = []
    errors: list[BaseException] = []

    async def main() -> None:
        try:
            outcome.append(await coro)
        except BaseException as e:
            errors.append(e)
        finally:
            loop.stop()

    def give_up() -> None:
        errors.append(TimeoutError("the loop did not come to an end"))
        loop.stop()

    timer = loop.call_at(loop.now_ns() + int(seconds * 1e9), give_up)
    loop._stopping = False
    loop.spawn(main(), "test")
    loop.run()
    timer.cancel()
    if errors:
        raise errors[0]
    return outcome[0]
