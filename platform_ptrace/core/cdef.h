/* The whole interface of the core; read by cffi and by the C compiler.
 *
 * Threads: every function must be called from the one thread that called pt_init, since
 * Linux accepts ptrace requests only from the thread that attached.  Signals: SIGCHLD is
 * blocked outside the waits.  Results: 0 or a count, or -errno.
 */

struct pt_regs_x86 {
	unsigned long r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
	unsigned long rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs, eflags;
	unsigned long rsp, ss, fs_base, gs_base, ds, es, fs, gs;
};

/* One traced thread.  Owned by the Python side. */
struct pt_ctx {
	int tid;
	int pid;          /* host thread group */
	int flags;        /* PT_REGS_*; PT_GONE: its end was collected, its numbers may be somebody else's;
	                   * PT_ENTRY: stopped before a call that the host must not carry out;
	                   * PT_CALLED: stopped behind a call that the Sentry has taken; PT_DYING: is to exit;
	                   * PT_INTERRUPTED: sent an interrupt, and no stop of it collected since */
	int state;        /* systrap: PT_STOPPED, PT_RUNNING, PT_NOTIFIED, PT_LATE, PT_RING */
	int listener;     /* systrap: where its notifications arrive; 0 on ptrace */
	int cpu;          /* systrap: where it is bound to run, plus 1; 0: anywhere */
	unsigned int since; /* systrap: the look around before which it was resumed */
	unsigned long id; /* systrap: of the notification to be answered */
	unsigned long call_end; /* systrap: the address behind the instruction that made the call */
	long result;      /* for PT_REGS_RAX */
	struct ring *ring; /* systrap: its address space's, or NULL */
	unsigned long fs_base; /* systrap: as the registers had it last */
	int fs_known;     /* systrap: fs_base may be relied on to be tried */
	int approved;     /* systrap: ordinary memory calls need not be asked about; a clone's are as its parent's */
	long ring_result; /* systrap: of its last call that was answered through the ring */
	int xstate_changes; /* signal frames since one returned to the extended state that it had */
	struct pt_regs_x86 regs;
};

/* A site of the application's that was patched, and the block of code that it jumps to: see ring.c. */
struct ring_block {
	unsigned long start;
	unsigned long end;  /* the address behind the site's syscall instruction */
	long number;        /* of the call, if the site loads it; else -1 */
	int kind;           /* RING_*: what its block copies for the Sentry */
};

/* What an address space needs for calls through shared memory.  Owned by the Python side. */
struct ring {
	struct ring_page *page; /* NULL: none is mapped there (any more), for fork does not copy it */
	unsigned long private_at, shared_at;
	unsigned long key;      /* what the page at private_at holds: the complement of a thread's fs base */
	unsigned long low, high; /* all blocks lie between */
	int n_blocks;
	int n_taken;            /* threads whose posted call is the Sentry's to answer: PT_RING */
	int n_users;            /* contexts of the space */
	int streak, heat_after, hits;
	unsigned long put_at;   /* what is to be put into memory with the answer: page->data, to there */
	unsigned int put_length;
	unsigned int out_length; /* page->out_length, which is written only when it changes */
	int put_failed;
	int n_hidden;           /* -1: more than there is room for */
	unsigned long hidden[RING_HIDDEN][2]; /* what is mapped for it: start, end */
	struct ring_block blocks[RING_BLOCKS];
};

/* PT_EV_SITE is a PT_EV_SYSCALL whose site has called so often that it should be patched.
 * The first five fields are read as one record by the Python side: keep them as they are. */
struct pt_event {
	int kind;         /* PT_EV_* */
	int tid;
	long number;      /* PT_EV_SYSCALL */
	long native;      /* 0: int 0x80 */
	unsigned long args[6];
	int signo;        /* PT_EV_FAULT, PT_EV_EXIT (0: exited) */
	int code;
	unsigned long addr;
};

int pt_init(void);
int pt_probe(int systrap);
int pt_template(int systrap, const int *cgroup_fds, int n_cgroup_fds, struct pt_ctx *out);
int pt_confine(struct pt_ctx *ctx, int systrap);
int pt_wait(struct pt_ctx **run, int n_run, int epoll_fd, long timeout_ns, struct pt_event *out, int max_out);
int pt_stop(struct pt_ctx *ctx);
int pt_fetch_regs(struct pt_ctx *ctx);
int pt_store_regs(struct pt_ctx *ctx);
long pt_inject(struct pt_ctx *ctx, long number, unsigned long a0, unsigned long a1, unsigned long a2,
	       unsigned long a3, unsigned long a4, unsigned long a5);
long pt_map_fd(struct pt_ctx *ctx, int listener, int fd, unsigned long addr, unsigned long length,
	       int prot, int flags, unsigned long offset);
long pt_cmpxchg(struct pt_ctx *ctx, unsigned long addr, unsigned int expected, unsigned int value);
int pt_clone(struct pt_ctx *parent, unsigned long flags, struct pt_ctx *child);
int pt_revive(struct pt_ctx *parent, struct pt_ctx *spare, struct pt_ctx *child);
int pt_exit_thread(struct pt_ctx *ctx);
int pt_kill(int pid);
int pt_interrupt(struct pt_ctx *ctx);
void pt_forget(struct pt_ctx *ctx);
int pt_read_xstate(struct pt_ctx *ctx, char *buffer);
int pt_write_xstate(struct pt_ctx *ctx, const char *data, int length);
long pt_read(struct pt_ctx *ctx, unsigned long addr, char *buffer, unsigned long length);
long pt_read_cstr(struct pt_ctx *ctx, unsigned long addr, char *buffer, unsigned long limit);
long pt_write(struct pt_ctx *ctx, unsigned long addr, const char *buffer, unsigned long length);
long pt_read_from_file(struct pt_ctx *ctx, int fd, unsigned long offset, unsigned long addr, unsigned long length);
long pt_write_to_file(struct pt_ctx *ctx, int fd, unsigned long offset, unsigned long addr, unsigned long length);
unsigned long pt_stub_start(void);
unsigned long pt_stub_end(void);

int turn_init(int epoll_fd, const int *traced, int n_traced, struct pt_event *events, int max_events);
void turn_close(void);
int turn_listen(int listener);
void turn_unlisten(int listener);
int turn_resume(struct pt_ctx *ctx, long result, int answer);
int turn_answer_posted(struct pt_ctx *ctx, long result);
int turn(struct pt_ctx *ctx, long result, int answer, long timeout_ns);

int ring_init(int patch_after, int heat_after, int n_processors, const int *refused, int n_refused,
	      const int *staged, int n_staged);
int ring_open(struct ring *ring);
void ring_close(struct ring *ring);
int ring_build(const struct ring *ring, int index, const char *displaced, char *out);
int ring_poke(struct pt_ctx *ctx, unsigned long addr, const char *data, int length);
int ring_is_hot(struct pt_ctx *ctx);
long ring_n_calls(void);
