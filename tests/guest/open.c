/* open(2) and its kin: flags, modes, what fails, and O_PATH, O_TMPFILE, openat2. */
#include "check.h"
#include <linux/openat2.h>

TEST(create_and_exclusive)
{
    int fd = (int)MUST(open("f", O_RDWR | O_CREAT | O_EXCL, 0640));
    struct stat st;
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_mode, S_IFREG | 0640);
    CHECK_EQ(st.st_size, 0);
    CHECK_EQ(st.st_nlink, 1);
    CHECK_ERR(open("f", O_RDWR | O_CREAT | O_EXCL, 0640), EEXIST);
    MUST(open("f", O_RDWR | O_CREAT, 0640));
    MUST(symlink("missing", "dangling"));
    CHECK_ERR(open("dangling", O_RDWR | O_CREAT | O_EXCL, 0640), EEXIST);
    MUST(open("dangling", O_RDWR | O_CREAT, 0640)); /* made where the link points */
    MUST(access("missing", F_OK));
}

TEST(umask_takes_bits)
{
    struct stat st;
    umask(027);
    MUST(open("f", O_WRONLY | O_CREAT, 0666));
    MUST(stat("f", &st));
    CHECK_EQ(st.st_mode & 07777, 0640);
    MUST(mkdir("d", 0777));
    MUST(stat("d", &st));
    CHECK_EQ(st.st_mode & 07777, 0750);
}

TEST(created_file_may_be_readonly_yet_open_for_writing)
{
    int fd = (int)MUST(open("f", O_RDWR | O_CREAT, 0444));
    CHECK_EQ(write(fd, "x", 1), 1);
}

