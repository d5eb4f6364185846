/* Whether the virtual machine does what it should: a guest of two instructions, under a time limit. */
#include "core.h"
#include <sys/mman.h>

#define LIMIT_NS 3000000000l
#define ADDRESS 0x10000ul
#define NUMBER 0x505953 /* of no system call */
#define USER_CODE_AND_FLAGS(regs) ((regs)->cs = SEL_USER_CS, (regs)->ss = SEL_USER_SS, (regs)->eflags = 0x202)

/* Run ctx to its next event.  0, or -ETIMEDOUT. */
static int run(struct kv_ctx *ctx, struct kv_event *ev)
{
	kv_resume(ctx);
	if (kv_wait(-1, LIMIT_NS, ev, 1) == 1)
		return 0;
	kv_interrupt(ctx);
	return -ETIMEDOUT;
}

static int is_the_call(const struct kv_event *ev)
{
	return ev->kind == KV_EV_SYSCALL && ev->number == NUMBER && ev->native;
}

/* SYSCALL is to arrive as one; or, on some hosts, as a page fault in ring 3 at the address where it should. */
static int judge(struct kv_ctx *ctx)
{
	struct kv_event ev;
	int err;

	USER_CODE_AND_FLAGS(ctx->regs);
	ctx->regs->rip = ADDRESS;
	ctx->regs->rax = NUMBER;
	err = run(ctx, &ev);
	if (err || is_the_call(&ev))
		return err;
	if (ev.kind != KV_EV_FAULT || ev.addr != machine_syscall_address() || ctx->regs->rip != ev.addr)
		return -EPROTO;
	machine_set_syscall_faults();
	ctx->regs->rip = ADDRESS;
	err = run(ctx, &ev);
	return err ? err : is_the_call(&ev) ? 1 : -EPROTO;
}

static int try_in(struct kv_space *space)
{
	static const char code[] = { 0x0f, 0x05, 0x0f, 0x0b }; /* syscall; ud2 */
	struct kv_ctx ctx;
	long at = kv_map(space, ADDRESS, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	int result;

	if (at < 0)
		return at;
	if (kv_write(space, ADDRESS, code, sizeof(code)) != sizeof(code))
		return -EFAULT;
	result = kv_ctx_init(&ctx, 0, space);
	if (result)
		return result;
	result = judge(&ctx);
	if (result != -ETIMEDOUT) /* a thread that does not come back keeps it */
		kv_ctx_release(&ctx);
	return result;
}

/* 0: it works.  1: it works, but emulates ring 0, slowly.  -errno: it does not. */
int kv_machine_check(void)
{
	struct kv_account *account = kv_account_new(64);
	struct kv_space *space = account ? kv_space_new(account, 1ul << 47, 1ul << 46, kv_kernel_half()) : NULL;
	int result = space ? try_in(space) : -ENOMEM;

	if (result == -ETIMEDOUT)
		return result;
	if (space)
		kv_space_close(space);
	if (account)
		kv_account_free(account);
	return result;
}
