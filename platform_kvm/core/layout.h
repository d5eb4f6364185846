/* Where everything of ring 0 lies, and the records that it shares with the Sentry: read by C on both sides and by ring0.S.
 *
 * The upper half of every address space is the same, and the supervisor's alone:
 *
 *   DIRECT_BASE   the window of guest-physical memory, so that ring 0 can reach page tables
 *   KERNEL_BASE   ring 0's code (executable, read-only), then what each virtual CPU has (CPU_BASE), then the contexts (CTX_BASE)
 *
 * All but the window is one block of the Sentry's memory, "the core": guest-physical CORE_GPA on.
 */
#ifndef PYSC_KVM_LAYOUT_H
#define PYSC_KVM_LAYOUT_H

#define KERNEL_BASE 0xffffff8000000000
#define DIRECT_BASE 0xffffff0000000000
#define CPU_BASE (KERNEL_BASE + 0x200000)
#define PARAMS_ADDR (KERNEL_BASE + 0x3ff000)
#define CTX_BASE (KERNEL_BASE + 0x40000000)

#define CORE_GPA 0x40000000

/* Offsets in the core. */
#define CORE_TEXT 0x0
#define CORE_TEXT_SIZE 0x10000
#define CORE_PML4 0x10000
#define CORE_PDPT_KERNEL 0x11000
#define CORE_PDPT_DIRECT 0x12000
#define CORE_PD_KERNEL 0x13000
#define CORE_PT_TEXT 0x14000
#define CORE_PT_CPUS 0x15000
#define CORE_PD_CTX 0x16000
#define CORE_PARAMS 0x17000
#define CORE_IDT 0x18000
#define CORE_CPUS 0x100000
#define CORE_PD_DIRECT 0x200000
#define CORE_CTX 0x400000

#define MAX_CPUS 64
#define MAX_CTX 32768
#define CORE_SIZE (CORE_CTX + MAX_CTX * 0x1000)

/* What a virtual CPU has: this record, its GDT and TSS, the stack of entries, the stacks of the exceptions that may
 * interrupt ring 0. */
#define CPU_SIZE 0x4000
#define CPU_TABLES 0x1000
#define CPU_STACK_TOP 0x3000
#define CPU_IST_SIZE 0x400
#define CPU_IST 0x3000

#define IDT_ADDR (KERNEL_BASE + CORE_IDT)

#define SEL_KERNEL_CS 0x10
#define SEL_KERNEL_SS 0x18
#define SEL_USER32_CS 0x23
#define SEL_USER_SS 0x2b
#define SEL_USER_CS 0x33
#define SEL_TSS 0x40
#define GDT_ENTRIES 10

/* struct ring0_cpu */
#define CPU_CTX 0x00
#define CPU_SCRATCH 0x08
#define CPU_STACK 0x10
#define CPU_REASON 0x18
#define CPU_ERROR 0x20
#define CPU_CR2 0x28
#define CPU_CR3 0x30
#define CPU_FLUSH 0x38
#define CPU_WAITING 0x40
#define CPU_RESTORE 0x48
#define CPU_XCR0 0x50
#define CPU_FEATURES 0x58
#define CPU_SELECTORS 0x60
#define CPU_N_STOCK 0x68
#define CPU_LOST 0x70
#define CPU_STOCK_ITEMS 0x100
#define STOCK_SIZE 64

/* struct ring0_ctx: the registers, as struct user_regs_struct has them, then what is answered in the guest. */
#define CTX_R15 0x00
#define CTX_R14 0x08
#define CTX_R13 0x10
#define CTX_R12 0x18
#define CTX_RBP 0x20
#define CTX_RBX 0x28
#define CTX_R11 0x30
#define CTX_R10 0x38
#define CTX_R9 0x40
#define CTX_R8 0x48
#define CTX_RAX 0x50
#define CTX_RCX 0x58
#define CTX_RDX 0x60
#define CTX_RSI 0x68
#define CTX_RDI 0x70
#define CTX_ORIG_RAX 0x78
#define CTX_RIP 0x80
#define CTX_CS 0x88
#define CTX_EFLAGS 0x90
#define CTX_RSP 0x98
#define CTX_SS 0xa0
#define CTX_FS_BASE 0xa8
#define CTX_GS_BASE 0xb0
#define CTX_DS 0xb8
#define CTX_ES 0xc0
#define CTX_FS 0xc8
#define CTX_GS 0xd0
#define CTX_ANSWERED 0xd8
#define CTX_ANSWERS 0x100
#define CTX_XSAVE 0x400
#define XSAVE_SIZE 0xc00

/* CPU_REASON: a vector, or one of these. */
#define REASON_SYSCALL 0x100
#define REASON_SYSCALL32 0x101
#define REASON_RING0 0x102
#define VECTOR_KICK 0x20

/* CPU_FEATURES */
#define HAS_FSGSBASE 1
#define HAS_XSAVE 2
#define HAS_SMAP 4
#define SYSCALL_FAULTS 8
#define HAS_XSAVEOPT 16

/* Of the flags, those that are the application's; and IF, with the one that is always set. */
#define USER_FLAGS 0x254dd5 /* ID AC RF NT OF DF TF SF ZF AF PF CF */
#define ALWAYS_FLAGS 0x202

#define EXIT_PORT 0x50

#define SLOT_NUMBERS 320 /* system calls that may have a slot */
/* How a slot answers a system call, ring0_slots: 0 not at all; 1..LAST_VALUE by a number of the context's; then by code. */
#define SLOT_LAST_VALUE 15
#define SLOT_YIELD 16
#define SLOT_CLOCK_GETTIME 17
#define SLOT_GETTIMEOFDAY 18
#define SLOT_TIME 19
#define SLOT_GETCPU 20

#ifndef __ASSEMBLER__

/* After cdef.h, which has struct ring0_regs.  Of one context.  Written by ring 0 while the context runs, by the Sentry while it does not. */
struct ring0_ctx {
	struct ring0_regs regs;
	unsigned long answered; /* a bit for each slot that may be answered without the Sentry */
	unsigned long unused[4];
	unsigned long answers[SLOT_LAST_VALUE + 1];
	unsigned char pad[CTX_XSAVE - CTX_ANSWERS - 8 * (SLOT_LAST_VALUE + 1)];
	unsigned char xsave[XSAVE_SIZE];
};

/* Of one virtual CPU.  Written by the Sentry while the CPU is outside the guest. */
struct ring0_cpu {
	unsigned long ctx;     /* the context that runs here: its struct ring0_ctx */
	unsigned long scratch;
	unsigned long stack;
	unsigned long reason;  /* why it left: a vector, or REASON_* */
	unsigned long error;
	unsigned long cr2;
	unsigned long cr3;     /* of the space to run in */
	unsigned long flush;   /* not 0: load cr3, whatever it is now */
	unsigned long waiting; /* not 0: other contexts wait for a processor, sched_yield must leave */
	unsigned long restore; /* where to load the extended state from first; 0: it is in the registers */
	unsigned long xcr0;
	unsigned long features;
	unsigned long selectors; /* not 0: some data segment register is not null */
	unsigned long n_stock;
	unsigned long lost;    /* where ring 0 was when it met an exception of its own */
	unsigned long number;  /* of the CPU */
	unsigned long pad[16];
	unsigned long stock[STOCK_SIZE]; /* guest-physical addresses of zeroed frames */
};

#endif
#endif
