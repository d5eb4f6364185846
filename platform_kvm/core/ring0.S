/* Ring 0: the way into and out of application code.
 *
 * Entered at ring0_start when a virtual CPU first runs, after that in three ways: by SYSCALL at ring0_syscall, by an
 * exception through ring0_stubs, and out of the `out` instruction by which it had left the guest.  While it runs, GS is
 * based on the CPU's struct ring0_cpu and interrupts are off; the application's GS base is in the other register.
 *
 * Registers go straight into the struct ring0_ctx of the context that runs, and come from there.  Nothing of the
 * application's is trusted: its stack pointer is never used, and its addresses only by ring0.c, where a fault is foreseen.
 */
#include "layout.h"

	.text

/* In: rax is the context, and the rest the application's; its rax, rcx and r11 are saved. */
.macro SAVE_REST
	mov %r15, CTX_R15(%rax)
	mov %r14, CTX_R14(%rax)
	mov %r13, CTX_R13(%rax)
	mov %r12, CTX_R12(%rax)
	mov %rbp, CTX_RBP(%rax)
	mov %rbx, CTX_RBX(%rax)
	mov %r10, CTX_R10(%rax)
	mov %r9, CTX_R9(%rax)
	mov %r8, CTX_R8(%rax)
	mov %rdx, CTX_RDX(%rax)
	mov %rsi, CTX_RSI(%rax)
	mov %rdi, CTX_RDI(%rax)
.endm

/* The bases, which the application may have changed if it has the instructions; and the selectors, which the next context
 * must not find: CPU_SELECTORS says if there are any.  Clobbers rcx and r8. */
.macro SAVE_SEGMENTS
	testb $HAS_FSGSBASE, %gs:CPU_FEATURES
	jz 1f
	rdfsbase %rcx
	mov %rcx, CTX_FS_BASE(%rax)
	swapgs
	rdgsbase %rcx
	swapgs
	mov %rcx, CTX_GS_BASE(%rax)
1:	xor %ecx, %ecx
	mov %ds, %cx
	mov %rcx, CTX_DS(%rax)
	mov %ecx, %r8d
	mov %es, %cx
	mov %rcx, CTX_ES(%rax)
	or %ecx, %r8d
	mov %fs, %cx
	mov %rcx, CTX_FS(%rax)
	or %ecx, %r8d
	mov %gs, %cx
	mov %rcx, CTX_GS(%rax)
	or %ecx, %r8d
	mov %r8, %gs:CPU_SELECTORS
.endm

/* Behind SYSCALL.  In: rsp is the context, which has rcx and rip.  Out: rax is, and the stack a stack. */
.macro SAVE_CALL selector, reason
	mov %r11, CTX_R11(%rsp)
	mov %r11, CTX_EFLAGS(%rsp)
	mov %rax, CTX_RAX(%rsp)
	mov %rax, CTX_ORIG_RAX(%rsp)
	mov %rsp, %rax
	mov %gs:CPU_SCRATCH, %rcx
	mov %rcx, CTX_RSP(%rax)
	movq $\selector, CTX_CS(%rax)
	movq $SEL_USER_SS, CTX_SS(%rax)
	SAVE_REST
	mov %gs:CPU_STACK, %rsp
	movq $\reason, %gs:CPU_REASON
	SAVE_SEGMENTS
.endm

/* ---- the ways in ---- */


	.globl ring0_syscall
	.hidden ring0_syscall
	.balign 16
ring0_syscall:
	swapgs
	mov %rsp, %gs:CPU_SCRATCH
	mov %gs:CPU_CTX, %rsp		/* a base register, no stack: until CPU_STACK is loaded nothing may push */
	mov %rcx, CTX_RIP(%rsp)
	mov %rcx, CTX_RCX(%rsp)
	cmp $SLOT_NUMBERS, %rax
	jae 1f
	lea ring0_slots(%rip), %rcx
	movzbl (%rcx,%rax), %ecx
	bt %rcx, CTX_ANSWERED(%rsp)
	jnc 1f
	cmp $SLOT_LAST_VALUE, %ecx
	ja 1f
	bt $8, %r11			/* single steps: SYSRET would stop before the next instruction, IRET stops behind it */
	jc 1f
	mov CTX_ANSWERS(%rsp,%rcx,8), %rax
	mov CTX_RIP(%rsp), %rcx
	mov %gs:CPU_SCRATCH, %rsp
	swapgs
	sysretq				/* rcx is canonical: SYSCALL put it there, from below the last page of the lower half */
