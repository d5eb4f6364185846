/* Credentials: user and group ids, capabilities, no_new_privs, and what they allow on files and processes. */
#include "check.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>

struct caps {
    uint64_t effective, permitted, inheritable;
};

static struct caps caps_get(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    MUST(syscall(SYS_capget, &header, data));
    return (struct caps){data[0].effective | (uint64_t)data[1].effective << 32,
                         data[0].permitted | (uint64_t)data[1].permitted << 32,
                         data[0].inheritable | (uint64_t)data[1].inheritable << 32};
}

static int caps_set(struct caps caps)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {
        {(uint32_t)caps.effective, (uint32_t)caps.permitted, (uint32_t)caps.inheritable},
        {(uint32_t)(caps.effective >> 32), (uint32_t)(caps.permitted >> 32), (uint32_t)(caps.inheritable >> 32)}};
    return (int)syscall(SYS_capset, &header, data);
}

static uint64_t bit(int cap)
{
    return 1ULL << cap;
}

static void become(uid_t uid)
{
    MUST(setgroups(0, NULL));
    MUST(setresgid(uid, uid, uid));
    MUST(setresuid(uid, uid, uid));
}

/* Runs a block in a child, as the user. */
#define AS(uid, ...)           \
    do {                       \
        pid_t p_ = must_fork(); \
        if (p_ == 0) {         \
            become(uid);       \
            __VA_ARGS__;       \
            _exit(0);          \
        }                      \
        CHECK_EXITED(p_, 0);   \
    } while (0)

static void check_uids(uid_t real, uid_t effective, uid_t saved)
{
    uid_t r, e, s;
    MUST(getresuid(&r, &e, &s));
    CHECK_EQ(r, real);
    CHECK_EQ(e, effective);
    CHECK_EQ(s, saved);
}

TEST(root_sets_all_three)
{
    check_uids(0, 0, 0);
    MUST(setresuid(1, 2, 3));
    check_uids(1, 2, 3);
    CHECK(getuid() == 1 && geteuid() == 2);
}

TEST(a_user_moves_among_its_three)
{
    MUST(setresuid(10, 20, 30));
    CHECK_ERR(setresuid(40, (uid_t)-1, (uid_t)-1), EPERM);
    MUST(setresuid((uid_t)-1, 30, (uid_t)-1));
    check_uids(10, 30, 30);
    MUST(seteuid(10));
    check_uids(10, 10, 30);
    CHECK_ERR(setuid(20), EPERM);
    MUST(setuid(30));
    check_uids(10, 30, 30);
    CHECK_ERR(setuid(0), EPERM);
}

TEST(setuid_by_root_sets_all_three)
{
    MUST(setuid(77));
    check_uids(77, 77, 77);
}

TEST(setreuid_saves)
{
    MUST(setreuid(5, 6));
    check_uids(5, 6, 6);
}

TEST(seteuid_and_back)
{
    MUST(seteuid(1000));
    check_uids(0, 1000, 0);
    CHECK_EQ(caps_get().effective, 0);
    CHECK(caps_get().permitted != 0);
    MUST(seteuid(0));
    CHECK(caps_get().effective != 0);
}

TEST(groups)
{
    gid_t list[4] = {7, 8, 9, 0}, got[8];
    MUST(setgroups(3, list));
    CHECK_EQ(getgroups(0, NULL), 3);
    CHECK_EQ(getgroups(8, got), 3);
    CHECK(got[0] == 7 && got[1] == 8 && got[2] == 9);
    CHECK_ERR(getgroups(2, got), EINVAL);
    CHECK_ERR(setgroups(65537, list), EINVAL);
    MUST(setresgid(1, 2, 3));
    gid_t r, e, s;
    MUST(getresgid(&r, &e, &s));
    CHECK(r == 1 && e == 2 && s == 3);
    MUST(setresuid(1, 1, 1));
    CHECK_ERR(setgroups(1, list), EPERM);
    CHECK_ERR(setgid(50), EPERM);
    MUST(setgid(3));
}

