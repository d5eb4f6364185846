/* Numbers that both cffi and the C compiler read. */

/* struct kv_event, kind */
#define KV_EV_SYSCALL 1
#define KV_EV_FAULT 2
#define KV_EV_INTERRUPT 3
#define KV_EV_MEMORY 4
#define KV_EV_BROKEN 5

/* kv_machine_init: what does not work here */
#define KV_NO_CAPABILITY 1
#define KV_NO_PROCESSOR 2
#define KV_NO_ANSWER 3
