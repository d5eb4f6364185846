/* The ptrace core: resume stubs, collect their stops, inject host calls.
 *
 * No policy and no Linux semantics live here.  The stub is a page of code in a memfd,
 * mapped at STUB_START in every address space:
 *   entry    stops at once (int3), so that the Sentry can take over;
 *   gadget   one `syscall` followed by int3: any injected call;
 *   cmpxchg  compares and exchanges one word of the application's, atomically;
 *   map_fd   receives a descriptor (a notified call answered with SECCOMP_ADDFD), maps it, closes it.
 * The page is readable and executable, never writable; the Sentry refuses every
 * application call that names it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cdef.h>
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>

_Static_assert(sizeof(struct pt_regs_x86) == sizeof(struct user_regs_struct), "register layout");
_Static_assert(offsetof(struct pt_regs_x86, orig_rax) == offsetof(struct user_regs_struct, orig_rax), "orig_rax");
_Static_assert(offsetof(struct pt_regs_x86, fs_base) == offsetof(struct user_regs_struct, fs_base), "fs_base");

#define STUB_START 0x7ffffffd0000ul
#define STUB_CODE (STUB_START + 0x1000)
#define STUB_END (STUB_START + 0x3000)
#define USER_CS 0x33
#define USER_SS 0x2b
#define NOTIFY_NR SYS_dup /* the call map_fd makes to be handed a descriptor */

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif

/* The stub's code, copied into the memfd.  Labels are measured from its start. */
asm(".pushsection .rodata\n"
    ".globl pt_stub_code, pt_stub_gadget, pt_stub_map_fd, pt_stub_after_notify, pt_stub_after_map\n"
    ".globl pt_stub_after_close, pt_stub_cmpxchg, pt_stub_code_end\n"
    "pt_stub_code:\n"
    "	int3\n"
    "	hlt\n"
    "pt_stub_gadget:\n"
    "	syscall\n"
    "	int3\n"
    "	hlt\n"
    "pt_stub_map_fd:\n"
    "	syscall\n"
    "pt_stub_after_notify:\n"
    "	test %rax, %rax\n"
    "	js 1f\n"
    "	mov %rax, %r8\n"
    "	mov $9, %eax\n"
    "	syscall\n"
    "pt_stub_after_map:\n"
    "	mov %rax, %r12\n"
    "	mov %r8, %rdi\n"
    "	mov $3, %eax\n"
    "	syscall\n"
    "pt_stub_after_close:\n"
    "	mov %r12, %rax\n"
    "1:	int3\n"
    "	hlt\n"
    "pt_stub_cmpxchg:\n"
    "	lock cmpxchg %esi, (%rdi)\n"
    "	int3\n"
    "	hlt\n"
    "pt_stub_code_end:\n"
    ".popsection\n");
extern const char pt_stub_code[], pt_stub_gadget[], pt_stub_map_fd[], pt_stub_after_notify[];
extern const char pt_stub_after_map[], pt_stub_after_close[];
extern const char pt_stub_cmpxchg[], pt_stub_code_end[];

#define CODE_AT(label) (STUB_CODE + (unsigned long)((label) - pt_stub_code))

static sigset_t wait_mask; /* the mask while sleeping: SIGCHLD open */

unsigned long pt_stub_start(void) { return STUB_START; }
unsigned long pt_stub_end(void) { return STUB_END; }

static void on_sigchld(int signo) { (void)signo; }

int pt_init(void)
{
	/* No SA_NOCLDSTOP: ptrace stops are announced by SIGCHLD. */
	struct sigaction action = { .sa_handler = on_sigchld };
	sigset_t block;

	sigemptyset(&block);
	sigaddset(&block, SIGCHLD);
	if (sigaction(SIGCHLD, &action, NULL) || sigprocmask(SIG_BLOCK, &block, &wait_mask))
		return -errno;
	sigdelset(&wait_mask, SIGCHLD);
	return 0;
}

/* ---- the stub image ---- */

#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define KILL BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_HIGH(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + 4)
#define IF_EQ_NEXT_ELSE_SKIP(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (skip))
#define ALLOW_NR(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), ALLOW

#define MAX_FILTER 64

