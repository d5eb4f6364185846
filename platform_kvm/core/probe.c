/* Whether the virtual machine does what it should: a guest of a few instructions, under a time limit. */
#include "core.h"
#include <sys/mman.h>

#define LIMIT_NS 3000000000l
#define ADDRESS 0x10000ul
#define DATA (ADDRESS + PAGE)
#define STORE_AT 2
#define RETURN_AT 7
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

static void begin(struct kv_ctx *ctx, unsigned long rip)
{
	USER_CODE_AND_FLAGS(ctx->regs);
	ctx->regs->rip = rip;
	ctx->regs->rax = NUMBER;
	ctx->regs->rdi = DATA;
}

/* SYSCALL is to arrive as one; or, on some hosts, as a page fault in ring 3 at the address where it should. */
static int judge_call(struct kv_ctx *ctx)
{
	struct kv_event ev;
	int err;

	begin(ctx, ADDRESS);
	err = run(ctx, &ev);
	if (err || is_the_call(&ev))
		return err;
	if (ev.kind != KV_EV_FAULT || ev.addr != machine_syscall_address() || ctx->regs->rip != ev.addr)
		return -EPROTO;
	machine_set_syscall_faults();
	begin(ctx, ADDRESS);
	err = run(ctx, &ev);
	return err ? err : is_the_call(&ev) ? 0 : -EPROTO;
}

/* Is a page that was written to, and then protected, protected?  1, 0 or -errno. */
static int is_protected(struct kv_ctx *ctx)
{
	struct kv_event ev;
	int err = kv_protect(ctx->space, DATA, PAGE, PROT_READ | PROT_WRITE);

	begin(ctx, ADDRESS + STORE_AT);
	err = err ? err : run(ctx, &ev);
	if (err || !is_the_call(&ev))
		return err ? err : -EPROTO;
	err = kv_protect(ctx->space, DATA, PAGE, PROT_READ);
	begin(ctx, ADDRESS + STORE_AT);
	err = err ? err : run(ctx, &ev);
	return err ? err : ev.kind == KV_EV_FAULT && ev.addr == DATA;
}

/* A host without nested paging has copies of our tables, and does not look at them again by itself. */
static int judge_tables(struct kv_ctx *ctx)
{
	int result = is_protected(ctx);

	if (result)
		return result < 0 ? result : 0;
	kv_expect_copies(machine_forget_tables);
	machine_forget_tables();
	result = is_protected(ctx);
	return result < 0 ? result : result ? 0 : -EPROTO;
}

/* A far return pops from the application's stack.  Some emulators do that as ring 0, which SMAP then refuses. */
static int judge_far_return(struct kv_ctx *ctx)
{
	struct kv_event ev;
	int err;

	begin(ctx, ADDRESS + RETURN_AT);
	ctx->regs->rsp = DATA + PAGE;
	err = run(ctx, &ev);
	if (err || is_the_call(&ev))
		return err;
	machine_drop_smap();
	begin(ctx, ADDRESS + RETURN_AT);
	err = run(ctx, &ev);
	return err ? err : is_the_call(&ev) ? 0 : -EPROTO;
}

/* What is wrong with this machine, as far as it can be got round, is. */
static int judge(struct kv_ctx *ctx)
{
	int err = judge_call(ctx);

	if (!err)
		err = judge_far_return(ctx);
	return err ? err : judge_tables(ctx);
}

static int try_in(struct kv_space *space)
{
	/* syscall; then, at STORE_AT: mov %rax, (%rdi); syscall; at RETURN_AT: push $0x33; push $ADDRESS; lretq */
	static const unsigned char code[] = { 0x0f, 0x05, 0x48, 0x89, 0x07, 0x0f, 0x05, 0x6a, SEL_USER_CS,
					      0x68, 0x00, 0x00, 0x01, 0x00, 0x48, 0xcb };
	struct kv_ctx ctx;
	long at = kv_map(space, ADDRESS, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	int result;

	if (at < 0)
		return at;
	if (kv_write(space, ADDRESS, (const char *)code, sizeof(code)) != sizeof(code))
		return -EFAULT;
	result = kv_ctx_init(&ctx, 0, space);
	if (result)
		return result;
	result = judge(&ctx);
	if (result != -ETIMEDOUT) /* a thread that does not come back keeps it */
		kv_ctx_release(&ctx);
	return result;
}

/* 0, or -errno: it does not. */
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
