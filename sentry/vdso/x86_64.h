/* What of the vDSO is x86-64's own: the counter, the pause, the processor's number, the system call. */
#ifndef PYSC_VDSO_X86_64_H
#define PYSC_VDSO_X86_64_H

/* The time-stamp counter.  lfence: not read before what precedes it is done; rdtsc alone may run ahead of loads. */
static inline uint64_t vdso_counter(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* Zero, but not before value is known: what is addressed through it is loaded after value was.  A second lfence would
 * do the same and cost ten times as much. */
static inline uint64_t vdso_zero_after(uint64_t value)
{
	__asm__ volatile("and $0, %0" : "+r"(value) : : "memory", "cc");
	return value;
}

static inline void vdso_pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* TSC_AUX, which the kernel sets to the processor's number and, from bit 12 on, its node's. */
static inline uint32_t vdso_tsc_aux(int by_rdpid)
{
	uint64_t aux;

	if (by_rdpid)
		__asm__ volatile(".byte 0xf3, 0x0f, 0xc7, 0xf8" : "=a"(aux)); /* rdpid %rax, for old assemblers */
	else
		__asm__ volatile("rdtscp" : "=c"(aux) : : "rax", "rdx");
	return aux;
}

static inline long vdso_call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

/* CPUID 0x80000007, EDX bit 8: "the TSC will run at a constant rate in all ACPI P-, C- and T-states" - Intel SDM 17.17 */
static inline int vdso_has_invariant_counter(void)
{
	uint32_t a = 0x80000000, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	if (a < 0x80000007)
		return 0;
	a = 0x80000007;
	c = 0;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return d >> 8 & 1;
}

#endif
