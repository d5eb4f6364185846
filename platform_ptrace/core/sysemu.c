/* The ptrace platform's turn: resume stubs under PTRACE_SYSEMU, wait, collect their stops. */
#include "core.h"

#include <time.h>

sigset_t pt_wait_mask;
volatile sig_atomic_t pt_sigchld;

static void on_sigchld(int signo)
{
	(void)signo;
	pt_sigchld = 1;
}

int pt_init(void)
{
	/* No SA_NOCLDSTOP: ptrace stops are announced by SIGCHLD. */
	struct sigaction action = { .sa_handler = on_sigchld };
	sigset_t block;

	sigemptyset(&block);
	sigaddset(&block, SIGCHLD);
	if (sigaction(SIGCHLD, &action, NULL) || sigprocmask(SIG_BLOCK, &block, &pt_wait_mask))
		return -errno;
	sigdelset(&pt_wait_mask, SIGCHLD);
	return 0;
}

static void resume(struct pt_ctx *ctx)
{
	int err = 0;

	if (ctx->flags & PT_REGS_DIRTY)
		err = pt_store_regs(ctx);
	else if (ctx->flags & PT_REGS_RAX)
		pt(PTRACE_POKEUSER, ctx->tid, offsetof(struct user_regs_struct, rax), ctx->result);
	ctx->flags = 0;
	/* -ESRCH means that the stub was killed; its death is collected below.  Registers that the host
	 * refuses would leave it stopped for ever: it dies of them. */
	if (!err)
		pt(PTRACE_SYSEMU, ctx->tid, 0, 0);
	else if (err != -ESRCH)
		kill(ctx->pid, SIGKILL);
}

static int collect(struct pt_event *out, int max_out)
{
	int n = 0, status;

	while (n < max_out) {
		int tid = waitpid(-1, &status, WNOHANG | __WALL);

		if (tid <= 0)
			break;
		if (stops_describe(tid, status, PTRACE_SYSEMU, &out[n]) > 0)
			n++;
	}
	return n;
}

int pt_wait(struct pt_ctx **run, int n_run, int epoll_fd, long timeout_ns, struct pt_event *out, int max_out)
{
	struct pollfd pfd = { .fd = epoll_fd, .events = POLLIN };
	struct timespec ts = { timeout_ns / 1000000000, timeout_ns % 1000000000 };
	int n;

	for (int i = 0; i < n_run; i++)
		resume(run[i]);
	n = collect(out, max_out);
	if (n || timeout_ns == 0)
		return n;
	/* EINTR is a SIGCHLD, or a signal that Python has to see: return even with nothing. */
	if (ppoll(&pfd, 1, timeout_ns < 0 ? NULL : &ts, &pt_wait_mask) < 0 && errno != EINTR)
		return -errno;
	return collect(out, max_out);
}

