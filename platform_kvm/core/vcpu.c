/* One stay in the guest: enter with a context, leave, and say why.
 *
 * A virtual CPU is in one of two places while its thread is here.  Parked: it left by ring 0's `out`, so the registers of
 * its context are in the context.  Or it was taken out between any two instructions by a signal: then it can only be
 * entered again, with an interrupt on its way that makes ring 0 save the registers and leave properly.
 *
 * What the guest can bring about, and what it hands over, is examined here: ring 0 is ours, but registers are not.
 */
#include "core.h"
#include <sched.h>
#include <sys/syscall.h>
#include <x86intrin.h>

#define MAX_HOST_FAULTS 64
#define RESTOCK_AT (STOCK_SIZE / 4)

#define FLAG_TF 0x100
#define FAULT_WRITE 2ul
#define FAULT_USER 4ul
#define FAULT_FETCH 16ul

/* ---- others' ways to get it out ---- */

/* Make it leave the guest, or not enter, soon. */
void vcpu_kick(struct vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_tgkill, getpid(), v->tid, KICK_SIGNAL);
}

/* memory.h: return when nobody executes in the space.  Whoever wants to go in waits for the lock, which we hold. */
void quiesce(struct kv_space *space)
{
	unsigned long root = kv_space_root(space);

	for (int i = 0; i < n_vcpus; i++) {
		struct vcpu *v = &vcpus[i];

		if (v->root == root)
			v->flush = 1;
		if (__atomic_load_n(&v->inside, __ATOMIC_SEQ_CST) == space)
			vcpu_kick(v);
	}
	for (int i = 0; i < n_vcpus; i++)
		while (__atomic_load_n(&vcpus[i].inside, __ATOMIC_SEQ_CST) == space)
			sched_yield();
}

/* ---- the stock of zeroed frames ---- */

/* What ring 0 took belongs to the space now. */
static void count_stock(struct vcpu *v, struct kv_space *space)
{
	int left = v->shared->n_stock < STOCK_SIZE ? v->shared->n_stock : 0;

	while (v->in_stock > left)
		kv_stock_used(space, v->shared->stock[--v->in_stock]);
}

static void fill_stock(struct vcpu *v)
{
	if (v->in_stock > RESTOCK_AT)
		return;
	v->in_stock += kv_stock_take(v->shared->stock + v->in_stock, STOCK_SIZE - v->in_stock);
	v->shared->n_stock = v->in_stock;
}

/* True as long as none of them runs. */
unsigned int kv_cpu_stock(void)
{
	unsigned int n = 0;

	for (int i = 0; i < n_vcpus; i++)
		n += vcpus[i].in_stock;
	return n;
}

/* ---- entering ---- */

static int is_canonical(unsigned long addr)
{
	return (long)(addr << 16) >> 16 == (long)addr;
}

/* Ring 0 must not be made to return to itself, nor be given what it would fail to load.  Bases in the upper half are no
 * use, but an application that has the instructions may set them. */
static int may_run(const struct ring0_regs *regs)
{
	return (regs->cs & 3) == 3 && (regs->ss & 3) == 3 && is_canonical(regs->fs_base) && is_canonical(regs->gs_base);
}

/* ---- extended state that ring 0 does not know of ---- */

/* 0, or an errno: it is lost. */
static int fetch_extended(struct vcpu *v, struct kv_ctx *ctx)
{
	struct kvm_xsave state;

	if (ioctl(v->fd, KVM_GET_XSAVE, &state))
		return errno;
	xstate_take(ctx->xstate, (const char *)&state);
	return 0;
}

/* 0, or an errno: it is none that a processor could have. */
static int hand_over_extended(struct vcpu *v, const struct kv_ctx *ctx)
{
	struct kvm_xsave state = { { 0 } };

	memcpy(&state, ctx->xstate, kv_xstate_size());
	return ioctl(v->fd, KVM_SET_XSAVE, &state) ? errno : 0;
}

