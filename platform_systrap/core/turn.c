/* The systrap platform's turn: answer a trapped call, sleep, receive the next, in one C call.
 *
 * A context's thread is in one of these states:
 *   STOPPED   under ptrace, its registers are ours;
 *   RUNNING   application code, or on its way into a notification or a stop;
 *   NOTIFIED  it sleeps in a notification that we hold: answered by id, without its registers;
 *   RING      it has posted a call that we took (ring.c): answered through the ring, or else once it asks again;
 *   LATE      as RUNNING: its notification was answered when it had just been interrupted out of it, so the
 *             answer is put into its registers once its stop is collected, or given when it asks again.
 *
 * What interrupts a thread is the Sentry, and a stop follows; or a signal or a freezer of the host's, after which the
 * thread may also just ask again.
 */
#include "core.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <time.h>
#include <x86intrin.h>

#define MAX_LISTENERS 256
#define MAX_TRACED 32
#define LOOK_STOPS 16
#define ASK_EVERY 64

/* A signalfd for SIGCHLD: ppoll takes the signal itself only when no descriptor is ready, and in a busy container one
 * always is.  The Sentry's epoll descriptor.  Then the listeners. */
enum { CHILDREN, EPOLL, FIRST_LISTENER };
static struct pollfd polled[FIRST_LISTENER + MAX_LISTENERS] = { [CHILDREN] = { .fd = -1 } };
static int n_polled = FIRST_LISTENER;
static int traced_calls[MAX_TRACED], n_traced_calls;
static struct pt_event *out;
static int max_out;
static struct seccomp_notif *deferred;
static int n_deferred, max_deferred;
static int n_running;

static int watch_children(void)
{
	sigset_t sigchld;

	sigemptyset(&sigchld);
	sigaddset(&sigchld, SIGCHLD);
	return signalfd(-1, &sigchld, SFD_NONBLOCK | SFD_CLOEXEC);
}

/* events: where turn() reports; it must outlive the last turn. */
int turn_init(int epoll_fd, const int *traced, int n_traced, struct pt_event *events, int max_events)
{
	if (n_traced > MAX_TRACED)
		return -EINVAL;
	memcpy(traced_calls, traced, n_traced * sizeof(*traced));
	n_traced_calls = n_traced;
	if (polled[CHILDREN].fd < 0) {
		polled[CHILDREN] = (struct pollfd){ .fd = watch_children(), .events = POLLIN };
		if (polled[CHILDREN].fd < 0)
			return -errno;
	}
	polled[EPOLL] = (struct pollfd){ .fd = epoll_fd, .events = POLLIN };
	n_polled = FIRST_LISTENER;
	n_deferred = 0;
	place_init();
	out = events;
	max_out = max_events;
	return 0;
}

/* After the last turn. */
void turn_close(void)
{
	close(polled[CHILDREN].fd);
	polled[CHILDREN].fd = -1;
	n_polled = FIRST_LISTENER;
}

int turn_listen(int listener)
{
	if (n_polled == FIRST_LISTENER + MAX_LISTENERS)
		return -ENOSPC;
	polled[n_polled++] = (struct pollfd){ .fd = listener, .events = POLLIN };
	return 0;
}

void turn_unlisten(int listener)
{
	for (int i = FIRST_LISTENER; i < n_polled; i++)
		if (polled[i].fd == listener) {
			polled[i] = polled[--n_polled];
			return;
		}
}

void turn_set_state(struct pt_ctx *ctx, int state)
{
	if (state == PT_STOPPED && ring_is_hot(ctx))
		ring_cool(); /* it runs on beside us: place.c */
	n_running += (state == PT_RUNNING || state == PT_LATE) - (ctx->state == PT_RUNNING || ctx->state == PT_LATE);
	if (ctx->ring)
		ctx->ring->n_taken += (state == PT_RING) - (ctx->state == PT_RING);
	ctx->state = state;
}

int turn_is_traced(long number)
{
	for (int i = 0; i < n_traced_calls; i++)
		if (traced_calls[i] == number)
			return 1;
	return 0;
}

/* Every call asks: by a stop where the Sentry needs registers, or must change the call, else by a notification.
 * The vsyscall page is emulated by the host, which could not restart its calls: a stop, too. */
