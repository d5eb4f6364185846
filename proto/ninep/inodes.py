"""Inode numbers of a served tree: one number for each file, although the tree may span devices.

The server shows st_ino ^ device_number(device of the file) ^ device_number(device of the root): the host's own number
on the root's device, others elsewhere.  A client that knows the root's device can undo the last part, and so recognise
a file that two trees have in common.
"""

from typing import Final

_MASK64: Final = (1 << 64) - 1
_SPREAD: Final = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: numbers of neighbouring devices differ in their upper bits, which inodes lack."""


def device_number(device: int) -> int:
    """64 bits that stand for st_dev."""
    return (device + 1) * _SPREAD & _MASK64
