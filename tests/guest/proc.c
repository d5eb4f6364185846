/* /proc as programs read it. */
#include "check.h"
#include <dirent.h>
#include <sys/sysinfo.h>

static char text[65536];

static char *slurp(const char *path)
{
    int fd = (int)MUST(open(path, O_RDONLY));
    size_t have = 0;
    ssize_t n;
    while ((n = MUST(read(fd, text + have, sizeof text - 1 - have))) > 0)
        have += (size_t)n;
    text[have] = 0;
    MUST(close(fd));
    return text;
}

static char *link_of(const char *path)
{
    static char target[PATH_MAX];
    ssize_t n = MUST(readlink(path, target, sizeof target - 1));
    target[n] = 0;
    return target;
}

/* The number after "name:" in a file of such lines. */
static long field(const char *path, const char *name)
{
    char *found = strstr(slurp(path), name);
    if (found == NULL)
        fail_at(__FILE__, __LINE__, "%s has no %s", path, name);
    return strtol(found + strlen(name), NULL, 10);
}

TEST(self_is_the_process)
{
    char want[32];
    struct stat st;
    snprintf(want, sizeof want, "%d", getpid());
    CHECK(strcmp(link_of("/proc/self"), want) == 0);
    snprintf(want, sizeof want, "%d/task/%d", getpid(), gettid());
    CHECK(strcmp(link_of("/proc/thread-self"), want) == 0);
    snprintf(want, sizeof want, "/proc/%d", getpid());
    MUST(stat(want, &st));
    CHECK(S_ISDIR(st.st_mode));
    CHECK_ERR(stat("/proc/999999999", &st), ENOENT);
}

TEST(processes_are_listed)
{
    struct gate gate = gate_new();
    pid_t pid = must_fork();
    if (pid == 0) {
        gate_wait(&gate);
        _exit(0);
    }
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    int seen = 0;
    while ((entry = readdir(dir)) != NULL)
        seen += atoi(entry->d_name) == pid || atoi(entry->d_name) == getpid() || strcmp(entry->d_name, "meminfo") == 0;
    CHECK_EQ(seen, 3);
    gate_open(&gate);
    CHECK_EXITED(pid, 0);
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    CHECK_ERR(open(path, O_RDONLY), ENOENT);
}

TEST(links)
{
    char cwd[PATH_MAX];
    CHECK(strcmp(link_of("/proc/self/exe"), program_path) == 0);
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    CHECK(strcmp(link_of("/proc/self/cwd"), cwd) == 0);
    CHECK(strcmp(link_of("/proc/self/root"), "/") == 0);
    char first[18];
    int exe = (int)MUST(open("/proc/self/exe", O_RDONLY));
    CHECK_EQ(read(exe, first, 4), 4);
    CHECK(memcmp(first, "\177ELF", 4) == 0);
}

TEST(descriptors)
{
    char path[64], cwd[PATH_MAX], want[PATH_MAX + 32];
    int fds[2], seen = 0;
    make_file("f", "abc");
    int fd = (int)MUST(open("f", O_RDWR | O_APPEND));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    snprintf(want, sizeof want, "%s/f", cwd);
    CHECK(strcmp(link_of(path), want) == 0);
    MUST(unlink("f"));
    snprintf(want, sizeof want, "%s/f (deleted)", cwd);
    CHECK(strcmp(link_of(path), want) == 0);
    MUST(pipe(fds));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fds[0]);
    CHECK(strncmp(link_of(path), "pipe:[", 6) == 0);
    struct stat st;
    MUST(lstat(path, &st));
    CHECK(S_ISLNK(st.st_mode));
    CHECK_EQ(st.st_mode & 0700, 0500);
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        seen += atoi(entry->d_name) == fds[0] && entry->d_name[0] != '.';
    CHECK_EQ(seen, 1);
    MUST(lseek(fd, 2, SEEK_SET));
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    CHECK_EQ(field(path, "pos:\t"), 2);
    char *flags = strstr(slurp(path), "flags:\t");
    CHECK(flags != NULL && strtol(flags + 7, NULL, 8) == (O_RDWR | O_APPEND | 0100000));
    CHECK_ERR(open("/proc/self/fd/999", O_RDONLY), ENOENT);
}

