/* Contexts, the threads that run them, and the wait for what they trap with.
 *
 * A context is STOPPED, QUEUED for a virtual CPU, RUNNING on one, or DONE: its event waits for kv_wait to fetch it.  Each
 * virtual CPU has a thread that takes from the queue; whoever waits for long while others run gets his turn by time.
 */
#include "core.h"
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <x86intrin.h>

#define SLICE_NS 10000000l /* that a context may run while another waits */

enum { STOPPED, QUEUED, RUNNING, DONE };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER, idle = PTHREAD_COND_INITIALIZER;
static struct queue {
	struct kv_ctx *first, **end;
} ready = { NULL, &ready.first }, done = { NULL, &done.first };
static int n_idle, ending, sleeping, wake_fd = -1;
static unsigned char used_ids[MAX_CTX];

static long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000l + ts.tv_nsec;
}

/* ---- queues; all of it under the lock ---- */

static void append(struct queue *queue, struct kv_ctx *ctx)
{
	ctx->next = NULL;
	*queue->end = ctx;
	queue->end = &ctx->next;
}

static void take_out(struct queue *queue, struct kv_ctx *ctx)
{
	for (struct kv_ctx **at = &queue->first; *at; at = &(*at)->next)
		if (*at == ctx) {
			*at = ctx->next;
			if (!*at)
				queue->end = at;
			return;
		}
}

static void set_waiting(void)
{
	for (int i = 0; i < n_vcpus; i++)
		__atomic_store_n(&vcpus[i].shared->waiting, ready.first != NULL, __ATOMIC_RELAXED);
}

static void make_ready(struct kv_ctx *ctx)
{
	ctx->state = QUEUED;
	append(&ready, ctx);
	if (n_idle)
		pthread_cond_signal(&work);
	else
		set_waiting();
}

static void finish(struct kv_ctx *ctx)
{
	ctx->state = DONE;
	ctx->event.id = ctx->id;
	append(&done, ctx);
	if (sleeping) {
		sleeping = 0;
		eventfd_write(wake_fd, 1);
	}
}

/* ---- the threads ---- */

/* Asked by the thread itself, in the midst of a stay. */
int turn_wants_out(struct vcpu *v)
{
	return __atomic_load_n(&v->preempt, __ATOMIC_RELAXED) || __atomic_load_n(&v->current->stop, __ATOMIC_RELAXED);
}

/* The context that was here last, if it waits and did not have to make room; else the first. */
static struct kv_ctx *next_for(struct vcpu *v)
{
	struct kv_ctx *ctx = ready.first, *last = v->extended;

	if (last && last->state == QUEUED && last->ran_on == v->index && !last->preempted)
		ctx = last;
	take_out(&ready, ctx);
	set_waiting();
	return ctx;
}

static void run_one(struct vcpu *v, struct kv_ctx *ctx)
{
	int result;

	ctx->state = RUNNING;
	ctx->preempted = 0;
	v->current = ctx;
	v->preempt = 0;
	v->since = now_ns();
	memset(&ctx->event, 0, sizeof(ctx->event));
	pthread_mutex_unlock(&lock);
	result = ctx->stop ? RAN_STOP : vcpu_stay(v, ctx, &ctx->event);
	pthread_mutex_lock(&lock);
	v->current = NULL;
	if (result == RAN_STOP && !ctx->stop) {
		ctx->preempted = 1;
		make_ready(ctx);
		return;
	}
	if (result == RAN_STOP)
		ctx->event.kind = KV_EV_INTERRUPT;
	ctx->stop = 0;
	finish(ctx);
	pthread_cond_broadcast(&idle);
}

