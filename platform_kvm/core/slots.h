/* The system calls that ring 0 may answer, by number: which slot of a context says so. */
#ifndef PYSC_KVM_SLOTS_H
#define PYSC_KVM_SLOTS_H

#include "layout.h"

static const unsigned char slot_of[SLOT_NUMBERS] = {
	[24] = SLOT_YIELD,	   /* sched_yield */
	[39] = 1,		   /* getpid */
	[96] = SLOT_GETTIMEOFDAY,
	[102] = 2,		   /* getuid */
	[104] = 3,		   /* getgid */
	[107] = 4,		   /* geteuid */
	[108] = 5,		   /* getegid */
	[110] = 6,		   /* getppid */
	[186] = 7,		   /* gettid */
	[201] = SLOT_TIME,
	[228] = SLOT_CLOCK_GETTIME,
	[309] = SLOT_GETCPU,
};

#endif
