"""Who chooses the platform, seen from outside: ctr's options, annotations, and names that there are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.daemon import Daemon
from tests.integration.stubs import platform_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("containerd")]


def options_file(folder: Path, platform: str) -> tuple[str, ...]:
    path = folder / "pysc.toml"
    path.write_text(f'platform = "{platform}"\n')
    return ("--runtime-config-path", str(path))


def annotation(platform: str) -> tuple[str, ...]:
    return ("--annotation", f"dev.pysc.platform={platform}")


CHOICES = [("", "", "systrap"), ("ptrace", "", "ptrace"), ("", "ptrace", "ptrace"), ("systrap", "ptrace", "systrap")]


@pytest.mark.parametrize(("option", "annotated", "chosen"), CHOICES)
def test_choice(daemon: Daemon, tmp_path: Path, option: str, annotated: str, chosen: str) -> None:
    options = (options_file(tmp_path, option) if option else ()) + (annotation(annotated) if annotated else ())
    name = daemon.start_detached("sleep", "1000", options=options)
    assert platform_of(daemon, name) == chosen


@pytest.mark.parametrize("by", ["option", "annotation"])
def test_an_unknown_platform_is_refused_in_one_line(daemon: Daemon, tmp_path: Path, by: str) -> None:
    options = options_file(tmp_path, "abacus") if by == "option" else annotation("abacus")
    done = daemon.run("true", options=options)
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert 'one of "auto", "systrap", "ptrace", "kvm", ' in line
    assert "expected, not 'abacus'" in line