static void *live(void *argument)
{
	struct vcpu *v = argument;

	v->tid = syscall(SYS_gettid);
	pthread_mutex_lock(&lock);
	while (!ending) {
		if (ready.first) {
			run_one(v, next_for(v));
			continue;
		}
		n_idle++;
		pthread_cond_wait(&work, &lock);
		n_idle--;
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void on_kick(int signo)
{
	(void)signo;
}

static int start_threads(void)
{
	struct sigaction action = { .sa_handler = on_kick };
	sigset_t all, before;
	int err = 0;

	if (sigaction(KICK_SIGNAL, &action, NULL))
		return -errno;
	sigfillset(&all);
	sigdelset(&all, KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (int i = 0; !err && i < n_vcpus; i++)
		err = -pthread_create(&vcpus[i].thread, NULL, live, &vcpus[i]);
	sigaddset(&before, KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

/* ---- the machine ---- */

int kv_machine_init(int kvm_fd, int n_cpus, int params_fd, const char **why)
{
	int err = machine_make(kvm_fd, n_cpus, params_fd, why);

	if (err) {
		machine_unmake();
		return err;
	}
	ending = n_idle = sleeping = 0;
	memset(used_ids, 0, sizeof(used_ids));
	wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = wake_fd < 0 ? -errno : start_threads();
	if (err)
		kv_machine_close();
	return err;
}

/* Every context was released before. */
void kv_machine_close(void)
{
	pthread_mutex_lock(&lock);
	ending = 1;
	pthread_cond_broadcast(&work);
	pthread_mutex_unlock(&lock);
	for (int i = 0; i < n_vcpus; i++)
		if (vcpus[i].thread) {
			pthread_join(vcpus[i].thread, NULL);
			kv_stock_return(vcpus[i].shared->stock, vcpus[i].in_stock);
		}
	kv_memory_close();
	machine_unmake();
	if (wake_fd >= 0)
		close(wake_fd);
	wake_fd = -1;
}

/* ---- contexts ---- */

/* Under the lock. */
static void interrupt(struct kv_ctx *ctx)
{
	if (ctx->state == QUEUED) {
		take_out(&ready, ctx);
		memset(&ctx->event, 0, sizeof(ctx->event));
		ctx->event.kind = KV_EV_INTERRUPT;
		finish(ctx);
	}
	if (ctx->state != RUNNING)
		return;
	__atomic_store_n(&ctx->stop, 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < n_vcpus; i++)
		if (vcpus[i].current == ctx)
			vcpu_kick(&vcpus[i]);
}

int kv_ctx_init(struct kv_ctx *ctx, int id, struct kv_space *space)
{
	struct ring0_ctx *page;
	int index = 0;

	while (index < MAX_CTX && used_ids[index])
		index++;
	if (index == MAX_CTX)
		return -EAGAIN;
	used_ids[index] = 1;
	memset(ctx, 0, sizeof(*ctx));
	page = machine_ctx(index, &ctx->address);
	ctx->index = index;
	ctx->id = id;
	ctx->space = space;
	ctx->regs = &page->regs;
	ctx->xstate = (char *)page->xsave;
	ctx->answered = &page->answered;
	ctx->answers = page->answers;
	xstate_reset(ctx->xstate);
	ctx->replaced = 1;
	return 0;
}

/* Its event, if there is one, is forgotten. */
void kv_ctx_release(struct kv_ctx *ctx)
{
	pthread_mutex_lock(&lock);
	interrupt(ctx);
	while (ctx->state == RUNNING)
		pthread_cond_wait(&idle, &lock);
	if (ctx->state == DONE)
		take_out(&done, ctx);
	for (int i = 0; i < n_vcpus; i++)
		if (vcpus[i].extended == ctx)
			vcpus[i].extended = NULL;
	ctx->state = STOPPED;
	pthread_mutex_unlock(&lock);
	machine_forget_ctx(ctx->index);
	used_ids[ctx->index] = 0;
}

/* No context is left in it. */
void kv_space_close(struct kv_space *space)
{
	kv_lock();
	for (int i = 0; i < n_vcpus; i++)
		if (vcpus[i].root == kv_space_root(space))
			vcpu_leave_space(&vcpus[i]);
	kv_unlock();
	kv_space_free(space);
}

/* ---- what the Sentry's thread does ---- */

void kv_resume(struct kv_ctx *ctx)
{
	pthread_mutex_lock(&lock);
	make_ready(ctx);
	pthread_mutex_unlock(&lock);
}

void kv_interrupt(struct kv_ctx *ctx)
{
	pthread_mutex_lock(&lock);
	interrupt(ctx);
	pthread_mutex_unlock(&lock);
}

unsigned long kv_cycles(struct kv_ctx *ctx)
{
	unsigned long entered = 0, cycles;

	pthread_mutex_lock(&lock);
	cycles = ctx->ran;
	for (int i = 0; i < n_vcpus; i++)
		if (vcpus[i].current == ctx)
			entered = __atomic_load_n(&vcpus[i].entered, __ATOMIC_RELAXED);
	if (entered)
		cycles += __rdtsc() - entered;
	pthread_mutex_unlock(&lock);
	return cycles;
}

/* If somebody waits for a virtual CPU, whoever has run for long enough is to make room; how long until then.  -1: nobody
 * waits.  Under the lock. */
static long share_cpus(void)
{
	long now, next = -1;

	if (!ready.first)
		return -1;
	now = now_ns();
	for (int i = 0; i < n_vcpus; i++) {
		struct vcpu *v = &vcpus[i];
		long left = v->since + SLICE_NS - now;

		if (!v->current)
			return SLICE_NS; /* it is about to take one */
		if (left <= 0 && !v->preempt) {
			v->preempt = 1;
			vcpu_kick(v);
		}
		if (left <= 0)
			left = SLICE_NS;
		if (next < 0 || left < next)
			next = left;
	}
	return next;
}

static int fetch(struct kv_event *out, int max)
{
	int n = 0;

	for (; n < max && done.first; n++) {
		struct kv_ctx *ctx = done.first;

		take_out(&done, ctx);
		ctx->state = STOPPED;
		out[n] = ctx->event;
	}
	return n;
}

static int sleep_for(int epoll_fd, long ns)
{
	struct pollfd polled[] = { { .fd = wake_fd, .events = POLLIN }, { .fd = epoll_fd, .events = POLLIN } };
	struct timespec ts = { ns / 1000000000, ns % 1000000000 };
	eventfd_t count;

	if (ppoll(polled, 2, ns < 0 ? NULL : &ts, NULL) < 0)
		return errno == EINTR ? 1 : -errno;
	if (polled[0].revents)
		eventfd_read(wake_fd, &count);
	return polled[1].revents != 0;
}

/* Sleep until a context traps, epoll_fd is readable, a signal comes, or timeout_ns passed (-1: never).  The events. */
int kv_wait(int epoll_fd, long timeout_ns, struct kv_event *out, int max)
{
	long deadline = timeout_ns < 0 ? -1 : now_ns() + timeout_ns;
	int n, other = 0;

	pthread_mutex_lock(&lock);
	while (!(n = fetch(out, max)) && !other) {
		long left = deadline < 0 ? -1 : deadline - now_ns(), slice = share_cpus();

		if (deadline >= 0 && left <= 0)
			break;
		sleeping = 1;
		pthread_mutex_unlock(&lock);
		other = sleep_for(epoll_fd, slice >= 0 && (left < 0 || slice < left) ? slice : left);
		pthread_mutex_lock(&lock);
		sleeping = 0;
	}
	pthread_mutex_unlock(&lock);
	return n ? n : other < 0 ? other : 0;
}