int turn_build_filter(struct sock_filter *filter)
{
	const struct sock_filter head[] = {
		LOAD(arch),
		IF_EQ(AUDIT_ARCH_X86_64, 1, 0),
		RETURN(SECCOMP_RET_USER_NOTIF),
		LOAD_HIGH(instruction_pointer),
		IF_EQ(0xffffffff, 0, 1),
		RETURN(SECCOMP_RET_TRACE),
		LOAD(nr),
	};
	int n = sizeof(head) / sizeof(head[0]);

	_Static_assert(sizeof(head) / sizeof(head[0]) + MAX_TRACED + 2 <= MAX_FILTER, "filter size");
	memcpy(filter, head, sizeof(head));
	for (int i = 0; i < n_traced_calls; i++)
		filter[n++] = (struct sock_filter)IF_EQ(traced_calls[i], n_traced_calls - i, 0);
	filter[n++] = (struct sock_filter)RETURN(SECCOMP_RET_USER_NOTIF);
	filter[n++] = (struct sock_filter)RETURN(SECCOMP_RET_TRACE);
	return n;
}

void turn_defer(const struct seccomp_notif *notif)
{
	if (n_deferred == max_deferred) {
		int larger = max_deferred ? 2 * max_deferred : 16;
		struct seccomp_notif *memory = realloc(deferred, larger * sizeof(*deferred));

		if (!memory)
			return; /* its thread sleeps on; killing the container ends it */
		deferred = memory;
		max_deferred = larger;
	}
	deferred[n_deferred++] = *notif;
}

/* ---- answering and resuming ---- */

static int answer_notification(struct pt_ctx *ctx, long result, int answer)
{
	int err;

	if (!ring_is_hot(ctx))
		place_beside(ctx);
	err = answer == PT_ANSWER_CONTINUE ? notify_continue(ctx->listener, ctx->id)
					   : notify_answer(ctx->listener, ctx->id, result);

	turn_set_state(ctx, PT_RUNNING);
	if (err != -ENOENT)
		return err;
	/* Interrupted, or killed: what follows is a stop, its end, or the call again, as one to be carried out always. */
	if (answer == PT_ANSWER_RESULT) {
		turn_set_state(ctx, PT_LATE);
		ctx->result = result;
	}
	return 0;
}

/* Answer a call that was posted, ahead of the turn that follows: its thread runs on while we prepare that.  If it is
 * already on its way to ask in a notification, it is answered there.  0: it was not, or has stopped since. */
int turn_answer_posted(struct pt_ctx *ctx, long result)
{
	if (ctx->state != PT_RING)
		return 0;
	ctx->result = result;
	turn_set_state(ctx, ring_answer(ctx) ? PT_LATE : PT_RUNNING);
	return 1;
}

/* The call at which it stopped must not be carried out: whatever fails here ends the process instead. */
static int write_back(struct pt_ctx *ctx)
{
	if (ctx->flags & PT_REGS_DIRTY)
		return pt_store_regs(ctx);
	if (ctx->flags & PT_ENTRY && pt(PTRACE_POKEUSER, ctx->tid, offsetof(struct user_regs_struct, orig_rax), -1ul))
		return -errno;
	if (ctx->flags & PT_REGS_RAX &&
	    pt(PTRACE_POKEUSER, ctx->tid, offsetof(struct user_regs_struct, rax), ctx->result))
		return -errno;
	return 0;
}

static int run_on(struct pt_ctx *ctx)
{
	int err = write_back(ctx);

	ctx->flags = 0;
	turn_set_state(ctx, PT_RUNNING);
	place_beside(ctx);
	if (!err && pt(PTRACE_CONT, ctx->tid, 0, 0))
		err = -errno;
	if (err && err != -ESRCH)
		kill(ctx->pid, SIGKILL);
	return 0; /* its end is collected in time */
}

