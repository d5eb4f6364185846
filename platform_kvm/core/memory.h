/* What the parts of the memory core share; the interface to the rest is memory_cdef.h's.
 *
 * window.c   the window, the lock, memory slots
 * frames.c   anonymous memory by the page: references, the stock, what is charged to whom
 * files.c    host files mapped into the window
 * shared.c   shared memory without a file
 * regions.c  what lies where in a space: struct region
 * tables.c   page tables: walking, sharing with a fork, taking out
 * faults.c   pages that come when they are touched
 * maps.c, remap.c, advise.c   the calls of mmap(2)'s family
 * copy.c, exchange.c   the Sentry's own reads and writes
 * space.c    spaces come, fork, go and are looked at
 *
 * Everything but what memory_cdef.h declares is called with the lock held.
 */
#ifndef PYSC_KVM_MEMORY_H
#define PYSC_KVM_MEMORY_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "memory_cdef.h"

#define PAGE 4096ul
#define PAGE_SHIFT 12
#define ENTRIES 512
#define LEAF_SPAN (1ul << 21) /* what one leaf table maps */
#define MAX_REGIONS 65530     /* vm.max_map_count */

/* The lower half of the window holds frames, the upper one files. */
#define FRAMES_SIZE (KV_WINDOW_SIZE / 2)
#define FILES_SIZE (KV_WINDOW_SIZE / 2)

/* Entries of page tables. */
#define PTE_P 1ul
#define PTE_RW 2ul
#define PTE_US 4ul
#define PTE_A 0x20ul
#define PTE_D 0x40ul
#define PTE_NX (1ul << 63)
#define PTE_ADDRESS 0x000ffffffffff000ul
#define PTE_TABLE (PTE_P | PTE_RW | PTE_US | PTE_A)

/* Frames are known by number: where they lie in the window, in pages.  Number 0 is the page of zeros. */
typedef uint32_t frame_t;
#define ZERO_FRAME 0
#define NO_FRAME UINT32_MAX

struct kv_account {
	unsigned long used, limit;
	uint32_t id;
	int released; /* freed as soon as nothing is charged to it */
};

/* A file that is mapped somewhere, or a piece of shared memory without one. */
struct object {
	struct object *next; /* of the same bucket */
	unsigned long uses;  /* regions, and whoever works on it with the lock let go */
	unsigned long dev, ino;
	int fd;              /* -1: shared memory */
	int writable;        /* a file: mapped so that it can be written through the window */
	int has_end;         /* a regular file: nothing lies behind its end */
	int in_memory;       /* a file whose pages are memory and nothing else */
	unsigned long charged; /* as many of them as an account was told of, */
	uint32_t charged_to;   /* this one */
	struct extent *extents;
	int n_extents;
	unsigned long pages; /* shared memory: its size, and its frames by 512 */
	frame_t **frames;
};

struct region {
	unsigned long start, end;
	unsigned long offset;   /* into object, of start */
	struct object *object;  /* NULL: private anonymous memory */
	unsigned char prot, shared, kind, flags;
};
#define REGION_DONTFORK 1
#define REGION_WIPEONFORK 2
#define REGION_NEVER_WRITE 4 /* shared, of a descriptor that may not be written */

struct kv_space {
	struct kv_account *account;
	unsigned long end, mmap_base;
	frame_t top;
	int stopped; /* since the lock was taken, no virtual CPU has executed in it */
	struct region **regions; /* in address order */
	int n_regions, room;
	unsigned long pages; /* in all regions */
	/* No gap between search_top and mmap_base is as long as search_length. */
	unsigned long search_top, search_length;
};

/* window.c */
extern char *window;
int window_need(unsigned long offset, unsigned long size);
void window_reserve(unsigned long offset, unsigned long size);
void space_enter(struct kv_space *space);
void space_stop(struct kv_space *space);
void space_stop_for_page(struct kv_space *space);
void window_forget_page(char *host);
void window_tables_freed(void);
void window_table_comes(const struct kv_space *space);
void space_unlock_to_wait(struct kv_space *space);
void space_lock_again(struct kv_space *space);

/* frames.c */
struct frame {
	uint32_t references;
	uint32_t link; /* in use: the id of the account that it is charged to; free: the next free one */
};
int frames_init(void);
void frames_close(void);
struct frame *frame_at(frame_t number);
frame_t frame_new(struct kv_account *account, int beyond_limit);
void frame_put(frame_t number);
int account_charge(struct kv_account *account, unsigned long pages);
void account_uncharge(uint32_t id, unsigned long pages);

