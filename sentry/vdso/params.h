/* How the parameter page is read: freestanding, for the vDSO's image and for a ring 0 that answers the same calls.
 *
 * Each function returns 1 and the answer, or 0 if the page does not have it: then the real call must be made.  None
 * waits for ever: a writer that stays away in the middle of an update sends its readers to the call after some
 * milliseconds.
 *
 * Why no clock goes back: the writer reads the counter after it has made the sequence number odd, and goes on from
 * what the old parameters said for that very count.  A reader whose second look at the number finds it unchanged has
 * read the counter before that, one that finds the next number reads it behind.
 */
#ifndef PYSC_VDSO_PARAMS_H
#define PYSC_VDSO_PARAMS_H

#include <stdint.h>
#if __STDC_HOSTED__
#include <time.h>
#else
#include <linux/time.h>
#endif

#include "cdef.h"
#ifdef __x86_64__
#include "x86_64.h"
#else
#error "the vDSO has not been ported to this processor"
#endif

#define VDSO_TRIES 65536
#define VDSO_NSEC 1000000000ul

/* Laid out like struct timespec and struct timeval: the rest is in nanoseconds or in microseconds. */
struct vdso_time {
	int64_t sec;
	int64_t rest;
};

static inline uint64_t vdso_line_ns(const volatile struct vdso_line *line, uint64_t tsc)
{
	uint64_t from = line->tsc;
	uint64_t ticks = tsc > from ? tsc - from : 0; /* a counter may be some ticks behind the writer's */

	return line->ns + (uint64_t)((unsigned __int128)ticks * line->mult >> VDSO_SHIFT);
}

/* Two returns, not one of a chosen line: so the processor guesses the branch and loads the line before it has tsc. */
static inline uint64_t vdso_clock_ns(const volatile struct vdso_clock *clock, uint64_t tsc)
{
	if (tsc < clock->then.tsc)
		return vdso_line_ns(&clock->mend, tsc);
	return vdso_line_ns(&clock->then, tsc);
}

/* What clock shows at tsc.  The coarse clocks tick together, as Linux's do.  0: not one of the page's. */
static inline int vdso_evaluate(const volatile struct vdso_params *page, int clock, uint64_t tsc, uint64_t *ns)
{
	uint32_t coarse_ns;
	uint64_t mono_ns;

	if (clock == CLOCK_MONOTONIC_RAW) {
		*ns = vdso_clock_ns(&page->raw, tsc);
		return 1;
	}
	mono_ns = vdso_clock_ns(&page->mono, tsc);
	switch (clock) {
	case CLOCK_MONOTONIC:
		*ns = mono_ns;
		return 1;
	case CLOCK_REALTIME:
		*ns = mono_ns + page->real_ns;
		return 1;
	case CLOCK_BOOTTIME:
		*ns = mono_ns + page->boot_ns;
		return 1;
	case CLOCK_MONOTONIC_COARSE:
	case CLOCK_REALTIME_COARSE:
		coarse_ns = page->coarse_ns;
		if (!coarse_ns)
			return 0;
		*ns = mono_ns - mono_ns % coarse_ns + (clock == CLOCK_REALTIME_COARSE ? page->real_ns : 0);
		return 1;
	}
	return 0;
}

/* The clock with this number, in nanoseconds. */
static inline int vdso_read(const volatile struct vdso_params *page, int clock, uint64_t *ns)
{
	for (int tries = 0; tries < VDSO_TRIES; tries++, vdso_pause()) {
		const volatile uint32_t *seq = &page->seq;
		uint32_t before = __atomic_load_n(seq, __ATOMIC_ACQUIRE);
		uint64_t tsc;

		if (before & 1)
			continue;
		if (!(page->flags & VDSO_USABLE))
			return 0;
		tsc = vdso_counter();
		if (!vdso_evaluate(page, clock, tsc, ns))
			return 0;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(seq + vdso_zero_after(tsc), __ATOMIC_RELAXED) == before)
			return 1;
	}
	return 0;
}

/* clock_gettime(2) */
static inline int vdso_clock_gettime(const volatile struct vdso_params *page, int clock, struct vdso_time *time)
{
	uint64_t ns;

	if (!vdso_read(page, clock, &ns))
		return 0;
	time->sec = ns / VDSO_NSEC;
	time->rest = ns % VDSO_NSEC;
	return 1;
}

/* gettimeofday(2), without the time zone */
static inline int vdso_gettimeofday(const volatile struct vdso_params *page, struct vdso_time *time)
{
	uint64_t ns;

	if (!vdso_read(page, CLOCK_REALTIME, &ns))
		return 0;
	time->sec = ns / VDSO_NSEC;
	time->rest = ns % VDSO_NSEC / 1000;
	return 1;
}

/* clock_getres(2), in nanoseconds, none of them a second or more */
static inline int vdso_clock_getres(const volatile struct vdso_params *page, int clock, uint32_t *ns)
{
	if (!(page->flags & VDSO_USABLE))
		return 0;
	switch (clock) {
	case CLOCK_REALTIME:
	case CLOCK_MONOTONIC:
	case CLOCK_MONOTONIC_RAW:
	case CLOCK_BOOTTIME:
		*ns = 1;
		return 1;
	case CLOCK_REALTIME_COARSE:
	case CLOCK_MONOTONIC_COARSE:
		*ns = page->coarse_ns;
		return *ns != 0;
	}
	return 0;
}

/* getcpu(2) */
static inline int vdso_getcpu(const volatile struct vdso_params *page, uint32_t *cpu, uint32_t *node)
{
	uint32_t source = page->cpu_source;
	uint32_t aux;

	if (source == VDSO_CPU_CALL)
		return 0;
	aux = vdso_tsc_aux(source == VDSO_CPU_RDPID);
	*cpu = aux & 0xfff;
	*node = aux >> 12;
	return 1;
}

#endif
