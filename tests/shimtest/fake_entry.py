"""containerd-shim-pysc-v1 with a fake sandbox package: the real entry point, and the same process goes on to serve."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from shim.main import main
from tests.shimtest import fake_sandbox

sys.modules["sandbox.sandbox"] = fake_sandbox

if __name__ == "__main__":
    sys.exit(main())
