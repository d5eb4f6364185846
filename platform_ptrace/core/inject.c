/* Registers of stopped stubs, and host calls injected into them. */
#include "core.h"
#include <sched.h>
#include <time.h>

_Static_assert(sizeof(struct pt_regs_x86) == sizeof(struct user_regs_struct), "register layout");
_Static_assert(offsetof(struct pt_regs_x86, orig_rax) == offsetof(struct user_regs_struct, orig_rax), "orig_rax");
_Static_assert(offsetof(struct pt_regs_x86, fs_base) == offsetof(struct user_regs_struct, fs_base), "fs_base");

#define USER_CS 0x33
#define USER_SS 0x2b

/* Stops that were waited for here leave a SIGCHLD pending, which would end the next sleep.  It may stand for stops of
 * others as well: they are looked for without it. */
static void take_sigchld(void)
{
	const struct timespec now = { 0, 0 };
	sigset_t sigchld;

	sigemptyset(&sigchld);
	sigaddset(&sigchld, SIGCHLD);
	if (sigtimedwait(&sigchld, NULL, &now) == SIGCHLD)
		pt_sigchld = 1;
}

/* Wait until ctx stops.  -ESRCH: it ended instead. */
static int next_stop(struct pt_ctx *ctx, int *status)
{
	int err = wait_stop(ctx->tid, status);

	if (err || WIFSTOPPED(*status))
		return err;
	mark_gone(ctx);
	return -ESRCH;
}

/* For a call of ours, which is not to be single-stepped. */
static void load_arguments(struct pt_regs_x86 *regs, const unsigned long *args)
{
	regs->rdi = args[0];
	regs->rsi = args[1];
	regs->rdx = args[2];
	regs->r10 = args[3];
	regs->r8 = args[4];
	regs->r9 = args[5];
	regs->eflags &= ~0x100ul;
}

/* Take a thread that sleeps in a notification, or looks for an answer in the ring, out of it: its call stays the
 * Sentry's to answer, now through its registers. */
int pt_stop(struct pt_ctx *ctx)
{
	int status, err;

	if (ctx->state != PT_NOTIFIED && ctx->state != PT_RING)
		return 0;
	if (pt(PTRACE_INTERRUPT, ctx->tid, 0, 0))
		return -errno;
	err = next_stop(ctx, &status);
	if (err)
		return err;
	take_sigchld();
	if (ctx->state == PT_RING)
		ring_settle(ctx);
	turn_set_state(ctx, PT_STOPPED);
	ctx->flags |= PT_CALLED | stops_at_entry(status);
	return 0;
}

/* What the host makes a call end with to issue it again, unless a signal comes first. */
static int is_restart(long result)
{
	return result == -512 || result == -513 || result == -514 || result == -516;
}

/* A call that the host would issue again once the thread runs, since the thread was stopped in it before the
 * Sentry saw it, is made to lie before the thread, as if it had never been entered. */
static void leave_call(struct pt_regs_x86 *regs)
{
	if ((long)regs->orig_rax < 0 || !is_restart(regs->rax))
		return;
	regs->rax = regs->orig_rax;
	regs->rip -= 2;
}

/* Stopped on its way to issue a call again that the Sentry has taken: it is behind it. */
static void pass_call(struct pt_ctx *ctx)
{
	if (ctx->regs.rip == ctx->call_end - 2)
		ctx->regs.rip = ctx->call_end;
}

int pt_fetch_regs(struct pt_ctx *ctx)
{
	int err = pt_stop(ctx);

	if (err)
		return err;
	if (pt(PTRACE_GETREGS, ctx->tid, 0, (unsigned long)&ctx->regs))
		return -errno;
	ctx->flags |= PT_REGS_VALID;
	ctx->fs_base = ctx->regs.fs_base;
	ctx->fs_known = 1;
	if (ctx->listener && !(ctx->flags & (PT_CALLED | PT_ENTRY)))
		leave_call(&ctx->regs);
	else if (ctx->flags & PT_CALLED)
		pass_call(ctx);
	if (ctx->ring)
		ring_leave(ctx, ctx->flags & PT_CALLED);
	if (ctx->flags & PT_REGS_RAX) {
		/* A result that was set and not yet written. */
		ctx->regs.rax = ctx->result;
		ctx->flags = (ctx->flags & ~PT_REGS_RAX) | PT_REGS_DIRTY;
	}
	return 0;
}

int pt_store_regs(struct pt_ctx *ctx)
{
	/* -1: the host must not take what rax holds for an interrupted call of its own. */
	ctx->regs.orig_rax = -1;
	if (pt(PTRACE_SETREGS, ctx->tid, 0, (unsigned long)&ctx->regs))
		return -errno;
	ctx->fs_base = ctx->regs.fs_base;
	ctx->fs_known = 1;
	ctx->flags &= ~PT_REGS_DIRTY;
	return 0;
}

/* The instruction's own, not a SIGTRAP that a host process sent. */
static int is_int3_stop(int tid, int status)
{
	return status >> 8 == SIGTRAP && stops_is_fault(tid, status);
}

