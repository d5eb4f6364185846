/* The functions of linux-vdso.so.1, vdso(7): each answers from the parameter page, or makes the real call.
 *
 * Runs in applications, on stacks of any size and with any signal mask: no library, no thread-local storage, no
 * relocations, no floating point registers.  Results are those of the system calls: 0 or -errno.  A bad pointer faults,
 * as it does in Linux's vDSO.
 */
#include <asm/unistd.h>

#include "params.h"

/* Directly below the image; vdso.lds puts it there. */
extern const volatile struct vdso_params vdso_params __attribute__((visibility("hidden")));

#define EXPORTED __attribute__((visibility("default")))
#define WEAK_NAME(name, result, ...) \
	EXPORTED __attribute__((weak, alias("__vdso_" #name))) result name(__VA_ARGS__)

struct vdso_zone { /* struct timezone */
	int32_t minutes_west;
	int32_t dst_time;
};

EXPORTED int __vdso_clock_gettime(int clock, struct vdso_time *time)
{
	if (vdso_clock_gettime(&vdso_params, clock, time))
		return 0;
	return vdso_call(__NR_clock_gettime, clock, (long)time, 0);
}

EXPORTED int __vdso_gettimeofday(struct vdso_time *time, struct vdso_zone *zone)
{
	if (!(vdso_params.flags & VDSO_USABLE) || (time && !vdso_gettimeofday(&vdso_params, time)))
		return vdso_call(__NR_gettimeofday, (long)time, (long)zone, 0);
	if (zone) {
		zone->minutes_west = vdso_params.minutes_west;
		zone->dst_time = vdso_params.dst_time;
	}
	return 0;
}

EXPORTED long __vdso_time(long *seconds)
{
	struct vdso_time now;

	if (!vdso_clock_gettime(&vdso_params, CLOCK_REALTIME, &now))
		return vdso_call(__NR_time, (long)seconds, 0, 0);
	if (seconds)
		*seconds = now.sec;
	return now.sec;
}

EXPORTED int __vdso_clock_getres(int clock, struct vdso_time *resolution)
{
	uint32_t ns;

	if (!vdso_clock_getres(&vdso_params, clock, &ns))
		return vdso_call(__NR_clock_getres, clock, (long)resolution, 0);
	if (resolution) {
		resolution->sec = 0;
		resolution->rest = ns;
	}
	return 0;
}

/* The third argument was a cache's, which Linux has not looked at since 2.6.24. */
EXPORTED int __vdso_getcpu(uint32_t *cpu, uint32_t *node, void *unused)
{
	uint32_t this_cpu, this_node;

	if (!vdso_getcpu(&vdso_params, &this_cpu, &this_node))
		return vdso_call(__NR_getcpu, (long)cpu, (long)node, (long)unused);
	if (cpu)
		*cpu = this_cpu;
	if (node)
		*node = this_node;
	return 0;
}

WEAK_NAME(clock_gettime, int, int, struct vdso_time *);
WEAK_NAME(gettimeofday, int, struct vdso_time *, struct vdso_zone *);
WEAK_NAME(time, long, long *);
WEAK_NAME(clock_getres, int, int, struct vdso_time *);
WEAK_NAME(getcpu, int, uint32_t *, uint32_t *, void *);
