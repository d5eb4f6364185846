/* On which processor a stub runs.
 *
 * A trap hands the thread of execution from the stub to the Sentry and back, with nothing left to do in parallel.  On
 * one processor that is a switch of tasks; across two it is an interrupt and a wake-up, which cost several times as
 * much, in a virtual machine tens of times.  So a stub is bound to the processor on which the Sentry is when it
 * resumes it.  The Sentry binds itself there, too, while a stub runs, for a wake-up would else often send it to another
 * that is idle; and so it does when none runs, for as long as the answer of a gofer may take, which follows it in the
 * same way.  It lets go when it has nothing to do, and for a moment now and then: so the host's scheduler can move it,
 * away from other sandboxes for one, and the others follow.
 *
 * Stubs that compute for long are to use all processors: when several run, those that have not trapped between two
 * looks around are set free.
 */
#include "core.h"
#include <sched.h>
#include <time.h>

#define FREE_EVERY 64 /* sleeps: some hundred microseconds of a busy sandbox */
#define STAY_NS 1000000 /* a gofer's answer takes less, unless it waits for the disk */

static unsigned int look;
static long last_look;
static cpu_set_t everywhere;
static int n_processors, n_bound;
static int we_are_bound;

void place_init(void)
{
	if (we_are_bound)
		return;
	if (sched_getaffinity(0, sizeof(everywhere), &everywhere))
		CPU_ZERO(&everywhere);
	n_processors = CPU_COUNT(&everywhere);
}

/* No stub runs: is that new? */
static int is_short_pause(long *since)
{
	if (!*since)
		*since = now_ns();
	return now_ns() - *since < STAY_NS;
}

/* Before a sleep, after which a stub or, if none runs, something else is to be served.  How long that may be, -1: for
 * ever. */
long place_ourselves(int n_running)
{
	static unsigned int sleeps;
	static long pause;
	cpu_set_t set;
	int bind;

	if (n_processors < 2)
		return -1;
	if (n_running) {
		pause = 0;
		bind = ++sleeps % FREE_EVERY != 0;
	} else {
		bind = we_are_bound && is_short_pause(&pause);
	}
	if (bind != we_are_bound) {
		CPU_ZERO(&set);
		CPU_SET(sched_getcpu(), &set);
		if (!sched_setaffinity(0, sizeof(set), bind ? &set : &everywhere))
			we_are_bound = bind;
	}
	return bind && !n_running ? STAY_NS : -1;
}

/* Bind ctx, which is about to run, to the processor that we are on. */
void place_beside(struct pt_ctx *ctx)
{
	int here = sched_getcpu() + 1;
	cpu_set_t set;

	ctx->since = look;
	if (ctx->cpu == here || n_processors < 2)
		return;
	CPU_ZERO(&set);
	CPU_SET(here - 1, &set);
	/* Refused where its cgroup does not have that processor: not tried again until we move. */
	sched_setaffinity(ctx->tid, sizeof(set), &set);
	ctx->cpu = here;
}

int place_n_processors(void) { return n_processors; }

/* Send ctx, which is about to run, to any other processor than the one that we are on.  Not 0: it has no other. */
int place_away(struct pt_ctx *ctx)
{
	cpu_set_t set = everywhere;

	CPU_CLR(sched_getcpu(), &set);
	ctx->cpu = 0;
	return sched_setaffinity(ctx->tid, sizeof(set), &set);
}

static void set_free(struct pt_ctx *ctx)
{
	if (ctx->state != PT_RUNNING || !ctx->cpu)
		return;
	if (ctx->since == look) {
		n_bound++;
		return;
	}
	sched_setaffinity(ctx->tid, sizeof(everywhere), &everywhere);
	ctx->cpu = 0;
}

/* To be called, while several stubs run, PLACE_LOOK_NS after it returned 1, if nothing happens before. */
int place_apart(void)
{
	long now = now_ns();

	if (now - last_look < PLACE_LOOK_NS)
		return 1;
	last_look = now;
	n_bound = 0;
	registry_each(set_free);
	look++;
	return n_bound > 0;
}