TEST(setfsuid_returns_the_old)
{
    CHECK_EQ(setfsuid(1000), 0);
    CHECK_EQ(setfsuid((uid_t)-1), 1000);
    CHECK_EQ(setfsgid((gid_t)-1), 0);
}

TEST(leaving_root_drops_capabilities)
{
    CHECK(caps_get().permitted != 0);
    become(1000);
    CHECK_EQ(caps_get().permitted, 0);
    CHECK_EQ(caps_get().effective, 0);
}

TEST(keepcaps_keeps_the_permitted)
{
    uint64_t had = caps_get().permitted;
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    CHECK_EQ(prctl(PR_GET_KEEPCAPS), 1);
    become(1000);
    CHECK(caps_get().permitted == had);
    CHECK_EQ(caps_get().effective, 0);
}

TEST(capset_may_only_drop)
{
    struct caps caps = caps_get();
    caps.effective &= ~bit(CAP_CHOWN);
    MUST(caps_set(caps));
    CHECK(!(caps_get().effective & bit(CAP_CHOWN)));
    make_file("f", "");
    CHECK_ERR(chown("f", 5, 5), EPERM);
    caps.effective |= bit(CAP_CHOWN);
    MUST(caps_set(caps));
    MUST(chown("f", 5, 5));
    caps.effective &= ~bit(CAP_CHOWN);
    caps.permitted &= ~bit(CAP_CHOWN);
    MUST(caps_set(caps));
    caps.permitted |= bit(CAP_CHOWN);
    CHECK_ERR(caps_set(caps), EPERM);
    struct __user_cap_header_struct old = {.version = 1};
    CHECK_ERR(syscall(SYS_capget, &old, &caps), EINVAL);
    CHECK_EQ(old.version, _LINUX_CAPABILITY_VERSION_3);
}

TEST(bounding_set_drops)
{
    CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 1);
    MUST(prctl(PR_CAPBSET_DROP, CAP_CHOWN));
    CHECK_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 0);
    CHECK_ERR(prctl(PR_CAPBSET_READ, 200), EINVAL);
    char *argv[] = {program_path, "--has-chown", NULL};
    pid_t pid = must_fork();
    if (pid == 0) {
        execv(program_path, argv);
        _exit(99);
    }
    CHECK_EXITED(pid, 0); /* root's exec gives no more than the bounding set */
}

TEST(ambient_capabilities_survive_exec)
{
    struct caps caps = caps_get();
    CHECK_ERR(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0), EPERM);
    caps.inheritable |= bit(CAP_CHOWN);
    MUST(caps_set(caps));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
    CHECK_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), 1);
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    MUST(setresuid(1000, 1000, 1000));
    CHECK_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), 0); /* cleared by leaving root */
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
    pid_t pid = must_fork();
    if (pid == 0) {
        execl("/proc/self/exe", program_path, "--has-chown", NULL);
        _exit(99);
    }
    int status = wait_for(pid);
    CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 1 || WEXITSTATUS(status) == 99));
}

TEST(exec_as_a_user_has_no_capabilities)
{
    char dir[PATH_MAX];
    CHECK(getcwd(dir, sizeof dir) != NULL);
    struct caps caps = caps_get();
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    MUST(setresuid(1000, 1000, 1000));
    caps.effective = caps.permitted = bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_DAC_READ_SEARCH);
    MUST(caps_set(caps));
    pid_t pid = must_fork();
    if (pid == 0) {
        execl(program_path, program_path, "--has-chown", NULL);
        _exit(99);
    }
    CHECK_EXITED(pid, 0);
}

int helper(int argc, char **argv)
{
    (void)argc;
    if (strcmp(argv[1], "--has-chown") == 0)
        return (caps_get().effective & bit(CAP_CHOWN)) != 0;
    if (strcmp(argv[1], "--euid") == 0)
        return (int)geteuid();
    return 99;
}

static void copy_program(const char *path, mode_t mode)
{
    static char block[65536];
    int in = (int)MUST(open(program_path, O_RDONLY)), out = (int)MUST(open(path, O_WRONLY | O_CREAT, 0700));
    ssize_t n;
    while ((n = read(in, block, sizeof block)) > 0)
        CHECK_EQ(write(out, block, (size_t)n), n);
    close(in);
    close(out);
    MUST(chmod(path, mode));
}

