/* Seccomp notifications: the four answers, and serving the calls of one thread that was made to issue them. */
#include "core.h"
#include <fcntl.h>
#include <time.h>
#include <sys/ioctl.h>

/* 0, or -errno; -ENOENT: it was withdrawn meanwhile. */
int notify_receive(int listener, struct seccomp_notif *notif)
{
	memset(notif, 0, sizeof(*notif)); /* the kernel insists */
	return ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, notif) ? -errno : 0;
}

/* Does its thread still wait for the answer? */
int notify_is_valid(int listener, uint64_t id)
{
	return !ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id);
}

static int respond(int listener, uint64_t id, long result, int error, unsigned int flags)
{
	struct seccomp_notif_resp resp = { .id = id, .val = result, .error = error, .flags = flags };

	return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp) ? -errno : 0;
}

int notify_answer(int listener, uint64_t id, long result) { return respond(listener, id, result, 0, 0); }

int notify_continue(int listener, uint64_t id)
{
	return respond(listener, id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

/* Answer with the number under which the thread now has a copy of fd.  1: with an errno, as it could not be given. */
static int answer_with_fd(int listener, uint64_t id, int fd)
{
	struct seccomp_notif_addfd addfd = {
		.id = id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = fd, .newfd_flags = O_CLOEXEC,
	};
	int err;

	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &addfd) >= 0)
		return 0;
	err = -errno;
	if (err != -ENOENT)
		err = respond(listener, id, 0, err, 0);
	return err ? err : 1;
}

/* One notification from the gadget: map_fd's first call is answered with fd, any other is carried out.  1: map_fd ends
 * here, without having been given the descriptor. */
static int approve(int listener, const struct seccomp_notif *notif, int fd)
{
	uint64_t ip = notif->data.instruction_pointer;

	if (ip < STUB_CODE || ip >= STUB_CODE + 0x1000)
		return -EPROTO;
	if (fd >= 0 && notif->data.nr == NOTIFY_NR)
		return answer_with_fd(listener, notif->id, fd);
	return notify_continue(listener, notif->id);
}

/* The thread may stop instead of asking, for an interrupt that came late or a signal: it is sent on, and asks (again). */
static int send_on(struct pt_ctx *ctx)
{
	int status, tid = waitpid(ctx->tid, &status, WNOHANG | __WALL);

	if (tid < 0)
		return -errno;
	if (tid > 0 && !WIFSTOPPED(status)) {
		mark_gone(ctx);
		return -ESRCH;
	}
	return tid > 0 && pt(PTRACE_CONT, ctx->tid, 0, 0) ? -errno : 0;
}

/* Let ctx, which runs in the gadget, make this many calls that its filter asks us about. */
int notify_serve(struct pt_ctx *ctx, int listener, int calls, int fd)
{
	struct pollfd pfd = { .fd = listener, .events = POLLIN };
	/* In a process with other threads, one of those may be told of the stop. */
	const struct timespec soon = { 0, 20000000 };
	struct seccomp_notif notif;
	int err;

	while (calls) {
		int n = ppoll(&pfd, 1, &soon, &pt_wait_mask);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n <= 0 || !(pfd.revents & POLLIN)) {
			err = send_on(ctx);
			if (err)
				return err;
			continue;
		}
		err = notify_receive(listener, &notif);
		if (err && err != -ENOENT)
			return err;
		if (err)
			continue;
		if ((int)notif.pid != ctx->tid) {
			turn_defer(&notif);
			continue;
		}
		err = approve(listener, &notif, fd);
		if (err && err != -ENOENT)
			return err < 0 ? err : 0;
		if (!err)
			calls--;
	}
	return 0;
}
