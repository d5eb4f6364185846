/* Anonymous memory by the page.
 *
 * All frames are pages of one memory file, mapped into the window in chunks.  A frame that nobody uses is in one of
 * three places: in the stock, zeroed and with memory under it; among those to be cleared, as its last user left it;
 * or free, without memory under it, which makes it zero by itself.  The stock is refilled from the free ones by the
 * batch, since one call of the host costs more than the page.  What is to be cleared is cleared when it is needed
 * again soon, else given to the host, again by the batch.
 */
#include "memory.h"
#include <fcntl.h>
#include <unistd.h>

#define CHUNK_FRAMES 16384ul
#define CHUNKS (FRAMES_SIZE / PAGE / CHUNK_FRAMES)
#define STOCK_MAX 512
#define BATCH 32
#define TO_CLEAR_MAX 1024
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static int file = -1;
static struct frame *chunks[CHUNKS];
static unsigned long n_chunks;
static frame_t stock[STOCK_MAX], to_clear[TO_CLEAR_MAX];
static unsigned int n_stock, n_to_clear;
static frame_t first_free = NO_FRAME;
static unsigned long n_free, n_handed_out;
static struct kv_account **accounts; /* by id; 0 is nobody's */
static uint32_t n_accounts;

struct frame *frame_at(frame_t number)
{
	return &chunks[number / CHUNK_FRAMES][number % CHUNK_FRAMES];
}

static void push_free(frame_t number)
{
	frame_at(number)->link = first_free;
	first_free = number;
	n_free++;
}

static frame_t pop_free(void)
{
	frame_t number = first_free;

	first_free = frame_at(number)->link;
	n_free--;
	return number;
}

/* CHUNK_FRAMES more free frames: 0 or -errno. */
static int grow(void)
{
	unsigned long offset = n_chunks * CHUNK_FRAMES * PAGE, size = CHUNK_FRAMES * PAGE;
	int error;

	if (n_chunks == CHUNKS)
		return -ENOMEM;
	error = window_need(offset, size);
	if (error)
		return error;
	if (ftruncate(file, offset + size))
		return -errno;
	chunks[n_chunks] = calloc(CHUNK_FRAMES, sizeof(struct frame));
	if (!chunks[n_chunks])
		return -ENOMEM;
	if (mmap(window + offset, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, offset) == MAP_FAILED) {
		error = -errno;
		free(chunks[n_chunks]);
		return error;
	}
	madvise(window + offset, size, MADV_DONTDUMP); /* a dump of ours need not hold the applications' memory */
	n_chunks++;
	for (unsigned long i = CHUNK_FRAMES; i--;)
		push_free((n_chunks - 1) * CHUNK_FRAMES + i);
	return 0;
}

int frames_init(void)
{
	file = memfd_create("guest memory", MFD_CLOEXEC);
	if (file < 0)
		return -errno;
	/* The first frame is number 0: the page of zeros, which is nobody's and stays. */
	return frame_new(NULL, 1) == ZERO_FRAME ? 0 : -ENOMEM;
}

void frames_close(void)
{
	for (unsigned long i = 0; i < n_chunks; i++)
		free(chunks[i]);
	n_chunks = n_free = n_handed_out = 0;
	n_stock = n_to_clear = 0;
	first_free = NO_FRAME;
	if (file >= 0)
		close(file);
	file = -1;
	for (uint32_t i = 0; i < n_accounts; i++)
		free(accounts[i]);
	free(accounts);
	accounts = NULL;
	n_accounts = 0;
}

/* Have the host put memory under these, which are neighbours: 0 or -errno. */
static int back(frame_t first, unsigned int n)
{
	if (!madvise(frame_host(first), n * PAGE, MADV_POPULATE_WRITE))
		return 0;
	if (errno != EINVAL)
		return -ENOMEM;
	/* A host before Linux 5.14. */
	return fallocate(file, 0, first * PAGE, n * PAGE) ? -ENOMEM : 0;
}

/* Put a batch of free frames into the stock, which is empty: 0 or -errno. */
static int refill(void)
{
	frame_t batch[BATCH];
	unsigned int n = 0, run;

	if (!n_free) {
		int error = grow();

		if (error)
			return error;
	}
	while (n < BATCH && n_free)
		batch[n++] = pop_free();
	for (unsigned int i = 0; i < n; i += run) {
		run = 1;
		while (i + run < n && batch[i + run] == batch[i] + run)
			run++;
		if (back(batch[i], run)) {
			while (n > i)
				push_free(batch[--n]);
			break;
		}
	}
	for (unsigned int i = n; i--;)
		stock[n_stock++] = batch[i];
	return n ? 0 : -ENOMEM;
}

static int compare(const void *a, const void *b)
{
	frame_t x = *(const frame_t *)a, y = *(const frame_t *)b;

	return x < y ? -1 : x > y;
}