TEST(no_new_privs_is_for_good)
{
    CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK_ERR(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
    CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    pid_t pid = must_fork();
    if (pid == 0)
        _exit(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    CHECK_EXITED(pid, 1);
}

TEST(setuid_bit_does_nothing_with_no_new_privs)
{
    MUST(chmod(".", 0755));
    copy_program("program", 0755);
    MUST(chown("program", 55, 55));
    MUST(chmod("program", 04755));
    char path[PATH_MAX + 16];
    CHECK(getcwd(path, PATH_MAX) != NULL);
    strcat(path, "/program");
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        execl(path, path, "--euid", NULL);
        _exit(99);
    }
    CHECK_EXITED(pid, 0);
}

TEST(securebits)
{
    CHECK_EQ(prctl(PR_GET_SECUREBITS), 0);
    if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) == -1) {
        CHECK_EQ(errno, EPERM);
        return;
    }
    CHECK_EQ(prctl(PR_GET_SECUREBITS), SECBIT_NO_SETUID_FIXUP);
    MUST(setresuid(1000, 1000, 1000));
    CHECK(caps_get().effective != 0);
}

TEST(file_permission_bits)
{
    MUST(chmod(".", 0755));
    make_file("owner", "x");
    MUST(chown("owner", 1000, 1000));
    MUST(chmod("owner", 0400));
    make_file("group", "x");
    MUST(chown("group", 0, 1000));
    MUST(chmod("group", 0040));
    make_file("other", "x");
    MUST(chmod("other", 0004));
    make_file("none", "x");
    MUST(chmod("none", 0));
    int dir = (int)MUST(open(".", O_RDONLY));
    AS(1000, MUST(openat(dir, "owner", O_RDONLY)); CHECK_ERR(openat(dir, "owner", O_WRONLY), EACCES);
       MUST(openat(dir, "group", O_RDONLY)); MUST(openat(dir, "other", O_RDONLY));
       CHECK_ERR(openat(dir, "none", O_RDONLY), EACCES); CHECK_ERR(openat(dir, "other", O_RDWR), EACCES));
    AS(2000, CHECK_ERR(openat(dir, "owner", O_RDONLY), EACCES); CHECK_ERR(openat(dir, "group", O_RDONLY), EACCES);
       MUST(openat(dir, "other", O_RDONLY)));
    MUST(chmod("owner", 0077)); /* the owner has the owner's bits only */
    AS(1000, CHECK_ERR(openat(dir, "owner", O_RDONLY), EACCES));
    AS(2000, MUST(openat(dir, "owner", O_RDWR)));
}

TEST(supplementary_groups_count)
{
    gid_t group = 4242;
    make_file("f", "x");
    MUST(chown("f", 0, group));
    MUST(chmod("f", 0040));
    int dir = (int)MUST(open(".", O_RDONLY));
    MUST(chmod(".", 0755));
    MUST(setgroups(1, &group));
    MUST(setresgid(1000, 1000, 1000));
    MUST(setresuid(1000, 1000, 1000));
    MUST(openat(dir, "f", O_RDONLY));
}

TEST(directory_permissions)
{
    MUST(chmod(".", 0755));
    MUST(mkdir("nosearch", 0755));
    make_file("nosearch/f", "x");
    MUST(chmod("nosearch", 0744));
    MUST(mkdir("nowrite", 0755));
    make_file("nowrite/f", "x");
    MUST(mkdir("noread", 0711));
    make_file("noread/f", "x");
    AS(1000, CHECK_ERR(open("nosearch/f", O_RDONLY), EACCES); MUST(open("nosearch", O_RDONLY));
       CHECK_ERR(open("nowrite/new", O_WRONLY | O_CREAT, 0600), EACCES); CHECK_ERR(unlink("nowrite/f"), EACCES);
       CHECK_ERR(mkdir("nowrite/d", 0700), EACCES); CHECK_ERR(rename("nowrite/f", "nowrite/g"), EACCES);
       CHECK_ERR(symlink("x", "nowrite/s"), EACCES);
       CHECK_ERR(open("noread", O_RDONLY), EACCES); MUST(open("noread/f", O_RDONLY));
       CHECK_ERR(chdir("nosearch"), EACCES); struct stat st; CHECK_ERR(stat("nosearch/f", &st), EACCES));
}

