/* Names in directories: rename, link, symlink, unlink, mkdir, rmdir, getdents64, and walking paths. */
#include "check.h"
#include <dirent.h>

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

TEST(rename_moves_and_replaces)
{
    struct stat st;
    make_file("a", "A");
    make_file("b", "B");
    MUST(rename("a", "b"));
    CHECK(!exists("a"));
    check_file("b", "A");
    MUST(rename("b", "b"));
    MUST(mkdir("d", 0755));
    MUST(mkdir("e", 0755));
    MUST(rename("b", "d/b"));
    check_file("d/b", "A");
    MUST(rename("e", "d/e"));
    MUST(stat("d", &st));
    CHECK(exists("d/e") && !exists("e"));
    MUST(mkdir("f", 0755));
    MUST(rename("d/e", "f")); /* an empty directory may be replaced */
    MUST(link("d/b", "d/same"));
    MUST(rename("d/b", "d/same")); /* two names of one file: nothing happens */
    CHECK(exists("d/b") && exists("d/same"));
}

TEST(rename_errors)
{
    make_file("file", "");
    MUST(mkdir("dir", 0755));
    MUST(mkdir("dir/sub", 0755));
    MUST(mkdir("empty", 0755));
    CHECK_ERR(rename("none", "x"), ENOENT);
    CHECK_ERR(rename("file", "none/x"), ENOENT);
    CHECK_ERR(rename("file", "dir"), EISDIR);
    CHECK_ERR(rename("dir", "file"), ENOTDIR);
    CHECK_ERR(rename("empty", "dir"), ENOTEMPTY);
    CHECK_ERR(rename("dir", "dir/sub/x"), EINVAL);
    CHECK_ERR(rename("file", "file/x"), ENOTDIR);
    CHECK_ERR(rename("file", ""), ENOENT);
    CHECK_ERR(rename("dir/.", "x"), EBUSY);
    CHECK_ERR(rename("file", "dir/.."), EBUSY);
    CHECK_ERR(rename("file", "/proc/x"), EXDEV);
    CHECK_ERR(rename("file", "newname/"), ENOTDIR);
}

TEST(renameat2_flags)
{
    make_file("a", "A");
    make_file("b", "B");
    CHECK_ERR(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    MUST(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE));
    check_file("a", "B");
    check_file("b", "A");
    CHECK_ERR(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_EXCHANGE), ENOENT);
    MUST(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
    CHECK_ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_NOREPLACE | RENAME_EXCHANGE), EINVAL);
    CHECK_ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", 0x100), EINVAL);
}

TEST(an_open_file_keeps_its_identity_when_renamed)
{
    make_file("a", "A");
    int fd = (int)MUST(open("a", O_RDWR));
    MUST(rename("a", "b"));
    CHECK_EQ(write(fd, "X", 1), 1);
    check_file("b", "X");
    make_file("a", "new");
    char c;
    CHECK_EQ(pread(fd, &c, 1, 0), 1);
    CHECK_EQ(c, 'X');
    make_file("c", "C");
    MUST(rename("c", "b")); /* replaced, but still open */
    CHECK_EQ(pread(fd, &c, 1, 0), 1);
    CHECK_EQ(c, 'X');
}

TEST(hard_links)
{
    struct stat a, b;
    make_file("a", "text");
    MUST(link("a", "b"));
    MUST(stat("a", &a));
    MUST(stat("b", &b));
    CHECK(a.st_ino == b.st_ino && a.st_nlink == 2);
    MUST(unlink("a"));
    MUST(stat("b", &b));
    CHECK_EQ(b.st_nlink, 1);
    check_file("b", "text");
    CHECK_ERR(link("none", "x"), ENOENT);
    make_file("c", "");
    CHECK_ERR(link("b", "c"), EEXIST);
    MUST(mkdir("d", 0755));
    CHECK_ERR(link("d", "e"), EPERM);
    MUST(symlink("b", "s"));
    MUST(link("s", "t")); /* the link itself */
    MUST(lstat("t", &b));
    CHECK(S_ISLNK(b.st_mode));
    MUST(linkat(AT_FDCWD, "s", AT_FDCWD, "u", AT_SYMLINK_FOLLOW));
    MUST(lstat("u", &b));
    CHECK(S_ISREG(b.st_mode));
}

TEST(symbolic_links)
{
    char text[64] = {0};
    struct stat st;
    MUST(symlink("some/where", "s"));
    CHECK_EQ(readlink("s", text, 4), 4); /* cut, without a terminator */
    CHECK(memcmp(text, "some\0", 5) == 0);
    CHECK_EQ(readlink("s", text, sizeof text), 10);
    MUST(lstat("s", &st));
    CHECK_EQ(st.st_size, 10);
    CHECK_EQ(st.st_mode & 07777, 0777);
    CHECK_ERR(symlink("x", "s"), EEXIST);
    CHECK_ERR(symlink("", "t"), ENOENT);
    CHECK_ERR(readlink("none", text, 1), ENOENT);
    make_file("f", "");
    CHECK_ERR(readlink("f", text, 1), EINVAL);
    CHECK_ERR(readlink("s", text, 0), EINVAL);
    CHECK_ERR(open("s", O_RDONLY), ENOENT);
    MUST(unlink("s"));
    CHECK(!exists("s"));
}

