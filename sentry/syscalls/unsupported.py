"""Calls that are known and refused: which errno, and why.

The errno is the one that Linux gives when it was built without the feature, for that is what
programs and their libraries are prepared for: mostly ENOSYS, upon which they fall back.

A handler of the same name wins over a row here, so that a feature can be added without
touching this file; tests/unit/syscalls/test_table.py names the rows which that leaves stale.
"""

from __future__ import annotations

from typing import Final

from sentry.abi.errno import ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, LinuxError
from sentry.syscalls.registry import HANDLERS, unsupported

Group = tuple[type[LinuxError], str, str]

# (errno, the calls, why)
GROUPS: Final[tuple[Group, ...]] = (
    # Gone from Linux itself, or never there on x86-64.
    (
        ENOSYS,
        "uselib _sysctl create_module get_kernel_syms query_module nfsservctl getpmsg putpmsg afs_syscall tuxcall"
        " security vserver epoll_ctl_old epoll_wait_old lookup_dcookie set_thread_area get_thread_area",
        "Linux does not implement it on x86-64 either",
    ),
    # The machine below: a sandbox has none.
    (ENOSYS, "init_module delete_module finit_module", "there are no kernel modules"),
    (ENOSYS, "kexec_load kexec_file_load", "there is no other kernel to start"),
    (ENOSYS, "iopl ioperm", "there are no I/O ports"),
    (ENOSYS, "modify_ldt", "there is no local descriptor table; only 16- and 32-bit code wants one"),
    (ENOSYS, "swapon swapoff", "there is no swap space"),
    (ENOSYS, "sysfs ustat", "obsolete: see /proc/filesystems and statfs(2)"),
    (ENOSYS, "acct", "no BSD process accounting"),
    (ENOSYS, "quotactl quotactl_fd", "no file system has quotas"),
    # Other ways to talk between processes.
    (ENOSYS, "shmget shmat shmctl shmdt", "no System V shared memory; POSIX shared memory works"),
    (ENOSYS, "semget semop semctl semtimedop", "no System V semaphores; futexes work"),
    (ENOSYS, "msgget msgsnd msgrcv msgctl", "no System V message queues"),
    (
        ENOSYS,
        "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
        "no POSIX message queues",
    ),
    (ENOSYS, "add_key request_key keyctl", "no key rings"),
    # Asynchronous input and output.
    (ENOSYS, "io_setup io_destroy io_getevents io_submit io_cancel io_pgetevents", "no asynchronous I/O contexts"),
    (ENOSYS, "io_uring_setup io_uring_enter io_uring_register", "no io_uring: programs fall back to plain calls"),
    # Watching and tracing.
    (ENOSYS, "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch", "no file notification; poll instead"),
    (ENOSYS, "fanotify_init fanotify_mark", "no file notification for the whole system"),
    (EPERM, "ptrace", "no process may trace another; EPERM is what tracers report best"),
    (ENOSYS, "bpf", "no BPF virtual machine"),
    (ENOSYS, "perf_event_open", "no performance counters"),
    (ENOSYS, "userfaultfd", "page faults are the host kernel's"),
    (ENOSYS, "uprobe uretprobe", "no probes in user code"),
    # Sandboxes within the sandbox.
    (ENOSYS, "seccomp", "no filters of the application's own; it is confined already"),
    (ENOSYS, "landlock_create_ruleset landlock_add_rule landlock_restrict_self", "no Landlock"),
    (ENOSYS, "lsm_get_self_attr lsm_set_self_attr lsm_list_modules", "no security modules"),
    # Mounting and files, the newer interfaces; the older ones work.
    (
        ENOSYS,
        "open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr statmount listmount listns",
        "no file-descriptor based mounting; mount(2) works",
    ),
    (EOPNOTSUPP, "name_to_handle_at open_by_handle_at", "no file system exports handles"),
    (ENOSYS, "file_getattr file_setattr", "no inode flags beyond those of stat(2)"),
    (ENOSYS, "cachestat", "the page cache is the host kernel's"),
    # Memory.
    (ENOSYS, "remap_file_pages", "deprecated in Linux; its emulation is left out"),
    (ENOSYS, "memfd_secret", "memory cannot be hidden from the host kernel"),
    (
        ENOSYS,
        "mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages",
        "there is one memory node, as in a kernel without NUMA",
    ),
    (ENOSPC, "pkey_alloc", "no protection keys are left: what a processor without them answers"),
    (ENOSYS, "pkey_free", "no protection keys"),
    (ENOSYS, "map_shadow_stack", "no shadow stacks"),
    (ENOSYS, "mseal", "mappings cannot be sealed"),
    (ENOSYS, "process_madvise process_mrelease", "no advice about another process's memory"),
    # Processes and scheduling.
    (ENOSYS, "pidfd_getfd", "no taking of descriptors from other processes"),
    (ENOSYS, "rseq", "restartable sequences: libraries use atomics instead"),
    (ENOSYS, "membarrier", "barriers in other threads: libraries use their own"),
)

ROWS: Final = {name: (error, reason) for error, names, reason in GROUPS for name in names.split()}

for _name, (_error, _reason) in ROWS.items():
    if _name not in HANDLERS:
        unsupported(_name, _error, _reason)