static int build_filter(struct sock_filter *filter)
{
	/* Application calls never get here: PTRACE_SYSEMU stops them first.  What does: injected
	 * calls, and the emulated vsyscall page, whose three calls must go to the tracer. */
	const struct sock_filter program[] = {
		LOAD(arch),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		KILL,
		LOAD_HIGH(instruction_pointer),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(STUB_CODE >> 32), 6, 0),
		LOAD(nr),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_gettimeofday, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_time, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getcpu, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
		KILL,
		LOAD(instruction_pointer),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)CODE_AT(pt_stub_gadget + 2), 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)CODE_AT(pt_stub_after_notify), 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)CODE_AT(pt_stub_after_map), 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)CODE_AT(pt_stub_after_close), 1, 0),
		KILL,
		LOAD(nr),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NOTIFY_NR, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		ALLOW_NR(SYS_mmap),
		ALLOW_NR(SYS_munmap),
		ALLOW_NR(SYS_mprotect),
		ALLOW_NR(SYS_mremap),
		ALLOW_NR(SYS_madvise),
		ALLOW_NR(SYS_msync),
		ALLOW_NR(SYS_mlock),
		ALLOW_NR(SYS_munlock),
		ALLOW_NR(SYS_close),
		ALLOW_NR(SYS_clone),
		ALLOW_NR(SYS_exit),
		ALLOW_NR(SYS_exit_group),
		KILL,
	};
	_Static_assert(sizeof(program) / sizeof(program[0]) <= MAX_FILTER, "filter size");

	memcpy(filter, program, sizeof(program));
	return sizeof(program) / sizeof(program[0]);
}

/* File layout: page 0 headers, page 1 code, page 2 the filter (sock_fprog, then its instructions). */
static int make_image(void)
{
	static char page[3 * 4096];
	Elf64_Ehdr *ehdr = (void *)page;
	Elf64_Phdr *phdr = (void *)(page + sizeof(*ehdr));
	struct sock_fprog *prog = (void *)(page + 0x2000);
	struct sock_filter *filter = (void *)(page + 0x2000 + sizeof(*prog));
	int fd;

	memset(page, 0, sizeof(page));
	memcpy(ehdr->e_ident, ELFMAG, SELFMAG);
	ehdr->e_ident[EI_CLASS] = ELFCLASS64;
	ehdr->e_ident[EI_DATA] = ELFDATA2LSB;
	ehdr->e_ident[EI_VERSION] = EV_CURRENT;
	ehdr->e_type = ET_EXEC;
	ehdr->e_machine = EM_X86_64;
	ehdr->e_version = EV_CURRENT;
	ehdr->e_entry = STUB_CODE;
	ehdr->e_phoff = sizeof(*ehdr);
	ehdr->e_ehsize = sizeof(*ehdr);
	ehdr->e_phentsize = sizeof(*phdr);
	ehdr->e_phnum = 1;
	phdr->p_type = PT_LOAD;
	phdr->p_flags = PF_R | PF_X;
	phdr->p_vaddr = phdr->p_paddr = STUB_START;
	phdr->p_filesz = phdr->p_memsz = sizeof(page);
	phdr->p_align = 4096;
	memcpy(page + 0x1000, pt_stub_code, pt_stub_code_end - pt_stub_code);
	prog->len = build_filter(filter);
	prog->filter = (void *)(STUB_START + 0x2000 + sizeof(*prog));

	fd = syscall(SYS_memfd_create, "pysc-stub", MFD_CLOEXEC | MFD_EXEC);
	if (fd < 0 && errno == EINVAL)
		fd = syscall(SYS_memfd_create, "pysc-stub", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, page, sizeof(page)) != sizeof(page)) {
		close(fd);
		return -EIO;
	}
	return fd;
}

/* ---- small helpers over ptrace ---- */

static long pt(long request, int tid, unsigned long addr, unsigned long data)
{
	return syscall(SYS_ptrace, request, (long)tid, addr, data);
}

int pt_fetch_regs(struct pt_ctx *ctx)
{
	if (pt(PTRACE_GETREGS, ctx->tid, 0, (unsigned long)&ctx->regs))
		return -errno;
	ctx->flags |= PT_REGS_VALID;
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
	ctx->flags &= ~PT_REGS_DIRTY;
	return 0;
}

static int is_int3_stop(int status)
{
	return WIFSTOPPED(status) && status >> 8 == SIGTRAP;
}