1:	SAVE_CALL SEL_USER_CS, REASON_SYSCALL
syscall_saved:
	mov CTX_RAX(%rax), %rcx
	cmp $SLOT_NUMBERS, %rcx
	jae leave
	lea ring0_slots(%rip), %rdx
	movzbl (%rdx,%rcx), %edi
	bt %rdi, CTX_ANSWERED(%rax)
	jnc leave
	cld
	mov %rax, %rsi
	call ring0_answer		/* (slot, context): 0 if the Sentry has to */
	test %eax, %eax
	jz leave
	jmp enter

/* A system call of 32-bit code, on processors where that enters here. */
	.globl ring0_syscall32
	.hidden ring0_syscall32
	.balign 16
ring0_syscall32:
	swapgs
	mov %rsp, %gs:CPU_SCRATCH
	mov %gs:CPU_CTX, %rsp
	mov %rcx, CTX_RIP(%rsp)
	mov %rcx, CTX_RCX(%rsp)
	SAVE_CALL SEL_USER32_CS, REASON_SYSCALL32
	jmp leave

/* One for each vector, 16 bytes apart: an error code where the processor pushes none, then the vector. */
	.globl ring0_stubs
	.hidden ring0_stubs
	.balign 16
ring0_stubs:
	vector = 0
	.rept 256
	.balign 16
	.if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
	.else
	pushq $0
	.endif
	pushq $vector
	jmp exception
	vector = vector + 1
	.endr

/* On the stack: vector, error, rip, cs, flags, rsp, ss. */
	.balign 16
exception:
	testb $3, 24(%rsp)
	jz exception_of_ring0
	swapgs
	push %rax
	mov %gs:CPU_CTX, %rax
	mov %rcx, CTX_RCX(%rax)
	mov %r11, CTX_R11(%rax)
	pop %rcx
	mov %rcx, CTX_RAX(%rax)
	SAVE_REST
	pop %rdx
	mov %rdx, %gs:CPU_REASON
	pop %rsi
	mov %rsi, %gs:CPU_ERROR
	pop %rcx
	mov %rcx, CTX_RIP(%rax)
	pop %rcx
	mov %rcx, CTX_CS(%rax)
	pop %rcx
	mov %rcx, CTX_EFLAGS(%rax)
	pop %rcx
	mov %rcx, CTX_RSP(%rax)
	pop %rcx
	mov %rcx, CTX_SS(%rax)
	movq $-1, CTX_ORIG_RAX(%rax)
	mov %gs:CPU_STACK, %rsp
	SAVE_SEGMENTS
	cld
	testb $HAS_SMAP, %gs:CPU_FEATURES
	jz 1f
	clac
1:	cmp $14, %edx
	jne leave
	mov %cr2, %rdi
	mov %rdi, %gs:CPU_CR2
	testb $SYSCALL_FAULTS, %gs:CPU_FEATURES
	jnz 2f
3:	test $1, %esi			/* the page is there: not ours to mend */
	jnz leave
	mov %gs:CPU_CR3, %rdx
	call ring0_zero_fault		/* (address, error, root): 0 if the Sentry has to */
	test %eax, %eax
	jz leave
	mov %gs:CPU_CTX, %rax
	jmp enter

/* A host whose SYSCALL loads rip and stays in ring 3: it faults on its way to us, its other effects done.  So does whoever
 * jumps here, with any flags in r11. */
2:	lea ring0_syscall(%rip), %rcx
	cmp %rcx, %rdi
	jne 3b
	cmp %rcx, CTX_RIP(%rax)
	jne 3b
	mov CTX_RCX(%rax), %rcx
	mov %rcx, CTX_RIP(%rax)
	mov CTX_R11(%rax), %rcx
	and $USER_FLAGS, %rcx
	or $ALWAYS_FLAGS, %rcx
	mov %rcx, CTX_EFLAGS(%rax)
	mov CTX_RAX(%rax), %rcx
	mov %rcx, CTX_ORIG_RAX(%rax)
	movq $REASON_SYSCALL, %gs:CPU_REASON
	jmp syscall_saved

/* ---- out of the guest, and back ---- */

/* The extended state is saved each time, so that the Sentry finds it in the context, and loaded only where another
 * context's, or none, is in the registers. */
