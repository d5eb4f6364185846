/* Page tables: x86-64's four levels, of which the last, the leaves, may be shared with forks.
 *
 * A leaf is shared if it has more than one reference.  The entries that lead to it are then not writable, in all the
 * spaces that share it, so that every write of the application's faults, as does what has no page yet; whoever then
 * or for any other reason is to change the leaf gets a copy of its own first (tables_own).  Frames that both copies
 * name are not writable in either.  An entry may stay not writable when its leaf is no longer shared: the next to own
 * it repairs that.
 *
 * Entries are changed atomically: the processor sets bits in them, and ring 0 exchanges marks for frames of its stock
 * (see memory_cdef.h) as long as the space has not been stopped.
 */
#include "memory.h"

#define LEVELS 4

static unsigned int level_shift(int level)
{
	return PAGE_SHIFT + 9 * (level - 1);
}

static uint64_t *top_table(const struct kv_space *space)
{
	return (uint64_t *)frame_host(space->top);
}

static uint64_t *entry_at(uint64_t *table, unsigned long addr, int level)
{
	return &table[addr >> level_shift(level) & (ENTRIES - 1)];
}

/* The entry of the first leaf that maps anything from *at to end; *at is moved there.  NULL: there is none. */
uint64_t *tables_next(const struct kv_space *space, unsigned long *at, unsigned long end)
{
	while (*at < end) {
		uint64_t *table = top_table(space);
		int level = LEVELS;

		for (;;) {
			uint64_t *entry = entry_at(table, *at, level);

			if (!entry_load(entry)) {
				*at = (*at | ((1ul << level_shift(level)) - 1)) + 1;
				break;
			}
			if (level == 2)
				return entry;
			table = (uint64_t *)entry_host(*entry);
			level--;
		}
	}
	return NULL;
}

/* Have the entry lead to a table, which is new to this space. */
static void lead_to(const struct kv_space *space, uint64_t *entry, const void *table)
{
	window_table_comes(space);
	entry_store(entry, host_gpa(table) | PTE_TABLE);
}

/* The entry that leads, or would, to addr's leaf; NULL: there is none, or no memory to make it. */
static uint64_t *leaf_entry(struct kv_space *space, unsigned long addr, int make, int beyond_limit)
{
	uint64_t *table = top_table(space);

	for (int level = LEVELS; level > 2; level--) {
		uint64_t *entry = entry_at(table, addr, level);

		if (!*entry) {
			frame_t new = make ? frame_new(space->account, beyond_limit) : NO_FRAME;

			if (new == NO_FRAME)
				return NULL;
			lead_to(space, entry, frame_host(new));
		}
		table = (uint64_t *)entry_host(*entry);
	}
	return entry_at(table, addr, 2);
}

/* Where addr's entry is, for looking at it; NULL: there is no table.  *shared: it is not this space's alone. */
uint64_t *tables_slot(const struct kv_space *space, unsigned long addr, int *shared)
{
	uint64_t *entry = leaf_entry((struct kv_space *)space, addr, 0, 0);

	if (!entry || !*entry)
		return NULL;
	*shared = !(*entry & PTE_RW);
	return (uint64_t *)entry_host(*entry) + leaf_index(addr);
}

/* One reference to what a leaf entry names less. */
void entry_drop(uint64_t entry)
{
	if (entry_is_counted(entry))
		frame_put(entry_frame(entry));
}

/* One user of a leaf less. */
static void put_leaf(uint64_t entry)
{
	const uint64_t *leaf = (const uint64_t *)entry_host(entry);
	frame_t number = entry_frame(entry);

	if (frame_at(number)->references == 1)
		for (int i = 0; i < ENTRIES; i++)
			if (leaf[i])
				entry_drop(leaf[i]);
	frame_put(number);
}

