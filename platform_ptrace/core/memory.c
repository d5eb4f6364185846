/* A stub's memory and extended state. */
#include "core.h"
#include <cpuid.h>
#include <elf.h>
#include <sys/uio.h>

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

/* Of length bytes from addr on, how many the application may use at most; 0: none. */
static unsigned long within(unsigned long addr, unsigned long length)
{
	if (addr >= STUB_START)
		return 0;
	return length < STUB_START - addr ? length : STUB_START - addr;
}

/* All of these: the count, short at the first page that is not there; -EFAULT if nothing is; -ECHILD: ctx is gone. */

long pt_read(struct pt_ctx *ctx, unsigned long addr, char *buffer, unsigned long length)
{
	struct iovec local = { buffer, within(addr, length) }, remote = { (void *)addr, local.iov_len };
	long n;

	if (ctx->flags & PT_GONE)
		return -ECHILD;
	if (!local.iov_len)
		return -EFAULT;
	if (ring_get(ctx, addr, buffer, length, 0) > 0)
		return length;
	n = syscall(SYS_process_vm_readv, (long)ctx->tid, &local, 1ul, &remote, 1ul, 0ul);
	return n < 0 ? -errno : n;
}

long pt_write(struct pt_ctx *ctx, unsigned long addr, const char *buffer, unsigned long length)
{
	return ring_put(ctx, addr, buffer, length) ? (long)length : memory_write(ctx, addr, buffer, length);
}

/* The same, not left to the ring. */
long memory_write(struct pt_ctx *ctx, unsigned long addr, const char *buffer, unsigned long length)
{
	struct iovec local = { (char *)buffer, within(addr, length) }, remote = { (void *)addr, local.iov_len };
	long n;

	if (ctx->flags & PT_GONE)
		return -ECHILD;
	if (!local.iov_len)
		return -EFAULT;
	n = syscall(SYS_process_vm_writev, (long)ctx->tid, &local, 1ul, &remote, 1ul, 0ul);
	return n < 0 ? -errno : n;
}

static unsigned long least(unsigned long a, unsigned long b) { return a < b ? a : b; }

/* Up to the first NUL: the length, or -errno.  Most strings are short. */
long pt_read_cstr(struct pt_ctx *ctx, unsigned long addr, char *buffer, unsigned long limit)
{
	unsigned long done = 0;
	long there = ring_get(ctx, addr, buffer, limit, 1);

	if (there >= 0)
		return there;
	while (done < limit) {
		/* Not past the end of a page: the string may end before an unmapped one. */
		unsigned long step = least(4096 - (addr + done) % 4096, done ? 4096 : 256);
		long n = pt_read(ctx, addr + done, buffer + done, least(step, limit - done));
		const char *end;

		if (n <= 0)
			return n ? n : -EFAULT;
		end = memchr(buffer + done, 0, n);
		if (end)
			return end - buffer;
		done += n;
	}
	return -ENAMETOOLONG;
}

#define BOUNCE_SIZE (1ul << 17)
static char bounce[BOUNCE_SIZE];

/* pread(2) into a stub's memory: the count, or -errno if nothing was read. */
long pt_read_from_file(struct pt_ctx *ctx, int fd, unsigned long offset, unsigned long addr, unsigned long length)
{
	unsigned long done = 0;

	while (done < length) {
		unsigned long step = length - done < BOUNCE_SIZE ? length - done : BOUNCE_SIZE;
		long got = pread(fd, bounce, step, offset + done), put;

		if (got <= 0)
			return done ? (long)done : got < 0 ? -errno : 0;
		put = pt_write(ctx, addr + done, bounce, got);
		if (put < 0)
			return done ? (long)done : put;
		done += put;
		if (put < got || (unsigned long)got < step)
			break;
	}
	return done;
}

/* pwrite(2) from a stub's memory: the count, or -errno if nothing was written. */
long pt_write_to_file(struct pt_ctx *ctx, int fd, unsigned long offset, unsigned long addr, unsigned long length)
{
	unsigned long done = 0;

	while (done < length) {
		unsigned long step = length - done < BOUNCE_SIZE ? length - done : BOUNCE_SIZE;
		long got = pt_read(ctx, addr + done, bounce, step), put;

		if (got < 0)
			return done ? (long)done : got;
		put = pwrite(fd, bounce, got, offset + done);
		if (put < 0)
			return done ? (long)done : -errno;
		done += put;
		if (put < got || (unsigned long)got < step)
			break;
	}
	return done;
}