/* Let the application run on, its call answered. */
int turn_resume(struct pt_ctx *ctx, long result, int answer)
{
	if (ring_hot() && !ring_is_hot(ctx))
		ring_cool();
	if (answer == PT_ANSWER_GIVEN)
		return 0;
	if (ctx->state == PT_NOTIFIED)
		return answer_notification(ctx, result, answer);
	if (turn_answer_posted(ctx, result))
		return 0;
	if (answer == PT_ANSWER_RESULT && ctx->flags & PT_REGS_VALID) {
		ctx->regs.rax = result;
		ctx->flags |= PT_REGS_DIRTY;
	} else if (answer == PT_ANSWER_RESULT) {
		ctx->result = result;
		ctx->flags |= PT_REGS_RAX;
	}
	/* To be carried out, but meanwhile interrupted out of its notification: the call is issued again. */
	if (answer == PT_ANSWER_CONTINUE && ctx->flags & PT_REGS_VALID) {
		ctx->regs.rax = ctx->regs.orig_rax;
		ctx->regs.rip = ctx->call_end - 2;
		ctx->flags |= PT_REGS_DIRTY;
	}
	return run_on(ctx);
}

/* ---- receiving ---- */

/* It was interrupted out of a call that the Sentry has taken, and makes it again. */
static void take_again(struct pt_ctx *ctx, uint64_t id)
{
	int late = ctx->state == PT_LATE;

	turn_set_state(ctx, PT_NOTIFIED);
	ctx->id = id;
	if (late)
		answer_notification(ctx, ctx->result, PT_ANSWER_RESULT);
}

static int is_hidden(const struct ring *ring, unsigned long start, unsigned long end)
{
	for (int i = 0; ring && i < ring->n_hidden; i++)
		if (start < ring->hidden[i][1] && ring->hidden[i][0] < end)
			return 1;
	return ring && ring->n_hidden < 0;
}

/* Memory that is there, of the application's own. */
static int is_its_own(const struct pt_ctx *ctx, unsigned long addr, unsigned long length)
{
	return !(addr & 0xfff) && length && length <= STUB_START && addr <= STUB_START - length &&
	       !is_hidden(ctx->ring, addr, addr + length);
}

/* A memory call of which the kernel would say, whatever its state, that the host may carry it out: see ctx->approved
 * and sentry/syscalls/mmap.py.  No argument points anywhere. */
static int is_ordinary(const struct pt_ctx *ctx, const struct seccomp_data *call)
{
	const unsigned long unremarkable = MAP_DENYWRITE | MAP_EXECUTABLE | MAP_NORESERVE | MAP_STACK;
	const __u64 *args = call->args;

	switch (call->nr) {
	case SYS_mmap:
		return (args[3] & ~unremarkable) == (MAP_PRIVATE | MAP_ANONYMOUS) && !(args[0] | args[5]) && args[1] &&
		       args[1] < 1ul << 40 && args[2] <= 7;
	case SYS_munmap:
		return is_its_own(ctx, args[0], args[1]);
	case SYS_mprotect:
		return args[2] <= 7 && is_its_own(ctx, args[0], args[1]);
	case SYS_madvise:
		return args[2] == MADV_DONTNEED && is_its_own(ctx, args[0], args[1]);
	}
	return 0;
}

/* Now and then the call is reported all the same, lest a thread that makes no others keep us from everybody else. */
static int is_approved(const struct pt_ctx *ctx, const struct seccomp_data *call)
{
	static unsigned int in_a_row;

	if (!ctx->approved || call->arch != AUDIT_ARCH_X86_64 || !is_ordinary(ctx, call))
		return 0;
	return ++in_a_row % ASK_EVERY != 0;
}

