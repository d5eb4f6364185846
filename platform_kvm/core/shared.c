/* Shared memory without a file: frames that belong to an object, by their place in it.
 *
 * The object has a reference to each of its frames, each table entry another.  Like a file, it has a size, what it was
 * mapped with; and a number that no other has, on a device of no file.
 */
#include "memory.h"

#define DEVICE 1 /* 0:1, where Linux has it */

static unsigned long last_ino;

/* With one use; NULL: no memory. */
struct object *shared_object(unsigned long size)
{
	struct object *object = calloc(1, sizeof(*object));

	if (!object)
		return NULL;
	object->pages = size / PAGE;
	object->frames = calloc((object->pages + ENTRIES - 1) / ENTRIES, sizeof(*object->frames));
	if (!object->frames) {
		free(object);
		return NULL;
	}
	object->uses = 1;
	object->fd = -1;
	object->writable = 1;
	object->dev = DEVICE;
	object->ino = ++last_ino;
	objects_count++;
	return object;
}

/* Where the number of the frame at offset is kept; NULL: there is none, or no memory for it. */
static frame_t *place(const struct object *object, unsigned long offset, int make)
{
	unsigned long page = offset / PAGE;
	frame_t **part = &object->frames[page / ENTRIES];

	if (!*part && make) {
		*part = malloc(ENTRIES * sizeof(frame_t));
		if (*part)
			memset(*part, 0xff, ENTRIES * sizeof(frame_t)); /* NO_FRAME */
	}
	return *part ? &(*part)[page % ENTRIES] : NULL;
}

/* The frame at offset, which is within the size: still the object's alone.  NO_FRAME: no memory. */
frame_t shared_frame(struct object *object, unsigned long offset, struct kv_account *account)
{
	frame_t *number = place(object, offset, 1);

	if (!number)
		return NO_FRAME;
	if (*number == NO_FRAME)
		*number = frame_new(account, 0);
	return *number;
}

frame_t shared_frame_if_any(const struct object *object, unsigned long offset)
{
	const frame_t *number = place(object, offset, 0);

	return number ? *number : NO_FRAME;
}

void shared_release(struct object *object)
{
	for (unsigned long i = 0; i < (object->pages + ENTRIES - 1) / ENTRIES; i++) {
		for (int j = 0; object->frames[i] && j < ENTRIES; j++)
			if (object->frames[i][j] != NO_FRAME)
				frame_put(object->frames[i][j]);
		free(object->frames[i]);
	}
	free(object->frames);
}