/* Copy a leaf that others share: 0 or -ENOMEM. */
static int copy_leaf(struct kv_space *space, uint64_t *entry, int beyond_limit)
{
	frame_t number = frame_new(space->account, beyond_limit);
	uint64_t *from = (uint64_t *)entry_host(*entry), *to;
	frame_t old = entry_frame(*entry);

	if (number == NO_FRAME)
		return -ENOMEM;
	/* Its processors may have the way to the old table cached, which others will go on changing. */
	space_stop(space);
	to = (uint64_t *)frame_host(number);
	for (int i = 0; i < ENTRIES; i++) {
		uint64_t page = entry_load(&from[i]);

		if (entry_is_counted(page)) {
			frame_at(entry_frame(page))->references++;
			if (page & PTE_RW)
				__atomic_fetch_and(&from[i], ~PTE_RW, __ATOMIC_ACQ_REL);
			page &= ~PTE_RW;
		}
		to[i] = page;
	}
	lead_to(space, entry, to);
	frame_put(old);
	return 0;
}

/* addr's leaf, made if need be, and this space's alone: its first slot.  NULL: no memory. */
uint64_t *tables_own(struct kv_space *space, unsigned long addr, int beyond_limit)
{
	uint64_t *entry = leaf_entry(space, addr, 1, beyond_limit);

	if (!entry)
		return NULL;
	if (!*entry) {
		frame_t new = frame_new(space->account, beyond_limit);

		if (new == NO_FRAME)
			return NULL;
		lead_to(space, entry, frame_host(new));
	} else if (!(*entry & PTE_RW)) {
		if (frame_at(entry_frame(*entry))->references == 1)
			__atomic_fetch_or(entry, PTE_RW, __ATOMIC_ACQ_REL);
		else if (copy_leaf(space, entry, beyond_limit))
			return NULL;
	}
	return (uint64_t *)entry_host(*entry);
}

/* If addr has a leaf, make it this space's alone, whatever the account says: 0 or -ENOMEM. */
int tables_own_if_any(struct kv_space *space, unsigned long addr)
{
	const uint64_t *entry = leaf_entry(space, addr, 0, 0);

	return !entry || !*entry || tables_own(space, addr, 1) ? 0 : -ENOMEM;
}

/* Take one entry out, and what it names. */
static void clear_slot(struct kv_space *space, uint64_t *slot)
{
	if (entry_load(slot)) {
		space_stop(space);
		entry_drop(__atomic_exchange_n(slot, 0, __ATOMIC_ACQ_REL));
	}
}

/* Nothing is there in the range any more, and whole leaves of it are gone: 0, or -ENOMEM and nothing has happened. */
int tables_clear(struct kv_space *space, unsigned long start, unsigned long end)
{
	unsigned long at = start;
	uint64_t *entry;

	/* Leaves of which a part stays may have to be copied. */
	if ((start % LEAF_SPAN && tables_own_if_any(space, start)) || (end % LEAF_SPAN && tables_own_if_any(space, end)))
		return -ENOMEM;
	while ((entry = tables_next(space, &at, end))) {
		unsigned long until = leaf_end(at) < end ? leaf_end(at) : end;

		if (until - at == LEAF_SPAN) {
			uint64_t old = *entry;

			space_stop(space);
			entry_store(entry, 0);
			put_leaf(old);
		} else {
			uint64_t *leaf = (uint64_t *)entry_host(*entry);

			for (unsigned long page = at; page < until; page += PAGE)
				clear_slot(space, &leaf[leaf_index(page)]);
		}
		at = until;
	}
	return 0;
}

static void prune(struct kv_space *space, uint64_t *table, int level, unsigned long base, unsigned long floor,
		  unsigned long ceiling)
{
	unsigned long size = 1ul << level_shift(level);
	unsigned long first = floor > base ? (floor - base) / size : 0;

	for (unsigned long i = first; i < ENTRIES && base + i * size < ceiling; i++) {
		unsigned long start = base + i * size;
		uint64_t old = table[i];

		if (!old)
			continue;
		if (level > 2)
			prune(space, (uint64_t *)entry_host(old), level - 1, start, floor, ceiling);
		if (start < floor || start + size > ceiling)
			continue;
		space_stop(space);
		entry_store(&table[i], 0);
		if (level > 2)
			frame_put(entry_frame(old));
		else
			put_leaf(old);
	}
}

/* Free the tables that map only what lies in this range, where there is nothing. */
void tables_prune(struct kv_space *space, unsigned long floor, unsigned long ceiling)
{
	prune(space, top_table(space), LEVELS, 0, floor, ceiling);
}

/* What an entry becomes when its page's protection is to allow no more than prot.  What it allows in addition, a fault
 * adds when it is wanted. */
