/* The stub: its image, its filter, and the template process that address spaces are copied from.
 *
 * The image is a page of code in a memfd, mapped at STUB_START in every address space:
 *   entry    stops at once (int3), so that the Sentry can take over;
 *   gadget   one `syscall` followed by int3: any injected call;
 *   cmpxchg  compares and exchanges one word of the application's, atomically;
 *   map_fd   receives a descriptor (a notified call answered with SECCOMP_ADDFD), maps it, closes it.
 * The page is readable and executable, never writable; the Sentry refuses every
 * application call that names it.
 */
#include "core.h"
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/ioctl.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#define SYNC_WAKE_UP 1ul

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
unsigned long pt_stub_start(void) { return STUB_START; }
unsigned long pt_stub_end(void) { return STUB_END; }

/* ---- the image ---- */

#define ALLOW RETURN(SECCOMP_RET_ALLOW)
#define KILL RETURN(SECCOMP_RET_KILL_PROCESS)
#define ALLOW_NR(nr) IF_EQ(nr, 0, 1), ALLOW

/* The ptrace platform's filter. */
int pt_build_filter(struct sock_filter *filter)
{
	/* Application calls never get here: PTRACE_SYSEMU stops them first.  What does: injected
	 * calls, and the emulated vsyscall page, whose three calls must go to the tracer. */
	const struct sock_filter program[] = {
		LOAD(arch),
		IF_EQ(AUDIT_ARCH_X86_64, 1, 0),
		KILL,
		LOAD_HIGH(instruction_pointer),
		IF_EQ((uint32_t)(STUB_CODE >> 32), 6, 0),
		LOAD(nr),
		IF_EQ(SYS_gettimeofday, 2, 0),
		IF_EQ(SYS_time, 1, 0),
		IF_EQ(SYS_getcpu, 0, 1),
		RETURN(SECCOMP_RET_TRACE),
		KILL,
		LOAD(instruction_pointer),
		IF_EQ((uint32_t)CODE_AT(pt_stub_gadget + 2), 4, 0),
		IF_EQ((uint32_t)CODE_AT(pt_stub_after_notify), 3, 0),
		IF_EQ((uint32_t)CODE_AT(pt_stub_after_map), 2, 0),
		IF_EQ((uint32_t)CODE_AT(pt_stub_after_close), 1, 0),
		KILL,
		LOAD(nr),
		IF_EQ(NOTIFY_NR, 0, 1),
		RETURN(SECCOMP_RET_USER_NOTIF),
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
		IF_EQ(SYS_prctl, 0, 4),
		LOAD(args[0]),
		IF_EQ(PR_SET_NAME, 1, 0),
		IF_EQ(PR_SET_MM, 0, 1),
		ALLOW,
		KILL,
	};
	_Static_assert(sizeof(program) / sizeof(program[0]) <= MAX_FILTER, "filter size");

	memcpy(filter, program, sizeof(program));
	return sizeof(program) / sizeof(program[0]);
}

/* File layout: page 0 headers, page 1 code, page 2 the filter (sock_fprog, then its instructions). */
static int make_image(int systrap)
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
	prog->len = systrap ? turn_build_filter(filter) : pt_build_filter(filter);
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

/* ---- the template ---- */

#define TRACE_OPTIONS (PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESECCOMP)

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
	return pt_wait_int3(ctx); /* passes over PTRACE_EVENT_EXEC */
}

int pt_template(int systrap, const int *cgroup_fds, int n_cgroup_fds, struct pt_ctx *out)
{
	int image = make_image(systrap), go[2], pid, err;

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

/* The emptied host table of descriptors is one more reason not to leave the listener in it. */
static int fetch_descriptor(int pid, int remote)
{
	int fd, err, pidfd = syscall(SYS_pidfd_open, pid, 0);

	if (pidfd < 0)
		return -errno;
	fd = syscall(SYS_pidfd_getfd, pidfd, remote, 0);
	err = -errno;
	close(pidfd);
	return fd < 0 ? err : fd;
}

/* Load the filter into the template and fetch its listener.  Returns the listener's descriptor. */
int pt_confine(struct pt_ctx *ctx, int systrap)
{
	long remote, err = pt_inject(ctx, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
	int listener;

	if (err < 0)
		return err;
	remote = pt_inject(ctx, SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
			   STUB_START + 0x2000, 0, 0, 0);
	if (remote < 0)
		return remote;
	listener = fetch_descriptor(ctx->pid, remote);
	if (listener < 0)
		return listener;
	if (systrap) {
		ctx->listener = listener;
		/* Since Linux 6.6; before it the wake-ups merely cost more. */
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP); /* by value, whatever its number says */
	}
	err = pt_inject(ctx, SYS_close, remote, 0, 0, 0, 0, 0);
	if (err < 0) {
		close(listener);
		ctx->listener = 0;
		return err;
	}
	return listener;
}

/* Can a stub be set up at all here?  0, or -errno. */
int pt_probe(int systrap)
{
	struct pt_ctx ctx = { 0 };
	int listener, err = pt_template(systrap, NULL, 0, &ctx);

	if (err)
		return err;
	listener = pt_confine(&ctx, systrap);
	if (listener >= 0)
		close(listener);
	kill(ctx.pid, SIGKILL);
	waitpid(ctx.pid, NULL, __WALL);
	return listener < 0 ? listener : 0;
}
