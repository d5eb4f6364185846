/* Pages come when they are touched.
 *
 * What a region's memory is decides:
 *   private, anonymous   read: the page of zeros; written: a frame of its own
 *   shared, no file      the object's frame
 *   file                 the file's page in the window, with those around it; written, if private: a copy of it
 * A frame that several tables name, in private memory, is copied before it is written; with one reference it is not.
 * Around a page of private anonymous memory that may be written, all pages of the leaf that are nothing yet are marked,
 * so that ring 0 can fill them from its stock without asking.
 */
#include "memory.h"
#include <signal.h>
#include <unistd.h>

#define AROUND (16 * PAGE)

static uint64_t rights(const struct region *region, int writable)
{
	return PTE_P | PTE_US | PTE_A | (writable ? PTE_RW | PTE_D : 0) | (region->prot & PROT_EXEC ? 0 : PTE_NX);
}

/* Put a counted frame into a slot that holds `old`, unless ring 0 was faster: then the fault is tried again. */
static int put_in(const struct region *region, uint64_t *slot, uint64_t old, frame_t number)
{
	if (!entry_exchange(slot, &old, host_gpa(frame_host(number)) | rights(region, region->prot & PROT_WRITE)))
		frame_put(number);
	return 0;
}

static void mark_around(const struct region *region, uint64_t *leaf, unsigned long addr)
{
	unsigned long start = addr & ~(LEAF_SPAN - 1), end = leaf_end(addr);
	uint64_t mark = KV_PTE_ZERO | (region->prot & PROT_EXEC ? 0 : PTE_NX);

	if (start < region->start)
		start = region->start;
	if (end > region->end)
		end = region->end;
	/* Nobody but us changes what is 0. */
	for (; start < end; start += PAGE)
		if (!entry_load(&leaf[leaf_index(start)]))
			entry_store(&leaf[leaf_index(start)], mark);
}

static int fault_anonymous(struct kv_space *space, const struct region *region, uint64_t *leaf, unsigned long addr,
			   int access)
{
	uint64_t *slot = &leaf[leaf_index(addr)], old = entry_load(slot);
	frame_t number;

	if (access & KV_WRITE) {
		number = frame_new(space->account, 0);
		if (number == NO_FRAME)
			return -ENOMEM;
		put_in(region, slot, old, number);
	} else {
		entry_exchange(slot, &old, host_gpa(frame_host(ZERO_FRAME)) | KV_PTE_FIXED | rights(region, 0));
	}
	if (!old && region->prot & PROT_WRITE)
		mark_around(region, leaf, addr);
	return 0;
}

static int fault_shared(struct kv_space *space, const struct region *region, uint64_t *slot, unsigned long addr)
{
	unsigned long offset = region_offset(region, addr);
	frame_t number;

	if (offset / PAGE >= region->object->pages)
		return -EFAULT;
	number = shared_frame(region->object, offset, space->account);
	if (number == NO_FRAME)
		return -ENOMEM;
	frame_at(number)->references++;
	return put_in(region, slot, 0, number);
}

/* Map the file's page, and those within the same 64 KiB. */
static int fault_file(const struct kv_space *space, const struct region *region, uint64_t *leaf, unsigned long addr)
{
	unsigned long at = addr & ~(AROUND - 1), end = at + AROUND, file_ends = file_end(region->object);
	int writable = region->shared && region->prot & PROT_WRITE;
	char *host;

	if (region_offset(region, addr) >= file_ends || !file_page(region->object, region_offset(region, addr)))
		return -EFAULT;
	if (region->shared && file_charge(region->object, space->account))
		return -ENOMEM;
	for (; at < end; at += PAGE) {
		uint64_t *slot = &leaf[leaf_index(at)];

		if (at < region->start || at >= region->end || region_offset(region, at) >= file_ends || entry_load(slot))
			continue;
		host = file_page(region->object, region_offset(region, at));
		if (host)
			entry_store(slot, host_gpa(host) | KV_PTE_FIXED | rights(region, writable));
	}
	return 0;
}

/* Is the page at addr still to be a copy of that page of that file? */
static int is_copy_of(const struct region *region, const struct object *object, unsigned long offset,
		      unsigned long addr)
{
	return region && region->object == object && !region->shared && region->prot & PROT_WRITE &&
	       region_offset(region, addr) == offset;
}

/* Replace a slot's entry by one of a frame, in private memory. */
static int replace(struct kv_space *space, const struct region *region, uint64_t *slot, uint64_t old, frame_t number)
{
	if (entry_is_there(old))
		space_stop_for_page(space);
	entry_store(slot, host_gpa(frame_host(number)) | rights(region, 1));
	if (entry_is_there(old))
		window_forget_page(entry_host(old));
	entry_drop(old);
	return 0;
}

