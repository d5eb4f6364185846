/* What the core's files share on the Sentry's side.
 *
 * machine.c  the virtual machine: ring 0's memory, the virtual CPUs and their state
 * processor.c  what the host's KVM offers, and what of it is used
 * vcpu.c     one stay in the guest: enter, leave, say why
 * xstate.c   the extended state of contexts
 * turn.c     contexts, the threads that run them, and the wait for what they trap with
 * direct.c   running one without any other thread
 * probe.c    whether this host's KVM can do all that
 */
#ifndef PYSC_KVM_CORE_H
#define PYSC_KVM_CORE_H

#define _GNU_SOURCE
#include "constants.h"
#include "cdef.h"
#include "layout.h"
#include "memory_cdef.h"
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PAGE 4096ul
#define KICK_SIGNAL (SIGRTMIN + 3)

/* A host thread and the virtual CPU that only it runs. */
struct vcpu {
	int fd, index;
	struct kvm_run *run;
	struct ring0_cpu *shared;
	struct kv_ctx *extended; /* whose extended state is in its registers, unless it has run elsewhere since */
	unsigned long entered;	 /* the time stamp counter when it went into the guest; 0: it is not there */
	unsigned long root;	 /* of the space whose translations it may hold */
	unsigned long former;	 /* held: the root in which it goes in, until ring 0 has loaded the other; 0: none */
	int parked;		 /* it left by `out`: its context's registers are saved */
	int in_stock;		 /* of shared->stock, what the guest was given */
	int faults;		 /* host memory that was not there, one after the other */
	int bus_error;		 /* and no page to forget: its context is to hear of it when it is parked */

	/* Under the memory's lock, kv_lock(). */
	struct kv_space *inside; /* the space in which it executes */
	int flush;		 /* translations of `root` may have become wrong */

	/* Under the lock of turn.c. */
	struct kv_ctx *current;
	int preempt;		 /* it is to let another context run */
	long since;		 /* when current began to run, ns of CLOCK_MONOTONIC */
	pthread_t thread;
	int tid;
};

extern struct vcpu vcpus[MAX_CPUS];
extern int n_vcpus;

/* processor.c */
extern struct processor {
	unsigned long features; /* HAS_*, and SYSCALL_FAULTS once that is known */
	unsigned long cr4, xcr0;
	int has_rdtscp;
	int keeps_outside; /* the extended state: KVM offers no XSAVE, but code in ring 3 has what XSAVE is for */
} processor;
struct kvm_cpuid2 *processor_study(int kvm_fd, const char **why);
struct kvm_cpuid_entry2 *cpuid_leaf(struct kvm_cpuid2 *cpuid, unsigned int function, unsigned int index);
void processor_drop_smap(void);
int processor_has_xstate(void);

/* machine.c */
int machine_make(int kvm_fd, int n_cpus, int params_fd, const char **why);
void machine_unmake(void);
struct ring0_ctx *machine_ctx(int index, unsigned long *address);
void machine_forget_ctx(int index);
unsigned long machine_syscall_address(void);
void machine_set_syscall_faults(void);
void machine_drop_smap(void);
void machine_forget_tables(void);
int vcpu_reset(struct vcpu *v);
void vcpu_leave_space(struct vcpu *v);
void vcpu_drop_former(struct vcpu *v);

/* xstate.c */
unsigned long xstate_choose(unsigned long offered, const int (*layout)[2]);
void xstate_reset(char *state);
void xstate_take(char *state, const char *from);

/* vcpu.c */
enum { RAN_EVENT, RAN_STOP };
int vcpu_stay(struct vcpu *v, struct kv_ctx *ctx, struct kv_event *ev);
void vcpu_kick(struct vcpu *v);
void quiesce(struct kv_space *space);

/* turn.c */
long now_ns(void);
int turn_is_quiet(void);
int turn_wants_out(struct vcpu *v);

/* direct.c */
int direct_start(void);
void direct_stop(void);

#endif
