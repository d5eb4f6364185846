/* Reading, writing and seeking in regular files; sparse files; copying between descriptors. */
#include "check.h"
#include <sys/sendfile.h>

static int new_file(const char *text)
{
    make_file("f", text);
    return (int)MUST(open("f", O_RDWR));
}

TEST(offsets_move)
{
    char c[4];
    int fd = new_file("abcdefgh");
    CHECK_EQ(read(fd, c, 3), 3);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 3);
    CHECK_EQ(write(fd, "X", 1), 1);
    CHECK_EQ(lseek(fd, -2, SEEK_END), 6);
    CHECK_EQ(read(fd, c, 4), 2);
    CHECK_EQ(read(fd, c, 4), 0);
    check_file("f", "abcXefgh");
    CHECK_EQ(lseek(fd, 100, SEEK_SET), 100);
    CHECK_EQ(read(fd, c, 4), 0);
    CHECK_ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    CHECK_ERR(lseek(fd, 0, 99), EINVAL);
    CHECK_ERR(lseek(999, 0, SEEK_SET), EBADF);
}

TEST(dup_shares_the_offset_and_open_does_not)
{
    char c;
    int fd = new_file("abc"), same = dup(fd), other = (int)MUST(open("f", O_RDONLY));
    CHECK(read(fd, &c, 1) == 1 && c == 'a');
    CHECK(read(same, &c, 1) == 1 && c == 'b');
    CHECK(read(other, &c, 1) == 1 && c == 'a');
}

TEST(positioned_calls_leave_the_offset)
{
    char c[4];
    int fd = new_file("abcdef");
    CHECK_EQ(pread(fd, c, 2, 3), 2);
    CHECK(memcmp(c, "de", 2) == 0);
    CHECK_EQ(pwrite(fd, "XY", 2, 1), 2);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    check_file("f", "aXYdef");
    CHECK_ERR(pread(fd, c, 1, -1), EINVAL);
    CHECK_EQ(pread(fd, c, 1, 100), 0);
    MUST(fcntl(fd, F_SETFL, O_APPEND));
    CHECK_EQ(pwrite(fd, "!", 1, 0), 1); /* Linux appends nevertheless, pwrite(2) BUGS */
    check_file("f", "aXYdef!");
}

TEST(vectors)
{
    char a[2], b[10] = {0};
    int fd = new_file("abcdef");
    struct iovec in[] = {{a, 2}, {b, 10}}, out[] = {{"12", 2}, {"345", 3}};
    CHECK_EQ(readv(fd, in, 2), 6);
    CHECK(memcmp(a, "ab", 2) == 0 && strcmp(b, "cdef") == 0);
    CHECK_EQ(pwritev(fd, out, 2, 1), 5);
    check_file("f", "a12345");
    CHECK_EQ(preadv(fd, in, 2, 4), 2);
    CHECK_EQ(preadv2(fd, in, 2, 0, 0), 6);
    MUST(lseek(fd, 5, SEEK_SET));
    CHECK_EQ(preadv2(fd, in, 1, -1, 0), 1); /* -1: the file's own offset */
    CHECK_EQ(pwritev2(fd, out, 1, 0, RWF_APPEND), 2);
    check_file("f", "a1234512");
    CHECK_ERR(preadv2(fd, in, 1, 0, 0x10000), EOPNOTSUPP);
    struct iovec bad[] = {{a, (size_t)-1}, {b, 1}};
    CHECK_ERR(readv(fd, bad, 2), EINVAL);
}

TEST(partial_fault_gives_a_short_count)
{
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(munmap(p + 4096, 4096));
    int fd = new_file("abcdefgh");
    CHECK_ERR(read(fd, p + 4096, 4), EFAULT);
    struct iovec in[] = {{p + 4092, 4}, {p + 4096, 4}};
    CHECK_EQ(readv(fd, in, 2), 4);
    CHECK(memcmp(p + 4092, "abcd", 4) == 0);
}

TEST(truncate_shrinks_and_grows)
{
    struct stat st;
    char c[8];
    int fd = new_file("abcdef");
    MUST(ftruncate(fd, 3));
    check_file("f", "abc");
    MUST(truncate("f", 6));
    CHECK_EQ(pread(fd, c, 8, 0), 6);
    CHECK(memcmp(c, "abc\0\0\0", 6) == 0);
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_size, 6);
    CHECK_ERR(ftruncate(fd, -1), EINVAL);
    CHECK_ERR(truncate("none", 1), ENOENT);
    CHECK_ERR(truncate(".", 1), EISDIR);
    CHECK_ERR(truncate("f", -1), EINVAL);
}