/* 0, or an errno: it can't be run. */
static int prepare(struct vcpu *v, struct kv_ctx *ctx)
{
	struct ring0_cpu *shared = v->shared;

	ctx->regs->eflags = (ctx->regs->eflags & USER_FLAGS) | ALWAYS_FLAGS;
	shared->ctx = ctx->address;
	if (v->extended != ctx || ctx->ran_on != v->index || ctx->replaced) {
		int err = processor.keeps_outside ? hand_over_extended(v, ctx) : 0;

		if (err)
			return err;
		if (!processor.keeps_outside)
			shared->restore = ctx->address + CTX_XSAVE;
		v->extended = ctx;
		ctx->ran_on = v->index;
		ctx->replaced = 0;
	}
	fill_stock(v);
	return 0;
}

/* Its registers are not where we could look at them: have ring 0 put them there, as soon as it can be interrupted. */
static void call_back(struct vcpu *v)
{
	struct kvm_interrupt interrupt = { .irq = VECTOR_KICK };

	if (v->parked || !v->run->ready_for_interrupt_injection) {
		v->run->request_interrupt_window = !v->parked;
		return;
	}
	v->run->request_interrupt_window = 0;
	ioctl(v->fd, KVM_INTERRUPT, &interrupt);
}

/* Under kv_lock(): translations have to go before the next instruction, and ring 0 is not where it could see to that. */
static void flush_from_outside(struct vcpu *v)
{
	struct kvm_sregs sregs;
	unsigned long root;

	if (ioctl(v->fd, KVM_GET_SREGS, &sregs))
		return;
	root = sregs.cr3;
	sregs.cr3 = CORE_GPA + CORE_PML4;
	ioctl(v->fd, KVM_SET_SREGS, &sregs);
	sregs.cr3 = root;
	ioctl(v->fd, KVM_SET_SREGS, &sregs);
}

/* Ring 0 is to load this root as the first thing it does.  Its first instructions run on the tables of the space before,
 * which may be freed before they have: so their top, and with it ring 0's half, is held until it has left again. */
static void change_root(struct vcpu *v, unsigned long root)
{
	if (v->root && v->root != root) {
		v->former = v->root;
		kv_root_hold(v->former);
	}
	v->shared->cr3 = v->root = root;
	v->shared->flush = 1;
}

/* From here on nobody may change the space, until this virtual CPU is no more in it. */
static void go_in(struct vcpu *v, struct kv_space *space)
{
	unsigned long root = kv_space_root(space);

	kv_lock();
	kv_forget_stale_copies();
	__atomic_store_n(&v->inside, space, __ATOMIC_SEQ_CST);
	if (!v->parked && v->flush)
		flush_from_outside(v);
	if (v->parked && (v->flush || v->root != root))
		change_root(v, root);
	v->flush = 0;
	kv_unlock();
}

/* Between two instructions, and nothing but entering again will do.  It is in the space still: it may hold translations,
 * and ring 0 may be in the midst of page tables. */
static int is_half_way(const struct vcpu *v, int err)
{
	if (err)
		return err == EINTR || err == EAGAIN;
	return v->run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN || v->run->exit_reason == KVM_EXIT_INTR;
}

/* In and out.  0, or KVM_RUN's errno. */
static int enter(struct vcpu *v, struct kv_ctx *ctx)
{
	int err;

	if (!v->inside)
		go_in(v, ctx->space);
	call_back(v);
	v->parked = 0;
	__atomic_store_n(&v->entered, __rdtsc(), __ATOMIC_RELAXED);
	err = ioctl(v->fd, KVM_RUN, 0) ? errno : 0;
	ctx->ran += __rdtsc() - v->entered;
	__atomic_store_n(&v->entered, 0, __ATOMIC_RELAXED);
	if (!is_half_way(v, err))
		__atomic_store_n(&v->inside, NULL, __ATOMIC_SEQ_CST);
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	return err;
}

/* ---- why it left ---- */

static int fault(struct kv_event *ev, int signo, int code, unsigned long addr)
{
	ev->kind = KV_EV_FAULT;
	ev->signo = signo;
	ev->code = code;
	ev->addr = addr;
	return RAN_EVENT;
}