/* A page of a private mapping of a file is written.  The file may be slow, so others go on meanwhile. */
static int copy_file_page(struct kv_space *space, const struct region *region, unsigned long addr)
{
	struct object *object = region->object;
	unsigned long offset = region_offset(region, addr);
	frame_t number = frame_new(space->account, 0);
	uint64_t *leaf;
	ssize_t n;
	int error = 0;

	if (number == NO_FRAME)
		return -ENOMEM;
	object->uses++;
	space_unlock_to_wait(space);
	n = pread(object->fd, frame_host(number), PAGE, offset);
	space_lock_again(space);
	region = region_at(space, addr);
	if (n < 0 || (!n && object->has_end)) {
		error = -EFAULT;
	} else if (is_copy_of(region, object, offset, addr)) {
		leaf = tables_own(space, addr, 0);
		if (!leaf) {
			error = -ENOMEM;
		} else if (!entry_is_counted(leaf[leaf_index(addr)])) {
			replace(space, region, &leaf[leaf_index(addr)], leaf[leaf_index(addr)], number);
			number = NO_FRAME;
		}
	}
	if (number != NO_FRAME)
		frame_put(number);
	object_put(object);
	return error;
}

/* Private memory that is there, but may not be written yet, is. */
static int copy_frame(struct kv_space *space, const struct region *region, uint64_t *slot, uint64_t old)
{
	frame_t number;

	if (entry_is_counted(old) && frame_at(entry_frame(old))->references == 1) {
		entry_store(slot, (old & PTE_ADDRESS) | rights(region, 1));
		return 0;
	}
	number = frame_new(space->account, 0);
	if (number == NO_FRAME)
		return -ENOMEM;
	if (entry_is_counted(old))
		memcpy(frame_host(number), entry_host(old), PAGE);
	return replace(space, region, slot, old, number);
}

/* The entry is there; what the region allows, it is to allow as well. */
static int fault_present(struct kv_space *space, const struct region *region, uint64_t *slot, unsigned long addr,
			 int access)
{
	uint64_t old = entry_load(slot);

	if (access & KV_WRITE && !(old & PTE_RW) && !region->shared) {
		if (old & KV_PTE_FIXED && region->object)
			return copy_file_page(space, region, addr);
		return copy_frame(space, region, slot, old);
	}
	entry_store(slot, (old & (PTE_ADDRESS | KV_PTE_FIXED)) |
				  rights(region, region->shared ? region->prot & PROT_WRITE : old & PTE_RW));
	return 0;
}

/* Have the page there for an access that its region allows: 0 (ring 0 may have been faster, and then it is to be tried
 * again), -ENOMEM, or -EFAULT: there is no such page of its file. */
int fault_page(struct kv_space *space, const struct region *region, unsigned long addr, int access)
{
	uint64_t *leaf = tables_own(space, addr, 0);
	uint64_t entry;

	if (!leaf)
		return -ENOMEM;
	entry = entry_load(&leaf[leaf_index(addr)]);
	if (entry_is_there(entry))
		return fault_present(space, region, &leaf[leaf_index(addr)], addr, access);
	if (!region->object)
		return fault_anonymous(space, region, leaf, addr, access);
	if (region->object->fd < 0)
		return fault_shared(space, region, &leaf[leaf_index(addr)], addr);
	if (access & KV_WRITE && !region->shared)
		return copy_file_page(space, region, addr);
	return fault_file(space, region, leaf, addr);
}

static int signal_is(struct kv_fault_info *out, int signo, int code, unsigned long addr)
{
	*out = (struct kv_fault_info){ signo, code, addr };
	return 1;
}

int kv_fault(struct kv_space *space, unsigned long addr, int access, struct kv_fault_info *out)
{
	const struct region *region;
	int needs = access & KV_WRITE ? PROT_WRITE : access & KV_EXEC ? PROT_EXEC : PROT_READ | PROT_WRITE | PROT_EXEC;
	int result;

	space_enter(space);
	region = addr < space->end ? region_at(space, addr) : NULL;
	if (!region)
		result = signal_is(out, SIGSEGV, SEGV_MAPERR, addr);
	else if (!(region->prot & needs))
		result = signal_is(out, SIGSEGV, SEGV_ACCERR, addr);
	else
		result = fault_page(space, region, addr & ~(PAGE - 1), access);
	if (result == -EFAULT)
		result = signal_is(out, SIGBUS, BUS_ADRERR, addr);
	kv_unlock();
	return result;
}

/* Forget what lies behind the end of the file that this region maps: how many pages did. */
static long drop_beyond(struct kv_space *space, const struct region *region)
{
	unsigned long ends = file_end(region->object), start = region->start;
	long n = 0;
	int shared;

	if (ends > region->offset)
		start = ends - region->offset < region->end - start ? start + (ends - region->offset) : region->end;
	for (unsigned long at = start; tables_next(space, &at, region->end); at += PAGE)
		n += entry_is_there(*tables_slot(space, at, &shared));
	if (n)
		tables_clear(space, start, region->end);
	return n;
}

long kv_drop_beyond_eof(struct kv_space *space)
{
	long n = 0;

	space_enter(space);
	for (int i = 0; i < space->n_regions; i++)
		if (region_is_file(space->regions[i]) && space->regions[i]->object->has_end)
			n += drop_beyond(space, space->regions[i]);
	kv_unlock();
	return n;
}
