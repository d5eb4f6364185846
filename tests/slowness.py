"""How many times slower than usual this machine is: time limits of tests are to be multiplied by it.

PYSC_TEST_SLOWNESS says it; the guest programs read the same variable (guest/check.h).
"""

from __future__ import annotations

import os
from typing import Final

VARIABLE: Final = "PYSC_TEST_SLOWNESS"
SLOWNESS: Final = int(os.environ.get(VARIABLE, "1"))