/* 1: *ev tells of a call. */
static int take_notification(const struct seccomp_notif *notif, struct pt_event *ev)
{
	struct pt_ctx *ctx = registry_find(notif->pid);

	/* An interrupt on its way takes the thread out of this call, and an answer could be lost with that, which
	 * nothing would tell.  It stops, and makes the call when it runs on. */
	if (!ctx || ctx->flags & PT_INTERRUPTED)
		return 0;
	if (ctx->flags & PT_DYING)
		return 0; /* a last call of the application's, withdrawn at once */
	if (ctx->state == PT_NOTIFIED || ctx->state == PT_LATE || ctx->state == PT_RING) {
		take_again(ctx, notif->id);
		return 0;
	}
	turn_set_state(ctx, PT_NOTIFIED);
	ctx->flags = 0;
	ctx->id = notif->id;
	ctx->call_end = notif->data.instruction_pointer;
	if (is_approved(ctx, &notif->data)) {
		answer_notification(ctx, 0, PT_ANSWER_CONTINUE);
		return 0;
	}
	ev->tid = notif->pid;
	ev->number = notif->data.nr;
	ev->native = notif->data.arch == AUDIT_ARCH_X86_64;
	ev->kind = ev->native && ring_counts(ctx, ctx->call_end, ev->number) ? PT_EV_SITE : PT_EV_SYSCALL;
	memcpy(ev->args, notif->data.args, sizeof(ev->args));
	return 1;
}

/* Its thread may have left it meanwhile, and be anywhere. */
static int is_valid(const struct seccomp_notif *notif)
{
	struct pt_ctx *ctx = registry_find(notif->pid);

	return ctx && notify_is_valid(ctx->listener, notif->id);
}

static int take_deferred(void)
{
	int n = 0, taken = 0;

	for (; n < max_out && taken < n_deferred; taken++)
		if (is_valid(&deferred[taken]))
			n += take_notification(&deferred[taken], &out[n]);
	n_deferred -= taken;
	memmove(deferred, deferred + taken, n_deferred * sizeof(*deferred));
	return n;
}

/* A stop of a thread whose call the Sentry holds: from now on it is answered through its registers. */
static int take_held_stop(struct pt_ctx *ctx, int status, struct pt_event *ev)
{
	int late = ctx->state == PT_LATE;

	turn_set_state(ctx, PT_STOPPED);
	ctx->flags = PT_CALLED | (late ? PT_REGS_RAX : 0) | stops_at_entry(status);
	pt_fetch_regs(ctx); /* it may have stopped before the call; if it was killed, nothing matters any more */
	if (!late)
		return 0;
	if (status >> 16 != PTRACE_EVENT_STOP)
		return run_on(ctx);
	ev->kind = PT_EV_INTERRUPT;
	ev->tid = ctx->tid;
	return 1;
}

/* A traced call: its registers, which whoever answers it needs, say all about it.  0: the page of vsyscalls, or gone. */
static int take_entry(struct pt_ctx *ctx, struct pt_event *ev)
{
	const struct pt_regs_x86 *regs = &ctx->regs;

	if (pt(PTRACE_GETREGS, ctx->tid, 0, (unsigned long)regs) || regs->rip >> 32 == 0xffffffff)
		return 0;
	turn_set_state(ctx, PT_STOPPED);
	ctx->flags = (ctx->flags & PT_DYING) | PT_ENTRY | PT_REGS_VALID;
	ev->kind = PT_EV_SYSCALL;
	ev->tid = ctx->tid;
	ev->number = (int)regs->orig_rax; /* the host, too, looks at no more of it */
	ev->native = 1; /* the filter traces no others */
	memcpy(ev->args, (unsigned long[]){ regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9 },
	       sizeof(ev->args));
	return 1;
}

/* A thread whose space has a ring has stopped, and leaves that, which may be another thread's before it runs on.
 * 1: it had stopped by a fault of its block's, which means nothing to anybody. */
static int leave_ring(struct pt_ctx *ctx, const struct pt_event *ev)
{
	if (pt_fetch_regs(ctx) || ev->kind != PT_EV_FAULT || ctx->flags & PT_DYING || !(ctx->flags & PT_REGS_DIRTY))
		return 0;
	run_on(ctx);
	return 1;
}

