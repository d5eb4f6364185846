/* The Sentry's side of the parameter page: sampling the host's clocks, and writing where they go.
 *
 * No state but the page's.  Any thread may sample; one writes.
 */
#include "params.h"

/* The larger part of a clock's rate that mending an error may add or take. */
#define MEND_SHARE 10
/* A clock that is further behind jumps: going faster for so long would falsify more intervals than one jump does. */
#define JUMP_NS 1000000

typedef unsigned __int128 u128;

int vdso_counter_is_invariant(void)
{
	return vdso_has_invariant_counter();
}

static uint64_t host_ns(int clock)
{
	struct timespec now = { 0, 0 };

	clock_gettime(clock, &now);
	return now.tv_sec * VDSO_NSEC + now.tv_nsec;
}

/* Keep the reading if the counter moved less around it than around the one that is kept. */
static void take_reading(int clock, uint64_t *tsc, uint64_t *ns, uint64_t *width)
{
	uint64_t before = vdso_counter();
	uint64_t now = host_ns(clock);
	uint64_t after = vdso_counter();

	if (after - before >= *width)
		return;
	*tsc = before + (after - before) / 2;
	*ns = now;
	*width = after - before;
}

/* Narrow [low, high] down to what a reading of clock between two of CLOCK_MONOTONIC allows; begin anew if it was set. */
static void take_difference(int clock, int64_t *low, int64_t *high)
{
	uint64_t before = host_ns(CLOCK_MONOTONIC);
	uint64_t now = host_ns(clock);
	uint64_t after = host_ns(CLOCK_MONOTONIC);
	int64_t least = now - after, most = now - before;

	if (least > *high || most < *low) {
		*low = least;
		*high = most;
		return;
	}
	*low = least > *low ? least : *low;
	*high = most < *high ? most : *high;
}

void vdso_take_sample(struct vdso_sample *sample, int tries)
{
	*sample = (struct vdso_sample){
		.mono_width = UINT64_MAX, .raw_width = UINT64_MAX,
		.real_low = INT64_MIN, .real_high = INT64_MAX, .boot_low = INT64_MIN, .boot_high = INT64_MAX,
	};
	for (int i = 0; i < tries; i++) {
		take_reading(CLOCK_MONOTONIC, &sample->mono_tsc, &sample->mono_ns, &sample->mono_width);
		take_reading(CLOCK_MONOTONIC_RAW, &sample->raw_tsc, &sample->raw_ns, &sample->raw_width);
		take_difference(CLOCK_REALTIME, &sample->real_low, &sample->real_high);
		take_difference(CLOCK_BOOTTIME, &sample->boot_low, &sample->boot_high);
	}
}

/* Make the page's readers wait, and return the host's counter behind that: see params.h. */
static uint64_t begin_write(struct vdso_params *page)
{
	__atomic_store_n(&page->seq, page->seq | 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return vdso_counter();
}

static void end_write(struct vdso_params *page)
{
	__atomic_store_n(&page->seq, page->seq + 1, __ATOMIC_RELEASE);
}

void vdso_withdraw(struct vdso_params *page)
{
	begin_write(page);
	page->flags &= ~VDSO_USABLE;
	end_write(page);
}

/* Have the clock go on from what it shows at tsc and meet the line later; returns by how much it is ahead. */
static int64_t aim(struct vdso_clock *clock, int64_t shown_ns, const struct vdso_line *line, uint64_t tsc, uint64_t ticks)
{
	int64_t ahead_ns = shown_ns - (int64_t)vdso_line_ns(line, tsc);
	u128 size = (u128)(ahead_ns < 0 ? -(uint64_t)ahead_ns : (uint64_t)ahead_ns) << VDSO_SHIFT;
	uint64_t change;

	if (size * MEND_SHARE / line->mult > ticks)
		ticks = size * MEND_SHARE / line->mult;
	change = size / ticks;
	clock->mend.tsc = tsc;
	clock->mend.ns = shown_ns;
	clock->mend.mult = ahead_ns < 0 ? line->mult + change : line->mult - change;
	clock->then.tsc = tsc + ticks;
	clock->then.ns = vdso_line_ns(&clock->mend, tsc + ticks);
	clock->then.mult = line->mult;
	return ahead_ns;
}

static int64_t redirect(struct vdso_clock *clock, const struct vdso_line *host, uint64_t host_tsc, int go_on,
			const struct vdso_params *page, const struct vdso_target *target)
{
	struct vdso_line line = *host;
	uint64_t tsc = host_tsc + target->tsc_offset;
	int64_t true_ns, shown_ns;

	line.tsc += target->tsc_offset;
	true_ns = shown_ns = vdso_line_ns(&line, tsc);
	if (go_on)
		shown_ns = vdso_clock_ns(clock, host_tsc + page->tsc_offset);
	if (true_ns - shown_ns > JUMP_NS) {
		aim(clock, true_ns, &line, tsc, target->mend_ticks);
		return shown_ns - true_ns;
	}
	return aim(clock, shown_ns, &line, tsc, target->mend_ticks);
}

/* Send the page's clocks after the host's, without a step back; returns how far ahead CLOCK_MONOTONIC was, in ns. */
int64_t vdso_publish(struct vdso_params *page, const struct vdso_target *target)
{
	uint64_t host_tsc = begin_write(page);
	int go_on = page->flags & VDSO_USABLE;
	int64_t ahead_ns = redirect(&page->mono, &target->mono, host_tsc, go_on, page, target);

	redirect(&page->raw, &target->raw, host_tsc, go_on, page, target);
	page->real_ns = target->real_ns;
	page->boot_ns = target->boot_ns;
	page->tsc_offset = target->tsc_offset;
	page->flags |= VDSO_USABLE;
	end_write(page);
	return ahead_ns;
}

/* What the page's CLOCK_MONOTONIC shows when the host's counter is at host_tsc; for the writer. */
uint64_t vdso_mono_at(const struct vdso_params *page, uint64_t host_tsc)
{
	return vdso_clock_ns(&page->mono, host_tsc + page->tsc_offset);
}