/* Wait for the int3 after an injected call, passing over stops that mean nothing here. */
int pt_wait_int3(struct pt_ctx *ctx)
{
	int status, err;

	for (;;) {
		err = next_stop(ctx, &status);
		if (err)
			return err;
		if (is_int3_stop(ctx->tid, status))
			return 0;
		/* The gadget can't fault; should it, then for ever. */
		if (stops_is_fault(ctx->tid, status))
			kill(ctx->pid, SIGKILL);
		else if (pt(PTRACE_CONT, ctx->tid, 0, 0))
			return -errno;
	}
}

static int start_injection(struct pt_ctx *ctx, unsigned long rip, long number, const unsigned long *args)
{
	struct pt_regs_x86 regs = ctx->regs;

	regs.rip = rip;
	regs.rax = number;
	regs.orig_rax = -1;
	load_arguments(&regs, args);
	/* The application may have been in 32-bit code, where the gadget could not run. */
	regs.cs = USER_CS;
	regs.ss = USER_SS;
	ctx->flags = (ctx->flags & ~PT_ENTRY) | PT_REGS_DIRTY;
	if (ctx->listener)
		place_beside(ctx);
	if (pt(PTRACE_SETREGS, ctx->tid, 0, (unsigned long)&regs))
		return -errno;
	return pt(PTRACE_CONT, ctx->tid, 0, 0) ? -errno : 0;
}

static long peek_result(struct pt_ctx *ctx)
{
	long value;

	/* The raw call stores the word through its data argument. */
	if (pt(PTRACE_PEEKUSER, ctx->tid, offsetof(struct user_regs_struct, rax), (unsigned long)&value))
		return -errno;
	return value;
}

static long injection_result(struct pt_ctx *ctx)
{
	int err = pt_wait_int3(ctx);

	take_sigchld();
	return err ? err : peek_result(ctx);
}

static int ensure_regs(struct pt_ctx *ctx)
{
	return ctx->flags & PT_REGS_VALID ? 0 : pt_fetch_regs(ctx);
}

long pt_inject(struct pt_ctx *ctx, long number, unsigned long a0, unsigned long a1, unsigned long a2,
	       unsigned long a3, unsigned long a4, unsigned long a5)
{
	const unsigned long args[6] = { a0, a1, a2, a3, a4, a5 };
	int err = ensure_regs(ctx);

	if (!err)
		err = start_injection(ctx, CODE_AT(pt_stub_gadget), number, args);
	if (!err && ctx->listener && !turn_is_traced(number))
		err = notify_serve(ctx, ctx->listener, 1, -1);
	return err ? err : injection_result(ctx);
}

long pt_map_fd(struct pt_ctx *ctx, int listener, int fd, unsigned long addr, unsigned long length,
	       int prot, int flags, unsigned long offset)
{
	const unsigned long args[6] = { addr, length, prot, flags, -1ul, offset };
	int err = ensure_regs(ctx);

	if (!err)
		err = start_injection(ctx, CODE_AT(pt_stub_map_fd), NOTIFY_NR, args);
	if (!err)
		/* On systrap the mmap and the close behind it ask, too. */
		err = notify_serve(ctx, listener, ctx->listener ? 3 : 1, fd);
	return err ? err : injection_result(ctx);
}

/* What the word held before, or -errno: -EFAULT if it can't be written. */
long pt_cmpxchg(struct pt_ctx *ctx, unsigned long addr, unsigned int expected, unsigned int value)
{
	const unsigned long args[6] = { addr, value };
	struct user_regs_struct regs;
	int status, err = ensure_regs(ctx);

	if (!err)
		err = start_injection(ctx, CODE_AT(pt_stub_cmpxchg), expected, args);
	if (err)
		return err;
	for (;;) {
		err = next_stop(ctx, &status);
		if (err)
			return err;
		if (is_int3_stop(ctx->tid, status))
			break;
		/* The exchange itself faulted: the signal is not delivered, the word stays as it was. */
		if (stops_is_fault(ctx->tid, status))
			return -EFAULT;
		if (pt(PTRACE_CONT, ctx->tid, 0, 0))
			return -errno;
	}
	if (pt(PTRACE_GETREGS, ctx->tid, 0, (unsigned long)&regs))
		return -errno;
	return (unsigned int)regs.rax;
}

static int wait_child_stop(int tid)
{
	int status, err = wait_stop(tid, &status);

	return err ? err : WIFSTOPPED(status) ? 0 : -ESRCH;
}

