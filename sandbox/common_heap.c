/* The pages that a process has in common with its forks, and how a fork goes back to them: see common_heap.py.
 *
 * For CPython 3.11, of whose objects this knows how they lie in memory.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of files; who touches them has them again. */
static void ch_unmap_pages(const uintptr_t *ranges, int count)
{
	for (int i = 0; i < count; i++)
		madvise((void *)ranges[2 * i], ranges[2 * i + 1] - ranges[2 * i], MADV_DONTNEED);
}

#if PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030c0000 && SIZEOF_VOID_P == 8 && defined(WITH_PYMALLOC) \
	&& !defined(Py_DEBUG) && !defined(Py_TRACE_REFS)

#define PAGE 4096UL
#define WORD sizeof(Py_ssize_t)
#define WORDS_A_PAGE (PAGE / WORD)
#define BITS 64				/* of an element of `heads` */
#define MAX_AREAS 256
#define MAX_PENDING (8UL << 20)
#define MAX_CODES (1UL << 20)
#define IMMORTAL ((Py_ssize_t)1 << 40)	/* more references than a process can have, or drop by mistake */
#define THREAD_ROOM (64UL << 10)	/* on either side of the C library's notes on this thread, its variables are */

/* What the small-object allocator is made of. */
#define POOL_SIZE (16UL << 10)
#define SMALLEST_BLOCK 16
#define LARGEST_BLOCK 512

/* And malloc's: up to 1 KiB it keeps free chunks by their exact size. */
#define LARGEST_CHUNK (64UL << 10)
#define FINE 1040
#define CHUNK_STEP 16
#define SMALLEST_CHUNK 24

extern char _PyRuntime[];		/* most of the interpreter's variables */

struct area {
	char *start;
	size_t size, offset;		/* the offset in `copy`, and in the file behind both */
	int is_static;			/* the interpreter's own variables: what is there is never given up */
};

static struct area areas[MAX_AREAS];
static int area_count;
static size_t total;			/* the sizes of all areas */
static uint64_t *heads;			/* a bit for each word of the areas: an immortal object begins here */
static PyCodeObject **codes;		/* those among the immortals, by address */
static size_t code_count;
static unsigned char *filled;		/* a byte for each page of the areas: there is anything but zeros */
static const char *copy;		/* of the areas as they were; NULL: nothing is in common */

static PyObject **pending;		/* found, and not yet asked what they refer to */
static size_t pending_count;

static const struct area *area_of(const void *address)
{
	for (int i = 0; i < area_count; i++)
		if ((size_t)((char *)address - areas[i].start) < areas[i].size)
			return &areas[i];
	return NULL;
}

static int is_head(size_t word)
{
	return heads[word / BITS] >> word % BITS & 1;
}

static int has_heads(size_t offset)
{
	uint64_t any = 0;

	for (size_t i = 0; i < WORDS_A_PAGE / BITS; i++)
		any |= heads[offset / WORD / BITS + i];
	return any != 0;
}

static void *reserve(size_t size)
{
	void *room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return room == MAP_FAILED ? NULL : room;
}

/* --- finding what there is --- */

/* A visitproc.  What it is told of will live for ever. */
static int found(PyObject *object, void *unused)
{
	const struct area *area = object ? area_of(object) : NULL;
	size_t word;

	(void)unused;
	if (!area || pending_count == MAX_PENDING)
		return 0;
	word = (area->offset + ((char *)object - area->start)) / WORD;
	if (!is_head(word)) {
		heads[word / BITS] |= 1ULL << word % BITS;
		pending[pending_count++] = object;
	}
	return 0;
}

static void look_into_code(PyCodeObject *code)
{
	PyObject *parts[] = {
		code->co_consts, code->co_names, code->co_exceptiontable, code->co_localsplusnames, code->co_localspluskinds,
		code->co_filename, code->co_name, code->co_qualname, code->co_linetable,
	};

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		found(parts[i], NULL);
}

static void look_into_type(PyTypeObject *type)
{
	static PyObject *any_name;

	found(type->tp_dict, NULL);
	found(type->tp_mro, NULL);
	found(type->tp_bases, NULL);
	/* A type that is looked into for the first time is given a number: now, and not in each fork. */
	if (any_name || (any_name = PyUnicode_InternFromString("__any__")))
		_PyType_Lookup(type, any_name);
}

