"""The virtual file system: names, mounts, permissions, offsets and descriptor tables.

It knows no file system and no Task.  A file system (sentry/fs) supplies Inodes and Files;
who asks is a Caller.  Names are str, decoded with surrogateescape, so that every byte
sequence survives.  Reading order: caller, inode, dentry, walk, file, fdtable.
"""
