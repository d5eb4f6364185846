/* Host files mapped into the upper half of the window.
 *
 * A file has one object as long as any space maps it, or two: one that only reads, of a private host mapping, which
 * is the page cache as long as nobody writes through it and does not count as a writer; and one that writes.  The
 * object's parts are mapped when they are first needed, in extents: as large as the file, within bounds, since what a
 * large mapping costs is what is touched of it.  They stay until the last region that maps the object goes; then the
 * host writes back what was written.  A file that has grown gets larger extents, beside those it has: both show the
 * same pages.
 */
#include "memory.h"
#include <linux/magic.h>
#include <sys/statfs.h>
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define BUCKETS 256
#define UNIT LEAF_SPAN           /* extents are powers of two, from this */
#define MAX_EXTENT (1ul << 30)   /* to this, and lie in the window at multiples of their size */
#define UNITS (FILES_SIZE / UNIT)

struct extent {
	unsigned long offset, size; /* in the file */
	unsigned long place;        /* in the window */
};

unsigned long files_window_used, objects_count;
static struct object *buckets[BUCKETS];
static unsigned char *unit_used;

int files_init(void)
{
	unit_used = calloc(UNITS, 1);
	return unit_used ? 0 : -ENOMEM;
}

void files_close(void)
{
	free(unit_used);
	unit_used = NULL;
}

/* Where in the window there is room; 0: nowhere. */
static unsigned long find_place(unsigned long size)
{
	unsigned long n = size / UNIT, at, i;

	for (at = 0; at < UNITS; at += n) {
		for (i = 0; i < n && !unit_used[at + i]; i++)
			;
		if (i < n)
			continue;
		memset(unit_used + at, 1, n);
		files_window_used += size;
		return FRAMES_SIZE + at * UNIT;
	}
	return 0;
}

static void free_place(unsigned long place, unsigned long size)
{
	memset(unit_used + (place - FRAMES_SIZE) / UNIT, 0, size / UNIT);
	files_window_used -= size;
}

/* Map the part of this size in which offset lies: 0 or -errno. */
static int add_extent(struct object *object, unsigned long offset, unsigned long size)
{
	struct extent *more = realloc(object->extents, (object->n_extents + 1) * sizeof(*more));
	int prot = PROT_READ | (object->writable ? PROT_WRITE : 0), flags = object->writable ? MAP_SHARED : MAP_PRIVATE;
	unsigned long start = offset & ~(size - 1), place;
	int error;

	if (!more)
		return -ENOMEM;
	object->extents = more;
	place = find_place(size);
	if (!place)
		return -ENOMEM;
	error = window_need(place, size);
	if (!error && mmap(window + place, size, prot, flags | MAP_FIXED, object->fd, start) == MAP_FAILED)
		error = -errno;
	if (error) {
		window_reserve(place, size);
		free_place(place, size);
		return error;
	}
	object->extents[object->n_extents++] = (struct extent){ start, size, place };
	return 0;
}

/* The first offset at which the file has no page: far away, if it is of a kind that has no end. */
unsigned long file_end(const struct object *object)
{
	struct stat info;

	if (!object->has_end)
		return ULONG_MAX;
	return fstat(object->fd, &info) ? 0 : page_up(info.st_size);
}

/* Have the page at offset mapped: 0 or -errno. */
static int map_page(struct object *object, unsigned long offset)
{
	unsigned long size = UNIT, end = object->has_end ? file_end(object) : 0;
	int error;

	while (size < end && size < MAX_EXTENT)
		size *= 2;
	for (;;) {
		error = add_extent(object, offset, size);
		if (error != -ENOMEM || size == UNIT)
			return error;
		size = UNIT;
	}
}

static const struct extent *extent_at(const struct object *object, unsigned long offset)
{
	for (int i = object->n_extents; i--;)
		if (offset - object->extents[i].offset < object->extents[i].size)
			return &object->extents[i];
	return NULL;
}

/* Where in the window the file's byte at offset is, and how many follow it there; NULL: the host could not map it. */
static char *file_run(struct object *object, unsigned long offset, unsigned long *length)
{
	const struct extent *extent = extent_at(object, offset);

	if (!extent && map_page(object, offset))
		return NULL;
	extent = extent_at(object, offset);
	*length = extent->offset + extent->size - offset;
	return window + extent->place + (offset - extent->offset);
}

char *file_page(struct object *object, unsigned long offset)
{
	unsigned long length;

	return file_run(object, offset, &length);
}

