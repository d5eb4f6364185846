/* What a file is: stat and statx, modes, owners, times, extended attributes, statfs. */
#include "check.h"
#include <linux/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static struct stat stat_of(const char *path)
{
    struct stat st;
    MUST(lstat(path, &st));
    return st;
}

TEST(stat_fields)
{
    make_file("f", "hello");
    struct stat st = stat_of("f"), again;
    CHECK_EQ(st.st_mode, S_IFREG | 0644);
    CHECK_EQ(st.st_size, 5);
    CHECK_EQ(st.st_nlink, 1);
    CHECK_EQ(st.st_uid, geteuid());
    CHECK_EQ(st.st_gid, getegid());
    CHECK(st.st_blksize >= 512);
    CHECK(st.st_ino != 0);
    int fd = (int)MUST(open("f", O_RDONLY));
    MUST(fstat(fd, &again));
    CHECK(again.st_ino == st.st_ino && again.st_dev == st.st_dev);
    MUST(fstatat(fd, "", &again, AT_EMPTY_PATH));
    CHECK(again.st_ino == st.st_ino);
    make_file("g", "");
    CHECK(stat_of("g").st_ino != st.st_ino);
    CHECK_EQ(stat_of("g").st_dev, st.st_dev);
}

TEST(stat_errors)
{
    struct stat st;
    make_file("f", "");
    CHECK_ERR(stat("none", &st), ENOENT);
    CHECK_ERR(stat("", &st), ENOENT);
    CHECK_ERR(stat("f/x", &st), ENOTDIR);
    CHECK_ERR(syscall(SYS_stat, "f", 8), EFAULT);
    CHECK_ERR(fstat(999, &st), EBADF);
    CHECK_ERR(syscall(SYS_newfstatat, AT_FDCWD, "f", &st, 0x8000000), EINVAL);
}

TEST(statx_fields)
{
    struct statx stx;
    make_file("f", "hello");
    struct stat st = stat_of("f");
    MUST(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &stx));
    CHECK_EQ(stx.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    CHECK_EQ(stx.stx_size, 5);
    CHECK_EQ(stx.stx_ino, st.st_ino);
    CHECK_EQ(stx.stx_mode, st.st_mode);
    CHECK_EQ(makedev(stx.stx_dev_major, stx.stx_dev_minor), st.st_dev);
    CHECK_EQ(stx.stx_mtime.tv_nsec, st.st_mtim.tv_nsec);
    MUST(statx(open("f", O_RDONLY), "", AT_EMPTY_PATH, STATX_SIZE, &stx));
    CHECK_EQ(stx.stx_size, 5);
    CHECK_ERR(statx(AT_FDCWD, "f", 0, 0x80000000, &stx), EINVAL);
    CHECK_ERR(statx(AT_FDCWD, "f", AT_STATX_SYNC_TYPE, STATX_SIZE, &stx), EINVAL);
    CHECK_ERR(statx(AT_FDCWD, "none", 0, STATX_SIZE, &stx), ENOENT);
}

TEST(chmod_changes_modes)
{
    make_file("f", "");
    MUST(chmod("f", 04711));
    CHECK_EQ(stat_of("f").st_mode & 07777, 04711);
    MUST(fchmod(open("f", O_RDONLY), 0600));
    CHECK_EQ(stat_of("f").st_mode & 07777, 0600);
    MUST(symlink("f", "l"));
    MUST(chmod("l", 0640));
    CHECK_EQ(stat_of("f").st_mode & 07777, 0640);
    MUST(fchmodat(AT_FDCWD, "f", 0604, 0));
    CHECK_EQ(stat_of("f").st_mode & 07777, 0604);
    CHECK_ERR(chmod("none", 0600), ENOENT);
    CHECK_ERR(fchmod(999, 0600), EBADF);
}

TEST(chown_changes_owners_and_clears_setuid)
{
    make_file("f", "");
    MUST(chown("f", 123, 456));
    CHECK(stat_of("f").st_uid == 123 && stat_of("f").st_gid == 456);
    MUST(chown("f", (uid_t)-1, 7));
    CHECK(stat_of("f").st_uid == 123 && stat_of("f").st_gid == 7);
    MUST(fchown(open("f", O_RDONLY), 8, (gid_t)-1));
    CHECK(stat_of("f").st_uid == 8 && stat_of("f").st_gid == 7);
    MUST(symlink("f", "l"));
    MUST(lchown("l", 9, 9));
    CHECK(stat_of("l").st_uid == 9 && stat_of("f").st_uid == 8);
    MUST(chmod("f", 06755));
    MUST(chown("f", 0, 0));
    CHECK_EQ(stat_of("f").st_mode & 07777, 0755);
    CHECK_ERR(chown("none", 0, 0), ENOENT);
    CHECK_ERR(fchownat(AT_FDCWD, "f", 0, 0, 0x8000), EINVAL);
}

TEST(setgid_directory_gives_its_group)
{
    MUST(mkdir("d", 0755));
    MUST(chown("d", 0, 55));
    MUST(chmod("d", 02755));
    make_file("d/f", "");
    CHECK_EQ(stat_of("d/f").st_gid, 55);
    MUST(mkdir("d/sub", 0755));
    CHECK_EQ(stat_of("d/sub").st_gid, 55);
    CHECK_EQ(stat_of("d/sub").st_mode & 07777, 02755);
}

