/* Rows about files, in the folder that micro.c has made on the container's root file system. */
#include "micro.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { SMALL = 4096, LARGE = 65536, ENTRIES = 100 };

static int fd;
static char buffer[LARGE];
static char folder[256], path[300], missing[300];

/* A file of LARGE bytes, open, with paths from the root as most programs use them. */
static int file_set_up(void) {
    if (getcwd(folder, sizeof folder) == NULL)
        FAIL("getcwd");
    snprintf(path, sizeof path, "%s/file", folder);
    snprintf(missing, sizeof missing, "%s/missing", folder);
    TRY(fd = open(path, O_RDWR | O_CREAT, 0644));
    TRY(pwrite(fd, buffer, LARGE, 0));
    return 0;
}

static int pread_4k_batch(long n) {
    while (n-- > 0)
        TRY(pread(fd, buffer, SMALL, 0));
    return 0;
}

static int pwrite_4k_batch(long n) {
    while (n-- > 0)
        TRY(pwrite(fd, buffer, SMALL, 0));
    return 0;
}

static int pread_64k_batch(long n) {
    while (n-- > 0)
        TRY(pread(fd, buffer, LARGE, 0));
    return 0;
}

static int pwrite_64k_batch(long n) {
    while (n-- > 0)
        TRY(pwrite(fd, buffer, LARGE, 0));
    return 0;
}

static int fstat_batch(long n) {
    struct stat st;
    while (n-- > 0)
        TRY(fstat(fd, &st));
    return 0;
}

static int stat_batch(long n) {
    struct stat st;
    while (n-- > 0)
        TRY(stat(path, &st));
    return 0;
}

static int stat_miss_batch(long n) {
    struct stat st;
    while (n-- > 0)
        if (stat(missing, &st) == 0 || errno != ENOENT)
            FAIL("stat");
    return 0;
}

static int open_close_batch(long n) {
    int opened;
    while (n-- > 0) {
        TRY(opened = open(path, O_RDONLY));
        TRY(close(opened));
    }
    return 0;
}

static int create_unlink_batch(long n) {
    int created;
    while (n-- > 0) {
        TRY(created = open("created", O_WRONLY | O_CREAT | O_EXCL, 0644));
        TRY(close(created));
        TRY(unlink("created"));
    }
    return 0;
}

static int readdir_set_up(void) {
    for (int i = 0; i < ENTRIES; i++) {
        char name[32];
        snprintf(name, sizeof name, "entry-%d", i);
        TRY(fd = open(name, O_WRONLY | O_CREAT, 0644));
        TRY(close(fd));
    }
    return 0;
}

/* One operation: open a folder of 100 entries, read all, close it. */
static int readdir_batch(long n) {
    while (n-- > 0) {
        int seen = 0;
        DIR *dir = opendir(".");
        if (dir == NULL)
            FAIL("opendir");
        while (readdir(dir))
            seen++;
        TRY(closedir(dir));
        if (seen != ENTRIES + 2) {
            errno = EIO;
            FAIL("readdir");
        }
    }
    return 0;
}

const struct row file_rows[] = {
    {"pread_4k", file_set_up, pread_4k_batch},
    {"pwrite_4k", file_set_up, pwrite_4k_batch},
    {"pread_64k", file_set_up, pread_64k_batch},
    {"pwrite_64k", file_set_up, pwrite_64k_batch},
    {"fstat", file_set_up, fstat_batch},
    {"stat", file_set_up, stat_batch},
    {"stat_miss", file_set_up, stat_miss_batch},
    {"open_close", file_set_up, open_close_batch},
    {"create_unlink", NULL, create_unlink_batch},
    {"readdir", readdir_set_up, readdir_batch},
    {0},
};