static int take_stop(int tid, int status, struct pt_event *ev)
{
	struct pt_ctx *ctx = registry_find(tid);
	int reported;

	if (ctx && !WIFSTOPPED(status))
		mark_gone(ctx);
	else if (ctx && !(ctx->flags & PT_DYING) && ctx->state != PT_STOPPED && ctx->state != PT_RUNNING)
		return take_held_stop(ctx, status, ev);
	if (ctx && WIFSTOPPED(status) && status >> 16 == PTRACE_EVENT_SECCOMP && take_entry(ctx, ev))
		return 1;
	reported = stops_describe(tid, status, PTRACE_CONT, ev) > 0;
	if (reported && ctx && WIFSTOPPED(status)) {
		int interrupted = ctx->flags & PT_INTERRUPTED;

		turn_set_state(ctx, PT_STOPPED);
		ctx->flags = (ctx->flags & PT_DYING) | stops_at_entry(status);
		if (ctx->ring && leave_ring(ctx, ev)) {
			if (interrupted)
				pt_interrupt(ctx);
			return 0;
		}
	} else if (ctx && WIFSTOPPED(status) && ctx->flags & PT_INTERRUPTED) {
		pt_interrupt(ctx); /* this stop, which nobody hears of, may have taken the interrupt's place */
	}
	return reported;
}

/* Fills the events from the nth on; returns how many there are then.
 *
 * Whoever runs is all that is expected to stop: then nothing is looked for in vain, and what happened to others is
 * found later.  Now and then it is looked for all the same, lest a thread that stops all the time hides it. */
static int take_stops(int n)
{
	static unsigned int takes;
	int status, all = ++takes % LOOK_STOPS == 0;

	pt_sigchld = 0;
	while (n < max_out) {
		int tid = waitpid(-1, &status, WNOHANG | __WALL);

		if (tid <= 0)
			return n;
		n += take_stop(tid, status, &out[n]);
		if (n && !n_running && !all)
			break;
	}
	pt_sigchld = 1; /* there may be more */
	return n;
}

static void look_at_children(void)
{
	struct signalfd_siginfo info;

	if (read(polled[CHILDREN].fd, &info, sizeof(info)) > 0)
		pt_sigchld = 1;
}

/* What poll found readable: events from the listeners.  1 in *other: the Sentry's own descriptors. */
static int take_ready(int *other)
{
	struct seccomp_notif notif;
	int n = 0;

	*other = polled[EPOLL].revents != 0;
	if (polled[CHILDREN].revents)
		look_at_children();
	for (int i = FIRST_LISTENER; i < n_polled && n < max_out; i++) {
		if (polled[i].revents & POLLIN && !notify_receive(polled[i].fd, &notif))
			n += take_notification(&notif, &out[n]);
		else if (polled[i].revents & POLLHUP)
			turn_unlisten(polled[i--].fd); /* the last thread under this filter is gone */
	}
	return n;
}

static long sooner(long a, long b) { return a < 0 || (b >= 0 && b < a) ? b : a; }

/* ppoll, with time limits of our own while several stubs run, for then they are spread, and when they have ceased to. */
static int poll_for(long timeout_ns)
{
	long look = n_running > 1 && place_apart() ? PLACE_LOOK_NS : -1;
	long ns = sooner(timeout_ns, sooner(look, place_ourselves(n_running)));
	struct timespec ts = { ns / 1000000000, ns % 1000000000 };

	return ppoll(polled, n_polled, ns < 0 ? NULL : &ts, &pt_wait_mask) < 0 ? -errno : 0;
}

/* A stub that was answered runs before we do, and has often made its next call by now: a short look at the listeners
 * alone finds it, and so on for as long as what it finds is approved here.  Now and then the whole look is due, lest the
 * others wait for ever. */
static int take_at_once(void)
{
	const struct timespec now = { 0, 0 };
	static int short_looks;
	int other, n = 0;

	while (!n && ++short_looks % 8) {
		if (ppoll(polled + FIRST_LISTENER, n_polled - FIRST_LISTENER, &now, NULL) <= 0)
			return 0;
		polled[CHILDREN].revents = polled[EPOLL].revents = 0;
		n = take_ready(&other);
	}
	return n;
}

/* How often the listeners are looked at while the hot thread is waited for, and how often if that calls all the time. */
#define LOOK_CYCLES 8192
#define LOOK_CALLS 32

/* Look, without a sleep, at everything but the ring. */
static int take_all(int *other)
{
	const struct timespec now = { 0, 0 };
	int n = 0, ready = ppoll(polled, n_polled, &now, &pt_wait_mask);

	*other = ready < 0;
	if (ready > 0)
		n = take_ready(other);
	return pt_sigchld && n < max_out ? take_stops(n) : n;
}

