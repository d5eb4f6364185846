"""File modes and struct stat, statx, statfs: include/uapi/linux/stat.h, arch/x86/include/uapi/asm/stat.h."""

import os
import struct
from typing import Final

S_IFMT: Final = 0o170000
S_IFSOCK: Final = 0o140000
S_IFLNK: Final = 0o120000
S_IFREG: Final = 0o100000
S_IFBLK: Final = 0o060000
S_IFDIR: Final = 0o040000
S_IFCHR: Final = 0o020000
S_IFIFO: Final = 0o010000
S_ISUID: Final = 0o4000
S_ISGID: Final = 0o2000
S_ISVTX: Final = 0o1000
S_IALLUGO: Final = 0o7777
S_IXGRP: Final = 0o10

DT_UNKNOWN: Final = 0

DEV_NULL: Final = os.makedev(1, 3)

# struct stat: dev ino nlink mode uid gid pad rdev size blksize blocks, three timespecs, three unused longs.
STAT: Final = struct.Struct("<QQQIIIIQqqqqqqqqq24x")
# struct statx up to stx_dio_offset_align; the rest is spare.
STATX: Final = struct.Struct("<IIQIIIHxxQQQQ" + "qIi" * 4 + "IIIIQIIQII80x")
# struct statfs
STATFS: Final = struct.Struct("<qqQQQQQiiqqq32x")

STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800
STATX_MNT_ID: Final = 0x1000
STATX_RESERVED: Final = 0x80000000
STATX_ATTR_MOUNT_ROOT: Final = 0x2000


def dirent_type(mode: int) -> int:
    """DT_* of a mode: include/linux/fs_types.h S_DT."""
    return (mode & S_IFMT) >> 12


def encode_dev(dev: int) -> int:
    """A host dev_t (glibc's os.makedev) is already the kernel's new_encode_dev for what we use."""
    return dev


def is_dir(mode: int) -> bool:
    return mode & S_IFMT == S_IFDIR


def is_reg(mode: int) -> bool:
    return mode & S_IFMT == S_IFREG


def is_lnk(mode: int) -> bool:
    return mode & S_IFMT == S_IFLNK
