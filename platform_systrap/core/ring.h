/* What the ring's parts share: the page that both sides see, and the code of a block. */
#ifndef PYSC_RING_H
#define PYSC_RING_H
#include "core.h"

/* state: who is to move.  Only a thread posts and withdraws; only the Sentry takes and answers. */
enum {
	POSTED = 1, /* by the thread: here is a call */
	TAKEN,      /* by the Sentry: it answers, here or otherwise */
	PLAIN,      /* by either: no answer comes here, the thread is to make (or made) the call as any other */
	DONE,       /* by the Sentry: args[0] is the result */
};

/* The application can write all of this at any time: copied once, and believed in nothing.  One cache line is all that
 * passes between the processors; flags is the thread's own. */
struct ring_page {
	uint32_t state;
	uint32_t spin; /* how often a thread looks for its answer; 0: it is not to post */
	uint32_t number;
	uint32_t block; /* the index of the block that it runs in */
	uint64_t args[6];
	uint16_t flags; /* as LAHF and SETO store them */
};

_Static_assert(offsetof(struct ring_page, args) == 16 && offsetof(struct ring_page, flags) == 64, "ring_code.c's offsets");

/* Labels in the code of a block. */
extern const char pt_ring_code[], pt_ring_private[], pt_ring_back[], pt_ring_shared[], pt_ring_numbered[];
extern const char pt_ring_index[], pt_ring_posted[], pt_ring_end[], pt_ring_back_late[], pt_ring_code_end[];
#define RING_OFFSET(label) ((unsigned long)((label) - pt_ring_code))
#define DISPLACED_SIZE 5

#endif
