"""Updates of limits: what is understood, how it is put together with what holds, and what makes no sense."""

from typing import Any

import pytest

from sandbox.errors import InvalidSpec, Unsupported
from sandbox.limits import check, merged, parse_resources
from sandbox.spec import Resources


def test_what_is_not_named_stays() -> None:
    old = Resources(memory_limit=7, cpu_shares=5, cpus="0", unified={"a": "1", "b": "2"})
    change = Resources(cpu_shares=6, unified={"b": "3"})
    assert merged(old, change) == Resources(memory_limit=7, cpu_shares=6, cpus="0", unified={"a": "1", "b": "3"})


def test_no_limit_on_memory_is_none_on_swap_either() -> None:
    old = Resources(memory_limit=7, memory_swap=9)
    assert merged(old, Resources(memory_limit=-1)) == Resources(memory_limit=-1, memory_swap=-1)
    assert merged(old, Resources(memory_limit=-1, memory_swap=8)).memory_swap == 8


def test_whether_the_oom_killer_is_off_cannot_change() -> None:
    change = parse_resources({"memory": {"disableOOMKiller": True, "limit": 5}})
    assert merged(Resources(), change) == Resources(memory_limit=5)
    assert merged(Resources(oom_kill_disable=True), change).oom_kill_disable


@pytest.mark.parametrize(
    "obj",
    [
        {},
        {"memory": None, "cpu": None},
        {"blockIO": {"weight": None}, "cpu": {"realtimeRuntime": 0}},
        {"devices": [{"allow": False}], "hugepageLimits": [], "network": {}, "rdma": {}},
    ],
)
def test_nothing_to_change(obj: Any) -> None:
    assert parse_resources(obj) == Resources()


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ([], "resources"),
        ("x", "resources"),
        ({"memory": 5}, "resources.memory"),
        ({"cpu": {"shares": "5"}}, "resources.cpu.shares"),
        ({"pids": {"limit": True}}, "resources.pids.limit"),
        ({"unified": {"a/b": "1"}}, "resources.unified"),
    ],
)
def test_nonsense_names_its_place(obj: Any, text: str) -> None:
    with pytest.raises(InvalidSpec, match=text):
        parse_resources(obj)


@pytest.mark.parametrize(
    "obj", [{"cpu": {"realtimePeriod": 5}}, {"blockIO": {"weight": 5}}, {"blockIO": {"throttleReadBpsDevice": [{}]}}]
)
def test_what_only_others_can_do(obj: Any) -> None:
    with pytest.raises(Unsupported, match="not implemented"):
        parse_resources(obj)


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ({"memory_limit": -2}, 1),
        ({"cpu_quota": -2}, 2),
        ({"cpu_shares": -1}, 1),
        ({"memory_limit": 10, "memory_swap": 5}, 1),
        ({"memory_swap": 5}, 2),
        ({"memory_swap": 5, "memory_limit": -1}, 2),
    ],
)
def test_limits_that_cannot_be(fields: dict[str, Any], version: int) -> None:
    with pytest.raises(InvalidSpec):
        check(Resources(**fields), version)


def test_limits_that_can_be() -> None:
    check(Resources(memory_limit=10, memory_swap=10), 2)
    check(Resources(memory_limit=-1, memory_swap=-1, cpu_quota=-1), 2)
    check(Resources(memory_swap=5), 1)
