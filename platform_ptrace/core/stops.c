/* What a stub's stop means. */
#include "core.h"

/* The kernel made the signal at which it stopped, for a fault.  Signals that host processes send to a stub mean
 * nothing to the application. */
int stops_is_fault(int tid, int status)
{
	siginfo_t info;

	return status >> 16 == 0 && !pt(PTRACE_GETSIGINFO, tid, 0, (unsigned long)&info) && info.si_code > 0;
}

/* PT_ENTRY if it stopped in front of a call that its filter says to trace. */
int stops_at_entry(int status) { return status >> 16 == PTRACE_EVENT_SECCOMP ? PT_ENTRY : 0; }

static int describe_end(int status, struct pt_event *ev)
{
	ev->kind = PT_EV_EXIT;
	ev->signo = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	return 1;
}

/* A call through the vsyscall page stopped at its seccomp check.  Let the host finish the
 * page's `ret` without doing the call, and stop behind it, where registers may be changed. */
static int leave_vsyscall(int tid, long go_on, struct pt_event *ev)
{
	struct user_regs_struct regs;
	int status;

	if (pt(PTRACE_GETREGS, tid, 0, (unsigned long)&regs))
		return -1;
	ev->kind = PT_EV_SYSCALL;
	ev->native = 1;
	ev->number = regs.orig_rax;
	ev->args[0] = regs.rdi;
	ev->args[1] = regs.rsi;
	ev->args[2] = regs.rdx;
	regs.orig_rax = -1;
	if (pt(PTRACE_SETREGS, tid, 0, (unsigned long)&regs) || pt(PTRACE_INTERRUPT, tid, 0, 0) ||
	    pt(go_on, tid, 0, 0))
		return -1;
	if (wait_stop(tid, &status))
		return -1;
	return WIFSTOPPED(status) ? 1 : describe_end(status, ev);
}

/* At a stop of PTRACE_SYSEMU or of a filter's RET_TRACE: what the union holds begins the same way for both. */
static int describe_syscall(int tid, long go_on, struct pt_event *ev)
{
	struct ptrace_syscall_info info;

	if (pt(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), (unsigned long)&info) < 0)
		return -1;
	if (info.instruction_pointer >> 32 == 0xffffffff)
		return leave_vsyscall(tid, go_on, ev);
	ev->kind = PT_EV_SYSCALL;
	ev->native = info.arch == AUDIT_ARCH_X86_64;
	ev->number = info.entry.nr;
	for (int i = 0; i < 6; i++)
		ev->args[i] = info.entry.args[i];
	return 1;
}

/* What waitpid said of tid, into *ev.  1: it is to be reported; 0: nothing to report, the stub runs on, resumed with
 * the request go_on; -1: it died meanwhile. */
int stops_describe(int tid, int status, long go_on, struct pt_event *ev)
{
	siginfo_t info;
	int event = status >> 16;

	ev->tid = tid;
	if (!WIFSTOPPED(status))
		return describe_end(status, ev);
	if (WSTOPSIG(status) == (SIGTRAP | 0x80) || event == PTRACE_EVENT_SECCOMP)
		return describe_syscall(tid, go_on, ev);
	if (event == PTRACE_EVENT_STOP) {
		ev->kind = PT_EV_INTERRUPT;
		return 1;
	}
	/* si_code > 0: the kernel made it for a fault.  Signals that host processes send to a stub
	 * mean nothing to the application: dropped. */
	if (event || pt(PTRACE_GETSIGINFO, tid, 0, (unsigned long)&info) || info.si_code <= 0) {
		pt(go_on, tid, 0, 0);
		return 0;
	}
	ev->kind = PT_EV_FAULT;
	ev->signo = info.si_signo;
	ev->code = info.si_code;
	ev->addr = (unsigned long)info.si_addr;
	return 1;
}

