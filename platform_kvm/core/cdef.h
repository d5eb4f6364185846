/* The interface of the virtual machine; read by cffi and by the C compiler.
 *
 * Threads: one for each virtual CPU, made by kv_machine_init, with all signals blocked but the one that takes it out of
 * the guest.  Everything here is to be called by one other thread.  Results: 0 or a count, or -errno.
 */

struct ring0_regs {
	unsigned long r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
	unsigned long rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags;
	unsigned long rsp, ss, fs_base, gs_base, ds, es, fs, gs;
};

/* The first five fields are read as one record by the Python side. */
struct kv_event {
	int kind;         /* KV_EV_* */
	int id;           /* of the context */
	long number;      /* KV_EV_SYSCALL; KV_EV_BROKEN: KVM's exit reason */
	long native;      /* 0: int 0x80, or SYSCALL of 32-bit code */
	unsigned long args[6];
	int signo;        /* KV_EV_FAULT */
	int code;
	unsigned long addr;
};

/* One context.  Owned by the Python side, which touches it only while it is stopped. */
struct kv_ctx {
	struct ring0_regs *regs;
	char *xstate;             /* the extended state, as XSAVE stores it */
	int replaced;             /* not 0: it was written since the context ran */
	int id;
	struct kv_space *space;
	unsigned long *answered;  /* a bit for each slot that ring 0 may answer */
	unsigned long *answers;   /* with what: a number for each slot */
	/* The core's own. */
	unsigned long address;
	unsigned long ran;
	int index, state, stop;
	int ran_on;               /* the virtual CPU that it ran on last */
	struct kv_ctx *next;
	struct kv_event event;
};

int kv_machine_init(int kvm_fd, int n_cpus, int params_fd, const char **why);
int kv_machine_check(void);
void kv_machine_close(void);
const unsigned long *kv_kernel_half(void);
int kv_xstate_size(void);
void kv_read_xstate(const struct kv_ctx *ctx, char *out);
int kv_write_xstate(struct kv_ctx *ctx, const char *data, int length);
unsigned long kv_tsc_khz(void);
long kv_tsc_offset(void); /* the application's counter minus the host's; LONG_MIN: not known */
int kv_has_rdtscp(void);
int kv_is_emulated(void); /* after kv_machine_check: KVM runs ring 0 instruction by instruction */
int kv_slot_of(int number); /* 0: none */

int kv_ctx_init(struct kv_ctx *ctx, int id, struct kv_space *space);
void kv_ctx_release(struct kv_ctx *ctx);
void kv_space_close(struct kv_space *space);

unsigned int kv_cpu_stock(void); /* handed out frames that the virtual CPUs have in stock */
void kv_resume(struct kv_ctx *ctx);
void kv_interrupt(struct kv_ctx *ctx);
unsigned long kv_cycles(struct kv_ctx *ctx); /* in the guest */
int kv_run(struct kv_ctx *ctx, int epoll_fd, long timeout_ns, struct kv_event *out, int max);
int kv_wait(int epoll_fd, long timeout_ns, struct kv_event *out, int max);