static int wait_stop(int tid, int *status)
{
	while (waitpid(tid, status, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int is_fault(int tid, int status)
{
	siginfo_t info;

	return status >> 16 == 0 && !pt(PTRACE_GETSIGINFO, tid, 0, (unsigned long)&info) && info.si_code > 0;
}

/* Wait for the int3 after an injected call, passing over stops that mean nothing here. */
static int wait_int3(struct pt_ctx *ctx)
{
	int status, err;

	for (;;) {
		err = wait_stop(ctx->tid, &status);
		if (err)
			return err;
		if (!WIFSTOPPED(status)) {
			ctx->flags = PT_GONE;
			return -ESRCH;
		}
		if (is_int3_stop(status))
			return 0;
		/* The gadget can't fault; should it, then for ever. */
		if (is_fault(ctx->tid, status))
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
	regs.rdi = args[0];
	regs.rsi = args[1];
	regs.rdx = args[2];
	regs.r10 = args[3];
	regs.r8 = args[4];
	regs.r9 = args[5];
	regs.eflags &= ~0x100ul; /* no single-stepping through the gadget */
	/* The application may have been in 32-bit code, where the gadget could not run. */
	regs.cs = USER_CS;
	regs.ss = USER_SS;
	ctx->flags |= PT_REGS_DIRTY;
	if (pt(PTRACE_SETREGS, ctx->tid, 0, (unsigned long)&regs))
		return -errno;
	return pt(PTRACE_CONT, ctx->tid, 0, 0) ? -errno : 0;
}

static long injection_result(struct pt_ctx *ctx)
{
	long value;
	int err = wait_int3(ctx);

	if (err)
		return err;
	errno = 0;
	/* The raw call stores the word through its data argument. */
	if (pt(PTRACE_PEEKUSER, ctx->tid, offsetof(struct user_regs_struct, rax), (unsigned long)&value))
		return -errno;
	return value;
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
	return err ? err : injection_result(ctx);
}

/* Answer the stub's pending notification with a copy of fd.  -ENOENT: it was withdrawn. */
static int answer_with_fd(int listener, int fd)
{
	struct seccomp_notif notif;
	struct seccomp_notif_addfd addfd = { 0 };
	struct seccomp_notif_resp resp = { 0 };

	memset(&notif, 0, sizeof(notif));
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notif))
		return -errno;
	addfd.id = notif.id;
	addfd.flags = SECCOMP_ADDFD_FLAG_SEND;
	addfd.srcfd = fd;
	addfd.newfd_flags = O_CLOEXEC;
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &addfd) >= 0)
		return 0;
	resp.id = notif.id;
	resp.error = -errno;
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp) ? -errno : 0;
}

/* Wait for the stub's notification and answer it.  Meanwhile the stub may stop, for an interrupt
 * that came late or a signal: it is sent on, and notifies (again). */
static int hand_over_fd(int listener, int fd, struct pt_ctx *ctx)
{
	struct pollfd pfd = { .fd = listener, .events = POLLIN };
	int status, err, tid;

	for (;;) {
		int n = ppoll(&pfd, 1, NULL, &wait_mask);

		if (n > 0) {
			err = answer_with_fd(listener, fd);
			if (err != -ENOENT)
				return err;
		} else if (n < 0 && errno != EINTR) {
			return -errno;
		}
		tid = waitpid(ctx->tid, &status, WNOHANG | __WALL);
		if (tid < 0)
			return -errno;
		if (tid > 0 && !WIFSTOPPED(status)) {
			ctx->flags = PT_GONE;
			return -ESRCH;
		}
		if (tid > 0 && pt(PTRACE_CONT, ctx->tid, 0, 0))
			return -errno;
	}
}

long pt_map_fd(struct pt_ctx *ctx, int listener, int fd, unsigned long addr, unsigned long length,
	       int prot, int flags, unsigned long offset)
{
	const unsigned long args[6] = { addr, length, prot, flags, -1ul, offset };
	int err = ensure_regs(ctx);

	if (!err)
		err = start_injection(ctx, CODE_AT(pt_stub_map_fd), NOTIFY_NR, args);
	if (!err)
		err = hand_over_fd(listener, fd, ctx);
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
		err = wait_stop(ctx->tid, &status);
		if (err)
			return err;
		if (!WIFSTOPPED(status)) {
			ctx->flags = PT_GONE;
			return -ESRCH;
		}
		if (is_int3_stop(status))
			break;
		/* The exchange itself faulted: the signal is not delivered, the word stays as it was. */
		if (status >> 16 == 0 && (WSTOPSIG(status) == SIGSEGV || WSTOPSIG(status) == SIGBUS))
			return -EFAULT;
		if (pt(PTRACE_CONT, ctx->tid, 0, 0))
			return -errno;
	}
	if (pt(PTRACE_GETREGS, ctx->tid, 0, (unsigned long)&regs))
		return -errno;
	return (unsigned int)regs.rax;
}

/* ---- making threads and processes ---- */

#define TRACE_OPTIONS (PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | \
		       PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESECCOMP)

static int wait_child_stop(int tid)
{
	int status, err = wait_stop(tid, &status);

	return err ? err : WIFSTOPPED(status) ? 0 : -ESRCH;
}