TEST(forty_links_are_followed_and_not_more)
{
    char from[16] = "f", to[16];
    make_file("f", "end");
    for (int i = 1; i <= 41; i++) {
        snprintf(to, sizeof to, "l%d", i);
        MUST(symlink(from, to));
        strcpy(from, to);
    }
    MUST(open("l40", O_RDONLY));
    CHECK_ERR(open("l41", O_RDONLY), ELOOP);
}

TEST(unlinked_file_lives_while_open)
{
    struct stat st;
    make_file("f", "abc");
    int fd = (int)MUST(open("f", O_RDWR));
    MUST(unlink("f"));
    CHECK(!exists("f"));
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_nlink, 0);
    CHECK_EQ(pwrite(fd, "xyz", 3, 3), 3);
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_size, 6);
    make_file("f", "other");
    MUST(fstat(fd, &st));
    CHECK_EQ(st.st_size, 6);
}

TEST(unlink_and_rmdir_errors)
{
    make_file("f", "");
    MUST(mkdir("d", 0755));
    make_file("d/f", "");
    CHECK_ERR(unlink("none"), ENOENT);
    CHECK_ERR(unlink("d"), EISDIR);
    CHECK_ERR(unlink("f/"), ENOTDIR);
    CHECK_ERR(rmdir("f"), ENOTDIR);
    CHECK_ERR(rmdir("d"), ENOTEMPTY);
    CHECK_ERR(rmdir("d/."), EINVAL);
    CHECK_ERR(rmdir("d/.."), ENOTEMPTY);
    CHECK_ERR(rmdir("none"), ENOENT);
    CHECK_ERR(unlinkat(AT_FDCWD, "f", 0x8000), EINVAL);
    MUST(unlink("d/f"));
    MUST(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
    CHECK(!exists("d"));
}

TEST(mkdir_errors_and_link_counts)
{
    struct stat st;
    make_file("f", "");
    MUST(mkdir("d", 0700));
    CHECK_ERR(mkdir("d", 0700), EEXIST);
    CHECK_ERR(mkdir("f", 0700), EEXIST);
    CHECK_ERR(mkdir("none/x", 0700), ENOENT);
    CHECK_ERR(mkdir("f/x", 0700), ENOTDIR);
    CHECK_ERR(mkdir("", 0700), ENOENT);
    MUST(mkdir("d/sub/", 0700)); /* a slash at the end is fine */
    MUST(stat("d", &st));
    CHECK(S_ISDIR(st.st_mode));
    CHECK(st.st_nlink == 3 || st.st_nlink == 1); /* 1: a file system that does not count */
    MUST(mkdir("sticky", 01777));
    MUST(stat("sticky", &st));
    CHECK_EQ(st.st_mode & 07777, 01755);
}

TEST(removed_working_directory)
{
    char cwd[PATH_MAX];
    MUST(mkdir("d", 0755));
    MUST(chdir("d"));
    MUST(rmdir("../d"));
    CHECK_ERR(open("f", O_WRONLY | O_CREAT, 0600), ENOENT);
    CHECK_ERR(syscall(SYS_getcwd, cwd, sizeof cwd), ENOENT);
    MUST(chdir(".."));
}

static int count_entries(const char *path)
{
    DIR *dir = opendir(path);
    CHECK(dir != NULL);
    int n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void make_many(int count)
{
    char name[32];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "file-number-%d", i);
        make_file(name, "");
    }
}

TEST(directory_lists_everything_once)
{
    make_many(500);
    CHECK_EQ(count_entries("."), 502);
    char seen[500] = {0};
    DIR *dir = opendir(".");
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        int i;
        if (sscanf(entry->d_name, "file-number-%d", &i) == 1) {
            CHECK(!seen[i]);
            seen[i] = 1;
            CHECK(entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN);
        }
    }
    rewinddir(dir);
    CHECK(readdir(dir) != NULL);
}

TEST(deleting_while_listing_misses_nothing)
{
    make_many(300);
    DIR *dir = opendir(".");
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        if (entry->d_name[0] == 'f')
            MUST(unlink(entry->d_name));
    closedir(dir);
    CHECK_EQ(count_entries("."), 2);
}

TEST(seeking_in_a_directory)
{
    make_many(50);
    DIR *dir = opendir(".");
    for (int i = 0; i < 20; i++)
        CHECK(readdir(dir) != NULL);
    long place = telldir(dir);
    char name[256];
    strcpy(name, readdir(dir)->d_name);
    while (readdir(dir)) {
    }
    seekdir(dir, place);
    CHECK(strcmp(readdir(dir)->d_name, name) == 0);
}

