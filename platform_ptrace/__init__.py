"""The ptrace platform: application code runs in stub processes under PTRACE_SYSEMU.

What one switch does, step by step:

1. Context.switch() queues the context; the loop's next Platform.wait() writes its registers
   (or just rax) and resumes it with PTRACE_SYSEMU.
2. The stub runs application code.  A system call instruction, of whatever kind, stops it
   before the host acts on it; so does every signal the host would deliver, faults above all.
3. wait() collects the stop with waitpid, reads what happened (PTRACE_GET_SYSCALL_INFO,
   PTRACE_GETSIGINFO) in the same C call, and hands (context, trap) to the loop.

A host call on the application's memory (mmap and its kin) is injected: the stopped stub's
registers are pointed at a gadget in a page the application cannot change, it runs the one
call and stops again at the int3 behind it.  The stub's own seccomp filter lets only these
calls through, and only from that gadget.  Files to be mapped arrive as descriptors added
through the filter's notification listener.

Read platform.py, then core/core.c.
"""
