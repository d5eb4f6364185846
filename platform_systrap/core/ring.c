/* The ring: calls that pass through shared memory, with no entry into the host's kernel.
 *
 * One thread at a time is hot: the only one that runs, making one call after another, from sites that were patched.
 * It is sent to another processor than the Sentry's; it posts its call in a page of its address space's that the Sentry
 * sees, too, and both look at that page, for a bounded time, instead of sleeping.  Whoever looks in vain falls back:
 * the thread makes its call as any other, the Sentry cools it and sleeps in the kernel.  So a thread that sleeps costs
 * nothing, and everything that is not one busy thread is as without the ring.
 *
 * Each call happens once.  A posted call is the Sentry's from when it saw it there: ctx->state says so, and nothing in
 * the page.  A thread that gives up changes POSTED to PLAIN, and makes the very call in a notification: the answer goes
 * there if the Sentry has begun it (turn.c's LATE and take_again), else it is a call as any other.
 *
 * The Sentry believes its own ctx->state: a call is taken only from the hot thread, and only while that is RUNNING.  So
 * what the application writes into the page is at worst a call of its own, or a wrong answer to itself.  The page is
 * mapped into one address space; a fork has none, for both pages of the ring stay behind (MADV_DONTFORK,
 * MADV_WIPEONFORK).
 *
 * A copy between the Sentry and the application's memory is a host call, as dear as all the rest.  Blocks spare it: what a
 * handler reads first, a name or a buffer, comes with the call; what the handler of a call writes that changes nothing
 * else goes with the answer.  If the thread cannot put it there, the host's copy says what the error is.
 *
 * A thread that is stopped inside a block (the application is not to know of those) is taken out of it: to before
 * its call, or behind it.
 */
#include "ring.h"
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <x86intrin.h>

#define N_SITES 1024
#define RETRY 16 /* times patch_after calls, before a site that could not be patched is reported again */
#define N_NUMBERS 512

/* In cycles of the processor's counter: 1/3 to 1/2 ns. */
#define QUICK 50000       /* between a call's answer and the next call of a busy thread */
#define SLOW_COSTS 16     /* quick calls that a slow one makes up for: place.c's moves make some slow */
#define PATIENCE 50000    /* the Sentry's, for the next call */
#define FIRST_PATIENCE 500000 /* until the thread is awake on the other processor */

#define GOOD_HITS 128 /* a thread that was answered less often should not have been made hot */
#define WORTH_HITS 8192 /* nor one answered less often, if the processors are wanted by others as well */
#define TAIL_NS 100000 /* of the time from the first answer on: until it was noticed that the thread calls no more */
#define MAX_HEAT_AFTER 4096

#define HWCAP2_FSGSBASE_BIT 2

static struct { unsigned long end; int pid, count; } sites[N_SITES];
static int patch_after, heat_at_first, processors;
static char refused_calls[N_NUMBERS], staged_calls[N_NUMBERS];
static struct pt_ctx *hot;
/* What came with the hot thread's call: a copy, and where it was read.  And may its handler's output go with the answer?
 * Both for as long as nothing but that handler can have run. */
static char in_data[RING_DATA];
static unsigned long in_at;
static unsigned int in_length;
static int may_put;
static long n_calls;
/* When the hot thread was first answered: the time, its processor time, and how often we had been preempted. */
static long first_ns, first_cpu_ns, first_preempted;