static void look_into(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	PyObject *key, *value;
	Py_ssize_t position = 0;

	found((PyObject *)type, NULL);
	if (PyType_Check(object))
		look_into_type((PyTypeObject *)object);
	if (PyCode_Check(object))
		look_into_code((PyCodeObject *)object);
	else if (PyDict_Check(object))	/* traversed, it may pass over its keys */
		while (PyDict_Next(object, &position, &key, &value)) {
			found(key, NULL);
			found(value, NULL);
		}
	else if (PyObject_IS_GC(object) && type->tp_traverse)
		type->tp_traverse(object, found, NULL);
}

/* All that the members of a list lead to, but not the list. */
static int find(PyObject *roots)
{
	pending = reserve(MAX_PENDING * sizeof(*pending));
	heads = reserve(total / WORD / 8);
	if (!pending || !heads)
		return -1;
	Py_TYPE(roots)->tp_traverse(roots, found, NULL);
	while (pending_count)
		look_into(pending[--pending_count]);
	munmap(pending, MAX_PENDING * sizeof(*pending));
	pending = NULL;
	return 0;
}

/* --- keeping it --- */

static void add_area(char *start, char *end)
{
	if (start < end && area_count < MAX_AREAS) {
		int is_static = (start <= _PyRuntime && _PyRuntime < end)
		    || (start <= (char *)&PyType_Type && (char *)&PyType_Type < end);

		areas[area_count++] = (struct area){ start, end - start, total, is_static };
		total += end - start;
	}
}

/* Leave out what has nothing of ours, at both ends: there, memory may have been given back since the maps were read. */
static void trim(struct area *area)
{
	if (area->is_static)
		return;
	while (area->size && !has_heads(area->offset)) {
		area->start += PAGE;
		area->offset += PAGE;
		area->size -= PAGE;
	}
	while (area->size && !has_heads(area->offset + area->size - PAGE))
		area->size -= PAGE;
}

static char *pool_of(void *block)
{
	return (char *)((uintptr_t)block & ~(POOL_SIZE - 1));
}

/* Pools that are free are taken whole, and their pages emptied: nobody will look there again. */
static void give_up_free_pools(void)
{
	char *block, *pool = NULL;

	while ((block = PyObject_Malloc(LARGEST_BLOCK)) && area_of(block)) {
		if (pool && pool != pool_of(block))
			madvise(pool, POOL_SIZE, MADV_DONTNEED);
		pool = pool_of(block);
	}
	if (pool && pool != pool_of(block))
		madvise(pool, POOL_SIZE, MADV_DONTNEED);
	PyObject_Free(block);
}

/* Leave neither allocator any room among what is there: what is made from now on has pages of its own. */
static void fill_holes(void)
{
	char *end = sbrk(0);

	for (size_t size = LARGEST_CHUNK; size >= SMALLEST_CHUNK; size -= size > FINE ? size / 2 : CHUNK_STEP) {
		char *chunk;

		do
			chunk = malloc(size);
		while (chunk && chunk < end);
		free(chunk);
	}
	for (size_t size = SMALLEST_BLOCK; size <= LARGEST_BLOCK; size += SMALLEST_BLOCK) {
		void *block;

		do
			block = PyObject_Malloc(size);
		while (block && *(unsigned int *)pool_of(block) > 1);	/* blocks that are in use in the pool */
		PyObject_Free(block);	/* the first of a new pool */
	}
	give_up_free_pools();
}

static int immortalise(void)
{
	codes = reserve(MAX_CODES * sizeof(*codes));
	if (!codes)
		return -1;
	for (int i = 0; i < area_count; i++) {
		size_t first = areas[i].offset / WORD;

		for (size_t word = 0; word < areas[i].size / WORD; word++)
			if (is_head(first + word)) {
				PyObject *object = (PyObject *)(areas[i].start + word * WORD);

				object->ob_refcnt += IMMORTAL;
				if (PyCode_Check(object) && code_count < MAX_CODES)
					codes[code_count++] = (PyCodeObject *)object;
			}
	}
	return 0;
}

/* Pages of zeros take no memory as long as nobody looks at them. */
static int note_filled(void)
{
	static const char zeros[PAGE];

	filled = reserve(total / PAGE);
	if (!filled)
		return -1;
	for (int i = 0; i < area_count; i++)
		for (size_t at = 0; at < areas[i].size; at += PAGE)
			filled[(areas[i].offset + at) / PAGE] = memcmp(areas[i].start + at, zeros, PAGE) != 0;
	return 0;
}

