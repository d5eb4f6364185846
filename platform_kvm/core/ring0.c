/* The part of ring 0 that is C: frames for untouched memory, and system calls that need some arithmetic.
 *
 * Compiled without a red zone and without vector registers.  It is called with the application's registers saved.
 */
#include "cdef.h"
#include "layout.h"
#include "slots.h"
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

/* Make the call of this slot, if it can be made here; its result is in the context then.  0: the Sentry has to. */
int ring0_answer(int slot, struct ring0_ctx *ctx)
{
	struct ring0_cpu *cpu = this_cpu();

	if (slot <= SLOT_LAST_VALUE) {
		ctx->regs.rax = ctx->answers[slot];
		return 1;
	}
	switch (slot) {
	case SLOT_YIELD:
		if (cpu->waiting)
			return 0;
		ctx->regs.rax = 0;
		return 1;
	}
	return 0;
}
