/* madvise(2) and msync(2). */
#include "memory.h"

enum advice {
	DONTNEED = 4,
	FREE = 8,
	DONTFORK = 10,
	DOFORK = 11,
	WIPEONFORK = 18,
	KEEPONFORK = 19,
	POPULATE_READ = 22,
	POPULATE_WRITE = 23,
	DONTNEED_LOCKED = 24,
};

/* Would an access of this kind fault? */
static int is_missing(const struct kv_space *space, unsigned long addr, int access)
{
	int shared;
	const uint64_t *slot = tables_slot(space, addr, &shared);
	uint64_t entry = slot ? entry_load(slot) : 0;

	return !(entry & PTE_P) || (access & KV_WRITE && (shared || !(entry & PTE_RW)));
}

static int populate(struct kv_space *space, unsigned long start, unsigned long end, int access)
{
	for (; start < end; start += PAGE) {
		const struct region *region = region_at(space, start);
		int error = 0;

		if (!(access & KV_WRITE ? region->prot & PROT_WRITE : region->prot))
			return -EINVAL;
		while (!error && is_missing(space, start, access))
			error = fault_page(space, region, start, access);
		if (error)
			return error;
	}
	return 0;
}

/* Of one region, or a part of it. */
static int set_flag(struct kv_space *space, unsigned long start, unsigned long end, int flag, int on)
{
	struct region *region = region_at(space, start);
	int error = regions_room(space);

	if (error)
		return error;
	if (flag == REGION_WIPEONFORK && on && region->object)
		return -EINVAL;
	if (!(region->flags & flag) == !on)
		return 0;
	if (space->n_regions >= MAX_REGIONS)
		return -ENOMEM;
	regions_split(space, start);
	regions_split(space, end);
	region = region_at(space, start);
	region->flags = on ? region->flags | flag : region->flags & ~flag;
	return 0;
}

static int advise_part(struct kv_space *space, unsigned long start, unsigned long end, int advice)
{
	switch (advice) {
	case FREE:
		if (region_at(space, start)->object)
			return -EINVAL;
		return tables_clear(space, start, end);
	case DONTNEED:
	case DONTNEED_LOCKED:
		return tables_clear(space, start, end);
	case DONTFORK:
	case DOFORK:
		return set_flag(space, start, end, REGION_DONTFORK, advice == DONTFORK);
	case WIPEONFORK:
	case KEEPONFORK:
		return set_flag(space, start, end, REGION_WIPEONFORK, advice == WIPEONFORK);
	case POPULATE_READ:
		return populate(space, start, end, 0);
	case POPULATE_WRITE:
		return populate(space, start, end, KV_WRITE);
	}
	return -EINVAL;
}

static int is_known(int advice)
{
	static const char known[] = { DONTNEED, FREE, DONTFORK, DOFORK, WIPEONFORK, KEEPONFORK,
				      POPULATE_READ, POPULATE_WRITE, DONTNEED_LOCKED };

	return advice > 0 && advice < 128 && memchr(known, advice, sizeof(known));
}

/* Holes are passed over, and make the result -ENOMEM; any other failure ends it. */
static int for_each_part(struct kv_space *space, unsigned long addr, unsigned long end, int argument,
			 int (*act)(struct kv_space *, unsigned long, unsigned long, int))
{
	int result = 0;

	while (addr < end) {
		int i = regions_after(space, addr), error;
		unsigned long start, until;

		start = i < space->n_regions ? space->regions[i]->start : end;
		if (start > addr) {
			result = -ENOMEM;
			addr = start;
			continue;
		}
		until = space->regions[i]->end < end ? space->regions[i]->end : end;
		error = act(space, addr, until, argument);
		if (error)
			return error;
		addr = until;
	}
	return result;
}

int kv_advise(struct kv_space *space, unsigned long addr, unsigned long length, int advice)
{
	int result;

	if (addr % PAGE || !is_known(advice))
		return -EINVAL;
	if (range_is_bad(space, addr, length))
		return -ENOMEM;
	space_enter(space);
	result = for_each_part(space, addr, page_up(addr + length), advice, advise_part);
	regions_join(space, addr, page_up(addr + length));
	kv_unlock();
	return result;
}

static int sync_part(struct kv_space *space, unsigned long start, unsigned long end, int flags)
{
	const struct region *region = region_at(space, start);

	if (!(flags & MS_SYNC) || !region_is_file(region) || !region->object->writable)
		return 0;
	return file_sync(space, region->object, region_offset(region, start), end - start);
}

int kv_sync(struct kv_space *space, unsigned long addr, unsigned long length, int flags)
{
	int result;

	if (addr % PAGE)
		return -EINVAL;
	if (range_is_bad(space, addr, length))
		return -ENOMEM;
	space_enter(space);
	result = for_each_part(space, addr, page_up(addr + length), flags, sync_part);
	kv_unlock();
	return result;
}