TEST(stat_line)
{
    int pid, ppid, pgrp, session, tty;
    char name[64], state;
    MUST(prctl(PR_SET_NAME, "a (b) c"));
    CHECK_EQ(sscanf(slurp("/proc/self/stat"), "%d (%63[^)]) c) %c %d %d %d %d", &pid, name, &state, &ppid, &pgrp,
                    &session, &tty), 7);
    CHECK(pid == getpid() && ppid == getppid() && pgrp == getpgrp() && session == getsid(0));
    CHECK(strcmp(name, "a (b") == 0);
    CHECK_EQ(state, 'R');
    int fields = 1;
    for (char *c = strrchr(text, ')'); *c; c++)
        fields += *c == ' ';
    CHECK_EQ(fields + 1, 52);
    CHECK_EQ(strcmp(slurp("/proc/self/comm"), "a (b) c\n"), 0);
}

TEST(status_lines)
{
    CHECK_EQ(field("/proc/self/status", "\nPid:\t"), getpid());
    CHECK_EQ(field("/proc/self/status", "\nTgid:\t"), getpid());
    CHECK_EQ(field("/proc/self/status", "\nPPid:\t"), getppid());
    CHECK_EQ(field("/proc/self/status", "\nThreads:\t"), 1);
    CHECK_EQ(field("/proc/self/status", "\nUmask:\t"), 22);
    CHECK(field("/proc/self/status", "\nVmRSS:\t") > 0);
    CHECK(field("/proc/self/status", "\nVmSize:\t") > 0);
    CHECK(strstr(slurp("/proc/self/status"), "Name:\tgt_proc") == text || strstr(text, "Name:\tproc") == text);
    signal(SIGUSR1, SIG_IGN);
    char *ignored = strstr(slurp("/proc/self/status"), "SigIgn:\t");
    CHECK(ignored != NULL && strtoul(ignored + 8, NULL, 16) & 1UL << (SIGUSR1 - 1));
    MUST(setresuid(11, 12, 13));
    CHECK(strstr(slurp("/proc/thread-self/status"), "\nUid:\t11\t12\t13\t12\n") != NULL);
}

TEST(command_line_and_environment)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        execle(program_path, program_path, "--args", "two words", NULL, (char *[]){"A=1", "B=2", NULL});
        _exit(99);
    }
    CHECK_EXITED(pid, 0);
}

int helper(int argc, char **argv)
{
    char want[PATH_MAX + 64];
    (void)argc;
    int length = snprintf(want, sizeof want, "%s%c%s%c%s", argv[0], 0, argv[1], 0, argv[2]) + 1;
    slurp("/proc/self/cmdline");
    if (memcmp(text, want, (size_t)length) != 0)
        return 1;
    slurp("/proc/self/environ");
    return memcmp(text, "A=1\0B=2", 8) != 0;
}

TEST(maps_show_the_address_space)
{
    char *p = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), want[64];
    MUST(mprotect(p + 4096, 4096, PROT_READ));
    snprintf(want, sizeof want, "%lx-%lx r--p 00000000 00:00 0", (long)p + 4096, (long)p + 8192);
    CHECK(strstr(slurp("/proc/self/maps"), want) != NULL);
    CHECK(strstr(text, "[stack]") != NULL);
    CHECK(strstr(text, program_path) != NULL);
    sbrk(4096);
    CHECK(strstr(slurp("/proc/self/maps"), "[heap]") != NULL);
    make_file("mapped", "text");
    int fd = (int)MUST(open("mapped", O_RDWR));
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    snprintf(want, sizeof want, "%lx-%lx rw-s", (long)p, (long)p + 4096);
    char *line = strstr(slurp("/proc/self/maps"), want);
    CHECK(line != NULL);
    char *end = strchr(line, '\n');
    CHECK(end != NULL && memcmp(end - 7, "/mapped", 7) == 0);
    unsigned long last = 0, from, to;
    for (line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        CHECK_EQ(sscanf(line, "%lx-%lx", &from, &to), 2);
        CHECK(from >= last && to > from);
        last = to;
    }
}

TEST(threads_have_their_own_directories)
{
    DIR *dir = opendir("/proc/self/task");
    CHECK(dir != NULL);
    int found = 0;
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL)
        found += atoi(entry->d_name) == gettid();
    CHECK_EQ(found, 1);
}

