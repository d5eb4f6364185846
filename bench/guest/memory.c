/* Rows about memory. */
#include "micro.h"

#include <sys/mman.h>

enum { PAGE = 4096, SWEEP_PAGES = 2048 };

static volatile char *region;

static void *map(size_t size) {
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static int mmap_batch(long n) {
    while (n-- > 0) {
        volatile char *page = map(PAGE);
        if (page == MAP_FAILED)
            FAIL("mmap");
        *page = 1;
        TRY(munmap((void *)page, PAGE));
    }
    return 0;
}

/* Small pages wherever there is a choice: a fault that brings 2 MiB is another matter. */
static int page_fault_set_up(void) {
    region = map((size_t)SWEEP_PAGES * PAGE);
    if (region == MAP_FAILED)
        FAIL("mmap");
    madvise((void *)region, (size_t)SWEEP_PAGES * PAGE, MADV_NOHUGEPAGE);
    return 0;
}

/* One operation: the first touch of a page.  Every 2048 of them share one madvise that gives the pages back. */
static int page_fault_batch(long n) {
    while (n > 0) {
        TRY(madvise((void *)region, (size_t)SWEEP_PAGES * PAGE, MADV_DONTNEED));
        for (long page = 0; page < SWEEP_PAGES && n > 0; page++, n--)
            region[page * PAGE] = 1;
    }
    return 0;
}

const struct row memory_rows[] = {
    {"mmap_munmap", NULL, mmap_batch},
    {"page_fault", page_fault_set_up, page_fault_batch},
    {0},
};
