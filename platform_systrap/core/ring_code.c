/* The code of a block: what a patched call site jumps to instead of making its system call.
 *
 * A site is an instruction that was displaced by a jump to the block, and the `syscall` behind it, which stays.  The
 * block does what the instruction did, and posts the call if its thread is the hot one; else, and whenever the Sentry
 * does not answer in time, it jumps to the site's own `syscall`.  So the ring is never needed, only faster.
 *
 * It runs with the application's rights and on its registers: it may change rcx and r11, as a system call does, leaves
 * the flags as they were, and touches no stack.  Up to `saved` no flag has changed.
 *
 * It also carries what the call's handler would otherwise fetch from this memory, or put into it, by a host call of its
 * own: a name or a buffer on the way in, and a result's bytes on the way out.  If one of these copies faults, the thread
 * is taken out of the block (ring_leave), and the fault is nobody's.
 */
#include "ring.h"

#define IMMEDIATE "0x7777777777777777"
#define DATA "1024" /* RING_DATA */
#define SPINS "2000" /* how often a thread looks for its answer: 40 ns each */

asm(".pushsection .rodata\n"
    ".globl pt_ring_code, pt_ring_private, pt_ring_back, pt_ring_shared, pt_ring_numbered\n"
    ".globl pt_ring_index, pt_ring_saved, pt_ring_kind, pt_ring_posted, pt_ring_put, pt_ring_done, pt_ring_end\n"
    ".globl pt_ring_back_late, pt_ring_code_end\n"
    "pt_ring_code:\n"
    "	.byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n" /* the displaced instruction */
    /* Is this the hot thread?  The private page holds the complement of that one's fs base, and 0 after fork. */
    "	movabs $" IMMEDIATE ", %r11\n"
    "pt_ring_private:\n"
    "	mov (%r11), %r11\n"
    "	rdfsbase %rcx\n"
    "	lea 1(%rcx,%r11), %rcx\n"
    "	jrcxz 1f\n"
    "0:	movabs $" IMMEDIATE ", %rcx\n"
    "pt_ring_back:\n"
    "	jmp *%rcx\n"
    "1:	movabs $" IMMEDIATE ", %r11\n"
    "pt_ring_shared:\n"
    "	mov 4(%r11), %ecx\n"
    "	jrcxz 0b\n"
    /* Post. */
    "	mov %eax, 8(%r11)\n"
    "pt_ring_numbered:\n"
    "	movl $0x77777777, 12(%r11)\n"
    "pt_ring_index:\n"
    "	mov %rdi, 16(%r11)\n"
    "	mov %rsi, 24(%r11)\n"
    "	mov %rdx, 32(%r11)\n"
    "	mov %r10, 40(%r11)\n"
    "	mov %r8, 48(%r11)\n"
    "	mov %r9, 56(%r11)\n"
    "	lahf\n"
    "	seto %al\n"
    "	mov %ax, 64(%r11)\n"
    "pt_ring_saved:\n"
    /* What goes with it: nothing, a string that rdi or rsi points to, or rdx bytes that rsi points to. */
    "	xor %ecx, %ecx\n"
    "	mov $0x77777777, %eax\n"
    "pt_ring_kind:\n"
    "	cmp $2, %eax\n"
    "	jb 6f\n"
    "	je 5f\n"
    "	cmp $3, %eax\n"
    "	jne 8f\n"
    "	cmp $" DATA ", %rdx\n"
    "	ja 9f\n"
    "3:	lea 8(%rcx), %rax\n"
    "	cmp %rdx, %rax\n"
    "	ja 4f\n"
    "	mov (%rsi,%rcx), %rax\n"
    "	mov %rax, 4096(%r11,%rcx)\n"
    "	add $8, %ecx\n"
    "	jmp 3b\n"
    "4:	cmp %rdx, %rcx\n"
    "	jae 9f\n"
    "	movzbl (%rsi,%rcx), %eax\n"
    "	mov %al, 4096(%r11,%rcx)\n"
    "	inc %ecx\n"
    "	jmp 4b\n"
    "5:	movzbl (%rsi,%rcx), %eax\n"
    "	mov %al, 4096(%r11,%rcx)\n"
    "	inc %ecx\n"
    "	test %al, %al\n"
    "	je 9f\n"
    "	cmp $256, %ecx\n"
    "	jb 5b\n"
    "	jmp 9f\n"
    "6:	test %eax, %eax\n"
    "	je 9f\n"
    "7:	movzbl (%rdi,%rcx), %eax\n"
    "	mov %al, 4096(%r11,%rcx)\n"
    "	inc %ecx\n"
    "	test %al, %al\n"
    "	je 9f\n"
    "	cmp $256, %ecx\n"
    "	jb 7b\n"
    "8:\n"
    "9:	mov %ecx, 68(%r11)\n"
    "	mov $" SPINS ", %ecx\n"
    "	movl $1, (%r11)\n"
    "pt_ring_posted:\n"
    /* Look for the answer, then withdraw: what the Sentry may have begun comes another way. */
    "2:	cmpl $2, (%r11)\n"
    "	jae 3f\n"
    "	pause\n"
    "	dec %ecx\n"
    "	jnz 2b\n"
    "	mov $1, %eax\n"
    "	mov $2, %ecx\n"
    "	lock cmpxchg %ecx, (%r11)\n"
    "3:	cmpl $3, (%r11)\n"
    "	jne 4f\n"
    /* Answered.  Put what came with the answer where it belongs, from its end to its beginning. */
    "	mov 72(%r11), %ecx\n"
    "	jrcxz 8f\n"
    "	mov 80(%r11), %rdx\n"
    "pt_ring_put:\n"
    "5:	sub $8, %ecx\n"
    "	jb 6f\n"
    "	mov 4096(%r11,%rcx), %rax\n"
    "	mov %rax, (%rdx,%rcx)\n"
    "	jmp 5b\n"
    "6:	add $8, %ecx\n"
    "7:	sub $1, %ecx\n"
    "	jb 8f\n"
    "	movzbl 4096(%r11,%rcx), %eax\n"
    "	mov %al, (%rdx,%rcx)\n"
    "	jmp 7b\n"
    "8:	mov 32(%r11), %rdx\n"
    "pt_ring_done:\n"
    "	movzwl 64(%r11), %eax\n"
    "	add $0x7f, %al\n"
    "	sahf\n"
    "	mov 16(%r11), %rax\n"
    "	movabs $" IMMEDIATE ", %rcx\n"
    "pt_ring_end:\n"
    "	jmp *%rcx\n"
    "4:	movzwl 64(%r11), %eax\n"
    "	add $0x7f, %al\n"
    "	sahf\n"
    "	mov 8(%r11), %eax\n"
    "	movabs $" IMMEDIATE ", %rcx\n"
    "pt_ring_back_late:\n"
    "	jmp *%rcx\n"
    "pt_ring_code_end:\n"
    ".popsection\n");

