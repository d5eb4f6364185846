/* The shortest way: when one context alone is to run, the Sentry's own thread runs it, on a virtual CPU of its own.
 *
 * No other thread is woken then, neither for the way in nor for the way out.  What would have ended the Sentry's sleep,
 * its descriptors and the time, is watched by a thread that takes it out of the guest; a signal does that by itself.  The
 * context then goes on on another virtual CPU, while the Sentry does what there is to do.
 */
#include "core.h"
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#define NEVER (~0ul >> 1)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t may_watch = PTHREAD_COND_INITIALIZER;
static pthread_t watcher;
static int alive, changed_fd = -1;

/* Under the lock. */
static int armed;	/* the Sentry's thread is in the guest, or about to go in */
static int parked;	/* the watcher waits for that */
static int ending, watched_fd = -1;
static unsigned long deadline, sleeps_until;

static struct vcpu *own(void)
{
	return &vcpus[0];
}

/* ---- the watcher ---- */

/* Sleep until there is a reason; 0: something else has changed.  Called, and returns, under the lock. */
static int sleep_until_reason(void)
{
	struct pollfd polled[] = { { .fd = changed_fd, .events = POLLIN }, { .fd = watched_fd, .events = POLLIN } };
	long now = now_ns(), ns = (long)deadline - now;
	struct timespec ts = { ns / 1000000000, ns % 1000000000 };
	eventfd_t count;
	int n;

	if (ns <= 0)
		return 1;
	sleeps_until = deadline;
	pthread_mutex_unlock(&lock);
	n = ppoll(polled, 2, deadline == NEVER ? NULL : &ts, NULL);
	if (n > 0 && polled[0].revents)
		eventfd_read(changed_fd, &count);
	pthread_mutex_lock(&lock);
	sleeps_until = 0;
	return n > 0 ? polled[1].revents != 0 : now_ns() >= (long)deadline;
}

static void *watch(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&lock);
	while (!ending) {
		if (!armed) {
			parked = 1;
			pthread_cond_wait(&may_watch, &lock);
			parked = 0;
		} else if (sleep_until_reason() && armed) {
			armed = 0;
			__atomic_store_n(&own()->preempt, 1, __ATOMIC_SEQ_CST);
			vcpu_kick(own());
		}
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* Signals are blocked: it inherits that.  0 or -errno. */
int direct_start(void)
{
	ending = armed = parked = 0;
	deadline = sleeps_until = 0;
	own()->tid = syscall(SYS_gettid);
	changed_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (changed_fd < 0)
		return -errno;
	alive = !pthread_create(&watcher, NULL, watch, NULL);
	return alive ? 0 : -EAGAIN;
}

void direct_stop(void)
{
	pthread_mutex_lock(&lock);
	ending = 1;
	pthread_cond_signal(&may_watch);
	pthread_mutex_unlock(&lock);
	if (alive) {
		eventfd_write(changed_fd, 1);
		pthread_join(watcher, NULL);
	}
	alive = 0;
	if (changed_fd >= 0)
		close(changed_fd);
	changed_fd = -1;
}

/* ---- the Sentry's thread ---- */

static void arm(int epoll_fd, unsigned long until)
{
	pthread_mutex_lock(&lock);
	own()->preempt = 0;
	armed = 1;
	deadline = until;
	if (parked)
		pthread_cond_signal(&may_watch);
	else if (epoll_fd != watched_fd || until < sleeps_until)
		eventfd_write(changed_fd, 1); /* it sleeps for the wrong reasons; else it looks when it wakes */
	watched_fd = epoll_fd;
	pthread_mutex_unlock(&lock);
}

static void disarm(void)
{
	pthread_mutex_lock(&lock);
	armed = 0;
	deadline = NEVER;
	pthread_mutex_unlock(&lock);
}

/* Run ctx, and wait as kv_wait does. */
int kv_run(struct kv_ctx *ctx, int epoll_fd, long timeout_ns, struct kv_event *out, int max)
{
	int result;

	if (!timeout_ns || !turn_is_quiet()) {
		kv_resume(ctx);
		return kv_wait(epoll_fd, timeout_ns, out, max);
	}
	arm(epoll_fd, timeout_ns < 0 ? NEVER : (unsigned long)(now_ns() + timeout_ns));
	memset(out, 0, sizeof(*out));
	own()->current = ctx;
	result = vcpu_stay(own(), ctx, out);
	own()->current = NULL;
	disarm();
	if (result == RAN_EVENT) {
		out->id = ctx->id;
		return 1;
	}
	kv_resume(ctx);
	return 0;
}