int pt_clone(struct pt_ctx *parent, unsigned long flags, struct pt_ctx *child)
{
	const unsigned long args[6] = { flags, 0, 0, 0, 0, 0 };
	long result;
	int err = ensure_regs(parent);

	if (!err)
		err = start_injection(parent, CODE_AT(pt_stub_gadget), SYS_clone, args);
	if (err)
		return err;
	result = injection_result(parent);
	if (result < 0)
		return result;
	child->tid = result;
	child->pid = flags & CLONE_THREAD ? parent->pid : result;
	child->regs = parent->regs;
	child->flags = PT_REGS_VALID | PT_REGS_DIRTY;
	return wait_child_stop(child->tid);
}

int pt_exit_thread(struct pt_ctx *ctx)
{
	const unsigned long args[6] = { 0 };
	int err = ensure_regs(ctx);

	return err ? err : start_injection(ctx, CODE_AT(pt_stub_gadget), SYS_exit, args);
}

int pt_kill(int pid) { return kill(pid, SIGKILL) ? -errno : 0; }

int pt_interrupt(int tid) { return pt(PTRACE_INTERRUPT, tid, 0, 0) ? -errno : 0; }

/* Runs in the forked child: only async-signal-safe calls. */
static void __attribute__((noreturn)) become_stub(int image, int go, const int *cgroup_fds, int n_cgroup_fds)
{
	static char *const none[] = { NULL };
	const struct rlimit no_core = { 0, 0 };
	sigset_t empty;
	char byte;

	for (int i = 0; i < n_cgroup_fds; i++)
		if (write(cgroup_fds[i], "0", 1) != 1)
			_exit(112);
	setrlimit(RLIMIT_CORE, &no_core);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&empty);
	sigprocmask(SIG_SETMASK, &empty, NULL);
	if (read(go, &byte, 1) != 1)
		_exit(113);
	if (dup2(image, 0) != 0)
		_exit(114);
	syscall(SYS_close_range, 1, ~0u, 0);
	fcntl(0, F_SETFD, FD_CLOEXEC);
	syscall(SYS_execveat, 0, "", none, none, AT_EMPTY_PATH);
	_exit(115);
}

static int seize_and_exec(struct pt_ctx *ctx, int go)
{
	if (pt(PTRACE_SEIZE, ctx->tid, 0, TRACE_OPTIONS))
		return -errno;
	if (write(go, "", 1) != 1)
		return -errno;
	return wait_int3(ctx); /* passes over PTRACE_EVENT_EXEC */
}

int pt_template(const int *cgroup_fds, int n_cgroup_fds, struct pt_ctx *out)
{
	int image = make_image(), go[2], pid, err;

	if (image < 0)
		return image;
	if (pipe2(go, O_CLOEXEC)) {
		err = -errno;
		close(image);
		return err;
	}
	pid = fork();
	if (pid == 0) {
		close(go[1]);
		become_stub(image, go[0], cgroup_fds, n_cgroup_fds);
	}
	out->tid = out->pid = pid;
	out->flags = 0;
	err = pid < 0 ? -errno : seize_and_exec(out, go[1]);
	close(go[0]);
	close(go[1]);
	close(image);
	if (err) {
		if (pid > 0 && !(out->flags & PT_GONE)) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, __WALL);
		}
		return err;
	}
	return pt_fetch_regs(out);
}

/* Load the filter into the template and fetch its listener.  Returns the listener's descriptor. */
int pt_confine(struct pt_ctx *ctx)
{
	long remote, err = pt_inject(ctx, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
	int pidfd, listener;

	if (err < 0)
		return err;
	remote = pt_inject(ctx, SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
			   STUB_START + 0x2000, 0, 0, 0);
	if (remote < 0)
		return remote;
	pidfd = syscall(SYS_pidfd_open, ctx->pid, 0);
	if (pidfd < 0)
		return -errno;
	listener = syscall(SYS_pidfd_getfd, pidfd, (int)remote, 0);
	err = -errno;
	close(pidfd);
	if (listener < 0)
		return err;
	err = pt_inject(ctx, SYS_close, remote, 0, 0, 0, 0, 0);
	if (err < 0) {
		close(listener);
		return err;
	}
	return listener;
}

/* ---- resuming and waiting ---- */

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

static int describe_end(int status, struct pt_event *ev)
{
	ev->kind = PT_EV_EXIT;
	ev->signo = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	return 1;
}

/* A call through the vsyscall page stopped at its seccomp check.  Let the host finish the
 * page's `ret` without doing the call, and stop behind it, where registers may be changed. */
static int leave_vsyscall(int tid, struct pt_event *ev)
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
	    pt(PTRACE_SYSEMU, tid, 0, 0))
		return -1;
	if (wait_stop(tid, &status))
		return -1;
	return WIFSTOPPED(status) ? 1 : describe_end(status, ev);
}