/* The virtual CPU can't go on, and begins anew; the context is lost. */
static int broken(struct vcpu *v, struct kv_event *ev, long number, unsigned long what)
{
	ev->kind = KV_EV_BROKEN;
	ev->number = number;
	ev->addr = what;
	vcpu_reset(v);
	return RAN_EVENT;
}

static int system_call(struct kv_ctx *ctx, struct kv_event *ev, int native)
{
	const struct ring0_regs *regs = ctx->regs;

	ev->kind = KV_EV_SYSCALL;
	ev->native = native;
	ev->number = (int)regs->rax;
	if (native)
		memcpy(ev->args, (unsigned long[]){ regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9 },
		       sizeof(ev->args));
	else
		memcpy(ev->args,
		       (unsigned long[]){ (unsigned int)regs->rbx, (unsigned int)regs->rcx, (unsigned int)regs->rdx,
					  (unsigned int)regs->rsi, (unsigned int)regs->rdi, (unsigned int)regs->rbp },
		       sizeof(ev->args));
	return RAN_EVENT;
}

/* The si_code of a floating point exception: fpu__exception_code() of arch/x86/kernel/fpu/core.c. */
static int fpe_code(const struct kv_ctx *ctx, int simd)
{
	const unsigned short *x87 = (const unsigned short *)ctx->xstate;
	unsigned int mxcsr, raised;

	memcpy(&mxcsr, ctx->xstate + 24, sizeof(mxcsr));
	raised = simd ? mxcsr & ~(mxcsr >> 7) : x87[1] & ~x87[0];
	if (raised & 1)
		return FPE_FLTINV;
	if (raised & 4)
		return FPE_FLTDIV;
	if (raised & 8)
		return FPE_FLTOVF;
	if (raised & (2 | 16))
		return FPE_FLTUND;
	return raised & 32 ? FPE_FLTRES : SI_KERNEL;
}

/* -1: the instruction is to be tried again. */
static int page_fault(struct vcpu *v, struct kv_ctx *ctx, struct kv_event *ev)
{
	unsigned long error = v->shared->error;
	int access = error & FAULT_WRITE ? KV_WRITE : error & FAULT_FETCH ? KV_EXEC : 0;
	struct kv_fault_info info;
	int result;

	/* The processor's own look at its tables, on behalf of the application: not the application's memory. */
	if (!(error & FAULT_USER))
		return fault(ev, SIGSEGV, SEGV_MAPERR, v->shared->cr2);
	result = kv_fault(ctx->space, v->shared->cr2, access, &info);

	if (result == 0)
		return -1;
	if (result > 0)
		return fault(ev, info.signo, info.code, info.addr);
	ev->kind = KV_EV_MEMORY;
	return RAN_EVENT;
}

static int has_code(struct kv_ctx *ctx, unsigned long addr, unsigned char expected)
{
	unsigned char code;

	return kv_read(ctx->space, addr, (char *)&code, 1) == 1 && code == expected;
}

/* A host that runs ring 3 on its own processor but emulates ring 0 does not know the instruction INT. */
static int is_int(struct kv_ctx *ctx)
{
	return has_code(ctx, ctx->regs->rip, 0xcd);
}

static int software_interrupt(struct kv_ctx *ctx, struct kv_event *ev)
{
	unsigned char vector;

	if (kv_read(ctx->space, ctx->regs->rip + 1, (char *)&vector, 1) != 1 || vector != 0x80)
		return fault(ev, SIGSEGV, SI_KERNEL, 0);
	ctx->regs->rip += 2;
	ctx->regs->orig_rax = ctx->regs->rax;
	return system_call(ctx, ev, 0);
}

/* A debug exception is a single step, or the instruction for it; some hosts under the host do not step over that. */
static int is_icebp(struct kv_ctx *ctx)
{
	return !(ctx->regs->eflags & FLAG_TF) &&
	       (has_code(ctx, ctx->regs->rip - 1, 0xf1) || has_code(ctx, ctx->regs->rip, 0xf1));
}

