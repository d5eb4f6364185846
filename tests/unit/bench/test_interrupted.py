"""A benchmark that is told to stop leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.runtimes import PROJECT


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_removes_its_folder(tmp_path: Path, signo: signal.Signals):
    """All that a run on Linux itself makes is in TMPDIR; what it waits for would take a minute."""
    command = [sys.executable, "-m", "bench", "--only", "micro", "--runtimes", "native", "--rounds", "30"]
    bench = subprocess.Popen(
        command, cwd=PROJECT, env=os.environ | {"TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert bench.stderr is not None
        assert bench.stderr.readline().startswith("System calls")
        assert list(tmp_path.iterdir()) != []
        bench.send_signal(signo)
        assert "bench: interrupted" in bench.stderr.read()
        assert bench.wait(20) == 130
    finally:
        bench.kill()
        bench.communicate()
    assert list(tmp_path.iterdir()) == []
