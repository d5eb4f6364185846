/* Which context a host thread id belongs to: a hash table with open addressing. */
#include "core.h"
#include <stdlib.h>

static struct pt_ctx **slots;
static unsigned int capacity, used; /* capacity is a power of two; at most half of it is used */

static unsigned int slot_of(int tid)
{
	return (unsigned int)tid * 2654435769u & (capacity - 1);
}

static void insert(struct pt_ctx *ctx)
{
	unsigned int i = slot_of(ctx->tid);

	while (slots[i])
		i = (i + 1) & (capacity - 1);
	slots[i] = ctx;
}

static int grow(void)
{
	struct pt_ctx **old = slots, **larger = calloc(capacity ? 2 * capacity : 64, sizeof(*slots));
	unsigned int old_capacity = capacity;

	if (!larger)
		return -ENOMEM;
	slots = larger;
	capacity = capacity ? 2 * capacity : 64;
	for (unsigned int i = 0; i < old_capacity; i++)
		if (old[i])
			insert(old[i]);
	free(old);
	return 0;
}

/* Without memory for it, the thread stays unknown: nobody answers it, and its container hangs until it is killed. */
void registry_add(struct pt_ctx *ctx)
{
	if (2 * (used + 1) > capacity && grow())
		return;
	insert(ctx);
	used++;
}

struct pt_ctx *registry_find(int tid)
{
	if (!capacity)
		return NULL;
	for (unsigned int i = slot_of(tid); slots[i]; i = (i + 1) & (capacity - 1))
		if (slots[i]->tid == tid)
			return slots[i];
	return NULL;
}

void registry_remove(struct pt_ctx *ctx)
{
	unsigned int i;

	if (!capacity)
		return;
	for (i = slot_of(ctx->tid); slots[i] != ctx; i = (i + 1) & (capacity - 1))
		if (!slots[i])
			return;
	slots[i] = NULL;
	used--;
	/* What follows without a gap may have been put there because this slot was taken. */
	for (i = (i + 1) & (capacity - 1); slots[i]; i = (i + 1) & (capacity - 1)) {
		struct pt_ctx *moved = slots[i];

		slots[i] = NULL;
		insert(moved);
	}
}

void registry_each(void (*visit)(struct pt_ctx *ctx))
{
	for (unsigned int i = 0; i < capacity; i++)
		if (slots[i])
			visit(slots[i]);
}