/* The eight bytes in front of a label are the constant of the instruction before it. */
static void fill_in(char *code, const char *label, unsigned long value)
{
	memcpy(code + RING_OFFSET(label) - 8, &value, 8);
}

/* The code of the ring's index-th block, RING_BLOCK_SIZE bytes, into out; its size. */
int ring_build(const struct ring *ring, int index, const char *displaced, char *out)
{
	const struct ring_block *block = &ring->blocks[index];
	const int32_t number = index, kind = block->kind;

	memset(out, 0xcc, RING_BLOCK_SIZE);
	memcpy(out, pt_ring_code, pt_ring_code_end - pt_ring_code);
	memcpy(out, displaced, DISPLACED_SIZE);
	memcpy(out + RING_OFFSET(pt_ring_index) - 4, &number, 4);
	memcpy(out + RING_OFFSET(pt_ring_kind) - 4, &kind, 4);
	fill_in(out, pt_ring_private, ring->private_at);
	fill_in(out, pt_ring_shared, ring->shared_at);
	fill_in(out, pt_ring_back, block->end - 2);
	fill_in(out, pt_ring_end, block->end);
	fill_in(out, pt_ring_back_late, block->end - 2);
	return pt_ring_code_end - pt_ring_code;
}

/* Write code into the memory of a stopped thread, which cannot itself.  What is shared with others stays as it is. */
int ring_poke(struct pt_ctx *ctx, unsigned long addr, const char *data, int length)
{
	for (int i = 0; i < length; i += 8) {
		unsigned long word;

		memcpy(&word, data + i, 8);
		if (pt(PTRACE_POKEDATA, ctx->tid, addr + i, word))
			return -errno;
	}
	return 0;
}
