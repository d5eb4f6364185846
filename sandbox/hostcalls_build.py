"""Builds sandbox._hostcalls (cffi, API mode): the host calls that Python's os module lacks, and their constants.

Names and values come from the system's headers; those that old headers lack are given here, as the kernel has them.
"""

from pathlib import Path

from cffi import FFI

CONSTANTS = """
CLONE_NEWCGROUP CLONE_NEWIPC CLONE_NEWNET CLONE_NEWNS CLONE_NEWPID CLONE_NEWUSER CLONE_NEWUTS
MS_BIND MS_NODEV MS_NOEXEC MS_NOSUID MS_PRIVATE MS_RDONLY MS_REC MS_REMOUNT
MNT_DETACH
PR_CAPBSET_DROP PR_CAPBSET_READ PR_CAP_AMBIENT PR_CAP_AMBIENT_CLEAR_ALL
PR_SET_CHILD_SUBREAPER PR_SET_DUMPABLE PR_SET_KEEPCAPS PR_SET_NO_NEW_PRIVS
AT_RECURSIVE
OPEN_TREE_CLONE OPEN_TREE_CLOEXEC
MOUNT_ATTR_RDONLY MOUNT_ATTR_NOSUID MOUNT_ATTR_NODEV MOUNT_ATTR_NOSYMFOLLOW
"""

SOURCE = r"""
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* <sys/mount.h> and <linux/mount.h> do not go together in every libc. */
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);
#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 1
#define MOUNT_ATTR_NOSUID 2
#define MOUNT_ATTR_NODEV 4
#endif
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x200000
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

static int hc_unshare(int flags) { return unshare(flags); }
static int hc_setns(int fd, int type) { return setns(fd, type); }
static int hc_umount2(const char *target, int flags) { return umount2(target, flags); }
static int hc_pivot_root(const char *new_root, const char *put_old)
{
	return syscall(SYS_pivot_root, new_root, put_old);
}
static int hc_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	return mount(source, target, type, flags, data);
}
static int hc_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	return prctl(option, a, b, c, d);
}
static int hc_set_name(const char *name) { return prctl(PR_SET_NAME, name, 0, 0, 0); }
static int hc_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = {
		{ (uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable },
		{ effective >> 32, permitted >> 32, inheritable >> 32 },
	};
	return syscall(SYS_capset, &header, data);
}
static int hc_open_tree(int dirfd, const char *path, unsigned flags)
{
	return syscall(SYS_open_tree, dirfd, path, flags);
}
static int hc_mount_setattr(int fd, unsigned flags, uint64_t set, uint64_t clear)
{
	struct { uint64_t attr_set, attr_clr, propagation, userns_fd; } attr = { set, clear, 0, 0 };
	return syscall(SYS_mount_setattr, fd, "", flags | AT_EMPTY_PATH, &attr, sizeof(attr));
}
static int hc_load_filter(const void *program, unsigned short instructions)
{
	struct sock_fprog prog = { instructions, (struct sock_filter *)program };
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
}
/* start and end: where the kernel put the process's arguments, for /proc/PID/cmdline to read. */
static void hc_set_arguments(uintptr_t start, uintptr_t end, const char *text, size_t length)
{
	memset((char *)start, 0, end - start);
	memcpy((char *)start, text, length < end - start ? length : end - start);
}
static void hc_one_malloc_arena(void)
{
#ifdef M_ARENA_MAX
	mallopt(M_ARENA_MAX, 1);
#endif
}
"""

CDEF = """
int hc_unshare(int flags);
int hc_setns(int fd, int type);
int hc_umount2(const char *target, int flags);
int hc_pivot_root(const char *new_root, const char *put_old);
int hc_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
int hc_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int hc_set_name(const char *name);
int hc_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable);
int hc_open_tree(int dirfd, const char *path, unsigned flags);
int hc_mount_setattr(int fd, unsigned flags, uint64_t set, uint64_t clear);
int hc_load_filter(const void *program, unsigned short instructions);
void hc_set_arguments(uintptr_t start, uintptr_t end, const char *text, size_t length);
void hc_one_malloc_arena(void);
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF + "".join(f"#define {name} ...\n" for name in CONSTANTS.split()))
ffibuilder.set_source("sandbox._hostcalls", SOURCE, extra_compile_args=["-O2", "-Wall"])

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(Path(__file__).resolve().parent.parent), verbose=True)
