/* Runs a program with our vDSO in place of the kernel's:  launch PAGE_FD IMAGE PROGRAM ARGUMENT...
 *
 * Stops it behind execve, before its first instruction, maps page and image by calls that it is made to do there, and
 * points AT_SYSINFO_EHDR of its auxiliary vector to them.  What follows, the program's C library does by itself.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define MUST(condition) do { if (!(condition)) { perror("launch: " #condition); exit(125); } } while (0)

static pid_t child;

static long call_mmap(long addr, long size, long prot, long flags, long fd)
{
	struct user_regs_struct saved, regs;
	long code;
	int status;

	MUST(!ptrace(PTRACE_GETREGS, child, 0, &saved));
	code = ptrace(PTRACE_PEEKTEXT, child, saved.rip, 0);
	MUST(!ptrace(PTRACE_POKETEXT, child, saved.rip, (code & ~0xffffl) | 0x050f)); /* syscall */
	regs = saved;
	regs.rax = SYS_mmap;
	regs.orig_rax = -1;
	regs.rdi = addr;
	regs.rsi = size;
	regs.rdx = prot;
	regs.r10 = flags;
	regs.r8 = fd;
	regs.r9 = 0;
	MUST(!ptrace(PTRACE_SETREGS, child, 0, &regs));
	MUST(!ptrace(PTRACE_SINGLESTEP, child, 0, 0));
	MUST(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	MUST(!ptrace(PTRACE_GETREGS, child, 0, &regs));
	MUST(!ptrace(PTRACE_POKETEXT, child, saved.rip, code));
	MUST(!ptrace(PTRACE_SETREGS, child, 0, &saved));
	MUST((long)regs.rax > 0);
	return regs.rax;
}

static long word(unsigned long at)
{
	return ptrace(PTRACE_PEEKDATA, child, at, 0);
}

/* The stack: argc, arguments, 0, environment, 0, auxiliary vector. */
static void set_sysinfo(unsigned long value)
{
	struct user_regs_struct regs;
	unsigned long at;

	MUST(!ptrace(PTRACE_GETREGS, child, 0, &regs));
	at = regs.rsp + 8 * (word(regs.rsp) + 2);
	while (word(at))
		at += 8;
	for (at += 8; word(at) != AT_SYSINFO_EHDR; at += 16)
		MUST(word(at) != AT_NULL);
	MUST(!ptrace(PTRACE_POKEDATA, child, at + 8, value));
}

int main(int argc, char **argv)
{
	struct stat st;
	int page_fd, image_fd, status;
	long at;

	MUST(argc > 3);
	page_fd = atoi(argv[1]);
	image_fd = open(argv[2], O_RDONLY);
	MUST(image_fd >= 0 && !fstat(image_fd, &st));
	child = fork();
	MUST(child >= 0);
	if (!child) {
		MUST(!ptrace(PTRACE_TRACEME, 0, 0, 0));
		execv(argv[3], argv + 3);
		MUST(!"exec");
	}
	MUST(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	MUST(!ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL));
	at = call_mmap(0, PAGE + st.st_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	call_mmap(at, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, page_fd);
	call_mmap(at + PAGE, st.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, image_fd);
	set_sysinfo(at + PAGE);
	MUST(!ptrace(PTRACE_DETACH, child, 0, 0));
	MUST(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
