/* A stub's memory and extended state. */
#include "core.h"
#include <cpuid.h>
#include <elf.h>
#include <sys/uio.h>

#define XSAVE_HEADER 512 /* where the header lies: first the bitmap of components in use */
#define SW_RESERVED 464 /* bytes up to the header that belong to software: the host passes them over */
#define AMX (3ul << 17)
#define TRY_AGAIN 32

/* Where a component of the extended state ends; 0: the processor does not have it. */
static int end_of_component(int component)
{
	unsigned int a, b, c, d;

	__cpuid_count(0xd, component, a, b, c, d);
	return a + b;
}

/* The size of the extended state without features that need permission (AMX): what a signal frame holds.
 * *components: the bitmap of what lies in there. */
static int xstate_size(unsigned long *components)
{
	unsigned int a, b, c, d, low, high, size = 576;

	*components = 3;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return FXSAVE_SIZE;
	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	for (int i = 2; i < 32; i++) {
		unsigned int end = low & ~AMX & 1u << i ? end_of_component(i) : 0;

		if (end)
			*components |= 1ul << i;
		if (end > size)
			size = end;
	}
	return size;
}

/* CPUID is slow in virtual machines: asked once. */
static int frame_size;
static unsigned long frame_components;

static int frame_xstate_size(void)
{
	if (!frame_size)
		frame_size = xstate_size(&frame_components);
	return frame_size;
}

/* How much of it there was, or -errno.  The rest of a larger state is not asked for: the host would copy it, too. */
int pt_get_xstate(int tid, char *buffer, int size)
{
	struct iovec iov = { buffer, size };

	return pt(PTRACE_GETREGSET, tid, NT_X86_XSTATE, (unsigned long)&iov) ? -errno : (int)iov.iov_len;
}

/* The host takes only all of it. */
int pt_set_xstate(int tid, char *buffer, int size)
{
	struct iovec iov = { buffer, size };

	return pt(PTRACE_SETREGSET, tid, NT_X86_XSTATE, (unsigned long)&iov) ? -errno : 0;
}

/* As much of the extended state as a frame holds, into the buffer: its size, or -errno. */
int pt_read_xstate(struct pt_ctx *ctx, char *buffer)
{
	return ctx->flags & PT_GONE ? -ESRCH : pt_get_xstate(ctx->tid, buffer, frame_xstate_size());
}

/* Is data what the thread has already?  It is then if all that the host would say is the same, and that is all there is
 * to say: no component is in use that lies beyond. */
static int has_xstate(struct pt_ctx *ctx, const char *data)
{
	static char now[MAX_XSTATE];
	unsigned long components;

	if (pt_get_xstate(ctx->tid, now, frame_size) != frame_size)
		return 0;
	memcpy(&components, now + XSAVE_HEADER, sizeof(components));
	return !(components & ~frame_components) && !memcmp(now, data, SW_RESERVED) &&
	       !memcmp(now + XSAVE_HEADER, data + XSAVE_HEADER, frame_size - XSAVE_HEADER);
}

/* Replace the extended state: what the length bytes of data do not cover goes back to its initial value.
 *
 * The host maps memory for that each time, so that reading costs half of writing or less.  A handler that leaves the
 * vector registers alone returns to the state that the thread has, then; whether it does is looked for again and again
 * while it is so, and else now and then. */
int pt_write_xstate(struct pt_ctx *ctx, const char *data, int length)
{
	static char whole[MAX_XSTATE];
	static int whole_size;

	if (ctx->flags & PT_GONE)
		return -ESRCH;
	if (!whole_size) {
		int size = pt_get_xstate(ctx->tid, whole, sizeof(whole));

		if (size < 0)
			return size;
		whole_size = size;
	}
	if (length > frame_xstate_size())
		length = frame_size;
	if (length > whole_size)
		length = whole_size;
	if (length == frame_size && length > FXSAVE_SIZE) {
		if (ctx->xstate_changes % TRY_AGAIN == 0 && has_xstate(ctx, data)) {
			ctx->xstate_changes = 0;
			return 0;
		}
		ctx->xstate_changes++;
	}
	memcpy(whole, data, length);
	memset(whole + length, 0, whole_size - length);
	if (length <= FXSAVE_SIZE)
		whole[XSAVE_HEADER] = 3;
	return pt_set_xstate(ctx->tid, whole, whole_size);
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
