/* The compare and exchange of a futex word, which may lie in a file that somebody shortens at that moment.
 *
 * The instruction is then a SIGBUS.  It has an address that is known, and the handler sets the thread on behind it,
 * where the function fails.  A SIGBUS of anything else is none of ours, and goes to whom it went before.
 */
#include "memory.h"
#include <signal.h>
#include <ucontext.h>

/* What *word held, which is value now if it was expected; or -EFAULT. */
long kv_exchange(unsigned int *word, unsigned int expected, unsigned int value);
extern const char kv_exchange_at[], kv_exchange_failed[];

asm(".text\n"
    ".hidden kv_exchange, kv_exchange_at, kv_exchange_failed\n"
    ".globl kv_exchange, kv_exchange_at, kv_exchange_failed\n"
    ".type kv_exchange, @function\n"
    "kv_exchange:\n"
    "	movl %esi, %eax\n"
    "kv_exchange_at:\n"
    "	lock cmpxchgl %edx, (%rdi)\n"
    "	movl %eax, %eax\n"
    "	ret\n"
    "kv_exchange_failed:\n"
    "	movq $-14, %rax\n"
    "	ret\n"
    ".size kv_exchange, . - kv_exchange\n");

_Static_assert(EFAULT == 14, "the number in the assembly");

static struct sigaction before;

static void on_sigbus(int signo, siginfo_t *info, void *context)
{
	greg_t *rip = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];

	if (*rip == (greg_t)kv_exchange_at)
		*rip = (greg_t)kv_exchange_failed;
	else
		sigaction(SIGBUS, &before, NULL); /* the instruction is tried again, for them */
}

int exchange_init(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_RESTART };

	return sigaction(SIGBUS, &action, &before) ? -errno : 0;
}

void exchange_close(void)
{
	sigaction(SIGBUS, &before, NULL);
}

long kv_cmpxchg(struct kv_space *space, unsigned long addr, unsigned int expected, unsigned int value)
{
	long result = -EFAULT;
	char *host;

	if (addr % 4 || addr >= space->end)
		return -EFAULT;
	space_enter(space);
	host = copy_writable(space, addr);
	if (host)
		result = kv_exchange((unsigned int *)host, expected, value);
	kv_unlock();
	return result;
}