static uint32_t load(uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static void store(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

static int change(struct ring_page *page, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n(&page->state, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

static void note(char *table, const int *numbers, int n)
{
	memset(table, 0, N_NUMBERS);
	for (int i = 0; i < n; i++)
		if (numbers[i] >= 0 && numbers[i] < N_NUMBERS)
			table[numbers[i]] = 1;
}

/* after: calls before a site is reported, 0: none ever is.  heat: calls in a row before a thread is hot.  refused: the
 * calls that cannot go through the ring.  staged: those that may be answered before their output is known to have a
 * place.  1 if the ring is on. */
int ring_init(int after, int heat, int n_processors, const int *refused, int n_refused,
	      const int *staged, int n_staged)
{
	hot = NULL;
	memset(sites, 0, sizeof(sites));
	note(refused_calls, refused, n_refused);
	note(staged_calls, staged, n_staged);
	processors = n_processors < place_n_processors() ? n_processors : place_n_processors();
	patch_after = processors < 2 || !(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT) ? 0 : after;
	heat_at_first = heat;
	return patch_after > 0;
}

static int is_refused(long number)
{
	return number < 0 || number >= N_NUMBERS || refused_calls[number];
}

/* A page for both sides: its descriptor, which is to be mapped at shared_at and closed, or -errno. */
int ring_open(struct ring *ring)
{
	void *page = MAP_FAILED;
	int err, fd = syscall(SYS_memfd_create, "pysc-ring", MFD_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (!ftruncate(fd, RING_PAGE_SIZE))
		page = mmap(NULL, RING_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED) {
		err = -errno;
		close(fd);
		return err;
	}
	ring->page = page;
	ring->out_length = 0;
	ring->heat_after = heat_at_first;
	return fd;
}

/* The last context that has this ring is gone. */
void ring_close(struct ring *ring)
{
	if (hot && hot->ring == ring)
		hot = NULL;
	if (ring->page)
		munmap(ring->page, RING_PAGE_SIZE);
	ring->page = NULL;
}

/* ---- when to patch, when to be hot ---- */

/* A call was made at a site: 1 if it is time to patch that. */
int ring_counts(const struct pt_ctx *ctx, unsigned long end, long number)
{
	unsigned int i = (unsigned int)(end ^ end >> 12 ^ (unsigned int)ctx->pid * 2654435769u) % N_SITES;

	if (!patch_after || is_refused(number))
		return 0;
	if (sites[i].end != end || sites[i].pid != ctx->pid) {
		sites[i].end = end;
		sites[i].pid = ctx->pid;
		sites[i].count = 0;
	}
	if (++sites[i].count != patch_after)
		return 0;
	sites[i].count = -RETRY * patch_after;
	return 1;
}

static int is_patched(const struct ring *ring, unsigned long end)
{
	for (int i = 0; i < ring->n_blocks; i++)
		if (ring->blocks[i].end == end)
			return 1;
	return 0;
}

static int give_key(struct pt_ctx *ctx)
{
	struct ring *ring = ctx->ring;
	unsigned long key = ~ctx->fs_base;

	if (ring->key != key && pt_write(ctx, ring->private_at, (char *)&key, sizeof(key)) != sizeof(key))
		return 0;
	ring->key = key;
	return 1;
}

/* ctx has made a call, for whose answer it sleeps, and nobody else runs.  cycles: since its last was answered.  It may become hot. */
void ring_consider(struct pt_ctx *ctx, unsigned long cycles)
{
	struct ring *ring = ctx->ring;

	/* A thread that was told to ask in a notification may be on its way there, and still look at the page. */
	if (!ring->page || hot || ring->n_taken)
		return;
	if (cycles < QUICK || heat_at_first == 1)
		ring->streak++;
	else
		ring->streak -= ring->streak < SLOW_COSTS ? ring->streak : SLOW_COSTS;
	if (ring->streak < ring->heat_after)
		return;
	ring->streak = 0;
	if (!is_patched(ring, ctx->call_end))
		return;
	if (!ctx->fs_known) {
		pt_fetch_regs(ctx); /* stopped for it, it runs on beside us: the next time */
		return;
	}
	if (!give_key(ctx) || place_away(ctx)) {
		ring->heat_after = MAX_HEAT_AFTER; /* its cpuset has but one processor, for one */
		return;
	}
	ring->hits = 0;
	store(&ring->page->state, PLAIN);
	store(&ring->page->spin, 1);
	hot = ctx;
}

struct pt_ctx *ring_hot(void) { return hot; }
int ring_is_hot(struct pt_ctx *ctx) { return hot == ctx; }

/* Calls that came through the ring, since the start. */
long ring_n_calls(void) { return n_calls; }

unsigned long ring_patience(void) { return hot->ring->hits ? PATIENCE : FIRST_PATIENCE; }

/* From now on, others than the handler of the hot thread's call may run. */
static void end_copies(void)
{
	in_length = 0;
	may_put = 0;
}

static long cpu_ns(int pid)
{
	struct timespec ts;

	return clock_gettime((clockid_t)(~(unsigned int)pid << 3 | 2), &ts) ? 0 : ts.tv_sec * 1000000000l + ts.tv_nsec;
}

static long preempted(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nivcsw;
}

static void begin_watch(const struct pt_ctx *ctx)
{
	first_ns = now_ns();
	first_cpu_ns = cpu_ns(ctx->pid);
	first_preempted = preempted();
}

/* Had either side to wait for a processor, so that the other looked in vain?  Neither sleeps while a thread is hot. */
static int were_disturbed(const struct pt_ctx *ctx)
{
	long passed = now_ns() - first_ns - TAIL_NS;

	return preempted() != first_preempted || cpu_ns(ctx->pid) - first_cpu_ns < passed - passed / 4;
}

/* How many calls in a row it takes the next time. */
static void learn(struct ring *ring)
{
	if (ring->hits >= WORTH_HITS || (ring->hits >= GOOD_HITS && !were_disturbed(hot)))
		ring->heat_after = heat_at_first;
	else if (ring->heat_after < MAX_HEAT_AFTER && heat_at_first > 1)
		ring->heat_after *= ring->hits >= GOOD_HITS ? 4 : 2;
}

/* No thread is hot any more.  One that has posted, or waits for an answer, sees that it is to make the call. */
void ring_cool(void)
{
	struct ring *ring = hot->ring;

	store(&ring->page->spin, 0);
	change(ring->page, POSTED, PLAIN);
	end_copies();
	if (hot->state == PT_RING)
		ring_settle(hot);
	if (!ring->hits)
		hot->fs_known = 0; /* it is perhaps what has changed */
	learn(ring);
	hot = NULL;
}

/* ctx is gone. */
void ring_forget(const struct pt_ctx *ctx)
{
	if (hot == ctx)
		hot = NULL;
	if (!hot)
		end_copies();
}

/* ---- what goes with a call and its answer ---- */

/* The hot thread's call was taken. */
static void begin_copies(const struct pt_event *ev, int kind)
{
	struct ring *ring = hot->ring;
	uint32_t length = kind == RING_NOTHING ? 0 : load(&ring->page->in_length);

	ring->put_length = ring->put_failed = 0;
	may_put = ring->n_users == 1 && staged_calls[ev->number];
	in_length = length > RING_DATA || ring->n_users != 1 ? 0 : length;
	in_at = ev->args[kind == RING_STRING_1 ? 0 : 1];
	memcpy(in_data, ring->page->data, in_length);
}

/* Is this memory the hot thread's, while its call's handler is the only one that can have run?  That looks into no other
 * memory; who does is another. */
static int is_handlers(const struct pt_ctx *ctx)
{
	if (!in_length && !may_put)
		return 0;
	if (hot && hot->state == PT_RING && ctx->ring == hot->ring)
		return 1;
	end_copies();
	return 0;
}

/* Is what is at addr there already?  A string's length, without its NUL, or all of length; -1: no. */
long ring_get(struct pt_ctx *ctx, unsigned long addr, char *buffer, unsigned long length, int is_string)
{
	const char *end;

	if (ctx->ring && ctx->ring->put_length && ctx->state == PT_RING)
		ring_settle(ctx); /* what a handler has written, it finds */
	if (!is_handlers(ctx) || !in_length || addr != in_at)
		return -1;
	if (is_string) {
		end = memchr(in_data, 0, in_length < length ? in_length : length);
		if (!end)
			return -1;
		length = end - in_data;
	} else if (length > in_length) {
		return -1;
	}
	memcpy(buffer, in_data, length);
	return length;
}

/* 1: this will be put into memory when the call is answered. */
int ring_put(struct pt_ctx *ctx, unsigned long addr, const char *buffer, unsigned long length)
{
	struct ring *ring = ctx->ring;

	if (!is_handlers(ctx) || !may_put || ring->put_length || length > RING_DATA || !length)
		return 0;
	if (addr >= STUB_START - length)
		return 0;
	memcpy(ring->page->data, buffer, length);
	ring->put_at = addr;
	ring->put_length = length;
	return 1;
}

/* The answer does not go through the ring, or its thread did not get to put what came with it into memory: it is put
 * there now, and ctx->result is the call's result if that fails. */
void ring_settle(struct pt_ctx *ctx)
{
	struct ring *ring = ctx->ring;
	unsigned int length = ring->put_length;
	long n;

	if (!length)
		return;
	ring->put_length = 0;
	n = memory_write(ctx, ring->put_at, ring->page->data, length);
	ring->put_failed = n != length;
	if (n != length)
		ctx->result = n > 0 && ctx->result == length ? n : -EFAULT;
}

/* ---- calls and answers ---- */

/* 1: *ev tells of a call that the hot thread has posted. */
int ring_take(struct pt_event *ev)
{
	struct ring *ring = hot->ring;
	struct ring_page *page = ring->page;
	uint32_t number, block;

	if (load(&page->state) != POSTED || hot->state != PT_RUNNING || hot->flags & (PT_INTERRUPTED | PT_DYING))
		return 0;
	number = load(&page->number);
	block = load(&page->block);
	if (is_refused((int)number) || block >= (uint32_t)ring->n_blocks) {
		change(page, POSTED, PLAIN);
		return 0;
	}
	if (ring->hits++ == 0)
		begin_watch(hot);
	n_calls++;
	turn_set_state(hot, PT_RING);
	hot->flags = 0;
	hot->call_end = ring->blocks[block].end;
	ev->kind = PT_EV_SYSCALL;
	ev->tid = hot->tid;
	ev->number = number;
	ev->native = 1;
	memcpy(ev->args, page->args, sizeof(ev->args));
	begin_copies(ev, ring->blocks[block].kind);
	return 1;
}

/* 0: the answer, ctx->result, was given; else the thread asks for it in a notification. */
int ring_answer(struct pt_ctx *ctx)
{
	struct ring *ring = ctx->ring;
	struct ring_page *page = ring->page;

	end_copies();
	if (ring->put_failed)
		ctx->result = -EFAULT;
	if (ring->out_length != ring->put_length)
		page->out_length = ring->out_length = ring->put_length;
	if (ring->put_length)
		page->out_at = ring->put_at;
	page->args[0] = ctx->ring_result = ctx->result;
	if (change(page, POSTED, DONE))
		return 0;
	ring_settle(ctx);
	return -EAGAIN;
}

/* ---- a thread that was stopped in a block ---- */

static const struct ring_block *block_at(const struct ring *ring, unsigned long rip)
{
	if (rip < ring->low || rip >= ring->high)
		return NULL;
	for (int i = 0; i < ring->n_blocks; i++)
		if (rip - ring->blocks[i].start < RING_OFFSET(pt_ring_code_end))
			return &ring->blocks[i];
	return NULL;
}

/* What CF, PF, AF, ZF, SF and OF were.  Any value does no harm. */
static void restore_flags(struct pt_regs_x86 *regs, uint16_t saved)
{
	regs->eflags = (regs->eflags & ~0x8d5ul) | (saved >> 8 & 0xd5) | (saved & 1) << 11;
}

/* At the first instruction: what the displaced one would have done, so that one step is one instruction. */
static void do_displaced(struct pt_ctx *ctx, const struct ring_block *block)
{
	struct pt_regs_x86 *regs = &ctx->regs;

	if (block->number < 0) {
		pt_read(ctx, regs->rsp + 8, (char *)&regs->r9, sizeof(regs->r9));
		return;
	}
	regs->rax = block->number;
	if (block->number == 0)
		restore_flags(regs, 0x44 << 8); /* xor: ZF and PF */
}

static int was_answered(const struct pt_ctx *ctx)
{
	struct ring_page *page = ctx->ring->page;

	return page && !change(page, POSTED, PLAIN) && load(&page->state) == DONE;
}

/* ctx is stopped, its registers are read: make them those that it would have without the ring.  called: it is in a
 * call that the Sentry has taken, and about to answer through them. */
void ring_leave(struct pt_ctx *ctx, int called)
{
	const struct ring_block *block = ctx->ring ? block_at(ctx->ring, ctx->regs.rip) : NULL;
	struct pt_regs_x86 *regs = &ctx->regs;
	struct ring_page *page;
	unsigned long offset;

	if (!block)
		return;
	page = ctx->ring->page;
	offset = regs->rip - block->start;
	if (offset == 0)
		do_displaced(ctx, block);
	else
		regs->rcx = block->end; /* as behind the call, which changes it in any case */
	if (page && offset >= RING_OFFSET(pt_ring_numbered))
		regs->rax = load(&page->number);
	if (page && offset >= RING_OFFSET(pt_ring_saved))
		restore_flags(regs, page->flags);
	if (page && offset >= RING_OFFSET(pt_ring_put) && offset < RING_OFFSET(pt_ring_done))
		regs->rdx = page->args[2];
	if (called) {
		regs->orig_rax = regs->rax;
		regs->rip = block->end;
	} else if (offset >= RING_OFFSET(pt_ring_posted) && was_answered(ctx)) {
		ctx->result = ctx->ring_result;
		if (offset < RING_OFFSET(pt_ring_done))
			ring_settle(ctx);
		regs->rax = ctx->result;
		regs->rip = block->end;
	} else {
		regs->rip = block->end - 2;
	}
	ctx->flags |= PT_REGS_DIRTY;
}
