"""The systrap platform: application code runs in stub processes whose every system call asks the Sentry.

A stub's seccomp filter turns each call into a notification (SECCOMP_RET_USER_NOTIF): the thread sleeps in the host
kernel, the Sentry receives number and arguments, and answers with a result.  No registers are read or written and
no ptrace stop happens.  One C call, turn() of core/turn.c, answers the last call, sleeps, and receives the next.

Some calls change registers or memory in ways that only the host can carry out:

- mmap, munmap and their kin, once validated, are let through as they are (SECCOMP_USER_NOTIF_FLAG_CONTINUE): all
  their arguments are numbers in registers, which nobody else can change.  A file's descriptor is first put into the
  stub, under the number that the application used (SECCOMP_ADDFD_FLAG_SETFD).
- The few calls of TRACED stop under ptrace instead (SECCOMP_RET_TRACE), those that send signals among them: the sender
  is mostly the receiver, too, whose registers are needed.
- A thread that sleeps in a notification when its registers are needed after all, for a signal's frame or a host call
  of the Sentry's own, is taken out of it with PTRACE_INTERRUPT.

A thread that alone is busy, and makes one call after another, does not enter the host's kernel for them: the ring.

- A place from which many calls came is patched: the instruction in front of its `syscall`, never the `syscall`, becomes
  a jump to a block of code, which posts the call in a page that the Sentry sees, too (patch.py, core/ring_code.c).
- One thread at a time is hot: it runs on another processor than the Sentry, and both look at the page for a bounded
  time.  Whoever looks in vain goes back to notifications, which always work (core/ring.c).
- It needs a second processor, and rdfsbase for programs.  As "systrap:plain" the platform does without; as
  "systrap:eager" it patches at once and takes every chance, for tests.

Stubs, register access and injected host calls are platform_ptrace's; only the trap path differs.

Read platform.py, then core/turn.c, core/ring.c, patch.py.
"""