TEST(sticky_directory)
{
    MUST(chmod(".", 0755));
    MUST(mkdir("d", 0777));
    MUST(chmod("d", 01777));
    make_file("d/roots", "x");
    AS(1000, make_file("d/mine", "x"));
    AS(2000, CHECK_ERR(unlink("d/mine"), EPERM); CHECK_ERR(rename("d/mine", "d/x"), EPERM);
       CHECK_ERR(unlink("d/roots"), EPERM));
    AS(1000, MUST(unlink("d/mine")));
}

TEST(only_owners_change_attributes)
{
    MUST(chmod(".", 0755));
    make_file("f", "x");
    MUST(chmod("f", 0666));
    AS(1000, CHECK_ERR(chmod("f", 0600), EPERM); CHECK_ERR(chown("f", 1000, 1000), EPERM);
       struct timespec times[2] = {{1, 0}, {1, 0}}; CHECK_ERR(utimensat(AT_FDCWD, "f", times, 0), EPERM);
       MUST(utimensat(AT_FDCWD, "f", NULL, 0)));
    MUST(chown("f", 1000, 1000));
    AS(1000, MUST(chmod("f", 0600)); CHECK_ERR(chown("f", 0, -1), EPERM); CHECK_ERR(chown("f", -1, 5), EPERM);
       MUST(chown("f", -1, 1000)));
}

TEST(execute_permission)
{
    MUST(chmod(".", 0755));
    copy_program("program", 0644);
    char *argv[] = {"./program", "--euid", NULL};
    CHECK_ERR(execv("./program", argv), EACCES); /* not even root, when nobody may */
    MUST(chmod("program", 0744));
    AS(1000, CHECK_ERR(execv("./program", argv), EACCES));
    MUST(chmod("program", 0755));
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(setresuid(55, 55, 55));
        execv("./program", argv);
        _exit(99);
    }
    int status = wait_for(pid);
    CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 55 || WEXITSTATUS(status) == 2));
}

TEST(signals_need_the_same_user)
{
    struct gate ready = gate_new();
    pid_t victim = must_fork();
    if (victim == 0) {
        become(1000);
        gate_open(&ready);
        for (;;)
            pause();
    }
    gate_wait(&ready);
    AS(2000, CHECK_ERR(kill(victim, 0), EPERM); CHECK_ERR(kill(victim, SIGTERM), EPERM));
    AS(1000, MUST(kill(victim, 0)));
    MUST(kill(victim, SIGKILL));
    CHECK_KILLED(victim, SIGKILL);
}

TEST(a_user_is_refused_roots_calls)
{
    MUST(chmod(".", 0777));
    AS(1000, CHECK_ERR(chroot("/"), EPERM); CHECK_ERR(sethostname("x", 1), EPERM);
       CHECK_ERR(mknod("never-made", S_IFCHR | 0600, 0x103), EPERM);
       struct timespec t = {0}; CHECK_ERR(clock_settime(CLOCK_REALTIME, &t), EPERM);
       CHECK_ERR(syscall(SYS_mount, "x", "/", "tmpfs", 0, NULL), EPERM); CHECK_ERR(nice(-5), EPERM));
}

TEST(dumpable)
{
    CHECK_EQ(prctl(PR_GET_DUMPABLE), 1);
    MUST(prctl(PR_SET_DUMPABLE, 0));
    CHECK_EQ(prctl(PR_GET_DUMPABLE), 0);
    CHECK_ERR(prctl(PR_SET_DUMPABLE, 2), EINVAL);
    CHECK_ERR(prctl(12345, 0, 0, 0, 0), EINVAL);
}