leave:
	mov %gs:CPU_CTX, %rdi
	add $CTX_XSAVE, %rdi
	call save_extended
	out %al, $EXIT_PORT
	.globl ring0_start
	.hidden ring0_start
ring0_start:
	mov %gs:CPU_STACK, %rsp
	mov %gs:CPU_RESTORE, %rdi
	test %rdi, %rdi
	jz 3f
	call restore_extended
	movq $0, %gs:CPU_RESTORE
3:	cmpq $0, %gs:CPU_FLUSH
	je 5f
	movq $0, %gs:CPU_FLUSH
	mov %gs:CPU_CR3, %rax
	mov %rax, %cr3
5:	mov %gs:CPU_CTX, %rax

/* rax: the context to run. */
	mov CTX_DS(%rax), %rcx
	or CTX_ES(%rax), %rcx
	or CTX_FS(%rax), %rcx
	or CTX_GS(%rax), %rcx
	or %gs:CPU_SELECTORS, %rcx
	jz 6f
	call load_selectors
6:	testb $HAS_FSGSBASE, %gs:CPU_FEATURES
	jz 7f
	mov CTX_FS_BASE(%rax), %rcx
	wrfsbase %rcx
	mov CTX_GS_BASE(%rax), %rcx
	swapgs
	wrgsbase %rcx
	swapgs
	jmp enter
7:	mov %rax, %rbx
	mov $0xc0000100, %ecx		/* MSR_FS_BASE */
	mov CTX_FS_BASE(%rbx), %eax
	mov CTX_FS_BASE+4(%rbx), %edx
	wrmsr
	mov $0xc0000102, %ecx		/* MSR_KERNEL_GS_BASE */
	mov CTX_GS_BASE(%rbx), %eax
	mov CTX_GS_BASE+4(%rbx), %edx
	wrmsr
	mov %rbx, %rax

enter:
	mov %gs:CPU_CTX, %rax
	mov %gs:CPU_STACK, %rsp
	pushq CTX_SS(%rax)
	pushq CTX_RSP(%rax)
	pushq CTX_EFLAGS(%rax)
	pushq CTX_CS(%rax)
	pushq CTX_RIP(%rax)
	mov CTX_R15(%rax), %r15
	mov CTX_R14(%rax), %r14
	mov CTX_R13(%rax), %r13
	mov CTX_R12(%rax), %r12
	mov CTX_RBP(%rax), %rbp
	mov CTX_RBX(%rax), %rbx
	mov CTX_R11(%rax), %r11
	mov CTX_R10(%rax), %r10
	mov CTX_R9(%rax), %r9
	mov CTX_R8(%rax), %r8
	mov CTX_RCX(%rax), %rcx
	mov CTX_RDX(%rax), %rdx
	mov CTX_RSI(%rax), %rsi
	mov CTX_RDI(%rax), %rdi
	mov CTX_RAX(%rax), %rax
	swapgs
	.globl ring0_iret
	.hidden ring0_iret
ring0_iret:
	iretq

/* Null selectors are most programs' only ones; a bad one is taken for null.  Loading GS changes the base in use. */
load_selectors:
	mov CTX_DS(%rax), %ecx
	.globl ring0_load_ds, ring0_load_es, ring0_load_fs, ring0_load_gs
	.hidden ring0_load_ds, ring0_load_es, ring0_load_fs, ring0_load_gs
ring0_load_ds:
	mov %ecx, %ds
	mov CTX_ES(%rax), %ecx
ring0_load_es:
	mov %ecx, %es
	mov CTX_FS(%rax), %ecx
ring0_load_fs:
	mov %ecx, %fs
	mov CTX_GS(%rax), %ecx
	swapgs
ring0_load_gs:
	mov %ecx, %gs
	swapgs
	ret

save_extended:
	testb $HAS_XSAVE, %gs:CPU_FEATURES
	jz 1f
	mov %gs:CPU_XCR0, %eax
	xor %edx, %edx
	testb $HAS_XSAVEOPT, %gs:CPU_FEATURES
	jnz 2f
	xsave64 (%rdi)
	ret
2:	xsaveopt64 (%rdi)
	ret
1:	fxsave64 (%rdi)
	ret

restore_extended:
	testb $HAS_XSAVE, %gs:CPU_FEATURES
	jz 1f
	mov %gs:CPU_XCR0, %eax
	xor %edx, %edx
	xrstor64 (%rdi)
	ret
