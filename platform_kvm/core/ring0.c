/* The part of ring 0 that is C: frames for untouched memory, and system calls that need some arithmetic.
 *
 * Compiled without a red zone and without vector registers.  It is called with the application's registers saved.
 */
#include "cdef.h"
#include "layout.h"
#include "slots.h"
#include "../../sentry/vdso/params.h"
#include <stdint.h>

#define WINDOW_GPA (1ul << 32)
#define PRESENT 1ul
#define WRITABLE 2ul
#define USER 4ul
#define ACCESSED 0x20ul
#define DIRTY 0x40ul
#define NO_EXECUTE (1ul << 63)
#define FRAME 0x000ffffffffff000ul

/* A page-table entry that is not present, and that ring 0 may fill with a zeroed frame (memory.h: KV_PTE_ZERO). */
#define ZERO 2ul
#define ZERO_WRITABLE 4ul

/* For ring0.S. */
__attribute__((visibility("hidden"))) extern const unsigned char ring0_slots[SLOT_NUMBERS] __attribute__((alias("slot_of")));

#define FAULT_WRITE 2ul
#define FAULT_FETCH 16ul

static inline struct ring0_cpu *this_cpu(void)
{
	unsigned long top;

	asm volatile("mov %%gs:%c1, %0" : "=r"(top) : "i"(CPU_STACK));
	return (void *)(top - CPU_STACK_TOP);
}

static uint64_t *table_at(uint64_t gpa)
{
	return (uint64_t *)(DIRECT_BASE + (gpa - WINDOW_GPA));
}

static uint64_t *entry_of(uint64_t root, unsigned long addr)
{
	uint64_t *table = table_at(root & FRAME);

	for (int shift = 39; shift > 12; shift -= 9) {
		uint64_t entry = table[addr >> shift & 511];

		/* Not writable: shared with another space. */
		if ((entry & (PRESENT | WRITABLE)) != (PRESENT | WRITABLE))
			return 0;
		table = table_at(entry & FRAME);
	}
	return &table[addr >> 12 & 511];
}

/* Give untouched memory a frame.  0: it is not that, or there is no frame in stock. */
int ring0_zero_fault(unsigned long addr, unsigned long error, uint64_t root)
{
	struct ring0_cpu *cpu = this_cpu();
	uint64_t *entry, old, new;

	if (addr >> 47 || !cpu->n_stock)
		return 0;
	entry = entry_of(root, addr);
	if (!entry)
		return 0;
	old = __atomic_load_n(entry, __ATOMIC_RELAXED);
	if ((old & (PRESENT | ZERO)) != ZERO)
		return 0;
	if (error & FAULT_WRITE && !(old & ZERO_WRITABLE))
		return 0;
	if (error & FAULT_FETCH && old & NO_EXECUTE)
		return 0;
	new = cpu->stock[cpu->n_stock - 1] | PRESENT | USER | ACCESSED | DIRTY | (old & NO_EXECUTE);
	if (old & ZERO_WRITABLE)
		new |= WRITABLE;
	if (!__atomic_compare_exchange_n(entry, &old, new, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		return 1; /* somebody else was first: it tries again */
	cpu->n_stock--;
	return 1;
}

/* ---- system calls answered here ---- */

int ring0_put8(unsigned long addr, uint64_t value);
int ring0_put4(unsigned long addr, uint32_t value);

static const volatile struct vdso_params *params(void)
{
	return (const volatile struct vdso_params *)PARAMS_ADDR;
}

/* Of the application's half, all size bytes.  What it may not write is refused by the processor, even to ring 0. */
static int is_below(unsigned long addr, unsigned long size)
{
	return addr < (1ul << 47) - size;
}

static int put_time(unsigned long addr, const struct vdso_time *time)
{
	return is_below(addr, sizeof(*time)) && !ring0_put8(addr, time->sec) && !ring0_put8(addr + 8, time->rest);
}

/* Each: 1 if the call was made and has succeeded, 0 if the Sentry has to make it. */
static int clock_gettime(const struct ring0_regs *regs)
{
	struct vdso_time time;

	return vdso_clock_gettime(params(), (int)regs->rdi, &time) && put_time(regs->rsi, &time);
}

static int gettimeofday(const struct ring0_regs *regs)
{
	struct vdso_time time;

	return !regs->rsi && vdso_gettimeofday(params(), &time) && put_time(regs->rdi, &time);
}

static int getcpu(const struct ring0_regs *regs)
{
	return regs->rdi && !regs->rsi && is_below(regs->rdi, 4) && !ring0_put4(regs->rdi, this_cpu()->number);
}

/* Make the call of this slot, if it can be made here; its result is in the context then.  0: the Sentry has to. */
int ring0_answer(int slot, struct ring0_ctx *ctx)
{
	struct ring0_regs *regs = &ctx->regs;
	struct vdso_time time;
	int made = 0;

	if (slot <= SLOT_LAST_VALUE) {
		regs->rax = ctx->answers[slot];
		return 1;
	}
	switch (slot) {
	case SLOT_YIELD:
		made = !this_cpu()->waiting;
		break;
	case SLOT_CLOCK_GETTIME:
		made = clock_gettime(regs);
		break;
	case SLOT_GETTIMEOFDAY:
		made = gettimeofday(regs);
		break;
	case SLOT_GETCPU:
		made = getcpu(regs);
		break;
	case SLOT_TIME:
		if (regs->rdi || !vdso_clock_gettime(params(), CLOCK_REALTIME, &time))
			return 0;
		regs->rax = time.sec;
		return 1;
	}
	if (made)
		regs->rax = 0;
	return made;
}
