/* The device nodes of a container's /dev. */
#include "check.h"
#include <dirent.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

static void check_node(const char *path, unsigned major, unsigned minor)
{
    struct stat st;
    MUST(stat(path, &st));
    CHECK(S_ISCHR(st.st_mode));
    CHECK_EQ(st.st_rdev, makedev(major, minor));
    CHECK_EQ(st.st_mode & 0666, 0666);
}

TEST(numbers)
{
    check_node("/dev/null", 1, 3);
    check_node("/dev/zero", 1, 5);
    check_node("/dev/full", 1, 7);
    check_node("/dev/random", 1, 8);
    check_node("/dev/urandom", 1, 9);
    check_node("/dev/tty", 5, 0);
}

TEST(null)
{
    char c;
    int fd = (int)MUST(open("/dev/null", O_RDWR | O_TRUNC | O_CREAT, 0600));
    CHECK_EQ(read(fd, &c, 1), 0);
    CHECK_EQ(write(fd, "anything", 8), 8);
    CHECK_EQ(lseek(fd, 100, SEEK_SET), 0);
}

TEST(zero_and_full)
{
    char block[5000];
    memset(block, 1, sizeof block);
    int zero = (int)MUST(open("/dev/zero", O_RDWR)), full = (int)MUST(open("/dev/full", O_RDWR));
    CHECK_EQ(read(zero, block, sizeof block), sizeof block);
    for (unsigned i = 0; i < sizeof block; i++)
        CHECK_EQ(block[i], 0);
    CHECK_EQ(write(zero, "x", 1), 1);
    CHECK_EQ(read(full, block, 10), 10);
    CHECK_ERR(write(full, "x", 1), ENOSPC);
}

TEST(randomness)
{
    char a[64], b[64];
    int fd = (int)MUST(open("/dev/urandom", O_RDONLY));
    CHECK_EQ(read(fd, a, 64), 64);
    CHECK_EQ(read(fd, b, 64), 64);
    CHECK(memcmp(a, b, 64) != 0);
    fd = (int)MUST(open("/dev/random", O_RDWR));
    CHECK_EQ(read(fd, a, 16), 16);
    CHECK_EQ(write(fd, "seed", 4), 4);
}

TEST(links_to_the_descriptors)
{
    char target[64] = {0};
    CHECK(readlink("/dev/fd", target, 63) > 0);
    CHECK(strcmp(target, "/proc/self/fd") == 0);
    CHECK(readlink("/dev/stdin", target, 63) > 0);
    make_file("f", "text");
    int fd = (int)MUST(open("f", O_RDONLY));
    char path[32], c;
    snprintf(path, sizeof path, "/dev/fd/%d", fd);
    int again = (int)MUST(open(path, O_RDONLY));
    CHECK(read(again, &c, 1) == 1 && c == 't');
}

TEST(shared_memory_folder)
{
    struct statfs fs;
    MUST(statfs("/dev/shm", &fs));
    CHECK_EQ(fs.f_type, 0x01021994);
    char name[64];
    snprintf(name, sizeof name, "/guest-test-%d", getpid());
    int fd = (int)MUST(shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
    MUST(ftruncate(fd, 4096));
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    pid_t pid = must_fork();
    if (pid == 0) {
        int own = (int)MUST(shm_open(name, O_RDWR, 0));
        char *q = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
        strcpy(q, "shared");
        _exit(0);
    }
    CHECK_EXITED(pid, 0);
    CHECK(strcmp(p, "shared") == 0);
    MUST(shm_unlink(name));
}

TEST(pts_is_a_file_system)
{
    struct statfs fs;
    MUST(statfs("/dev/pts", &fs));
    CHECK_EQ(fs.f_type, 0x1cd1);
    struct stat st;
    MUST(stat("/dev/ptmx", &st));
    CHECK_EQ(st.st_rdev, makedev(5, 2));
}

TEST(devices_poll_ready)
{
    struct pollfd polled = {.fd = open("/dev/null", O_RDWR), .events = POLLIN | POLLOUT};
    CHECK_EQ(poll(&polled, 1, 0), 1);
    CHECK_EQ(polled.revents, POLLIN | POLLOUT);
}