/* As Linux tells of each exception: arch/x86/kernel/traps.c. */
static int exception(struct vcpu *v, struct kv_ctx *ctx, struct kv_event *ev)
{
	unsigned long rip = ctx->regs->rip;

	switch (v->shared->reason) {
	case 0:
		return fault(ev, SIGFPE, FPE_INTDIV, rip);
	case 1:
		return fault(ev, SIGTRAP, is_icebp(ctx) ? TRAP_BRKPT : TRAP_TRACE, rip);
	case 2: /* NMI, MCE */
	case 18:
		return -1;
	case 3:
		return fault(ev, SIGTRAP, SI_KERNEL, 0);
	case 6:
		if (kv_is_emulated() && is_int(ctx))
			return software_interrupt(ctx, ev);
		return fault(ev, SIGILL, ILL_ILLOPN, rip);
	case 11:
	case 12:
		return fault(ev, SIGBUS, SI_KERNEL, 0);
	case 14:
		return page_fault(v, ctx, ev);
	case 16:
		return fault(ev, SIGFPE, fpe_code(ctx, 0), rip);
	case 17:
		return fault(ev, SIGBUS, BUS_ADRALN, 0);
	case 19:
		return fault(ev, SIGFPE, fpe_code(ctx, 1), rip);
	case VECTOR_KICK:
		if (v->bus_error) {
			v->bus_error = 0;
			return fault(ev, SIGBUS, BUS_ADRERR, 0);
		}
		return turn_wants_out(v) ? RAN_STOP : -1;
	case 0x80:
		ctx->regs->orig_rax = ctx->regs->rax;
		return system_call(ctx, ev, 0);
	case REASON_SYSCALL:
		return system_call(ctx, ev, 1);
	case REASON_SYSCALL32:
		return system_call(ctx, ev, 0);
	case REASON_RING0:
		return broken(v, ev, KVM_EXIT_IO, v->shared->lost);
	default: /* among them 4, 5, 10, 13 */
		return fault(ev, SIGSEGV, SI_KERNEL, 0);
	}
}

/* Host memory under a file's page is not there.  The file was cut: the page is forgotten, and touched again.  Or its
 * file system is full, or fails: a bus error, for which ring 0 has to save the registers first. */
static int host_fault(struct vcpu *v, struct kv_ctx *ctx, struct kv_event *ev)
{
	if (v->faults++ == MAX_HOST_FAULTS)
		return broken(v, ev, EFAULT, 0);
	v->bus_error = kv_drop_beyond_eof(ctx->space) == 0;
	return -1;
}

/* -1: enter again. */
static int left(struct vcpu *v, struct kv_ctx *ctx, int err, struct kv_event *ev)
{
	if (err == EFAULT)
		return host_fault(v, ctx, ev);
	if (err)
		return broken(v, ev, err, 0);
	if (v->run->exit_reason != KVM_EXIT_IO || v->run->io.port != EXIT_PORT)
		return broken(v, ev, v->run->exit_reason, v->run->internal.suberror);
	v->parked = 1;
	v->faults = 0;
	vcpu_drop_former(v);
	err = processor.keeps_outside ? fetch_extended(v, ctx) : 0;
	return err ? broken(v, ev, err, 0) : exception(v, ctx, ev);
}

/* Run a context until something is the Sentry's to hear (RAN_EVENT: *ev tells), or somebody wants it out (RAN_STOP). */
int vcpu_stay(struct vcpu *v, struct kv_ctx *ctx, struct kv_event *ev)
{
	int result = -1, err;

	if (!may_run(ctx->regs))
		return fault(ev, SIGSEGV, SI_KERNEL, 0);
	err = prepare(v, ctx);
	if (err)
		return broken(v, ev, err, 0);
	do {
		err = enter(v, ctx);
		if (err == EINTR && v->index == 0)
			v->preempt = 1; /* perhaps the signal is Python's to see */
		if (v->inside)
			continue;
		if (v->in_stock != (int)v->shared->n_stock)
			count_stock(v, ctx->space);
		result = left(v, ctx, err, ev);
		if (result < 0 && v->parked) {
			if (turn_wants_out(v))
				return RAN_STOP;
			fill_stock(v);
		}
	} while (result < 0);
	return result;
}
