/* The Sentry's own reads and writes of application memory.
 *
 * They obey what the region allows, as the application's own accesses do, and have pages come as those do, with one
 * difference: reading memory that was never touched gives zeros and touches nothing.
 *
 * A file's page may go at any time, when somebody shortens the file; then a load or store of ours would be a SIGBUS.
 * So such pages are copied by the host's kernel, which returns an error instead, and the one store that must be an
 * instruction of ours, the compare and exchange, is where the handler of that signal lets it fail.
 */
#include "memory.h"
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_PIECES 64
#define MOST_PINNED 512

/* Memory of the application that lies in one piece in the window, too. */
struct piece {
	char *host;
	unsigned long length;
	int is_file;
};

static void found(uint64_t entry, struct piece *out)
{
	out->host = entry_host(entry);
	out->is_file = (entry & PTE_ADDRESS) >= KV_WINDOW_GPA + FRAMES_SIZE;
}

/* The page is there for the application already. */
static int find_present(const struct kv_space *space, unsigned long page, int write, struct piece *out)
{
	int shared;
	const uint64_t *slot = tables_slot(space, page, &shared);
	uint64_t entry = slot ? entry_load(slot) : 0;

	if (!(entry & PTE_P) || (write && (shared || !(entry & PTE_RW))))
		return 0;
	found(entry, out);
	return 1;
}

/* Read a page that is not there, or not to be touched at present: what the application would find there. */
static int find_absent(const struct kv_space *space, const struct region *region, unsigned long page,
		       struct piece *out)
{
	unsigned long offset = region_offset(region, page);
	int shared;
	const uint64_t *slot = tables_slot(space, page, &shared);
	frame_t number = ZERO_FRAME;

	out->is_file = 0;
	if (slot && entry_is_there(entry_load(slot))) {
		found(entry_load(slot), out);
		return 0;
	}
	if (region_is_file(region)) {
		out->is_file = 1;
		out->host = file_page(region->object, offset);
		return out->host ? 0 : -EFAULT;
	}
	if (region->object) {
		if (offset / PAGE >= region->object->pages)
			return -EFAULT;
		number = shared_frame_if_any(region->object, offset);
	}
	out->host = frame_host(number == NO_FRAME ? ZERO_FRAME : number);
	return 0;
}

/* 0 or -EFAULT. */
static int find_page(struct kv_space *space, unsigned long page, int write, struct piece *out)
{
	const struct region *region;

	if (find_present(space, page, write, out))
		return 0;
	region = region_at(space, page);
	if (!region || !(write ? region->prot & PROT_WRITE : region->prot))
		return -EFAULT;
	if (!write)
		return find_absent(space, region, page, out);
	while (!find_present(space, page, write, out))
		if (fault_page(space, region, page, KV_WRITE))
			return -EFAULT;
	return 0;
}

/* The byte at addr, which may be written; NULL: it may not. */
char *copy_writable(struct kv_space *space, unsigned long addr)
{
	struct piece piece;

	return find_page(space, addr & ~(PAGE - 1), 1, &piece) ? NULL : piece.host + addr % PAGE;
}

/* The piece that begins at addr, of at most length bytes and at most so many pages: 0 or -EFAULT.  Only its first page
 * may have to come: that may let the lock go, and then those before it need no longer be what they were. */
static int find_piece(struct kv_space *space, unsigned long addr, unsigned long length, int write, unsigned int pages,
		      struct piece *out)
{
	struct piece next;

	if (addr >= space->end)
		return -EFAULT;
	if (length > space->end - addr)
		length = space->end - addr;
	if (find_page(space, addr & ~(PAGE - 1), write, out))
		return -EFAULT;
	out->host += addr % PAGE;
	out->length = PAGE - addr % PAGE;
	while (out->length < length && --pages) {
		unsigned long page = addr + out->length;

		if (write ? !find_present(space, page, write, &next) : find_page(space, page, write, &next))
			break;
		if (next.host != out->host + out->length || next.is_file != out->is_file)
			break;
		out->length += PAGE;
	}
	if (out->length > length)
		out->length = length;
	return 0;
}

/* Copy between a buffer and a file's pages: how many bytes, or -EFAULT. */
static long copy_file(char *buffer, const struct piece *piece, int write)
{
	struct iovec local = { buffer, piece->length }, remote = { piece->host, piece->length };
	long n = syscall(write ? SYS_process_vm_writev : SYS_process_vm_readv, (long)getpid(), &local, 1ul, &remote, 1ul, 0ul);

	return n < 0 ? -EFAULT : n;
}

static long copy_piece(char *buffer, const struct piece *piece, int write)
{
	if (piece->is_file)
		return copy_file(buffer, piece, write);
	if (write)
		memcpy(piece->host, buffer, piece->length);
	else
		memcpy(buffer, piece->host, piece->length);
	return piece->length;
}

