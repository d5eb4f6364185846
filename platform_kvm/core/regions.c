/* What lies where in a space: regions, Linux's struct vm_area_struct.
 *
 * An array of pointers in address order, which is searched by halves; neighbours that differ in nothing are one.
 * Changes never fail for want of memory: regions_room() is asked first.
 */
#include "memory.h"

#define MOST_NEW 4        /* regions that one change may add: two that are split, one that is mapped; remap: one more */
#define LOW_START 0x40000000ul
#define LOW_END 0x80000000ul
#define MAP_32BIT_FLAG 0x40

/* Spare ones, linked through `object`. */
static struct region *spare[MOST_NEW];
static int n_spare;

/* Make room for what one change may need: 0 or -ENOMEM. */
int regions_room(struct kv_space *space)
{
	if (space->n_regions + MOST_NEW > space->room) {
		int room = space->room ? space->room * 2 : 32;
		struct region **more = realloc(space->regions, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		space->regions = more;
		space->room = room;
	}
	while (n_spare < MOST_NEW) {
		spare[n_spare] = malloc(sizeof(struct region));
		if (!spare[n_spare])
			return -ENOMEM;
		n_spare++;
	}
	return 0;
}

void regions_close(void)
{
	while (n_spare)
		free(spare[--n_spare]);
}

/* The index of the first region that ends behind addr. */
int regions_after(const struct kv_space *space, unsigned long addr)
{
	int low = 0, high = space->n_regions;

	while (low < high) {
		int middle = (low + high) / 2;

		if (space->regions[middle]->end > addr)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

struct region *region_at(const struct kv_space *space, unsigned long addr)
{
	int i = regions_after(space, addr);

	return i < space->n_regions && space->regions[i]->start <= addr ? space->regions[i] : NULL;
}

/* Put a copy of new in at index i. */
static void insert_at(struct kv_space *space, int i, const struct region *new)
{
	struct region *region = spare[--n_spare];

	*region = *new;
	if (region->object)
		region->object->uses++;
	memmove(space->regions + i + 1, space->regions + i, (space->n_regions - i) * sizeof(*space->regions));
	space->regions[i] = region;
	space->n_regions++;
}

static void remove_at(struct kv_space *space, int i, int n)
{
	for (int j = i; j < i + n; j++) {
		if (space->regions[j]->object)
			object_put(space->regions[j]->object);
		free(space->regions[j]);
	}
	space->n_regions -= n;
	memmove(space->regions + i, space->regions + i + n, (space->n_regions - i) * sizeof(*space->regions));
}

/* No region lies on both sides of addr any more. */
void regions_split(struct kv_space *space, unsigned long addr)
{
	int i = regions_after(space, addr);
	struct region upper;

	if (i == space->n_regions || space->regions[i]->start >= addr)
		return;
	upper = *space->regions[i];
	upper.offset = region_offset(&upper, addr);
	upper.start = addr;
	insert_at(space, i + 1, &upper);
	space->regions[i]->end = addr;
}

/* Private anonymous memory has no offset that anybody could see. */
static int is_continued(const struct region *a, const struct region *b)
{
	return a->end == b->start && a->prot == b->prot && a->shared == b->shared && a->flags == b->flags &&
	       a->kind == KV_NORMAL && b->kind == KV_NORMAL && a->object == b->object &&
	       (!a->object || region_offset(a, a->end) == b->offset);
}

/* Between start and end, both included, make one of neighbours that differ in nothing. */
void regions_join(struct kv_space *space, unsigned long start, unsigned long end)
{
	int i = regions_after(space, start ? start - 1 : 0);

	while (i + 1 < space->n_regions && space->regions[i + 1]->start <= end) {
		if (is_continued(space->regions[i], space->regions[i + 1])) {
			space->regions[i]->end = space->regions[i + 1]->end;
			remove_at(space, i + 1, 1);
		} else {
			i++;
		}
	}
}

/* new lies where nothing is. */
void regions_insert(struct kv_space *space, const struct region *new)
{
	insert_at(space, regions_after(space, new->start), new);
	space->pages += (new->end - new->start) / PAGE;
	regions_join(space, new->start, new->end);
}

/* Both are where regions begin or end, or where none is. */
void regions_remove(struct kv_space *space, unsigned long start, unsigned long end)
{
	int first = regions_after(space, start), last = first;

	for (; last < space->n_regions && space->regions[last]->start < end; last++)
		space->pages -= (space->regions[last]->end - space->regions[last]->start) / PAGE;
	remove_at(space, first, last - first);
	if (end > space->search_top) {
		space->search_top = space->mmap_base;
		space->search_length = 0;
	}
}

/* Fill `to`, which is empty, with what a fork of `from` inherits: 0 or -ENOMEM. */
int regions_copy(const struct kv_space *from, struct kv_space *to)
{
	to->room = from->n_regions + MOST_NEW;
	to->regions = malloc(to->room * sizeof(*to->regions));
	if (!to->regions)
		return -ENOMEM;
	for (int i = 0; i < from->n_regions; i++) {
		const struct region *region = from->regions[i];
		struct region *copy;

		if (region->flags & REGION_DONTFORK)
			continue;
		copy = malloc(sizeof(*copy));
		if (!copy)
			return -ENOMEM;
		*copy = *region;
		if (copy->object)
			copy->object->uses++;
		to->regions[to->n_regions++] = copy;
		to->pages += (copy->end - copy->start) / PAGE;
	}
	return 0;
}

int regions_free_at(const struct kv_space *space, unsigned long start, unsigned long end)
{
	int i = regions_after(space, start);

	return i == space->n_regions || space->regions[i]->start >= end;
}

/* The first address of the range at which nothing is mapped; end: there is none. */
unsigned long regions_hole(const struct kv_space *space, unsigned long start, unsigned long end)
{
	int i = regions_after(space, start);

	while (start < end && i < space->n_regions && space->regions[i]->start <= start)
		start = space->regions[i++]->end;
	return start < end ? start : end;
}

/* The highest gap of this length that ends at or below `high`: its last part; 0: there is none. */
static unsigned long search_down(const struct kv_space *space, unsigned long high, unsigned long length)
{
	int i = regions_after(space, high - 1);

	if (i < space->n_regions && space->regions[i]->start < high)
		high = space->regions[i]->start;
	for (; i > 0; i--) {
		const struct region *below = space->regions[i - 1];

		if (high - below->end >= length)
			return high - length;
		high = below->start;
	}
	return high >= KV_MIN_ADDR + length ? high - length : 0;
}

static unsigned long search_up(const struct kv_space *space, unsigned long low, unsigned long high, unsigned long length)
{
	for (int i = regions_after(space, low); i < space->n_regions; i++) {
		if (space->regions[i]->start >= low + length)
			break;
		low = space->regions[i]->end;
	}
	return length <= high && low <= high - length ? low : 0;
}

/* Where Linux would map this: 0: there is no room. */
unsigned long regions_choose(struct kv_space *space, unsigned long hint, unsigned long length, int flags)
{
	unsigned long addr, high = flags & MAP_32BIT_FLAG ? LOW_END : space->end;

	hint = page_up(hint);
	if (hint >= KV_MIN_ADDR && length <= high && hint <= high - length && regions_free_at(space, hint, hint + length))
		return hint;
	if (flags & MAP_32BIT_FLAG)
		return search_up(space, LOW_START, LOW_END, length);
	if (length < space->search_length)
		space->search_top = space->mmap_base;
	addr = search_down(space, space->search_top, length);
	if (addr) {
		space->search_top = addr;
		space->search_length = length;
		return addr;
	}
	return search_down(space, space->end, length);
}