TEST(getdents_errors)
{
    char buffer[256];
    make_file("f", "");
    int fd = (int)MUST(open("f", O_RDONLY)), dir = (int)MUST(open(".", O_RDONLY));
    CHECK_ERR(syscall(SYS_getdents64, fd, buffer, sizeof buffer), ENOTDIR);
    CHECK_ERR(syscall(SYS_getdents64, 999, buffer, sizeof buffer), EBADF);
    CHECK_ERR(syscall(SYS_getdents64, dir, buffer, 1), EINVAL);
    CHECK_ERR(syscall(SYS_getdents64, dir, 8, 256), EFAULT);
    MUST(syscall(SYS_getdents64, dir, buffer, sizeof buffer));
}

TEST(dots_and_slashes)
{
    struct stat a, b;
    MUST(mkdir("d", 0755));
    make_file("d/f", "x");
    check_file("./d//.///f", "x");
    check_file("d/../d/f", "x");
    MUST(stat("/", &a));
    MUST(stat("/..", &b));
    CHECK(a.st_ino == b.st_ino && a.st_dev == b.st_dev);
    CHECK_ERR(stat("d/f/.", &a), ENOTDIR);
    CHECK_ERR(stat("d/f/..", &a), ENOTDIR);
    MUST(symlink("d", "l"));
    MUST(lstat("l/", &a)); /* the slash follows the link */
    CHECK(S_ISDIR(a.st_mode));
    MUST(stat("l/..", &a));
    MUST(stat(".", &b));
    CHECK(a.st_ino == b.st_ino);
}

TEST(working_directory)
{
    char before[PATH_MAX], after[PATH_MAX];
    MUST(mkdir("d", 0755));
    int dir = (int)MUST(open("d", O_RDONLY));
    CHECK(getcwd(before, sizeof before) != NULL);
    CHECK_EQ(syscall(SYS_getcwd, after, sizeof after), (long)strlen(before) + 1);
    MUST(fchdir(dir));
    CHECK(getcwd(after, sizeof after) != NULL);
    strcat(before, "/d");
    CHECK(strcmp(before, after) == 0);
    MUST(rename("../d", "../e"));
    CHECK(getcwd(after, sizeof after) != NULL);
    before[strlen(before) - 1] = 'e';
    CHECK(strcmp(before, after) == 0);
    CHECK_ERR(syscall(SYS_getcwd, after, 2), ERANGE);
    CHECK_ERR(chdir("none"), ENOENT);
    make_file("f", "");
    CHECK_ERR(chdir("f"), ENOTDIR);
    CHECK_ERR(fchdir(999), EBADF);
    CHECK_ERR(fchdir(open("f", O_RDONLY)), ENOTDIR);
}

TEST(chroot_confines)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        char cwd[PATH_MAX];
        MUST(mkdir("jail", 0755));
        make_file("jail/inside", "in");
        make_file("outside", "out");
        MUST(symlink("/inside", "jail/link"));
        MUST(chroot("jail"));
        MUST(chdir("/"));
        check_file("/inside", "in");
        check_file("/link", "in");
        check_file("/../../../inside", "in");
        CHECK_ERR(open("../outside", O_RDONLY), ENOENT);
        CHECK(getcwd(cwd, sizeof cwd) != NULL && strcmp(cwd, "/") == 0);
        CHECK_ERR(chroot("none"), ENOENT);
        CHECK_ERR(chroot("inside"), ENOTDIR);
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
}

TEST(names_are_bytes)
{
    const char *names[] = {"sp ace", "new\nline", "\xff\xfe", "\xc3\xa4", "-", "a\\b", "*"};
    for (int i = 0; i < 7; i++)
        make_file(names[i], names[i]);
    for (int i = 0; i < 7; i++)
        check_file(names[i], names[i]);
    CHECK_EQ(count_entries("."), 9);
}

TEST(two_processes_share_the_tree)
{
    struct gate made = gate_new(), seen = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        make_file("from-child", "hello");
        gate_open(&made);
        gate_wait(&seen);
        CHECK(!exists("from-child"));
        _exit(0);
    }
    CHECK(!exists("not-there")); /* remembers that it is missing */
    gate_wait(&made);
    check_file("from-child", "hello");
    MUST(unlink("from-child"));
    gate_open(&seen);
    CHECK_EXITED(pid, 0);
}

TEST(a_missing_name_can_appear)
{
    CHECK_ERR(open("x", O_RDONLY), ENOENT);
    make_file("x", "1");
    check_file("x", "1");
    MUST(unlink("x"));
    CHECK_ERR(open("x", O_RDONLY), ENOENT);
    MUST(mkdir("x", 0755));
    make_file("x/y", "2");
    check_file("x/y", "2");
    MUST(rename("x", "z"));
    CHECK_ERR(open("x/y", O_RDONLY), ENOENT);
    check_file("z/y", "2");
}