static int describe_syscall(int tid, struct pt_event *ev)
{
	struct ptrace_syscall_info info;

	if (pt(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), (unsigned long)&info) < 0)
		return -1;
	ev->kind = PT_EV_SYSCALL;
	ev->native = info.arch == AUDIT_ARCH_X86_64;
	ev->number = info.entry.nr;
	for (int i = 0; i < 6; i++)
		ev->args[i] = info.entry.args[i];
	return 1;
}

/* 1: *ev is to be reported; 0: nothing to report, the stub runs on; -1: it died meanwhile. */
static int describe_stop(int tid, int status, struct pt_event *ev)
{
	siginfo_t info;
	int event = status >> 16;

	if (WSTOPSIG(status) == (SIGTRAP | 0x80))
		return describe_syscall(tid, ev);
	if (event == PTRACE_EVENT_SECCOMP)
		return leave_vsyscall(tid, ev);
	if (event == PTRACE_EVENT_STOP) {
		ev->kind = PT_EV_INTERRUPT;
		return 1;
	}
	/* si_code > 0: the kernel made it for a fault.  Signals that host processes send to a stub
	 * mean nothing to the application: dropped. */
	if (event || pt(PTRACE_GETSIGINFO, tid, 0, (unsigned long)&info) || info.si_code <= 0) {
		pt(PTRACE_SYSEMU, tid, 0, 0);
		return 0;
	}
	ev->kind = PT_EV_FAULT;
	ev->signo = info.si_signo;
	ev->code = info.si_code;
	ev->addr = (unsigned long)info.si_addr;
	return 1;
}

static int collect(struct pt_event *out, int max_out)
{
	int n = 0, status;

	while (n < max_out) {
		int tid = waitpid(-1, &status, WNOHANG | __WALL);
		struct pt_event *ev = &out[n];

		if (tid <= 0)
			break;
		ev->tid = tid;
		if (WIFSTOPPED(status) ? describe_stop(tid, status, ev) > 0 : describe_end(status, ev))
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
	if (ppoll(&pfd, 1, timeout_ns < 0 ? NULL : &ts, &wait_mask) < 0 && errno != EINTR)
		return -errno;
	return collect(out, max_out);
}

/* ---- state and memory ---- */

/* The size of the extended state without features that need permission (AMX): what a signal frame holds. */
int pt_xstate_size(void)
{
	unsigned int a, b, c, d, low, high, size = 576;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 512;
	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	for (int i = 2; i < 32; i++) {
		if (i == 17 || i == 18 || !(low & 1u << i))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		if (a + b > size)
			size = a + b;
	}
	return size;
}

int pt_get_xstate(int tid, char *buffer, int size)
{
	struct iovec iov = { buffer, size };

	return pt(PTRACE_GETREGSET, tid, NT_X86_XSTATE, (unsigned long)&iov) ? -errno : (int)iov.iov_len;
}

int pt_set_xstate(int tid, char *buffer, int size)
{
	struct iovec iov = { buffer, size };

	return pt(PTRACE_SETREGSET, tid, NT_X86_XSTATE, (unsigned long)&iov) ? -errno : 0;
}

long pt_read(int tid, unsigned long addr, char *buffer, unsigned long length)
{
	struct iovec local = { buffer, length }, remote = { (void *)addr, length };
	long n = syscall(SYS_process_vm_readv, (long)tid, &local, 1ul, &remote, 1ul, 0ul);

	return n < 0 ? -errno : n;
}

long pt_write(int tid, unsigned long addr, const char *buffer, unsigned long length)
{
	struct iovec local = { (char *)buffer, length }, remote = { (void *)addr, length };
	long n = syscall(SYS_process_vm_writev, (long)tid, &local, 1ul, &remote, 1ul, 0ul);

	return n < 0 ? -errno : n;
}

/* Does a traced child of ours work at all here?  0, or -errno. */
int pt_probe(void)
{
	struct pt_ctx ctx = { 0 };
	int listener, err = pt_template(NULL, 0, &ctx);

	if (err)
		return err;
	listener = pt_confine(&ctx);
	if (listener >= 0)
		close(listener);
	kill(ctx.pid, SIGKILL);
	waitpid(ctx.pid, NULL, __WALL);
	return listener < 0 ? listener : 0;
}
