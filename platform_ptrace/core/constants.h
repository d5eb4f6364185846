/* Numbers that both cffi and the C compiler read. */

/* struct pt_ctx, flags */
#define PT_REGS_VALID 1
#define PT_REGS_DIRTY 2
#define PT_REGS_RAX 4
#define PT_GONE 8
#define PT_ENTRY 16
#define PT_CALLED 32
#define PT_DYING 64
#define PT_INTERRUPTED 128

/* struct pt_ctx, state */
#define PT_STOPPED 0
#define PT_RUNNING 1
#define PT_NOTIFIED 2
#define PT_LATE 3
#define PT_RING 4

/* struct pt_event, kind */
#define PT_EV_SYSCALL 1
#define PT_EV_FAULT 2
#define PT_EV_INTERRUPT 3
#define PT_EV_EXIT 4
#define PT_EV_SITE 5

/* what turn() returns: numbers of events are below; the calls that came through the ring above */
#define PT_OWN_CALL 65536
#define PT_POSTED_CALL 131072

/* what a trapped call is answered with */
#define PT_ANSWER_NONE 0
#define PT_ANSWER_RESULT 1
#define PT_ANSWER_CONTINUE 2
#define PT_ANSWER_GIVEN 3

/* struct ring */
#define RING_BLOCKS 240
#define RING_BLOCK_SIZE 512
#define RING_DATA 1024
#define RING_HIDDEN 16
#define RING_PAGE_SIZE 8192

/* what goes with a call: nothing, the string that its first or second argument points to, or as many bytes as the third
 * says where the second points to */
#define RING_NOTHING 0
#define RING_STRING_1 1
#define RING_STRING_2 2
#define RING_BUFFER 3
