"""The kvm platform: application code in ring 3 of a virtual machine, under a ring 0 of ours.

What one switch does, step by step:

1. `KvmContext.switch` hands the context to the core, whose thread for a free virtual CPU takes it (core/turn.c).
2. The thread enters the guest (core/vcpu.c). Ring 0 loads the context's registers from a page that both sides see, and
   returns to ring 3 (core/ring0.S).
3. The application runs on the bare processor. A system call enters ring 0 by SYSCALL; an exception by the IDT.
4. Ring 0 answers the few calls that it can (getpid and the like, from numbers that the kernel keeps current), and gives
   a frame to memory that was never touched. Everything else: it puts the registers into the context's page and leaves
   the guest by an `out` instruction.
5. A page fault that only needs a page is mended by the thread (core/faults.c), and the guest entered again. The rest is
   an event, which `KvmPlatform.wait` makes a trap of.

Guest-physical memory is a window of this process's own address space, so the Sentry reads and writes application
memory directly. Page tables, copy-on-write and the mappings of files are the core's; nothing of the host's but the
window can be reached from the guest, and nothing of ring 0 from ring 3.

Read platform.py, then core/layout.h, core/ring0.S, core/vcpu.c, core/turn.c; for memory core/memory_cdef.h.
"""