TEST(errors)
{
    make_file("f", "");
    MUST(mkdir("d", 0755));
    MUST(symlink("loop", "loop"));
    CHECK_ERR(open("none", O_RDONLY), ENOENT);
    CHECK_ERR(open("", O_RDONLY), ENOENT);
    CHECK_ERR(open("none/f", O_RDWR | O_CREAT, 0600), ENOENT);
    CHECK_ERR(open("f/x", O_RDONLY), ENOTDIR);
    CHECK_ERR(open("f/", O_RDONLY), ENOTDIR);
    CHECK_ERR(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
    CHECK_ERR(open("d", O_WRONLY), EISDIR);
    CHECK_ERR(open("d", O_RDWR), EISDIR);
    CHECK_ERR(open("d", O_RDONLY | O_CREAT, 0600), EISDIR);
    CHECK_ERR(open("new/", O_RDWR | O_CREAT, 0600), EISDIR);
    CHECK_ERR(open("loop", O_RDONLY), ELOOP);
    MUST(symlink("f", "link"));
    CHECK_ERR(open("link", O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK_ERR(open("f", O_RDONLY | O_CREAT | O_DIRECTORY, 0600), EINVAL);
    char name[300];
    memset(name, 'n', 299);
    name[299] = 0;
    CHECK_ERR(open(name, O_RDWR | O_CREAT, 0600), ENAMETOOLONG);
    name[255] = 0;
    MUST(open(name, O_RDWR | O_CREAT, 0600));
    char path[5000];
    for (int i = 0; i < 4998; i += 2)
        memcpy(path + i, "./", 2);
    path[4998] = 'f';
    path[4999] = 0;
    CHECK_ERR(open(path, O_RDONLY), ENAMETOOLONG);
    CHECK_ERR(openat(999, "f", O_RDONLY), EBADF);
    int file = (int)MUST(open("f", O_RDONLY));
    CHECK_ERR(openat(file, "f", O_RDONLY), ENOTDIR);
    CHECK_ERR(openat(999, "", O_RDONLY), ENOENT);
}

TEST(access_modes)
{
    char c;
    make_file("f", "abc");
    int in = (int)MUST(open("f", O_RDONLY)), out = (int)MUST(open("f", O_WRONLY));
    CHECK_ERR(write(in, "x", 1), EBADF);
    CHECK_ERR(read(out, &c, 1), EBADF);
    CHECK_ERR(ftruncate(in, 0), EINVAL);
    CHECK_EQ(fcntl(in, F_GETFL) & O_ACCMODE, O_RDONLY);
    CHECK_EQ(fcntl(out, F_GETFL) & O_ACCMODE, O_WRONLY);
}

TEST(truncate_and_append)
{
    make_file("f", "0123456789");
    int fd = (int)MUST(open("f", O_WRONLY | O_APPEND));
    CHECK_EQ(fcntl(fd, F_GETFL) & O_APPEND, O_APPEND);
    CHECK_EQ(write(fd, "ab", 2), 2);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(write(fd, "cd", 2), 2);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 14);
    check_file("f", "0123456789abcd");
    MUST(fcntl(fd, F_SETFL, 0));
    MUST(lseek(fd, 0, SEEK_SET));
    CHECK_EQ(write(fd, "X", 1), 1);
    check_file("f", "X123456789abcd");
    close((int)MUST(open("f", O_WRONLY | O_TRUNC)));
    check_file("f", "");
}

TEST(two_appenders_do_not_overwrite)
{
    int a = (int)MUST(open("f", O_WRONLY | O_CREAT | O_APPEND, 0600)), b = (int)MUST(open("f", O_WRONLY | O_APPEND));
    CHECK_EQ(write(a, "1", 1), 1);
    CHECK_EQ(write(b, "2", 1), 1);
    CHECK_EQ(write(a, "3", 1), 1);
    check_file("f", "123");
}

TEST(lowest_free_descriptor)
{
    make_file("f", "");
    int a = (int)MUST(open("f", O_RDONLY)), b = (int)MUST(open("f", O_RDONLY));
    CHECK_EQ(b, a + 1);
    MUST(close(a));
    CHECK_EQ(open("f", O_RDONLY), a);
    CHECK_ERR(close(999), EBADF);
    MUST(close(b));
    CHECK_ERR(close(b), EBADF);
}

TEST(o_path)
{
    char c;
    struct stat st;
    make_file("f", "data");
    MUST(symlink("f", "link"));
    int fd = (int)MUST(open("f", O_PATH));
    CHECK_ERR(read(fd, &c, 1), EBADF);
    CHECK_ERR(write(fd, "x", 1), EBADF);
    CHECK_ERR(fchmod(fd, 0600), EBADF);
    CHECK_ERR(ioctl(fd, FIONREAD, &c), EBADF);
    CHECK_ERR((long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0), EBADF);
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_size, 4);
    CHECK_EQ(fcntl(fd, F_GETFL) & O_PATH, O_PATH);
    int link = (int)MUST(open("link", O_PATH | O_NOFOLLOW));
    MUST(fstat(link, &st));
    CHECK(S_ISLNK(st.st_mode));
    CHECK_EQ(readlinkat(link, "", &c, 1), 1);
    MUST(mkdir("d", 0755));
    int dir = (int)MUST(open("d", O_PATH));
    MUST(openat(dir, "new", O_WRONLY | O_CREAT, 0600));
    MUST(access("d/new", F_OK));
    MUST(fchdir(dir));
    MUST(access("new", F_OK));
}

TEST(o_tmpfile)
{
    struct stat st;
    int fd = (int)MUST(open(".", O_RDWR | O_TMPFILE, 0600));
    CHECK_EQ(write(fd, "temporary", 9), 9);
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_nlink, 0);
    CHECK_EQ(st.st_size, 9);
    CHECK_ERR(open(".", O_RDONLY | O_TMPFILE, 0600), EINVAL);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    MUST(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    check_file("named", "temporary");
}

TEST(reopening_through_proc)
{
    char path[64];
    make_file("f", "abc");
    int fd = (int)MUST(open("f", O_RDONLY));
    MUST(unlink("f"));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = (int)MUST(open(path, O_RDWR));
    CHECK_EQ(write(again, "X", 1), 1);
    char c;
    CHECK_EQ(read(fd, &c, 1), 1);
    CHECK_EQ(c, 'X');
}

static long openat2_(const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
    return syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

TEST(openat2_resolution)
{
    MUST(mkdir("d", 0755));
    make_file("d/f", "x");
    MUST(symlink("f", "d/inside"));
    MUST(symlink("../d/f", "d/out"));
    MUST(symlink("/d/f", "d/absolute"));
    int dir = (int)MUST(open("d", O_RDONLY | O_DIRECTORY));
    struct open_how how = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH};
    MUST(syscall(SYS_openat2, dir, "f", &how, sizeof how));
    MUST(syscall(SYS_openat2, dir, "inside", &how, sizeof how));
    CHECK_ERR(syscall(SYS_openat2, dir, "out", &how, sizeof how), EXDEV);
    CHECK_ERR(syscall(SYS_openat2, dir, "../d/f", &how, sizeof how), EXDEV);
    CHECK_ERR(syscall(SYS_openat2, dir, "absolute", &how, sizeof how), EXDEV);
    how.resolve = RESOLVE_IN_ROOT;
    CHECK_ERR(syscall(SYS_openat2, dir, "absolute", &how, sizeof how), ENOENT);
    MUST(syscall(SYS_openat2, dir, "../f", &how, sizeof how));
    CHECK_ERR(openat2_("d/inside", O_RDONLY, 0, RESOLVE_NO_SYMLINKS), ELOOP);
    CHECK_ERR(openat2_("/proc/self/exe", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS), ELOOP);
    CHECK_ERR(openat2_("d/f", O_RDONLY, 0600, 0), EINVAL);
    CHECK_ERR(openat2_("d/f", O_RDONLY, 0, 1 << 20), EINVAL);
    CHECK_ERR(syscall(SYS_openat2, dir, "f", &how, 8), EINVAL);
}

TEST(creat_and_old_calls)
{
    struct stat st;
    int fd = (int)MUST(creat("f", 0600));
    CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_WRONLY);
    MUST(stat("f", &st));
    MUST(mknod("node", S_IFREG | 0600, 0));
    MUST(stat("node", &st));
    CHECK(S_ISREG(st.st_mode));
    CHECK_ERR(mknod("node", S_IFREG | 0600, 0), EEXIST);
    CHECK_ERR(mknod("dir", S_IFDIR | 0600, 0), EPERM);
}
