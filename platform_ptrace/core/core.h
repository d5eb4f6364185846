/* What the parts of the core share; the interface to Python is cdef.h's. */
#ifndef PYSC_CORE_H
#define PYSC_CORE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>

#include "constants.h"
#include "cdef.h"

#define STUB_START 0x7ffffffd0000ul
#define STUB_CODE (STUB_START + 0x1000)
#define STUB_END (STUB_START + 0x3000)
#define NOTIFY_NR SYS_dup /* the call map_fd makes to be handed a descriptor */

/* The stub's code; labels are measured from its start. */
extern const char pt_stub_code[], pt_stub_gadget[], pt_stub_map_fd[], pt_stub_after_notify[];
extern const char pt_stub_after_map[], pt_stub_after_close[], pt_stub_cmpxchg[], pt_stub_code_end[];
#define CODE_AT(label) (STUB_CODE + (unsigned long)((label) - pt_stub_code))

/* Pieces of a filter program. */
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_HIGH(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + 4)
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, (action))
#define IF_EQ(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (then), (otherwise))
#define MAX_FILTER 64
#define MAX_XSTATE 16384
#define FXSAVE_SIZE 512

/* sysemu.c */
extern sigset_t pt_wait_mask;           /* the mask while sleeping: SIGCHLD open */
extern volatile sig_atomic_t pt_sigchld; /* a SIGCHLD came since this was last cleared */

/* stub.c */
int pt_build_filter(struct sock_filter *filter);

/* registry.c: which context a host thread is.  Only those with a listener are in it. */
void registry_add(struct pt_ctx *ctx);
void registry_remove(struct pt_ctx *ctx);
struct pt_ctx *registry_find(int tid);

void registry_each(void (*visit)(struct pt_ctx *ctx));

/* place.c */
void place_beside(struct pt_ctx *ctx);
long place_ourselves(int n_running);
int place_apart(void);
void place_init(void);
#define PLACE_LOOK_NS 500000 /* longer than most times between two traps, shorter than the scheduler's slices */

int place_away(struct pt_ctx *ctx);
int place_n_processors(void);

/* ring.c */
int ring_counts(const struct pt_ctx *ctx, unsigned long end, long number);
void ring_consider(struct pt_ctx *ctx, unsigned long cycles);
int ring_take(struct pt_event *ev);
int ring_answer(struct pt_ctx *ctx);
struct pt_ctx *ring_hot(void);
void ring_cool(void);
unsigned long ring_patience(void);
void ring_leave(struct pt_ctx *ctx, int called);
void ring_settle(struct pt_ctx *ctx);
long ring_get(struct pt_ctx *ctx, unsigned long addr, char *buffer, unsigned long length, int is_string);
int ring_put(struct pt_ctx *ctx, unsigned long addr, const char *buffer, unsigned long length);
long memory_write(struct pt_ctx *ctx, unsigned long addr, const char *buffer, unsigned long length);
void ring_forget(const struct pt_ctx *ctx);

/* notify.c */
int notify_receive(int listener, struct seccomp_notif *notif);
int notify_is_valid(int listener, uint64_t id);
int notify_continue(int listener, uint64_t id);
int notify_answer(int listener, uint64_t id, long result);
int notify_serve(struct pt_ctx *ctx, int listener, int calls, int fd);

/* turn.c: a notification that came while another context's was waited for. */
void turn_set_state(struct pt_ctx *ctx, int state);
void turn_defer(const struct seccomp_notif *notif);
int turn_is_traced(long number);
int turn_build_filter(struct sock_filter *filter);

/* memory.c */
int pt_get_xstate(int tid, char *buffer, int size);
int pt_set_xstate(int tid, char *buffer, int size);

/* inject.c */
int pt_wait_int3(struct pt_ctx *ctx);

/* stops.c */
int stops_is_fault(int tid, int status);
int stops_at_entry(int status);
int stops_describe(int tid, int status, long go_on, struct pt_event *ev);

static inline long pt(long request, int tid, unsigned long addr, unsigned long data)
{
	return syscall(SYS_ptrace, request, (long)tid, addr, data);
}

static inline long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000l + ts.tv_nsec;
}

static inline int wait_stop(int tid, int *status)
{
	while (waitpid(tid, status, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* Its end was collected: its number may be another thread's from now on. */
static inline void mark_gone(struct pt_ctx *ctx)
{
	ctx->flags = PT_GONE;
	if (ctx->listener) {
		ring_forget(ctx);
		turn_set_state(ctx, PT_STOPPED);
		registry_remove(ctx);
	}
}

#endif