static int write_all(int fd, const void *from, size_t size, off_t offset)
{
	while (size) {
		ssize_t written = pwrite(fd, from, size, offset);

		if (written <= 0)
			return -1;
		from = (const char *)from + written;
		offset += written;
		size -= written;
	}
	return 0;
}

/* From the first write to the last mapping nothing may change in the areas: no call but to the host. */
static int exchange(int fd)
{
	size_t heads_size = total / WORD / 8, codes_size = code_count * sizeof(*codes), filled_size = total / PAGE;
	char *mapped;

	for (int i = 0; i < area_count; i++)
		for (size_t at = 0; at < areas[i].size; at += PAGE)
			if (filled[(areas[i].offset + at) / PAGE]
			    && write_all(fd, areas[i].start + at, PAGE, areas[i].offset + at))
				return -1;
	if (write_all(fd, heads, heads_size, total) || write_all(fd, codes, codes_size, total + heads_size)
	    || write_all(fd, filled, filled_size, total + heads_size + codes_size)
	    || fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
		return -1;
	mapped = mmap(NULL, total + heads_size + codes_size + filled_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (mapped == MAP_FAILED)
		return -1;
	for (int i = 0; i < area_count; i++) {
		struct area *area = &areas[i];

		if (area->size
		    && mmap(area->start, area->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, area->offset) == MAP_FAILED)
			area->size = 0;		/* stays as it is, which is the same */
	}
	munmap(heads, heads_size);
	munmap(codes, MAX_CODES * sizeof(*codes));
	munmap(filled, filled_size);
	heads = (uint64_t *)(mapped + total);
	codes = (PyCodeObject **)(mapped + total + heads_size);
	filled = (unsigned char *)(codes + code_count);
	copy = mapped;
	return 0;
}

/* A page is mapped when it is looked at: now, so that all forks have all of them. */
static void touch(const struct area *area, size_t start, size_t end)
{
	for (size_t at = start; at < end; at += PAGE)
		if (filled[(area->offset + at) / PAGE])
			(void)*(volatile const char *)(area->start + at);
}

static int hold(PyObject *roots)
{
	sigset_t all, before;
	int fd, result;

	if (find(roots) || immortalise())
		return -1;
	PyList_SetSlice(roots, 0, PyList_Size(roots), NULL);	/* it refers to all; later, dropping that would change all */
	PyType_ClearCache();	/* refers to names all over the memory; each that a fork replaces would be a change */
	fill_holes();
	for (int i = 0; i < area_count; i++)
		trim(&areas[i]);
	fd = memfd_create("pysc-common", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	result = note_filled() || exchange(fd) ? -1 : 0;
	sigprocmask(SIG_SETMASK, &before, NULL);
	close(fd);
	if (result == 0)
		for (int i = 0; i < area_count; i++)
			touch(&areas[i], 0, areas[i].size);
	return result;
}

static int ch_hold(const uintptr_t *ranges, int count, uintptr_t roots)
{
	PyGILState_STATE state;
	char *thread = (char *)((uintptr_t)pthread_self() & ~(PAGE - 1));
	int result, error;

	if (sysconf(_SC_PAGESIZE) != PAGE) {
		errno = ENOSYS;
		return -1;
	}
	state = PyGILState_Ensure();
	for (int i = 0; i < count; i++) {
		char *start = (char *)ranges[2 * i], *end = (char *)ranges[2 * i + 1];
		char *before = thread - THREAD_ROOM, *after = thread + THREAD_ROOM;

		if (start < after && end > before) {	/* the kernel itself writes there: rseq(2) */
			add_area(start, before);
			add_area(start > after ? start : after, end);
		} else {
			add_area(start, end);
		}
	}
	result = hold((PyObject *)roots);
	error = errno;
	PyGILState_Release(state);
	errno = error;
	return result;
}

/* --- going back --- */

enum verdict { FOREIGN, GOES, STAYS };	/* of a page; FOREIGN: without anything immortal, it may be anybody's by now */

static unsigned char *verdicts;

static char *code_end(const PyCodeObject *code)
{
	return (char *)code->co_code_adaptive + _PyCode_NBYTES(code);
}

/* The code object in whose mutable part an address lies: where the interpreter notes how to run it faster. */
static const PyCodeObject *code_at(const char *address)
{
	size_t low = 0, high = code_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if ((char *)codes[middle] <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low || address >= code_end(codes[low - 1]))
		return NULL;
	if (address < codes[low - 1]->co_code_adaptive
	    && address != (char *)&codes[low - 1]->co_flags)	/* with co_warmup, in the same word */
		return NULL;
	return codes[low - 1];
}

/* Whether a word is where a function has the number by which fast code knows it again.  No two ever have the same. */
static int is_function_version(const struct area *area, size_t word, const Py_ssize_t *address)
{
	const size_t distance = offsetof(PyFunctionObject, func_version) / WORD;

	return word >= area->offset / WORD + distance && is_head(word - distance)
	    && PyFunction_Check((PyObject *)(address - distance));
}

/* Whether only that has changed which may change back: the number of references to an immortal, the state of code. */
static enum verdict judge(const struct area *area, size_t at)
{
	const char *page = area->start + at;
	size_t offset = area->offset + at, first = offset / WORD;
	const Py_ssize_t *now = (const Py_ssize_t *)page, *then = (const Py_ssize_t *)(copy + offset);

	if (!filled[offset / PAGE])
		return FOREIGN;
	if (!area->is_static && !has_heads(offset) && !code_at(page) && !code_at(page + PAGE - WORD))
		return FOREIGN;
	for (size_t word = 0; word < WORDS_A_PAGE; word++)
		if (now[word] != then[word] && !is_head(first + word) && !code_at((const char *)(now + word))
		    && !is_function_version(area, first + word, now + word))
			return STAYS;
	return GOES;
}

/* A code object goes back whole or not at all; whether one of its pages had to be told to stay. */
static int keep_whole(const PyCodeObject *code)
{
	const struct area *area = area_of(code);
	size_t start, end, first, last;
	int goes = 0, stays = 0;

	if (!area)
		return 0;
	start = area->offset + ((char *)code - area->start);
	end = area->offset + (code_end(code) - area->start);
	first = start / PAGE;
	last = (end - 1) / PAGE;
	for (size_t page = first; page <= last; page++) {
		goes |= verdicts[page] == GOES;
		stays |= verdicts[page] == STAYS;
	}
	if (!goes || !stays || !memcmp(code, copy + start, end - start))
		return 0;
	for (size_t page = first; page <= last; page++)
		verdicts[page] = STAYS;
	return 1;
}

static size_t go_back(const struct area *area)
{
	size_t pages = 0;

	for (size_t at = 0; at < area->size; at += PAGE) {
		size_t start = at;

		while (at < area->size && verdicts[(area->offset + at) / PAGE] == GOES)
			at += PAGE;
		if (at > start && madvise(area->start + start, at - start, MADV_DONTNEED) == 0) {
			touch(area, start, at);
			pages += (at - start) / PAGE;
		}
	}
	return pages;
}

static size_t judge_and_go_back(void)
{
	size_t pages = 0;
	int changed;

	verdicts = reserve(total / PAGE);
	if (!verdicts)
		return 0;
	for (int i = 0; i < area_count; i++)
		for (size_t at = 0; at < areas[i].size; at += PAGE)
			verdicts[(areas[i].offset + at) / PAGE] = judge(&areas[i], at);
	do {
		changed = 0;
		for (size_t i = 0; i < code_count; i++)
			changed |= keep_whole(codes[i]);
	} while (changed);
	for (int i = 0; i < area_count; i++)
		pages += go_back(&areas[i]);
	munmap(verdicts, total / PAGE);
	madvise((void *)copy, total, MADV_DONTNEED);
	return pages;
}

/* Nothing else may write meanwhile: no other thread, and no signal's handler.  (One that runs in a thread that waits for
 * work only notes that it did; who waits for signals in such a process hears of them by a descriptor.) */
static size_t ch_go_back(void)
{
	PyGILState_STATE state = PyGILState_Ensure();
	sigset_t all, before;
	size_t pages = 0;

	if (copy) {
		PyType_ClearCache();	/* as it was */
		sigfillset(&all);
		sigprocmask(SIG_SETMASK, &all, &before);
		pages = judge_and_go_back();
		sigprocmask(SIG_SETMASK, &before, NULL);
	}
	PyGILState_Release(state);
	return pages;
}

#else

static int ch_hold(const uintptr_t *ranges, int count, uintptr_t roots)
{
	errno = ENOSYS;
	return -1;
}

static size_t ch_go_back(void)
{
	return 0;
}

#endif
