/* mremap(2). */
#include "memory.h"

/* Is this no possible request?  -errno, or 0. */
static int check(const struct kv_space *space, unsigned long old, unsigned long old_length, unsigned long new_length,
		 int flags, unsigned long new)
{
	if (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) || old % PAGE || !new_length)
		return -EINVAL;
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) && !(flags & MREMAP_MAYMOVE))
		return -EINVAL;
	if (flags & MREMAP_DONTUNMAP && old_length != new_length)
		return -EINVAL;
	if (range_is_bad(space, old, old_length) || new_length > space->end)
		return -EINVAL;
	if (!(flags & MREMAP_FIXED))
		return 0;
	if (new % PAGE || range_is_bad(space, new, new_length))
		return -EINVAL;
	if (old + old_length > new && new + new_length > old)
		return -EINVAL;
	return new < KV_MIN_ADDR ? -EPERM : 0;
}

/* May the region be made this long from old on? */
static int check_region(const struct region *region, unsigned long old, unsigned long old_length,
			unsigned long new_length)
{
	if (!region)
		return -EFAULT;
	if (!old_length && !region->shared)
		return -EINVAL;
	if (old_length > region->end - old)
		return -EFAULT;
	if (new_length <= old_length)
		return 0;
	if (region->kind != KV_NORMAL)
		return -EFAULT;
	if (region->object && region_offset(region, old) + new_length < new_length)
		return -EINVAL;
	return 0;
}

/* The region goes on where it ended, if there is room: 1, or 0. */
static int grow_in_place(struct kv_space *space, const struct region *region, unsigned long old,
			 unsigned long old_length, unsigned long new_length)
{
	struct region more = *region;

	if (old + old_length != region->end || range_is_bad(space, old, new_length) ||
	    !regions_free_at(space, region->end, old + new_length))
		return 0;
	more.offset = region_offset(region, region->end);
	more.start = region->end;
	more.end = old + new_length;
	regions_insert(space, &more);
	return 1;
}

/* Move what is at old, which is part of one region, to new; what was there goes.  The address or -errno. */
static long move(struct kv_space *space, unsigned long old, unsigned long old_length, unsigned long new_length,
		 int flags, unsigned long new)
{
	struct region moved = *region_at(space, old);
	int error;

	if (!(flags & MREMAP_FIXED))
		new = regions_choose(space, 0, new_length, 0);
	if (!new)
		return -ENOMEM;
	error = unmap_range(space, new, new + new_length);
	if (!error)
		error = regions_room(space);
	if (!error)
		error = tables_move(space, old, new, old_length < new_length ? old_length : new_length);
	if (error)
		return error;
	moved.offset = region_offset(&moved, old);
	moved.start = new;
	moved.end = new + new_length;
	regions_insert(space, &moved);
	if (old_length && !(flags & MREMAP_DONTUNMAP))
		error = unmap_range(space, old, old + old_length);
	return error ? error : (long)new;
}

static long remap(struct kv_space *space, unsigned long old, unsigned long old_length, unsigned long new_length,
		  int flags, unsigned long new)
{
	int error = regions_room(space);

	if (error)
		return error;
	if (!region_at(space, old))
		return -EFAULT;
	if (space->n_regions >= MAX_REGIONS - 3)
		return -ENOMEM;
	if (old_length > new_length) {
		error = unmap_range(space, old + new_length, old + old_length);
		if (!error)
			error = regions_room(space);
		if (error)
			return error;
		old_length = new_length;
	}
	if (old_length == new_length && !(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)))
		return old;
	error = check_region(region_at(space, old), old, old_length, new_length);
	if (error)
		return error;
	if (!(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) &&
	    grow_in_place(space, region_at(space, old), old, old_length, new_length))
		return old;
	return flags & MREMAP_MAYMOVE ? move(space, old, old_length, new_length, flags, new) : -ENOMEM;
}

long kv_remap(struct kv_space *space, unsigned long addr, unsigned long old_length, unsigned long new_length, int flags,
	      unsigned long new_addr)
{
	long result;

	if (old_length > space->end || new_length > space->end)
		return -EINVAL;
	old_length = page_up(old_length);
	new_length = page_up(new_length);
	result = check(space, addr, old_length, new_length, flags, new_addr);
	if (result)
		return result;
	space_enter(space);
	result = remap(space, addr, old_length, new_length, flags, new_addr);
	kv_unlock();
	return result;
}