/* Look for the hot thread's next call, which it has often posted by the time that we come here.  The number of events;
 * 0: Python is wanted; -1: nothing happened, for so long that it should sleep. */
static int take_posted(long timeout_ns)
{
	static unsigned int calls;
	unsigned long begin = __rdtsc(), next_look = LOOK_CYCLES, passed;
	int n, other = 0;

	if (++calls % LOOK_CALLS == 0)
		next_look = 0;
	for (;;) {
		passed = __rdtsc() - begin;
		if (passed >= next_look) {
			n = take_all(&other);
			if (ring_hot() && ring_hot()->state != PT_RUNNING)
				ring_cool();
			if (n || other)
				return n;
			next_look = passed + LOOK_CYCLES;
		}
		if (ring_hot() && ring_take(&out[0]))
			return 1;
		if (!ring_hot() || timeout_ns == 0 || passed >= ring_patience())
			return -1;
		_mm_pause();
	}
}

/* Sleep until something happens; 0 only if that concerns Python alone (its descriptors, a signal, the time). */
static int sleep_and_take(long timeout_ns)
{
	long deadline = timeout_ns > 0 ? now_ns() + timeout_ns : 0;

	for (;;) {
		int other = 0, n = 0, err = poll_for(timeout_ns);

		if (err && err != -EINTR)
			return err;
		if (!err)
			n = take_ready(&other);
		if (pt_sigchld && n < max_out)
			n = take_stops(n);
		if (!n && !other && !err && n_running)
			n = take_at_once(); /* after a call that was approved here */
		/* A signal is Python's to see, unless it was SIGCHLD. */
		if (n || other || err || timeout_ns == 0)
			return n;
		if (timeout_ns > 0 && (timeout_ns = deadline - now_ns()) <= 0)
			return 0;
	}
}

/* Nearly always the one event is the next call of the thread that was resumed: then the number tells, and only the
 * arguments have to be read. */
static int told(int n, const struct pt_ctx *ctx)
{
	const struct pt_event *ev = &out[0];

	if (n == 1 && ctx && ev->tid == ctx->tid && ev->kind == PT_EV_SYSCALL && ev->native &&
	    (unsigned long)ev->number < PT_OWN_CALL)
		return (ctx->state == PT_RING ? PT_POSTED_CALL : PT_OWN_CALL) + ev->number;
	return n;
}

/* All that turn() does but the resuming: the number of events. */
static int look_and_sleep(struct pt_ctx *ctx, int was_stopped, long timeout_ns)
{
	unsigned long begin;
	int n;

	if (ring_hot() && ring_hot()->state != PT_RUNNING)
		ring_cool(); /* its call is not answered at once, or it did not come through the ring */
	if (ring_hot() && !n_deferred) {
		n = take_posted(timeout_ns);
		if (n >= 0)
			return n;
		if (ring_hot() && timeout_ns)
			ring_cool();
	}
	begin = __rdtsc();
	/* It has often stopped again: a handler was entered that returns, a thread begun that ends.  The SIGCHLD of that
	 * need not be read: at the worst it ends a sleep.  And if it has not, its next trap is hardly a notification. */
	if (was_stopped)
		pt_sigchld = 1;
	n = take_deferred();
	if (n < max_out && pt_sigchld)
		n = take_stops(n);
	if (!n && n_running && !was_stopped)
		n = take_at_once();
	if (!n)
		n = sleep_and_take(timeout_ns);
	if (n == 1 && ctx && ctx->state == PT_NOTIFIED && ctx->ring && !n_running)
		ring_consider(ctx, __rdtsc() - begin);
	return n;
}

/* Resume ctx (NULL: nobody), then wait for events: their number; or PT_OWN_CALL or PT_POSTED_CALL and more, for its own
 * call of the number that remains, whose arguments are the first event's; or -errno. */
int turn(struct pt_ctx *ctx, long result, int answer, long timeout_ns)
{
	int was_stopped = ctx && ctx->state == PT_STOPPED;
	int err = ctx ? turn_resume(ctx, result, answer) : 0;

	return err ? err : told(look_and_sleep(ctx, was_stopped, timeout_ns), ctx);
}
