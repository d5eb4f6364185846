/* mmap(2), munmap(2), mprotect(2). */
#include "memory.h"
#include <sys/sysinfo.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#define SMALL (64ul << 20) /* any machine has that */
#define MADV_POPULATE_READ_ADVICE 22
#define MADV_POPULATE_WRITE_ADVICE 23

/* Does this not lie within the space? */
int range_is_bad(const struct kv_space *space, unsigned long addr, unsigned long length)
{
	return length > space->end || addr > space->end - length;
}

/* Would this change need a region too many?  Linux counts after what it takes away. */
static int splits_too_many(const struct kv_space *space, unsigned long start, unsigned long end)
{
	const struct region *region = region_at(space, start);

	return space->n_regions >= MAX_REGIONS && region && region->start < start && region->end > end;
}

/* Nothing is in the range any more: 0, or -ENOMEM and nothing has happened.  regions_room() has been asked. */
int unmap_range(struct kv_space *space, unsigned long start, unsigned long end)
{
	int i;

	if (regions_free_at(space, start, end))
		return 0;
	if (splits_too_many(space, start, end) || tables_clear(space, start, end))
		return -ENOMEM;
	regions_split(space, start);
	regions_split(space, end);
	regions_remove(space, start, end);
	i = regions_after(space, start);
	tables_prune(space, i ? space->regions[i - 1]->end : 0, i < space->n_regions ? space->regions[i]->start : 1ul << 47);
	return 0;
}

/* More than the machine has, no mapping can ever use: Linux's overcommit heuristic. */
static int is_absurd(unsigned long length, int prot, int flags)
{
	struct sysinfo info;

	if (length < SMALL || !(prot & PROT_WRITE) || flags & MAP_NORESERVE)
		return 0;
	return !sysinfo(&info) && length / info.mem_unit > info.totalram + info.totalswap;
}

/* What is to be mapped, and with one use of its object: 0 or -errno. */
static int describe(struct region *new, unsigned long length, int prot, int flags, int fd, unsigned long offset)
{
	int error;

	*new = (struct region){ .prot = prot, .shared = (flags & MAP_TYPE) != MAP_PRIVATE };
	if (!(flags & MAP_ANONYMOUS) || fd >= 0) {
		error = file_object(fd, new->shared, prot, offset, &new->object);
		if (error)
			return error;
	}
	if (new->object) {
		new->offset = offset;
		if (new->shared && !new->object->writable)
			new->flags = REGION_NEVER_WRITE;
		return 0;
	}
	if (is_absurd(length, prot, flags))
		return -ENOMEM;
	if (new->shared) {
		new->object = shared_object(length);
		if (!new->object)
			return -ENOMEM;
	}
	return 0;
}

/* Where it is to lie: the address or -errno. */
static long find_address(struct kv_space *space, unsigned long addr, unsigned long length, int flags)
{
	if (!(flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))) {
		addr = regions_choose(space, addr, length, flags);
		return addr ? (long)addr : -ENOMEM;
	}
	if (addr % PAGE)
		return -EINVAL;
	if (range_is_bad(space, addr, length))
		return -ENOMEM;
	if (addr < KV_MIN_ADDR)
		return -EPERM;
	if (flags & MAP_FIXED_NOREPLACE && !regions_free_at(space, addr, addr + length))
		return -EEXIST;
	return addr;
}

/* The checks are in Linux's order. */
static long map(struct kv_space *space, unsigned long addr, unsigned long length, int prot, int flags, int fd,
		unsigned long offset, int kind)
{
	struct region new;
	long error = regions_room(space);

	if (error || space->n_regions > MAX_REGIONS)
		return -ENOMEM;
	error = find_address(space, addr, length, flags);
	if (error < 0)
		return error;
	addr = error;
	error = describe(&new, length, prot, flags, fd, offset);
	if (error)
		return error;
	error = unmap_range(space, addr, addr + length);
	if (!error) {
		new.start = addr;
		new.end = addr + length;
		new.kind = kind;
		regions_insert(space, &new);
	}
	if (new.object)
		object_put(new.object);
	return error ? error : (long)addr;
}

long kv_map_kind(struct kv_space *space, unsigned long addr, unsigned long length, int prot, int flags, int fd,
		 unsigned long offset, int kind)
{
	long result;

	if (!length || offset % PAGE)
		return -EINVAL;
	if (length > space->end)
		return -ENOMEM;
	length = page_up(length);
	space_enter(space);
	result = map(space, addr, length, prot, flags, fd, offset, kind);
	kv_unlock();
	/* That there is no memory for it yet is no failure of the mapping. */
	if (result > 0 && flags & MAP_POPULATE && prot)
		kv_advise(space, result, length, prot & PROT_WRITE ? MADV_POPULATE_WRITE_ADVICE : MADV_POPULATE_READ_ADVICE);
	return result;
}

long kv_map(struct kv_space *space, unsigned long addr, unsigned long length, int prot, int flags, int fd,
	    unsigned long offset)
{
	return kv_map_kind(space, addr, length, prot, flags, fd, offset, KV_NORMAL);
}

int kv_unmap(struct kv_space *space, unsigned long addr, unsigned long length)
{
	int error;

	if (addr % PAGE || !length || range_is_bad(space, addr, length))
		return -EINVAL;
	space_enter(space);
	error = regions_room(space);
	if (!error)
		error = unmap_range(space, addr, page_up(addr + length));
	kv_unlock();
	return error;
}

/* Of one region, or a part of it. */
static int protect_part(struct kv_space *space, unsigned long start, unsigned long end, int prot)
{
	struct region *region = region_at(space, start);
	int error = regions_room(space);

	if (error)
		return error;
	if (region->prot == prot)
		return 0;
	if (prot & PROT_WRITE && region->flags & REGION_NEVER_WRITE)
		return -EACCES;
	if (space->n_regions >= MAX_REGIONS && (region->start < start || region->end > end))
		return -ENOMEM;
	error = tables_protect(space, start, end, prot);
	if (error)
		return error;
	regions_split(space, start);
	regions_split(space, end);
	region_at(space, start)->prot = prot;
	return 0;
}

/* Linux too has changed what precedes the first hole, or the first region that may not be changed so. */
int kv_protect(struct kv_space *space, unsigned long addr, unsigned long length, int prot)
{
	unsigned long end = page_up(addr + length), hole, until;
	int error = 0;

	if (addr % PAGE)
		return -EINVAL;
	if (range_is_bad(space, addr, length))
		return -ENOMEM;
	space_enter(space);
	hole = regions_hole(space, addr, end);
	for (unsigned long at = addr; at < hole && !error; at = until) {
		until = region_at(space, at)->end < end ? region_at(space, at)->end : end;
		error = protect_part(space, at, until, prot);
	}
	regions_join(space, addr, end);
	kv_unlock();
	return error ? error : hole < end ? -ENOMEM : 0;
}
