/* The deputy: the process that stands for a container on the host, where an engine wants one to find its cgroup and its
 * namespaces, to signal it, to wait for its exit status.  The Sentry cannot be that one: it is outside of the
 * container's cgroup, so that its memory does not count there.  sandbox/deputy.py starts it.
 *
 * Descriptors:
 *   0      a socket whose other end the Sentry has.  From it comes the exit status, one byte, and then the end of file;
 *          into it goes the number of each signal that arrives here
 *   1      a pipe that gets a byte when this process is where it has to be
 *   3...   files, as many as C in the environment says: who writes "0" to them moves into a cgroup.  Behind them a pidfd;
 *          N in the environment says, as clone's flags, what namespaces of that process's to enter
 *
 * A Sentry that ends without a word was killed, and so is this process then.
 *
 * Without a libc: that would be most of its memory, and each container has one.
 */
#include <asm/signal.h>
#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

enum { WORD = 0, READY = 1, FIRST_GIVEN = 3 };

#if defined(__x86_64__)
static long call(long number, long a, long b, long c, long d)
{
	register long r10 asm("r10") = d;

	asm volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return number;
}

void restore(void);
asm(".globl restore\nrestore:\n	mov $15, %eax\n	syscall\n"); /* rt_sigreturn */
asm(".globl _start\n_start:\n	mov %rsp, %rdi\n	and $-16, %rsp\n	call run\n");
#else
#error "how this processor makes a system call is not known here"
#endif

static _Noreturn void end(int status)
{
	for (;;)
		call(__NR_exit, status, 0, 0, 0);
}

static void pass_on(int signo)
{
	unsigned char word = signo;

	call(__NR_write, WORD, (long)&word, 1, 0);
}

static void take_signals(void)
{
	struct sigaction action = { .sa_flags = SA_RESTART | SA_RESTORER, .sa_restorer = restore };
	unsigned long none = 0;
	int signo;

	for (signo = 1; signo <= 64; signo++) { /* the kernel refuses SIGKILL and SIGSTOP */
		action.sa_handler = signo == SIGCHLD || signo == SIGPIPE ? SIG_IGN : pass_on;
		call(__NR_rt_sigaction, signo, (long)&action, 0, sizeof(none));
	}
	call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof(none));
}

/* From here on: read, write, exit and the return from a signal's handler.  Anything else is SIGKILL. */
static void give_up_privileges(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { { 0, 0, 0 } };

	if (call(__NR_capset, (long)&header, (long)none, 0, 0) < 0 ||
	    call(__NR_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0) < 0)
		end(1);
}

/* name=digits in the environment. */
static long number(char **environment, char name)
{
	long value = 0;
	char *at;

	for (; *environment; environment++)
		if ((*environment)[0] == name && (*environment)[1] == '=')
			for (at = *environment + 2; *at; at++)
				value = 10 * value + (*at - '0');
	return value;
}

/* stack: argc, argv, 0, environment, 0 */
_Noreturn __attribute__((used)) void run(long *stack)
{
	char **environment = (char **)(stack + stack[0] + 2);
	long cgroups = number(environment, 'C'), namespaces = number(environment, 'N'), fd = FIRST_GIVEN, got;
	unsigned char word, status = 0;
	int known = 0;

	call(__NR_setsid, 0, 0, 0, 0);
	for (; cgroups > 0; cgroups--, fd++)
		if (call(__NR_write, fd, (long)"0", 1, 0) != 1)
			end(1);
	if (namespaces && call(__NR_setns, fd, namespaces, 0, 0) < 0)
		end(1);
	call(__NR_close_range, 2, ~0u, 0, 0);
	call(__NR_prctl, PR_SET_NAME, (long)"pysc-deputy", 0, 0);
	take_signals();
	if (call(__NR_write, READY, (long)"", 1, 0) != 1)
		end(1);
	call(__NR_close, READY, 0, 0, 0);
	give_up_privileges();
	while ((got = call(__NR_read, WORD, (long)&word, 1, 0)) > 0 || got == -EINTR)
		if (got > 0) {
			status = word;
			known = 1;
		}
	if (!known)
		call(__NR_getppid, 0, 0, 0, 0); /* SIGKILL */
	end(status);
}