TEST(sparse_files)
{
    struct stat st;
    char c[16];
    int fd = new_file("");
    CHECK_EQ(pwrite(fd, "end", 3, 10 << 20), 3);
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_size, (10 << 20) + 3);
    CHECK(st.st_blocks * 512 < 5 << 20);
    CHECK_EQ(pread(fd, c, 16, 5 << 20), 16);
    for (int i = 0; i < 16; i++)
        CHECK_EQ(c[i], 0);
    CHECK_EQ(lseek(fd, 0, SEEK_HOLE), 0);
    off_t data = lseek(fd, 0, SEEK_DATA);
    CHECK(data > 0 && data <= 10 << 20);
    CHECK_EQ(lseek(fd, data, SEEK_HOLE), (10 << 20) + 3);
    CHECK_ERR(lseek(fd, (10 << 20) + 3, SEEK_DATA), ENXIO);
    CHECK_ERR(lseek(fd, 11 << 20, SEEK_HOLE), ENXIO);
}

TEST(fallocate_modes)
{
    struct stat st;
    char c[4];
    int fd = new_file("abcd");
    MUST(fallocate(fd, 0, 0, 10000));
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_size, 10000);
    MUST(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 20000));
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_size, 10000);
    MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1, 2));
    CHECK_EQ(pread(fd, c, 4, 0), 4);
    CHECK(memcmp(c, "a\0\0d", 4) == 0);
    CHECK_ERR(fallocate(fd, 0, -1, 10), EINVAL);
    CHECK_ERR(fallocate(fd, 0, 0, 0), EINVAL);
    CHECK_ERR(fallocate(open("f", O_RDONLY), 0, 0, 10), EBADF);
}

TEST(sendfile_and_copy_file_range)
{
    char text[16] = {0};
    int fds[2], in = new_file("hello world");
    int out = (int)MUST(open("out", O_RDWR | O_CREAT, 0600));
    off_t offset = 6;
    MUST(pipe(fds));
    CHECK_EQ(sendfile(fds[1], in, &offset, 5), 5);
    CHECK_EQ(offset, 11);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 0);
    CHECK_EQ(read(fds[0], text, 16), 5);
    CHECK(strcmp(text, "world") == 0);
    CHECK_EQ(sendfile(out, in, NULL, 100), 11);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 11);
    check_file("out", "hello world");
    loff_t from = 0, to = 20;
    CHECK_EQ(copy_file_range(in, &from, out, &to, 5, 0), 5);
    CHECK(from == 5 && to == 25);
    CHECK_EQ(copy_file_range(in, NULL, out, NULL, 5, 0), 0); /* at the end of the file */
    CHECK_ERR(copy_file_range(in, NULL, out, NULL, 5, 1), EINVAL);
    CHECK_ERR(copy_file_range(fds[0], NULL, out, NULL, 5, 0), EINVAL);
    CHECK_ERR(sendfile(out, fds[0], &offset, 5), ESPIPE);
}

TEST(directories_are_not_read)
{
    char c;
    int fd = (int)MUST(open(".", O_RDONLY));
    CHECK_ERR(read(fd, &c, 1), EISDIR);
    CHECK_ERR(write(fd, &c, 1), EBADF);
    CHECK_ERR(ftruncate(fd, 0), EINVAL);
}

TEST(a_large_file)
{
    static char block[1 << 20], got[1 << 20];
    int fd = new_file("");
    for (unsigned i = 0; i < sizeof block; i++)
        block[i] = (char)(i ^ (i >> 8));
    for (int i = 0; i < 8; i++)
        CHECK_EQ(write(fd, block, sizeof block), sizeof block);
    MUST(lseek(fd, 0, SEEK_SET));
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(read(fd, got, sizeof got), sizeof got);
        CHECK(memcmp(block, got, sizeof got) == 0);
    }
    MUST(fsync(fd));
    MUST(fdatasync(fd));
    MUST(syncfs(fd));
    MUST(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    MUST(readahead(fd, 0, 4096));
    MUST(sync_file_range(fd, 0, 4096, SYNC_FILE_RANGE_WRITE));
}

TEST(size_limit)
{
    signal(SIGXFSZ, SIG_IGN);
    struct { unsigned long cur, max; } limit = {100, 100};
    MUST(syscall(SYS_setrlimit, 1 /* RLIMIT_FSIZE */, &limit));
    int fd = new_file("");
    char block[200] = {0};
    CHECK_EQ(write(fd, block, 200), 100);
    CHECK_ERR(write(fd, block, 1), EFBIG);
    CHECK_ERR(ftruncate(fd, 101), EFBIG);
}
