/* Spaces: how they come, fork and go, and what can be seen of them. */
#include "memory.h"

struct kv_space *kv_space_new(struct kv_account *account, unsigned long end, unsigned long mmap_base,
			      const unsigned long *kernel_half)
{
	struct kv_space *space = calloc(1, sizeof(*space));

	if (!space)
		return NULL;
	kv_lock();
	space->account = account;
	space->end = end;
	space->mmap_base = space->search_top = mmap_base;
	space->top = frame_new(account, 0);
	if (space->top == NO_FRAME) {
		free(space);
		space = NULL;
	} else if (kernel_half) {
		memcpy(frame_host(space->top) + PAGE / 2, kernel_half, PAGE / 2);
	}
	kv_unlock();
	return space;
}

unsigned long kv_space_root(const struct kv_space *space)
{
	return host_gpa(frame_host(space->top));
}

void kv_root_hold(unsigned long root)
{
	kv_lock();
	frame_at(entry_frame(root))->references++;
	kv_unlock();
}

void kv_root_put(unsigned long root)
{
	kv_lock();
	frame_put(entry_frame(root));
	kv_unlock();
}

/* The child does not see these, or sees them empty. */
static int leave_out(const struct kv_space *parent, struct kv_space *child)
{
	for (int i = 0; i < parent->n_regions; i++) {
		const struct region *region = parent->regions[i];

		if (region->flags & (REGION_DONTFORK | REGION_WIPEONFORK) &&
		    tables_clear(child, region->start, region->end))
			return -ENOMEM;
	}
	return 0;
}

int kv_space_fork(struct kv_space *parent, struct kv_space **child)
{
	struct kv_space *copy;
	int error = -ENOMEM;

	space_enter(parent);
	copy = kv_space_new(parent->account, parent->end, parent->mmap_base,
			    (const unsigned long *)(frame_host(parent->top) + PAGE / 2));
	if (copy) {
		copy->stopped = 1; /* it has not run yet */
		error = regions_copy(parent, copy);
		if (!error)
			error = tables_fork(parent, copy);
		if (!error)
			error = leave_out(parent, copy);
		if (error)
			kv_space_free(copy);
		else
			*child = copy;
	}
	kv_unlock();
	return error;
}

void kv_space_free(struct kv_space *space)
{
	kv_lock();
	space->stopped = 1;
	tables_prune(space, 0, 1ul << 47);
	/* Objects last: the tables named their pages. */
	regions_remove(space, 0, 1ul << 47);
	frame_put(space->top);
	window_tables_freed();
	kv_unlock();
	free(space->regions);
	free(space);
}

int kv_mappings(struct kv_space *space, struct kv_mapping *out, int max)
{
	int n;

	kv_lock();
	n = space->n_regions;
	for (int i = 0; i < n && i < max; i++) {
		const struct region *region = space->regions[i];

		out[i] = (struct kv_mapping){
			.start = region->start,
			.end = region->end,
			.offset = region->object ? region->offset : 0,
			.dev = region->object ? region->object->dev : 0,
			.ino = region->object ? region->object->ino : 0,
			.prot = region->prot,
			.shared = region->shared,
			.kind = region->kind,
		};
	}
	kv_unlock();
	return n;
}

static void count_region(const struct kv_space *space, const struct region *region, unsigned long *out)
{
	unsigned long at = region->start;
	const uint64_t *entry;

	for (; (entry = tables_next(space, &at, region->end)); at = leaf_end(at)) {
		unsigned long until = leaf_end(at) < region->end ? leaf_end(at) : region->end;
		const uint64_t *leaf = (const uint64_t *)entry_host(*entry);

		for (unsigned long page = at; page < until; page += PAGE) {
			uint64_t found = leaf[leaf_index(page)];

			if (!entry_is_there(found) || entry_frame(found) == ZERO_FRAME)
				continue;
			out[1]++;
			out[2] += region->shared || found & KV_PTE_FIXED;
		}
	}
}

void kv_resident(struct kv_space *space, unsigned long *out)
{
	kv_lock();
	out[0] = space->pages;
	out[1] = out[2] = 0;
	for (int i = 0; i < space->n_regions; i++)
		count_region(space, space->regions[i], out);
	kv_unlock();
}
