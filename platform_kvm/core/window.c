/* The window of our address space that is guest-physical memory, and the one lock of it all. */
#include "memory.h"
#include <pthread.h>

#define SLOTS (KV_WINDOW_SIZE / KV_SLOT_SIZE)

char *window;
static unsigned char slot_added[SLOTS];
static int copies_are_stale;
static void (*forget_copies)(void);
static int (*add_slot)(unsigned long gpa, void *host, unsigned long size);
static void (*quiesce)(struct kv_space *space);
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void kv_lock(void)
{
	pthread_mutex_lock(&lock);
}

void kv_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

char *kv_window(void)
{
	return window;
}

static void close_parts(void)
{
	regions_close();
	files_close();
	frames_close();
	munmap(window, KV_WINDOW_SIZE);
	window = NULL;
	memset(slot_added, 0, sizeof(slot_added));
	add_slot = NULL;
	quiesce = NULL;
}

int kv_memory_init(int (*slot)(unsigned long gpa, void *host, unsigned long size),
		   void (*stop)(struct kv_space *space))
{
	int error;

	if (window)
		return -EBUSY;
	window = mmap(NULL, KV_WINDOW_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (window == MAP_FAILED) {
		window = NULL;
		return -errno;
	}
	add_slot = slot;
	quiesce = stop;
	error = files_init();
	if (!error)
		error = frames_init();
	if (!error)
		error = exchange_init();
	if (error)
		close_parts();
	return error;
}

void kv_memory_close(void)
{
	kv_lock();
	copies_are_stale = 0;
	forget_copies = NULL;
	if (window) {
		exchange_close();
		close_parts();
	}
	kv_unlock();
}

/* This part of the window is about to be used: 0 or -errno. */
int window_need(unsigned long offset, unsigned long size)
{
	unsigned long first = offset / KV_SLOT_SIZE, last = (offset + size - 1) / KV_SLOT_SIZE;
	int error;

	for (unsigned long i = first; i <= last; i++) {
		if (slot_added[i])
			continue;
		if (add_slot) {
			error = add_slot(KV_WINDOW_GPA + i * KV_SLOT_SIZE, window + i * KV_SLOT_SIZE, KV_SLOT_SIZE);
			if (error)
				return error;
		}
		slot_added[i] = 1;
	}
	return 0;
}

/* Nothing is mapped in this part of the window any more. */
void window_reserve(unsigned long offset, unsigned long size)
{
	mmap(window + offset, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

/* What every function that works on a space begins with; kv_unlock() ends it. */
void space_enter(struct kv_space *space)
{
	kv_lock();
	space->stopped = 0;
}

static void stop(struct kv_space *space)
{
	if (!space->stopped && quiesce)
		quiesce(space);
	space->stopped = 1;
}

/* Before an entry that a virtual CPU may have in its TLB is taken out or allows less. */
void space_stop(struct kv_space *space)
{
	stop(space);
	copies_are_stale = forget_copies != NULL;
}

/* The same for one entry, which is about to be replaced: window_forget_page is to follow. */
void space_stop_for_page(struct kv_space *space)
{
	stop(space);
}

/* An entry no longer leads to this page: copies of it vanish with the host's own mapping, which comes again. */
void window_forget_page(char *host)
{
	if (forget_copies)
		madvise(host, PAGE, MADV_DONTNEED);
}

/* Tables are freed, and may be other tables soon. */
void window_tables_freed(void)
{
	copies_are_stale = forget_copies != NULL;
}

/* Before a table, which may have been another's, is led to by one of a space in which virtual CPUs may be executing now:
 * they would find the other's copies. */
void window_table_comes(const struct kv_space *space)
{
	if (!space->stopped)
		kv_forget_stale_copies();
}

void kv_expect_copies(void (*forget)(void))
{
	forget_copies = forget;
}

void kv_forget_stale_copies(void)
{
	if (copies_are_stale)
		forget_copies();
	copies_are_stale = 0;
}

void space_unlock_to_wait(struct kv_space *space)
{
	kv_unlock();
}

void space_lock_again(struct kv_space *space)
{
	space_enter(space);
}