static long copy(struct kv_space *space, unsigned long addr, char *buffer, unsigned long length, int write)
{
	unsigned long done = 0;
	struct piece piece;

	space_enter(space);
	while (done < length) {
		long n = find_piece(space, addr + done, length - done, write, MOST_PINNED, &piece);

		if (!n)
			n = copy_piece(buffer + done, &piece, write);
		if (n <= 0)
			break;
		done += n;
	}
	kv_unlock();
	return done || !length ? (long)done : -EFAULT;
}

long kv_read(struct kv_space *space, unsigned long addr, char *buffer, unsigned long length)
{
	return copy(space, addr, buffer, length, 0);
}

long kv_write(struct kv_space *space, unsigned long addr, const char *buffer, unsigned long length)
{
	return copy(space, addr, (char *)buffer, length, 1);
}

long kv_read_cstr(struct kv_space *space, unsigned long addr, char *buffer, unsigned long limit)
{
	unsigned long done = 0;
	long result = -ENAMETOOLONG;
	struct piece piece;

	space_enter(space);
	while (done < limit) {
		long n = find_piece(space, addr + done, limit - done, 0, 1, &piece);
		const char *nul;

		if (!n)
			n = copy_piece(buffer + done, &piece, 0);
		if (n <= 0) {
			result = -EFAULT;
			break;
		}
		nul = memchr(buffer + done, 0, n);
		if (nul) {
			result = nul + 1 - buffer;
			break;
		}
		done += n;
	}
	kv_unlock();
	return result;
}

/* Memory that a call of the host works on with the lock let go: its frames are kept by a reference more, as nobody
 * changes the space meanwhile but by faults. */
struct pinned {
	struct iovec pieces[MAX_PIECES];
	frame_t frames[MOST_PINNED];
	int n_pieces;
	unsigned int n_frames;
	unsigned long length;
};

static void pin_piece(struct pinned *pinned, const struct piece *piece)
{
	pinned->pieces[pinned->n_pieces++] = (struct iovec){ piece->host, piece->length };
	pinned->length += piece->length;
	if (piece->is_file)
		return;
	for (unsigned long at = (unsigned long)piece->host & ~(PAGE - 1); at < (unsigned long)piece->host + piece->length;
	     at += PAGE) {
		frame_t number = (at - (unsigned long)window) / PAGE;

		frame_at(number)->references++;
		pinned->frames[pinned->n_frames++] = number;
	}
}

static void pin(struct kv_space *space, unsigned long addr, unsigned long length, int write, struct pinned *out)
{
	struct piece piece;

	out->n_pieces = out->n_frames = out->length = 0;
	while (out->length < length && out->n_pieces < MAX_PIECES && out->n_frames < MOST_PINNED) {
		if (find_piece(space, addr + out->length, length - out->length, write, MOST_PINNED - out->n_frames, &piece))
			break;
		pin_piece(out, &piece);
	}
}

static void unpin(struct pinned *pinned)
{
	while (pinned->n_frames)
		frame_put(pinned->frames[--pinned->n_frames]);
}

/* As much as the file has from offset on, if that can be known: memory for more need not be found. */
static unsigned long within_file(int fd, unsigned long offset, unsigned long length)
{
	struct stat info;

	if (length <= PAGE || fstat(fd, &info) || !S_ISREG(info.st_mode) || (unsigned long)info.st_size <= offset)
		return length;
	return length < info.st_size - offset ? length : info.st_size - offset;
}

/* What reading a file into memory that is not there comes to: nothing, if the file has nothing. */
static long read_nowhere(int fd, unsigned long offset)
{
	char byte;
	ssize_t n = pread(fd, &byte, 1, offset);

	return n < 0 ? -errno : n ? -EFAULT : 0;
}

/* Of the host's call: how many bytes, or -errno. */
static long transfer(struct kv_space *space, int fd, unsigned long offset, struct pinned *pinned, int write)
{
	long n;

	space_unlock_to_wait(space);
	n = write ? preadv(fd, pinned->pieces, pinned->n_pieces, offset) :
		    pwritev(fd, pinned->pieces, pinned->n_pieces, offset);
	if (n < 0)
		n = -errno;
	space_lock_again(space);
	return n;
}

/* write: into memory. */
static long move(struct kv_space *space, int fd, unsigned long offset, unsigned long addr, unsigned long length,
		 int write)
{
	unsigned long done = 0;
	struct pinned pinned;
	long n = 0;

	space_enter(space);
	while (done < length) {
		pin(space, addr + done, length - done, write, &pinned);
		if (pinned.n_pieces)
			n = transfer(space, fd, offset + done, &pinned, write);
		else
			n = write ? read_nowhere(fd, offset + done) : -EFAULT;
		unpin(&pinned);
		if (n <= 0)
			break;
		done += n;
		if ((unsigned long)n < pinned.length)
			break;
	}
	kv_unlock();
	return done ? (long)done : n;
}

long kv_read_from_file(struct kv_space *space, int fd, unsigned long offset, unsigned long addr, unsigned long length)
{
	return move(space, fd, offset, addr, within_file(fd, offset, length), 1);
}

long kv_write_to_file(struct kv_space *space, int fd, unsigned long offset, unsigned long addr, unsigned long length)
{
	return move(space, fd, offset, addr, length, 0);
}
