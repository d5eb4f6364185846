/* The extended state: which of it contexts have, and as the Sentry reads and writes it.
 *
 * A context's page holds it as XSAVE left it: of a component in its initial state (its bit in the header is clear) nothing
 * was written, so what lies there is old.  Where the processor has no XSAVE, FXSAVE's 512 bytes are all there is, or KVM
 * has the rest (processor.keeps_outside).
 */
#include "core.h"
#include <string.h>

#define HEADER 512 /* bitmap of components in use, then 56 bytes that must be zero */
#define HEADER_SIZE 64
#define FXSAVE_SIZE 512
#define MXCSR_OFFSET 24
#define MXCSR_BITS 0xffffu
#define MXCSR_DEFAULT 0x1f80u
#define FCW_DEFAULT 0x37f
#define FEATURES_OFFSET 464 /* unused by the processor: Linux tells there what it saves */
#define FIRST_EXTENDED 2
#define COMPONENTS 8

static unsigned long features = 3;
static int size = HEADER + HEADER_SIZE;
static struct part {
	int offset, size;
} parts[COMPONENTS];

static unsigned long bitmap(const char *state)
{
	unsigned long bits;

	memcpy(&bits, state + HEADER, sizeof(bits));
	return bits;
}

/* Can contexts hold it?  Then that is what they have. */
static int choose(const struct part *offered, unsigned long bits)
{
	int end = HEADER + HEADER_SIZE;

	for (int i = FIRST_EXTENDED; i < COMPONENTS; i++)
		if (bits >> i & 1 && offered[i].offset + offered[i].size > end)
			end = offered[i].offset + offered[i].size;
	if (end > XSAVE_SIZE)
		return 0;
	features = bits;
	size = end;
	memcpy(parts, offered, sizeof(parts));
	return 1;
}

/* x87 and SSE always; AVX and AVX-512 if there are.  Nothing else: no tiles, no keys.  What XCR0 is to be. */
unsigned long xstate_choose(unsigned long offered, const int (*layout)[2])
{
	static const unsigned long sets[] = { 0xe7, 7 };
	struct part all[COMPONENTS];

	for (int i = 0; i < COMPONENTS; i++)
		all[i] = (struct part){ layout[i][0], layout[i][1] };
	features = 3;
	size = HEADER + HEADER_SIZE;
	for (int i = 0; i < 2; i++)
		if ((offered & sets[i]) == sets[i] && choose(all, sets[i]))
			break;
	return features;
}

int kv_xstate_size(void)
{
	return size;
}

/* As a processor has it at its start. */
void xstate_reset(char *state)
{
	const unsigned short fcw = FCW_DEFAULT;
	const unsigned int mxcsr = MXCSR_DEFAULT;

	memset(state, 0, XSAVE_SIZE);
	memcpy(state, &fcw, sizeof(fcw));
	memcpy(state + MXCSR_OFFSET, &mxcsr, sizeof(mxcsr));
}

/* Of what KVM has, only what contexts have: the next one's protection keys, for one, are to be as at a start again. */
void xstate_take(char *state, const char *from)
{
	unsigned long in_use = bitmap(from) & features;

	memcpy(state, from, size);
	memcpy(state + HEADER, &in_use, sizeof(in_use));
}

/* Into size bytes: components in their initial state as that, all marked as in use or not as the processor did. */
void kv_read_xstate(const struct kv_ctx *ctx, char *out)
{
	unsigned long in_use = processor_has_xstate() ? bitmap(ctx->xstate) : 3;
	char initial[XSAVE_SIZE];

	xstate_reset(initial);
	memcpy(out, ctx->xstate, size);
	if (!(in_use & 1)) {
		memcpy(out, initial, MXCSR_OFFSET);
		memset(out + 32, 0, 128);
	}
	if (!(in_use & 2))
		memset(out + 160, 0, 256);
	for (int i = FIRST_EXTENDED; i < COMPONENTS; i++)
		if (features >> i & 1 && !(in_use >> i & 1))
			memset(out + parts[i].offset, 0, parts[i].size);
	memcpy(out + HEADER, &in_use, sizeof(in_use));
	memcpy(out + FEATURES_OFFSET, &features, sizeof(features));
}

/* At least FXSAVE's bytes; if the header is not among them, the rest goes back to its initial state.  -EINVAL: the
 * processor would refuse it. */
int kv_write_xstate(struct kv_ctx *ctx, const char *data, int length)
{
	static const char zeros[HEADER_SIZE - 8];
	unsigned long in_use = 3;
	unsigned int mxcsr;

	if (length < FXSAVE_SIZE)
		return -EINVAL;
	memcpy(&mxcsr, data + MXCSR_OFFSET, sizeof(mxcsr));
	if (mxcsr & ~MXCSR_BITS)
		return -EINVAL;
	if (length >= HEADER + HEADER_SIZE) {
		in_use = bitmap(data);
		if (in_use & ~features || memcmp(data + HEADER + 8, zeros, sizeof(zeros)))
			return -EINVAL;
	} else {
		length = FXSAVE_SIZE;
	}
	memset(ctx->xstate, 0, size);
	memcpy(ctx->xstate, data, length < size ? length : size);
	memcpy(ctx->xstate + HEADER, &in_use, sizeof(in_use));
	ctx->replaced = 1;
	return 0;
}
