/* Memory maps: private and shared, of files and of nothing; protections, holes, moves, brk, and fork. */
#include "check.h"

enum { PAGE = 4096 };

static char *map(size_t length, int protection, int flags, int fd, off_t offset)
{
    char *p = mmap(NULL, length, protection, flags, fd, offset);
    CHECK(p != MAP_FAILED);
    return p;
}

static char *anonymous(size_t length)
{
    return map(length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* A file of three pages: a..., b..., c... */
static int file_of_pages(void)
{
    char block[PAGE];
    int fd = (int)MUST(open("pages", O_RDWR | O_CREAT | O_TRUNC, 0600));
    for (int i = 0; i < 3; i++) {
        memset(block, 'a' + i, PAGE);
        CHECK_EQ(write(fd, block, PAGE), PAGE);
    }
    return fd;
}

static bool mapped(void *address)
{
    return msync(address, PAGE, MS_ASYNC) == 0;
}

TEST(anonymous_memory_is_zero)
{
    char *p = anonymous(1 << 20);
    for (int i = 0; i < 1 << 20; i += PAGE)
        CHECK_EQ(p[i], 0);
    p[12345] = 1;
    MUST(munmap(p, 1 << 20));
    CHECK(!mapped(p));
}

TEST(private_file_map_is_copy_on_write)
{
    int fd = file_of_pages();
    char *p = map(3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), c;
    CHECK(p[0] == 'a' && p[PAGE] == 'b' && p[2 * PAGE] == 'c');
    p[PAGE] = 'X';
    CHECK_EQ(pread(fd, &c, 1, PAGE), 1);
    CHECK_EQ(c, 'b');
    CHECK_EQ(pwrite(fd, "Y", 1, PAGE), 1);
    CHECK_EQ(p[PAGE], 'X');
}

TEST(shared_file_map_is_the_file)
{
    int fd = file_of_pages();
    char *p = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE), c;
    CHECK(p[0] == 'b');
    p[1] = 'X';
    CHECK_EQ(pread(fd, &c, 1, PAGE + 1), 1);
    CHECK_EQ(c, 'X');
    CHECK_EQ(pwrite(fd, "Y", 1, PAGE + 2), 1);
    CHECK_EQ(p[2], 'Y');
    MUST(msync(p, PAGE, MS_SYNC));
    close(fd);
    p[3] = 'Z'; /* the map outlives the descriptor */
    MUST(munmap(p, 2 * PAGE));
    fd = (int)MUST(open("pages", O_RDONLY));
    CHECK_EQ(pread(fd, &c, 1, PAGE + 3), 1);
    CHECK_EQ(c, 'Z');
}

TEST(map_outlives_unlink)
{
    int fd = file_of_pages();
    char *p = map(PAGE, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    MUST(unlink("pages"));
    CHECK_EQ(p[PAGE - 1], 'a');
}

TEST(map_errors)
{
    int fd = file_of_pages();
    int readonly = (int)MUST(open("pages", O_RDONLY)), writeonly = (int)MUST(open("pages", O_WRONLY));
    int fds[2];
    MUST(pipe(fds));
#define FAILS(want, ...) CHECK_ERR((long)mmap(__VA_ARGS__), want)
    FAILS(EINVAL, NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS(EINVAL, NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0);
    FAILS(EINVAL, NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 17);
    FAILS(EBADF, NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0);
    FAILS(EACCES, NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, readonly, 0);
    FAILS(EACCES, NULL, PAGE, PROT_READ, MAP_PRIVATE, writeonly, 0);
    FAILS(ENODEV, NULL, PAGE, PROT_READ, MAP_PRIVATE, fds[0], 0);
    FAILS(ENODEV, NULL, PAGE, PROT_READ, MAP_PRIVATE, open(".", O_RDONLY), 0);
    FAILS(ENOMEM, NULL, 1UL << 60, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS(EINVAL, (void *)17, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    FAILS(ENOMEM, (void *)(1UL << 47), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    MUST((long)mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, readonly, 0));
}

TEST(shared_map_of_a_read_only_descriptor_stays_read_only)
{
    close(file_of_pages());
    int fd = (int)MUST(open("pages", O_RDONLY));
    char *p = map(PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK_ERR(mprotect(p, PAGE, PROT_READ | PROT_WRITE), EACCES);
    MUST(mprotect(p, PAGE, PROT_NONE));
}

TEST(fixed_replaces_and_noreplace_does_not)
{
    char *p = anonymous(3 * PAGE);
    memset(p, 'o', 3 * PAGE);
    CHECK(mmap(p + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + PAGE);
    CHECK(p[0] == 'o' && p[PAGE] == 0 && p[2 * PAGE] == 'o');
    CHECK_ERR((long)mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    MUST(munmap(p, PAGE));
    CHECK(mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p);
}

TEST(a_free_hint_is_taken)
{
    char *p = anonymous(4 * PAGE);
    MUST(munmap(p, 4 * PAGE));
    CHECK(mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == p);
    CHECK(mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != p); /* taken now */
}

TEST(unmapping_holes)
{
    char *p = anonymous(5 * PAGE);
    MUST(munmap(p + PAGE, PAGE));
    MUST(munmap(p + 3 * PAGE, PAGE));
    CHECK(mapped(p) && !mapped(p + PAGE) && mapped(p + 2 * PAGE) && !mapped(p + 3 * PAGE) && mapped(p + 4 * PAGE));
    CHECK_ERR(msync(p, 5 * PAGE, MS_ASYNC), ENOMEM);
    MUST(munmap(p, 5 * PAGE)); /* holes do not matter */
    CHECK_ERR(munmap(p + 1, PAGE), EINVAL);
    CHECK_ERR(munmap(p, 0), EINVAL);
}

TEST(protections_split)
{
    char *p = anonymous(3 * PAGE);
    MUST(mprotect(p + PAGE, PAGE, PROT_READ));
    int fds[2];
    MUST(pipe(fds));
    write(fds[1], "abc", 3);
    CHECK_EQ(read(fds[0], p, 1), 1);
    CHECK_ERR(read(fds[0], p + PAGE, 1), EFAULT);
    CHECK_EQ(read(fds[0], p + 2 * PAGE, 1), 1);
    CHECK_ERR(mprotect(p + 1, PAGE, PROT_READ), EINVAL);
    MUST(munmap(p + PAGE, PAGE));
    CHECK_ERR(mprotect(p, 3 * PAGE, PROT_READ), ENOMEM);
}

TEST(execute_what_was_written)
{
    static const unsigned char code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
    char *p = anonymous(PAGE);
    memcpy(p, code, sizeof code);
    MUST(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
    CHECK_EQ(((int (*)(void))p)(), 42);
}

TEST(remap_grows_shrinks_and_moves)
{
    char *p = anonymous(2 * PAGE), *q;
    p[0] = 'x';
    p[PAGE] = 'y';
    q = mremap(p, 2 * PAGE, PAGE, 0);
    CHECK(q == p && !mapped(p + PAGE));
    q = mremap(p, PAGE, 64 * PAGE, MREMAP_MAYMOVE);
    CHECK(q != MAP_FAILED && q[0] == 'x' && q[63 * PAGE] == 0);
    char *target = anonymous(64 * PAGE);
    p = mremap(q, 64 * PAGE, 64 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    CHECK(p == target && p[0] == 'x' && !mapped(q));
    MUST(munmap(p + PAGE, PAGE));
    CHECK_ERR((long)mremap(p, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE), EFAULT);
    CHECK_ERR((long)mremap(p + 1, PAGE, PAGE, 0), EINVAL);
    CHECK_ERR((long)mremap(p, PAGE, 0, 0), EINVAL);
    char *blocked = anonymous(2 * PAGE);
    CHECK_ERR((long)mremap(blocked, PAGE, 8 * PAGE, 0), ENOMEM); /* its neighbour is in the way */
}

TEST(remap_of_a_shared_file)
{
    int fd = file_of_pages();
    char *p = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    p = mremap(p, PAGE, 3 * PAGE, MREMAP_MAYMOVE);
    CHECK(p != MAP_FAILED && p[2 * PAGE] == 'c');
    p[0] = 'Q';
    char c;
    CHECK_EQ(pread(fd, &c, 1, 0), 1);
    CHECK_EQ(c, 'Q');
}

TEST(brk_moves_the_heap)
{
    char *start = sbrk(0);
    CHECK(sbrk(3 * PAGE) == start);
    memset(start, 7, 3 * PAGE);
    CHECK(sbrk(-2 * PAGE) == start + 3 * PAGE);
    CHECK(sbrk(0) == start + PAGE);
    CHECK(sbrk(PAGE) == start + PAGE);
    char *page = (char *)(((uintptr_t)start + 2 * PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    if (page < start + 2 * PAGE)
        CHECK_EQ(page[0], 0); /* given back and zero again */
    CHECK_EQ(syscall(SYS_brk, 0), (long)sbrk(0));
    CHECK_EQ(syscall(SYS_brk, 4096), (long)sbrk(0)); /* refused: the old end */
}

TEST(heap_across_fork)
{
    char *start = sbrk(PAGE);
    start[0] = 'p';
    pid_t pid = must_fork();
    if (pid == 0) {
        char *more = sbrk(PAGE);
        CHECK(more == start + PAGE && start[0] == 'p');
        more[0] = 1;
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK(sbrk(0) == start + PAGE);
}

TEST(dontneed_gives_zero_or_the_file_again)
{
    char *p = anonymous(2 * PAGE);
    p[0] = p[PAGE] = 'x';
    MUST(madvise(p, PAGE, MADV_DONTNEED));
    CHECK(p[0] == 0 && p[PAGE] == 'x');
    char *q = map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_of_pages(), 0);
    q[0] = 'X';
    MUST(madvise(q, PAGE, MADV_DONTNEED));
    CHECK_EQ(q[0], 'a');
    CHECK_ERR(madvise(p + 1, PAGE, MADV_DONTNEED), EINVAL);
    CHECK_ERR(madvise(p, PAGE, 9999), EINVAL);
    MUST(munmap(p, PAGE));
    CHECK_ERR(madvise(p, PAGE, MADV_DONTNEED), ENOMEM);
    MUST(madvise(q, PAGE, MADV_WILLNEED));
}

TEST(shared_anonymous_memory_across_fork)
{
    char *shared = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *private = anonymous(PAGE);
    pid_t pid = must_fork();
    if (pid == 0) {
        shared[0] = 's';
        private[0] = 'p';
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK_EQ(shared[0], 's');
    CHECK_EQ(private[0], 0);
}

TEST(private_file_map_across_fork)
{
    char *p = map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_of_pages(), 0);
    p[0] = '1';
    pid_t pid = must_fork();
    if (pid == 0) {
        CHECK(p[0] == '1' && p[1] == 'a');
        p[0] = '2';
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK_EQ(p[0], '1');
}

TEST(shared_file_map_across_processes)
{
    int fd = file_of_pages();
    char *p = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    pid_t pid = must_fork();
    if (pid == 0) {
        int own = (int)MUST(open("pages", O_RDWR));
        map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0)[10] = 'N';
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK_EQ(p[10], 'N');
}

TEST(a_grown_file_shows_in_the_map)
{
    int fd = file_of_pages();
    char *p = map(5 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(ftruncate(fd, 5 * PAGE));
    CHECK_EQ(p[4 * PAGE], 0);
    p[4 * PAGE] = 'g';
    char c;
    CHECK_EQ(pread(fd, &c, 1, 4 * PAGE), 1);
    CHECK_EQ(c, 'g');
}

TEST(the_rest_of_the_last_page_is_zero)
{
    make_file("short", "abc");
    int fd = (int)MUST(open("short", O_RDONLY));
    char *p = map(PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(memcmp(p, "abc", 3) == 0);
    for (int i = 3; i < PAGE; i++)
        CHECK_EQ(p[i], 0);
}

TEST(kernel_reads_and_writes_through_maps)
{
    int fd = file_of_pages(), out = (int)MUST(open("out", O_RDWR | O_CREAT, 0600));
    char *p = map(3 * PAGE, PROT_READ, MAP_SHARED, fd, 0), c;
    CHECK_EQ(write(out, p + PAGE - 1, 2), 2);
    CHECK_EQ(pread(out, &c, 1, 1), 1);
    CHECK_EQ(c, 'b');
    char *q = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0);
    CHECK_EQ(pread(fd, q, 2, 2 * PAGE), 2);
    CHECK_EQ(pread(out, &c, 1, 0), 1);
    CHECK_EQ(c, 'c');
}

TEST(memfd)
{
    int fd = (int)MUST(memfd_create("name", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    MUST(ftruncate(fd, 2 * PAGE));
    char *p = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), c;
    p[PAGE] = 'm';
    CHECK_EQ(pread(fd, &c, 1, PAGE), 1);
    CHECK_EQ(c, 'm');
    MUST(munmap(p, 2 * PAGE));
    MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE));
    CHECK_ERR(write(fd, "x", 1), EPERM);
    CHECK_ERR(ftruncate(fd, 1), EPERM);
    CHECK_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_WRITE);
    CHECK_ERR(memfd_create("x", 0x8000), EINVAL);
    int unsealable = (int)MUST(memfd_create("y", 0));
    CHECK_ERR(fcntl(unsealable, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
}

TEST(dev_zero_maps_as_anonymous_memory)
{
    int fd = (int)MUST(open("/dev/zero", O_RDWR));
    char *p = map(PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK_EQ(p[0], 0);
    p[0] = 1;
}

TEST(residency_and_locking)
{
    unsigned char pages[2];
    char *p = anonymous(2 * PAGE);
    p[0] = 1;
    MUST(mincore(p, 2 * PAGE, pages));
    CHECK(pages[0] & 1);
    MUST(munmap(p + PAGE, PAGE));
    CHECK_ERR(mincore(p, 2 * PAGE, pages), ENOMEM);
    CHECK_ERR(mincore(p + 1, PAGE, pages), EINVAL);
    MUST(mlock(p, PAGE));
    MUST(munlock(p, PAGE));
}

TEST(many_maps_and_unmaps)
{
    char *maps[200];
    for (int i = 0; i < 200; i++) {
        maps[i] = anonymous(PAGE * (size_t)(1 + i % 5));
        maps[i][0] = (char)i;
    }
    for (int i = 0; i < 200; i++) {
        CHECK_EQ(maps[i][0], (char)i);
        MUST(munmap(maps[i], PAGE * (size_t)(1 + i % 5)));
    }
}

TEST(growsdown_and_huge_sparse_map)
{
    char *p = mmap(NULL, 1UL << 36, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED);
    MUST(mprotect(p + (1UL << 35), PAGE, PROT_READ | PROT_WRITE));
    p[1UL << 35] = 1;
    MUST(munmap(p, 1UL << 36));
}

TEST(process_vm_reads_another_process)
{
    static char text[] = "before";
    struct gate ready = gate_new(), done = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        strcpy(text, "child!");
        gate_open(&ready);
        gate_wait(&done);
        _exit(strcmp(text, "parent") == 0 ? 0 : 1);
    }
    gate_wait(&ready);
    char got[7] = {0};
    struct iovec local = {got, 6}, remote = {text, 6};
    CHECK_EQ(process_vm_readv(pid, &local, 1, &remote, 1, 0), 6);
    CHECK(strcmp(got, "child!") == 0);
    local.iov_base = "parent";
    CHECK_EQ(process_vm_writev(pid, &local, 1, &remote, 1, 0), 6);
    gate_open(&done);
    CHECK_EXITED(pid, 0);
}
