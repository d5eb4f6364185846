/* What the ring's parts share: the page that both sides see, and the code of a block. */
#ifndef PYSC_RING_H
#define PYSC_RING_H
#include "core.h"

/* state: who is to move.  Only a thread posts; only the Sentry answers. */
enum {
	POSTED = 1, /* by the thread: here is a call */
	PLAIN,      /* by either: no answer comes here, the thread is to make (or made) the call as any other */
	DONE,       /* by the Sentry: args[0] is the result */
};

/* The application can write all of this at any time: copied once, and believed in nothing.
 * The first 64 bytes are one line of the caches, and all that most calls need.  A line that one side has written takes
 * 0.1 us to reach the other. */
struct ring_page {
	uint32_t state;
	uint32_t spin; /* 0: a thread is not to post */
	uint32_t number;
	uint32_t block; /* the index of the block that it runs in */
	uint64_t args[6];
	uint16_t flags; /* as LAHF and SETO store them */
	uint32_t in_length; /* bytes of data that go with the call */
	uint32_t out_length; /* bytes of data that go with the answer, to out_at */
	uint64_t out_at;
	char unused[4096 - 88];
	char data[RING_DATA]; /* more than that goes faster by a host call than line after line */
};

_Static_assert(offsetof(struct ring_page, args) == 16 && offsetof(struct ring_page, flags) == 64 &&
	       offsetof(struct ring_page, in_length) == 68 && offsetof(struct ring_page, out_length) == 72 &&
	       offsetof(struct ring_page, out_at) == 80 && offsetof(struct ring_page, data) == 4096,
	       "the offsets in ring_code.c");

/* Labels in the code of a block. */
extern const char pt_ring_code[], pt_ring_private[], pt_ring_back[], pt_ring_shared[], pt_ring_numbered[];
extern const char pt_ring_index[], pt_ring_saved[], pt_ring_kind[], pt_ring_posted[], pt_ring_put[];
extern const char pt_ring_done[], pt_ring_end[], pt_ring_back_late[], pt_ring_code_end[];
#define RING_OFFSET(label) ((unsigned long)((label) - pt_ring_code))
#define DISPLACED_SIZE 5

#endif
