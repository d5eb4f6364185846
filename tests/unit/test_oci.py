"""From OCI configurations to kernel objects."""

from __future__ import annotations

from typing import Any

import pytest

from sentry.kernel.container import ProcessSpec, StartError
from sentry.kernel.creds import CAP_KILL, CAP_NAMES, CAP_SYS_ADMIN
from sentry.kernel.rlimits import NR_OPEN, RLIM_INFINITY, RLIMIT_CORE, RLIMIT_NOFILE
from sentry.oci import credentials, max_tasks, mount_options, process_spec
from sentry.vfs.dentry import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_RELATIME

KINDS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def spec(**fields: Any) -> ProcessSpec:
    return process_spec({"args": ["sh"], **fields})


# -- mounts --


@pytest.mark.parametrize(
    ("options", "flags", "data"),
    [
        ([], 0, {}),
        (["nosuid", "noexec", "nodev", "ro"], MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, {}),
        (["ro", "rw", "nosuid", "suid", "noexec", "exec"], 0, {}),  # the last one counts
        (["rw", "ro"], MS_RDONLY, {}),
        (["rbind", "rprivate", "relatime", "tmpcopyup", "sync"], MS_RELATIME, {}),
        (["size=65536k", "newinstance", "empty="], 0, {"size": "65536k", "newinstance": "", "empty": ""}),
        (["context=a=b"], 0, {"context": "a=b"}),
    ],
)
def test_mount_options(options: list[str], flags: int, data: dict[str, str]) -> None:
    assert mount_options(options) == (flags, data)


# -- credentials --


def test_a_user_with_groups() -> None:
    creds = credentials({"user": {"uid": 5, "gid": 6, "additionalGids": [9, 8]}})
    assert (creds.uid, creds.euid, creds.suid, creds.fsuid) == (5, 5, 5, 5)
    assert (creds.gid, creds.egid, creds.sgid, creds.fsgid) == (6, 6, 6, 6)
    assert creds.groups == (8, 9)
    assert (creds.permitted, creds.bounding) == (0, 0)


def test_without_a_user_it_is_root() -> None:
    assert credentials({}).uid == 0 and credentials({"user": None}).gid == 0


def test_every_capability_is_known_by_name() -> None:
    names = [f"CAP_{name}" for name in CAP_NAMES]
    creds = credentials({"capabilities": dict.fromkeys(KINDS, names)})
    everything = (1 << len(CAP_NAMES)) - 1
    assert {getattr(creds, kind) for kind in KINDS} == {everything}


def test_capabilities_of_the_future_are_passed_over() -> None:
    assert credentials({"capabilities": {"bounding": ["CAP_KILL", "CAP_NEW", "nonsense"]}}).bounding == CAP_KILL


def test_sets_are_made_consistent() -> None:
    """Effective is permitted, ambient is permitted and inheritable: capabilities(7)."""
    kill, admin = ["CAP_KILL"], ["CAP_KILL", "CAP_SYS_ADMIN"]
    sets = {"permitted": kill, "effective": admin, "ambient": admin, "inheritable": admin}
    creds = credentials({"capabilities": sets})
    assert (creds.permitted, creds.effective, creds.ambient) == (CAP_KILL, CAP_KILL, CAP_KILL)
    assert creds.inheritable == CAP_KILL | CAP_SYS_ADMIN
    creds = credentials({"capabilities": {"permitted": kill, "ambient": kill}})
    assert creds.ambient == 0


@pytest.mark.parametrize("capabilities", [None, {}, {"bounding": None}])
def test_no_capabilities(capabilities: Any) -> None:
    creds = credentials({"capabilities": capabilities})
    assert (creds.bounding, creds.permitted, creds.effective, creds.ambient) == (0, 0, 0, 0)


# -- the process --


def test_defaults() -> None:
    process = spec()
    assert (process.args, process.env, process.cwd, process.umask) == (["sh"], [], "/", 0o022)
    assert (process.no_new_privs, process.oom_score_adj) == (False, 0)


def test_every_field() -> None:
    process = spec(
        env=["A=b"],
        cwd="/work",
        user={"umask": 0o77},
        noNewPrivileges=True,
        oomScoreAdj=-500,
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    )
    assert (process.env, process.cwd, process.umask) == (["A=b"], "/work", 0o77)
    assert (process.no_new_privs, process.oom_score_adj) == (True, -500)
    assert process.rlimits.get(RLIMIT_NOFILE) == (10, 20) and process.rlimits.get(RLIMIT_CORE) == (0, 0)


def test_more_descriptors_than_there_are_is_all_of_them() -> None:
    """Hosts whose fs.nr_open was raised have configurations that say so."""
    limits = spec(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1073741816, "hard": 1073741816}]).rlimits
    assert limits.get(RLIMIT_NOFILE) == (NR_OPEN, NR_OPEN)


def test_minus_one_is_no_limit() -> None:
    limits = spec(rlimits=[{"type": "RLIMIT_CORE", "soft": -1, "hard": -1}]).rlimits
    assert limits.get(RLIMIT_CORE) == (RLIM_INFINITY, RLIM_INFINITY)


@pytest.mark.parametrize(
    "process",
    [
        {},
        {"args": []},
        {"args": None},
        {"args": "sh"},
        {"args": [1]},
        {"args": ["a\0b"]},
        {"args": ["sh"], "env": "A=b"},
        {"args": ["sh"], "env": [None]},
        {"args": ["sh"], "env": ["A=\0"]},
        {"args": ["sh"], "user": {"uid": "root"}},
        {"args": ["sh"], "user": [5]},
        {"args": ["sh"], "user": {"additionalGids": 5}},
        {"args": ["sh"], "capabilities": {"bounding": [1]}},
        {"args": ["sh"], "rlimits": [{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}]},
        {"args": ["sh"], "rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]},
        {"args": ["sh"], "rlimits": [{"type": "RLIMIT_CORE"}]},
        {"args": ["sh"], "rlimits": ["RLIMIT_CORE"]},
        {"args": ["sh"], "rlimits": 5},
    ],
)
def test_what_is_no_process_is_an_invalid_argument(process: dict[str, Any]) -> None:
    with pytest.raises(StartError) as raised:
        process_spec(process)
    assert raised.value.code == 3 and str(raised.value).startswith("process")


@pytest.mark.parametrize(
    ("pids", "limit"), [({}, None), ({"limit": 0}, None), ({"limit": -1}, None), ({"limit": 5}, 5)]
)
def test_a_limit_of_tasks_is_taken_from_the_resources(pids: dict[str, int], limit: int | None) -> None:
    assert max_tasks({"linux": {"resources": {"pids": pids}}}) == limit
    assert max_tasks({}) is None