/* Give the memory under all that is to be cleared back to the host. */
static void give_back(void)
{
	unsigned int run;

	qsort(to_clear, n_to_clear, sizeof(frame_t), compare);
	for (unsigned int end = n_to_clear; end; end -= run) {
		frame_t first;

		run = 1;
		while (run < end && to_clear[end - run - 1] == to_clear[end - 1] - run)
			run++;
		first = to_clear[end - run];
		if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first * PAGE, run * PAGE))
			memset(frame_host(first), 0, run * PAGE);
		for (unsigned int i = run; i--;)
			push_free(first + i);
	}
	n_to_clear = 0;
}

/* A zeroed frame with one reference, charged to the account if that is given; NO_FRAME: no memory. */
frame_t frame_new(struct kv_account *account, int beyond_limit)
{
	frame_t number;

	if (account && account->used >= account->limit && !beyond_limit)
		return NO_FRAME;
	if (!n_stock && n_to_clear) {
		number = to_clear[--n_to_clear];
		memset(frame_host(number), 0, PAGE);
	} else {
		if (!n_stock && refill())
			return NO_FRAME;
		number = stock[--n_stock];
	}
	n_handed_out++;
	frame_at(number)->references = 1;
	frame_at(number)->link = account ? account->id : 0;
	if (account)
		account->used++;
	return number;
}

/* Pages that are no frames of ours, but an account's: 0 or -ENOMEM. */
int account_charge(struct kv_account *account, unsigned long pages)
{
	if (account->used + pages > account->limit)
		return -ENOMEM;
	account->used += pages;
	return 0;
}

/* The account of this id, if there is one: 0 is nobody's. */
void account_uncharge(uint32_t id, unsigned long pages)
{
	struct kv_account *account = id ? accounts[id] : NULL;

	if (!account || !pages)
		return;
	account->used -= pages;
	if (!account->used && account->released) {
		accounts[account->id] = NULL;
		free(account);
	}
}

static void uncharge(struct frame *frame)
{
	account_uncharge(frame->link, 1);
	frame->link = 0;
}

/* One reference less; without any, it is free. */
void frame_put(frame_t number)
{
	struct frame *frame = frame_at(number);

	if (--frame->references)
		return;
	uncharge(frame);
	n_handed_out--;
	if (n_to_clear == TO_CLEAR_MAX)
		give_back();
	to_clear[n_to_clear++] = number;
}

unsigned int kv_stock_take(unsigned long *gpas, unsigned int n)
{
	unsigned int taken = 0;

	kv_lock();
	for (; taken < n; taken++) {
		frame_t number = frame_new(NULL, 1);

		if (number == NO_FRAME)
			break;
		gpas[taken] = host_gpa(frame_host(number));
	}
	kv_unlock();
	return taken;
}

void kv_stock_return(const unsigned long *gpas, unsigned int n)
{
	kv_lock();
	for (unsigned int i = 0; i < n; i++) {
		frame_t number = entry_frame(gpas[i]);
		struct frame *frame = frame_at(number);

		if (n_stock == STOCK_MAX) {
			frame_put(number);
			continue;
		}
		uncharge(frame);
		frame->references = 0;
		n_handed_out--;
		stock[n_stock++] = number;
	}
	kv_unlock();
}

/* Whoever looks at the tables first may have found the frame there, and even freed it, before this is said. */
void kv_stock_used(struct kv_space *space, unsigned long gpa)
{
	struct frame *frame;

	kv_lock();
	frame = frame_at(entry_frame(gpa));
	if (frame->references && !frame->link) {
		frame->link = space->account->id;
		space->account->used++;
	}
	kv_unlock();
}

/* The zero frame is not counted: it is handed out for ever. */
void kv_frames(struct kv_frames_info *out)
{
	kv_lock();
	out->handed_out = n_handed_out - 1;
	out->in_stock = n_stock;
	out->to_clear = n_to_clear;
	out->free = n_free;
	out->window_used = files_window_used;
	out->objects = objects_count;
	kv_unlock();
}

struct kv_account *kv_account_new(unsigned long limit_pages)
{
	struct kv_account *account = calloc(1, sizeof(*account));
	uint32_t id = 1;

	kv_lock();
	while (id < n_accounts && accounts[id])
		id++;
	if (account && id >= n_accounts) {
		struct kv_account **more = realloc(accounts, (id + 16) * sizeof(*more));

		if (more) {
			memset(more + n_accounts, 0, (id + 16 - n_accounts) * sizeof(*more));
			accounts = more;
			n_accounts = id + 16;
		} else {
			free(account);
			account = NULL;
		}
	}
	if (account) {
		account->limit = limit_pages;
		account->id = id;
		accounts[id] = account;
	}
	kv_unlock();
	return account;
}

/* What it used goes to the host now: whoever comes next is somebody else. */
void kv_account_free(struct kv_account *account)
{
	kv_lock();
	account->released = 1;
	if (!account->used) {
		accounts[account->id] = NULL;
		free(account);
	}
	give_back();
	kv_unlock();
}

unsigned long kv_account_used(const struct kv_account *account)
{
	return account->used;
}

void kv_account_limit(struct kv_account *account, unsigned long limit_pages)
{
	account->limit = limit_pages;
}