TEST(mounts_are_listed)
{
    CHECK(strstr(slurp("/proc/mounts"), " / ") != NULL);
    CHECK(strstr(text, " /proc proc ") != NULL);
    CHECK(strstr(slurp("/proc/self/mountinfo"), " - proc ") != NULL);
    CHECK(strstr(slurp("/proc/filesystems"), "\ttmpfs\n") != NULL);
}

TEST(memory_and_processors)
{
    struct sysinfo info;
    MUST(sysinfo(&info));
    long total = field("/proc/meminfo", "MemTotal:"), free_kb = field("/proc/meminfo", "MemFree:");
    CHECK(total > 0 && free_kb > 0 && free_kb <= total);
    CHECK_EQ(total, info.totalram * info.mem_unit / 1024);
    CHECK(field("/proc/meminfo", "MemAvailable:") > 0);
    int processors = 0;
    for (char *p = slurp("/proc/cpuinfo"); (p = strstr(p, "processor\t:")) != NULL; p++)
        processors++;
    CHECK_EQ(processors, sysconf(_SC_NPROCESSORS_ONLN));
    CHECK(strstr(text, "flags\t") != NULL && strstr(text, " sse2 ") != NULL);
    CHECK(strncmp(slurp("/proc/stat"), "cpu  ", 5) == 0);
    CHECK(strstr(text, "\ncpu0 ") != NULL && strstr(text, "\nbtime ") != NULL && strstr(text, "\nprocesses ") != NULL);
}

TEST(uptime_and_load)
{
    double up, idle, load;
    struct sysinfo info;
    CHECK_EQ(sscanf(slurp("/proc/uptime"), "%lf %lf", &up, &idle), 2);
    MUST(sysinfo(&info));
    CHECK(up >= 0 && up - (double)info.uptime < 3 && (double)info.uptime - up < 3);
    CHECK_EQ(sscanf(slurp("/proc/loadavg"), "%lf", &load), 1);
    CHECK(strncmp(slurp("/proc/version"), "Linux version ", 14) == 0);
}

TEST(sysctls)
{
    CHECK(atol(slurp("/proc/sys/kernel/pid_max")) >= 32768);
    CHECK(strlen(slurp("/proc/sys/kernel/osrelease")) > 3);
    CHECK(strcmp(slurp("/proc/sys/kernel/ostype"), "Linux\n") == 0);
    CHECK(strlen(slurp("/proc/sys/kernel/hostname")) > 0);
    CHECK_EQ(strlen(slurp("/proc/sys/kernel/random/boot_id")), 37);
    CHECK(atol(slurp("/proc/sys/fs/file-max")) > 0);
    CHECK(atol(slurp("/proc/sys/vm/overcommit_memory")) >= 0);
}

TEST(proc_cannot_be_changed)
{
    CHECK(mkdir("/proc/new", 0755) == -1 && (errno == ENOENT || errno == EPERM || errno == EACCES));
    CHECK(unlink("/proc/meminfo") == -1 && (errno == EPERM || errno == EACCES || errno == EROFS));
    CHECK(open("/proc/meminfo", O_WRONLY) == -1 || write(open("/proc/meminfo", O_WRONLY), "x", 1) == -1);
}

TEST(seeking_in_a_generated_file)
{
    char a[8], b[8];
    int fd = (int)MUST(open("/proc/cpuinfo", O_RDONLY));
    CHECK_EQ(read(fd, a, 8), 8);
    MUST(lseek(fd, 0, SEEK_SET));
    CHECK_EQ(read(fd, b, 8), 8);
    CHECK(memcmp(a, b, 8) == 0);
    CHECK_EQ(pread(fd, b, 4, 4), 4);
    CHECK(memcmp(a + 4, b, 4) == 0);
}

TEST(memory_of_the_process)
{
    static char word[] = "in memory";
    char got[16] = {0};
    int fd = (int)MUST(open("/proc/self/mem", O_RDWR));
    CHECK_EQ(pread(fd, got, 9, (off_t)(uintptr_t)word), 9);
    CHECK(strcmp(got, "in memory") == 0);
    CHECK_EQ(pwrite(fd, "IN", 2, (off_t)(uintptr_t)word), 2);
    CHECK(strncmp(word, "IN ", 3) == 0);
    CHECK_ERR(pread(fd, got, 1, 8), EIO);
}
