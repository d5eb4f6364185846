/* The parameter page, and the functions that write it; read by cffi and by the C compiler.
 *
 * Units: "tsc" is the processor's counter as applications read it, "ns" nanoseconds.  Threads: any number read, one
 * writes.  A reader that finds the sequence number odd, or changed behind itself, has read nothing.
 */

#define VDSO_SHIFT 56  /* of every mult: counters of 4 MHz and more fit */
#define VDSO_USABLE 1  /* flags: the clocks below show the time; else every function makes the real call */
#define VDSO_CPU_CALL 0  /* cpu_source: who knows the processor's number: nobody but the kernel, */
#define VDSO_CPU_RDTSCP 1  /* the register TSC_AUX, by rdtscp: processor, and the node from bit 12 on, */
#define VDSO_CPU_RDPID 2  /* the same register, by rdpid */

/* At and behind tsc the clock shows ns + ((counter - tsc) * mult >> VDSO_SHIFT). */
struct vdso_line {
	uint64_t tsc;
	uint64_t ns;
	uint64_t mult;
};

/* A clock goes at a rate that mends its error until then.tsc, and at the host's from there on. */
struct vdso_clock {
	struct vdso_line mend;
	struct vdso_line then;
};

struct vdso_params {
	uint32_t seq;
	uint32_t flags;
	uint32_t cpu_source;
	uint32_t coarse_ns; /* what the coarse clocks are multiples of; 0: ask the kernel for them */
	int64_t real_ns;    /* CLOCK_REALTIME minus CLOCK_MONOTONIC */
	int64_t boot_ns;    /* CLOCK_BOOTTIME minus CLOCK_MONOTONIC */
	struct vdso_clock mono;
	struct vdso_clock raw;
	int32_t minutes_west; /* struct timezone */
	int32_t dst_time;
	int64_t tsc_offset; /* the application's counter minus the host's; the writer's own */
};

/* The host's clocks, now.  A clock was read when the counter was at tsc, give or take half its width. */
struct vdso_sample {
	uint64_t mono_tsc, mono_ns, mono_width;
	uint64_t raw_tsc, raw_ns, raw_width;
	int64_t real_low, real_high; /* between these lies CLOCK_REALTIME minus CLOCK_MONOTONIC */
	int64_t boot_low, boot_high;
};

/* Where the host's clocks are going; the lines are of the host's counter. */
struct vdso_target {
	struct vdso_line mono, raw;
	int64_t real_ns, boot_ns;
	int64_t tsc_offset;
	uint64_t mend_ticks; /* how long a small error may take to vanish */
};

int vdso_counter_is_invariant(void);
void vdso_take_sample(struct vdso_sample *sample, int tries);
void vdso_withdraw(struct vdso_params *page);
int64_t vdso_publish(struct vdso_params *page, const struct vdso_target *target);
uint64_t vdso_mono_at(const struct vdso_params *page, uint64_t host_tsc);