1:	fxrstor64 (%rdi)
	ret

/* (address, value): store 4 or 8 bytes into the application's memory; not 0: it can't be done here. */
	.globl ring0_put8, ring0_put4
	.hidden ring0_put8, ring0_put4
ring0_put8:
	testb $HAS_SMAP, %gs:CPU_FEATURES
	jz put8
	stac
put8:
	mov %rsi, (%rdi)
	jmp put_done
ring0_put4:
	testb $HAS_SMAP, %gs:CPU_FEATURES
	jz put4
	stac
put4:
	mov %esi, (%rdi)
put_done:
	xor %eax, %eax
put_end:
	testb $HAS_SMAP, %gs:CPU_FEATURES
	jz 1f
	clac
1:	ret
put_failed:
	mov $1, %eax
	jmp put_end

/* ---- exceptions of ring 0's own ---- */

/* Four kinds are foreseen: a debug exception that SYSCALL has overtaken; SYSCALL itself, of a host that gets it half
 * right; the application's registers refused by IRET or by a segment load; the application's memory, in ring0.c.
 * Stack as at exception. */
exception_of_ring0:
	cmpq $1, (%rsp)
	je resume_ring0
	cmpq $2, (%rsp)
	je resume_ring0
	push %rax
	lea ring0_syscall32(%rip), %rax
	mov %eax, %eax
	cmp %rax, 24(%rsp)
	je call_of_32_bits
	lea ring0_iret(%rip), %rax
	cmp %rax, 24(%rsp)
	je refused_by_iret
	push %rcx
	push %rdx
	lea ring0_fixups(%rip), %rcx
1:	mov (%rcx), %rdx		/* pairs of offsets: where it may fault, where it goes on then; 0 ends */
	test %rdx, %rdx
	jz lost
	lea ring0_syscall(%rip), %rax
	add %rax, %rdx
	cmp %rdx, 40(%rsp)
	je 2f
	add $16, %rcx
	jmp 1b
2:	add 8(%rcx), %rax
	mov %rax, 40(%rsp)
	pop %rdx
	pop %rcx
	pop %rax
	xor %ecx, %ecx
resume_ring0:
	andl $~0x100, 32(%rsp)		/* without the trap flag */
	add $16, %rsp
	iretq

/* A host whose SYSCALL of 32-bit code loads no more than 32 bits of rip: it faults on its way to us, all else done.  It
 * must fault, being in ring 0 already: machine.c asserts that it is where the application can have no memory. */
call_of_32_bits:
	pop %rax
	mov 40(%rsp), %rsp
	jmp ring0_syscall32

/* The registers are in the context still: it gets the exception as if its first instruction had raised it. */
refused_by_iret:
	swapgs
	mov 8(%rsp), %rax
	mov %rax, %gs:CPU_REASON
	mov 16(%rsp), %rax
	mov %rax, %gs:CPU_ERROR
	mov %gs:CPU_CTX, %rax
	movq $-1, CTX_ORIG_RAX(%rax)
	jmp leave

/* On a stack of this CPU's, whose record GS may or may not be based on: find it by the stack's address. */
lost:
	mov 40(%rsp), %rax
	mov %rsp, %rbx
	and $~(CPU_SIZE - 1), %rbx
	mov %rax, CPU_LOST(%rbx)
	mov 24(%rsp), %rax
	mov %rax, CPU_ERROR(%rbx)
	mov %cr2, %rax
	mov %rax, CPU_CR2(%rbx)
	movq $REASON_RING0, CPU_REASON(%rbx)
1:	out %al, $EXIT_PORT
	jmp 1b

	.section .rodata, "a"
	.balign 8
	.globl ring0_fixups
	.hidden ring0_fixups
ring0_fixups:
	.quad ring0_load_ds - ring0_syscall, ring0_load_ds - ring0_syscall
	.quad ring0_load_es - ring0_syscall, ring0_load_es - ring0_syscall
	.quad ring0_load_fs - ring0_syscall, ring0_load_fs - ring0_syscall
	.quad ring0_load_gs - ring0_syscall, ring0_load_gs - ring0_syscall
	.quad put8 - ring0_syscall, put_failed - ring0_syscall
	.quad put4 - ring0_syscall, put_failed - ring0_syscall
	.quad 0