/* Have what was written to this part of the file on its disk when this returns; others go on meanwhile. */
int file_sync(struct kv_space *space, struct object *object, unsigned long offset, unsigned long length)
{
	int error = 0;

	object->uses++;
	for (unsigned long end = offset + length, run; offset < end && !error; offset += run) {
		char *host = file_run(object, offset, &run);

		if (!host) {
			error = -EIO;
			break;
		}
		if (run > end - offset)
			run = end - offset;
		space_unlock_to_wait(space);
		error = msync(host, run, MS_SYNC) ? -errno : 0;
		space_lock_again(space);
	}
	object_put(object);
	return error;
}

/* Would the host map this descriptor for writing?  It knows of seals: 0 or -errno. */
static int try_writable(int fd)
{
	void *host = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (host == MAP_FAILED)
		return -errno;
	munmap(host, PAGE);
	return 0;
}

/* Must, and can, a region of this kind be written through the window?  1, 0, or -errno. */
static int wants_writable(int fd, int shared, int prot)
{
	int flags = fcntl(fd, F_GETFL), error;

	if (flags < 0 || flags & O_PATH)
		return -EBADF;
	if ((flags & O_ACCMODE) == O_WRONLY)
		return -EACCES;
	if (!shared)
		return 0;
	if ((flags & O_ACCMODE) != O_RDWR)
		return prot & PROT_WRITE ? -EACCES : 0;
	error = try_writable(fd);
	if (error == -EPERM && !(prot & PROT_WRITE))
		return 0;
	return error ? error : 1;
}

static struct object *new_object(int fd, const struct stat *info, int writable)
{
	struct object *object = calloc(1, sizeof(*object));
	struct statfs fs;

	if (!object)
		return NULL;
	object->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (object->fd < 0) {
		free(object);
		return NULL;
	}
	object->dev = info->st_dev;
	object->ino = info->st_ino;
	object->writable = writable;
	object->has_end = S_ISREG(info->st_mode);
	object->in_memory = !fstatfs(fd, &fs) && fs.f_type == TMPFS_MAGIC;
	object->next = buckets[object->ino % BUCKETS];
	buckets[object->ino % BUCKETS] = object;
	objects_count++;
	return object;
}

/* The object for a mapping of our descriptor, with one use more: 0, or the errno of mmap(2).  Sets *out to NULL if
 * mapping it is mapping nothing: /dev/zero. */
int file_object(int fd, int shared, int prot, unsigned long offset, struct object **out)
{
	struct object *object;
	struct stat info;
	int writable, error = 0;

	*out = NULL;
	if (fstat(fd, &info))
		return -errno;
	if (S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 5))
		return 0;
	writable = wants_writable(fd, shared, prot);
	if (writable < 0)
		return writable;
	for (object = buckets[info.st_ino % BUCKETS]; object; object = object->next)
		if (object->dev == info.st_dev && object->ino == info.st_ino && object->writable == writable)
			break;
	if (!object)
		object = new_object(fd, &info, writable);
	if (!object)
		return -ENOMEM;
	object->uses++;
	/* The host is to say now whether it can be mapped; once a part is, the others can. */
	if (!object->n_extents)
		error = map_page(object, offset);
	if (error)
		object_put(object);
	else
		*out = object;
	return error;
}

/* What touching a mapping has allocated is noticed when another part of it is touched: charge it.  0 or -ENOMEM. */
int file_charge(struct object *object, struct kv_account *account)
{
	struct stat info;
	unsigned long pages;

	if (!object->in_memory || fstat(object->fd, &info))
		return 0;
	pages = info.st_blocks / (PAGE / 512);
	if (pages <= object->charged)
		return 0;
	if (!object->charged_to)
		object->charged_to = account->id;
	if (object->charged_to != account->id)
		return 0; /* of another container, which maps it, too */
	if (account_charge(account, pages - object->charged))
		return -ENOMEM;
	object->charged = pages;
	return 0;
}

static void close_file(struct object *object)
{
	struct object **at = &buckets[object->ino % BUCKETS];

	account_uncharge(object->charged_to, object->charged);

	for (int i = 0; i < object->n_extents; i++) {
		window_reserve(object->extents[i].place, object->extents[i].size);
		free_place(object->extents[i].place, object->extents[i].size);
	}
	free(object->extents);
	close(object->fd);
	while (*at != object)
		at = &(*at)->next;
	*at = object->next;
}

/* One use less.  The last is gone only when no table names a page of it any more. */
void object_put(struct object *object)
{
	if (--object->uses)
		return;
	if (object->fd >= 0)
		close_file(object);
	else
		shared_release(object);
	objects_count--;
	free(object);
}