TEST(times_are_set)
{
    make_file("f", "");
    struct timespec times[2] = {{1000000000, 123456789}, {2000000000, 987654321}};
    MUST(utimensat(AT_FDCWD, "f", times, 0));
    struct stat st = stat_of("f");
    CHECK(st.st_atim.tv_sec == 1000000000 && st.st_atim.tv_nsec == 123456789);
    CHECK(st.st_mtim.tv_sec == 2000000000 && st.st_mtim.tv_nsec == 987654321);
    times[0].tv_nsec = UTIME_OMIT;
    times[1].tv_nsec = UTIME_NOW;
    MUST(futimens(open("f", O_RDWR), times));
    st = stat_of("f");
    CHECK_EQ(st.st_atim.tv_sec, 1000000000);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    CHECK(now.tv_sec - st.st_mtim.tv_sec < 60 && now.tv_sec >= st.st_mtim.tv_sec - 1);
    MUST(symlink("f", "l"));
    times[0] = times[1] = (struct timespec){5, 0};
    MUST(utimensat(AT_FDCWD, "l", times, AT_SYMLINK_NOFOLLOW));
    CHECK_EQ(stat_of("l").st_mtim.tv_sec, 5);
    CHECK(stat_of("f").st_mtim.tv_sec != 5);
    times[0].tv_nsec = 1000000000;
    CHECK_ERR(utimensat(AT_FDCWD, "f", times, 0), EINVAL);
    CHECK_ERR(utimensat(AT_FDCWD, "none", NULL, 0), ENOENT);
}

static bool later(struct timespec a, struct timespec b)
{
    return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

TEST(changes_move_the_times)
{
    struct timespec old[2] = {{1000, 0}, {1000, 0}};
    make_file("f", "abc");
    int fd = (int)MUST(open("f", O_RDWR));
    MUST(futimens(fd, old));
    struct stat before = stat_of("f");
    usleep(20000);
    CHECK_EQ(write(fd, "x", 1), 1);
    struct stat after = stat_of("f");
    CHECK(after.st_mtim.tv_sec > 1000 && later(after.st_ctim, before.st_ctim));
    usleep(20000);
    MUST(fchmod(fd, 0600));
    CHECK(later(stat_of("f").st_ctim, after.st_ctim));
    CHECK(!later(stat_of("f").st_mtim, after.st_mtim));
    MUST(mkdir("d", 0755));
    MUST(utimensat(AT_FDCWD, "d", old, 0));
    make_file("d/new", "");
    CHECK(stat_of("d").st_mtim.tv_sec > 1000);
}

TEST(statfs_describes_the_file_system)
{
    struct statfs fs;
    MUST(statfs(".", &fs));
    CHECK(fs.f_bsize > 0);
    CHECK(fs.f_namelen >= 255);
    MUST(fstatfs(open(".", O_RDONLY), &fs));
    MUST(statfs("/proc", &fs));
    CHECK_EQ(fs.f_type, 0x9fa0);
    CHECK_ERR(statfs("none", &fs), ENOENT);
}

TEST(extended_attributes)
{
    char text[64] = {0};
    make_file("f", "");
    if (setxattr("f", "trusted.t", "value", 5, 0) == -1) {
        CHECK(errno == EOPNOTSUPP || errno == EPERM); /* a file system may have none */
        CHECK_ERR(getxattr("f", "trusted.t", text, 64), errno == EPERM ? ENODATA : EOPNOTSUPP);
        return;
    }
    CHECK_EQ(getxattr("f", "trusted.t", text, 64), 5);
    CHECK(strcmp(text, "value") == 0);
    CHECK_EQ(getxattr("f", "trusted.t", NULL, 0), 5);
    CHECK_ERR(getxattr("f", "trusted.t", text, 2), ERANGE);
    CHECK_ERR(getxattr("f", "trusted.other", text, 64), ENODATA);
    CHECK_ERR(setxattr("f", "trusted.t", "v", 1, XATTR_CREATE), EEXIST);
    CHECK(listxattr("f", text, 64) >= (ssize_t)sizeof "trusted.t");
    MUST(removexattr("f", "trusted.t"));
    CHECK_ERR(removexattr("f", "trusted.t"), ENODATA);
}

TEST(access_asks_with_the_real_ids)
{
    make_file("f", "");
    MUST(chmod("f", 0));
    MUST(access("f", R_OK | W_OK)); /* root may */
    CHECK_ERR(access("f", X_OK), EACCES);
    CHECK_ERR(access("none", F_OK), ENOENT);
    CHECK_ERR(access("f", 99), EINVAL);
    MUST(chmod("f", 0100));
    MUST(access("f", X_OK));
    MUST(syscall(SYS_faccessat2, AT_FDCWD, "f", X_OK, AT_EACCESS));
    CHECK_ERR(syscall(SYS_faccessat2, AT_FDCWD, "f", X_OK, 0x8000), EINVAL);
}