static uint64_t restrained(uint64_t entry, int prot)
{
	if (!entry_is_there(entry))
		return 0; /* a mark comes again with the next fault */
	if (prot == PROT_NONE)
		return entry & KV_PTE_FIXED ? 0 : (entry & ~(PTE_P | PTE_RW)) | KV_PTE_HELD;
	if (!(prot & PROT_WRITE))
		entry &= ~PTE_RW;
	if (!(prot & PROT_EXEC))
		entry |= PTE_NX;
	return entry;
}

static void protect_slot(struct kv_space *space, uint64_t *slot, int prot)
{
	uint64_t old = entry_load(slot);

	while (restrained(old, prot) != old) {
		space_stop(space);
		if (entry_exchange(slot, &old, restrained(old, prot)))
			return;
	}
}

/* Of a leaf's pages from at to until, would any entry change? */
static int any_restrained(const uint64_t *leaf, unsigned long at, unsigned long until, int prot)
{
	for (; at < until; at += PAGE)
		if (restrained(leaf[leaf_index(at)], prot) != leaf[leaf_index(at)])
			return 1;
	return 0;
}

/* Nothing in the range allows more than prot: 0, or -ENOMEM if a leaf could not be copied. */
int tables_protect(struct kv_space *space, unsigned long start, unsigned long end, int prot)
{
	unsigned long at = start;
	uint64_t *entry, *leaf;

	for (; (entry = tables_next(space, &at, end)); at = leaf_end(at)) {
		unsigned long until = leaf_end(at) < end ? leaf_end(at) : end;

		if (!any_restrained((const uint64_t *)entry_host(*entry), at, until, prot))
			continue;
		leaf = tables_own(space, at, 1);
		if (!leaf)
			return -ENOMEM;
		for (unsigned long page = at; page < until; page += PAGE)
			protect_slot(space, &leaf[leaf_index(page)], prot);
	}
	return 0;
}

/* Make all leaves that a move needs, this space's alone: 0 or -ENOMEM. */
static int prepare_move(struct kv_space *space, unsigned long from, unsigned long to, unsigned long length)
{
	unsigned long at = from;

	for (; tables_next(space, &at, from + length); at = leaf_end(at)) {
		unsigned long until = leaf_end(at) < from + length ? leaf_end(at) : from + length;

		if (!tables_own(space, at, 1) || !tables_own(space, to + (at - from), 0) ||
		    !tables_own(space, to + (until - PAGE - from), 0))
			return -ENOMEM;
	}
	return 0;
}

/* Move all entries to where nothing is: 0, or -ENOMEM and nothing has moved. */
int tables_move(struct kv_space *space, unsigned long from, unsigned long to, unsigned long length)
{
	unsigned long at = from;
	uint64_t *entry;

	if (prepare_move(space, from, to, length))
		return -ENOMEM;
	for (; (entry = tables_next(space, &at, from + length)); at = leaf_end(at)) {
		unsigned long until = leaf_end(at) < from + length ? leaf_end(at) : from + length;
		uint64_t *leaf = (uint64_t *)entry_host(*entry);

		for (unsigned long page = at; page < until; page += PAGE) {
			uint64_t *slot = &leaf[leaf_index(page)], old = entry_load(slot);
			int shared;

			if (!old)
				continue;
			space_stop(space);
			old = __atomic_exchange_n(slot, 0, __ATOMIC_ACQ_REL);
			if (entry_is_there(old))
				entry_store(tables_slot(space, to + (page - from), &shared), old);
		}
	}
	return 0;
}

/* Have child, which has no tables yet but its top, share all leaves of parent: 0 or -ENOMEM. */
int tables_fork(struct kv_space *parent, struct kv_space *child)
{
	unsigned long at = 0;
	uint64_t *entry;

	for (; (entry = tables_next(parent, &at, parent->end)); at = leaf_end(at)) {
		uint64_t *copy = leaf_entry(child, at, 1, 0);

		if (!copy)
			return -ENOMEM;
		if (*entry & PTE_RW) {
			space_stop(parent);
			__atomic_fetch_and(entry, ~PTE_RW, __ATOMIC_ACQ_REL);
		}
		entry_store(copy, *entry);
		frame_at(entry_frame(*entry))->references++;
	}
	return 0;
}