/* files.c */
int files_init(void);
void files_close(void);
int file_object(int fd, int shared, int prot, unsigned long offset, struct object **out);
char *file_page(struct object *object, unsigned long offset);
int file_sync(struct kv_space *space, struct object *object, unsigned long offset, unsigned long length);
unsigned long file_end(const struct object *object);
int file_charge(struct object *object, struct kv_account *account);
void object_put(struct object *object);
extern unsigned long files_window_used, objects_count;

/* shared.c */
struct object *shared_object(unsigned long size);
frame_t shared_frame(struct object *object, unsigned long offset, struct kv_account *account);
frame_t shared_frame_if_any(const struct object *object, unsigned long offset);
void shared_release(struct object *object);

/* regions.c */
int regions_room(struct kv_space *space);
void regions_close(void);
int regions_after(const struct kv_space *space, unsigned long addr);
struct region *region_at(const struct kv_space *space, unsigned long addr);
void regions_split(struct kv_space *space, unsigned long addr);
void regions_insert(struct kv_space *space, const struct region *new);
void regions_remove(struct kv_space *space, unsigned long start, unsigned long end);
void regions_join(struct kv_space *space, unsigned long start, unsigned long end);
int regions_copy(const struct kv_space *from, struct kv_space *to);
unsigned long regions_choose(struct kv_space *space, unsigned long hint, unsigned long length, int flags);
int regions_free_at(const struct kv_space *space, unsigned long start, unsigned long end);
unsigned long regions_hole(const struct kv_space *space, unsigned long start, unsigned long end);

/* tables.c */
uint64_t *tables_next(const struct kv_space *space, unsigned long *at, unsigned long end);
uint64_t *tables_slot(const struct kv_space *space, unsigned long addr, int *shared);
uint64_t *tables_own(struct kv_space *space, unsigned long addr, int beyond_limit);
int tables_own_if_any(struct kv_space *space, unsigned long addr);
int tables_clear(struct kv_space *space, unsigned long start, unsigned long end);
void tables_prune(struct kv_space *space, unsigned long floor, unsigned long ceiling);
int tables_protect(struct kv_space *space, unsigned long start, unsigned long end, int prot);
int tables_move(struct kv_space *space, unsigned long from, unsigned long to, unsigned long length);
int tables_fork(struct kv_space *parent, struct kv_space *child);
void entry_drop(uint64_t entry);

/* faults.c */
int fault_page(struct kv_space *space, const struct region *region, unsigned long addr, int access);

/* copy.c, exchange.c */
char *copy_writable(struct kv_space *space, unsigned long addr);
int exchange_init(void);
void exchange_close(void);

/* maps.c */
int unmap_range(struct kv_space *space, unsigned long start, unsigned long end);
int range_is_bad(const struct kv_space *space, unsigned long addr, unsigned long length);

static inline unsigned long page_up(unsigned long n)
{
	return (n + PAGE - 1) & ~(PAGE - 1);
}

static inline char *frame_host(frame_t number)
{
	return window + number * PAGE;
}

static inline unsigned long host_gpa(const void *host)
{
	return KV_WINDOW_GPA + ((const char *)host - window);
}

static inline char *entry_host(uint64_t entry)
{
	return window + ((entry & PTE_ADDRESS) - KV_WINDOW_GPA);
}

static inline frame_t entry_frame(uint64_t entry)
{
	return ((entry & PTE_ADDRESS) - KV_WINDOW_GPA) / PAGE;
}

/* Does this leaf entry lead to memory, whether the application may touch it now or not? */
static inline int entry_is_there(uint64_t entry)
{
	return (entry & (PTE_P | KV_PTE_HELD)) != 0;
}

static inline int entry_is_counted(uint64_t entry)
{
	return entry_is_there(entry) && !(entry & KV_PTE_FIXED);
}

static inline int entry_is_mark(uint64_t entry)
{
	return (entry & ~PTE_NX) == KV_PTE_ZERO;
}

static inline uint64_t entry_load(const uint64_t *slot)
{
	return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

static inline void entry_store(uint64_t *slot, uint64_t entry)
{
	__atomic_store_n(slot, entry, __ATOMIC_RELEASE);
}

/* On failure, *old is what the slot holds. */
static inline int entry_exchange(uint64_t *slot, uint64_t *old, uint64_t entry)
{
	return __atomic_compare_exchange_n(slot, old, entry, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline unsigned int leaf_index(unsigned long addr)
{
	return addr / PAGE % ENTRIES;
}

static inline unsigned long leaf_end(unsigned long addr)
{
	return (addr & ~(LEAF_SPAN - 1)) + LEAF_SPAN;
}

static inline unsigned long region_offset(const struct region *region, unsigned long addr)
{
	return region->offset + (addr - region->start);
}

static inline int region_is_file(const struct region *region)
{
	return region->object && region->object->fd >= 0;
}

#endif