/* A thread that stopped before a call of its own makes this one instead, and stops behind it: its result, or -errno. */
static long replace_call(struct pt_ctx *ctx, long number, const unsigned long *args)
{
	struct pt_regs_x86 regs = ctx->regs;
	int status, err, entering = 0;
	long result;

	regs.orig_rax = number;
	load_arguments(&regs, args);
	ctx->flags = (ctx->flags & ~PT_ENTRY) | PT_REGS_DIRTY;
	place_beside(ctx);
	if (pt(PTRACE_SETREGS, ctx->tid, 0, (unsigned long)&regs) || pt(PTRACE_SYSCALL, ctx->tid, 0, 0))
		return -errno;
	for (;;) {
		err = next_stop(ctx, &status);
		if (err)
			return err;
		if (status >> 8 == (SIGTRAP | 0x80) && !entering) {
			result = peek_result(ctx);
			if (!is_restart(result))
				return result;
			entering = 1; /* interrupted: it issues the call again, and stops before it, too */
		} else if (status >> 8 == (SIGTRAP | 0x80)) {
			entering = 0;
		}
		if (pt(PTRACE_SYSCALL, ctx->tid, 0, 0))
			return -errno;
	}
}

/* Everything about ctx's stub but its number is the parent's. */
static void init_child(struct pt_ctx *child, const struct pt_ctx *parent, int tid, unsigned long flags)
{
	child->tid = tid;
	child->pid = flags & CLONE_THREAD ? parent->pid : tid;
	child->regs = parent->regs;
	child->flags = PT_REGS_VALID | PT_REGS_DIRTY;
	child->state = PT_STOPPED;
	child->listener = parent->listener;
	child->cpu = parent->cpu;
	child->approved = parent->approved;
	if (child->listener)
		registry_add(child);
}

int pt_clone(struct pt_ctx *parent, unsigned long flags, struct pt_ctx *child)
{
	/* CLONE_PTRACE: traced from birth, without the stop of the parent that PTRACE_O_TRACECLONE costs. */
	const unsigned long args[6] = { flags | CLONE_PTRACE, 0, 0, 0, 0, 0 };
	long result;
	int err = ensure_regs(parent);

	if (err)
		return err;
	if (parent->flags & PT_ENTRY) {
		result = replace_call(parent, SYS_clone, args);
	} else {
		err = start_injection(parent, CODE_AT(pt_stub_gadget), SYS_clone, args);
		result = err ? err : injection_result(parent);
	}
	if (result < 0)
		return result;
	init_child(child, parent, result, flags);
	err = wait_child_stop(child->tid);
	take_sigchld();
	return err;
}

/* The extended state of one stopped thread becomes another's.  Writing all of it is dear in the host, and what the two
 * have apart is often nothing, or in the part that FXSAVE knows. */
static int copy_xstate(int from, int to)
{
	static char wanted[MAX_XSTATE], found[MAX_XSTATE];
	int size = pt_get_xstate(from, wanted, sizeof(wanted)), err = size < 0 ? size : 0;

	if (!err && pt_get_xstate(to, found, sizeof(found)) == size && size > FXSAVE_SIZE &&
	    !memcmp(wanted + FXSAVE_SIZE, found + FXSAVE_SIZE, size - FXSAVE_SIZE)) {
		if (memcmp(wanted, found, FXSAVE_SIZE) && pt(PTRACE_SETFPREGS, to, 0, (unsigned long)wanted))
			err = -errno;
	} else if (!err) {
		err = pt_set_xstate(to, wanted, size);
	}
	return err;
}

/* A thread that the Sentry has ended, and that is stopped, becomes child, a copy of parent: what pt_clone does, without
 * the host's making and ending a thread.  spare is as gone afterwards.  -ESRCH: it is. */
int pt_revive(struct pt_ctx *parent, struct pt_ctx *spare, struct pt_ctx *child)
{
	int err = ensure_regs(parent);

	if (!err && spare->flags & PT_GONE)
		err = -ESRCH;
	if (!err)
		err = copy_xstate(parent->tid, spare->tid);
	if (err)
		return err;
	mark_gone(spare);
	init_child(child, parent, spare->tid, CLONE_THREAD);
	child->cpu = spare->cpu;
	return 0;
}

/* Its own call of exit is carried out, if that is where it stopped; else it is made to issue one. */
int pt_exit_thread(struct pt_ctx *ctx)
{
	const unsigned long args[6] = { 0 };
	int err = ensure_regs(ctx);

	ctx->flags |= PT_DYING;
	if (err)
		return err;
	if (ctx->flags & PT_ENTRY && ctx->regs.orig_rax == SYS_exit && !(ctx->flags & (PT_REGS_DIRTY | PT_REGS_RAX)))
		return pt(PTRACE_CONT, ctx->tid, 0, 0) ? -errno : 0;
	return start_injection(ctx, CODE_AT(pt_stub_gadget), SYS_exit, args);
}

int pt_kill(int pid) { return kill(pid, SIGKILL) ? -errno : 0; }

int pt_interrupt(struct pt_ctx *ctx)
{
	ctx->flags |= PT_INTERRUPTED;
	return pt(PTRACE_INTERRUPT, ctx->tid, 0, 0) ? -errno : 0;
}

/* Its memory is about to be freed. */
void pt_forget(struct pt_ctx *ctx)
{
	if (ctx->listener)
		mark_gone(ctx);
}
