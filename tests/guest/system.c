/* The system's word about itself: uname, sysinfo, limits, scheduling, randomness, and the kernel's log. */
#include "check.h"
#include <sys/klog.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

TEST(uname_fields)
{
    struct utsname name;
    MUST(uname(&name));
    CHECK(strcmp(name.sysname, "Linux") == 0);
    CHECK(strcmp(name.machine, "x86_64") == 0);
    CHECK(name.release[0] >= '4' && strchr(name.release, '.') != NULL);
    CHECK(name.nodename[0] != 0 && name.version[0] != 0);
    CHECK_ERR(syscall(SYS_uname, 8), EFAULT);
}

TEST(sysinfo_fields)
{
    struct sysinfo info;
    MUST(sysinfo(&info));
    CHECK(info.uptime >= 0 && info.procs > 0 && info.mem_unit > 0);
    CHECK(info.totalram > 0 && info.freeram <= info.totalram);
}

TEST(random_bytes)
{
    char a[300] = {0}, b[300] = {0};
    CHECK_EQ(getrandom(a, sizeof a, 0), sizeof a);
    CHECK_EQ(getrandom(b, sizeof b, GRND_NONBLOCK), sizeof b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    CHECK_EQ(getrandom(a, 0, 0), 0);
    CHECK_ERR(getrandom(a, 1, 0x100), EINVAL);
    CHECK_ERR(getrandom((void *)8, 1, 0), EFAULT);
}

TEST(limits)
{
    struct rlimit limit, got;
    struct rlimit soft = {50, 60};
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    CHECK(limit.rlim_cur > 0 && limit.rlim_cur <= limit.rlim_max);
    MUST(prlimit(0, RLIMIT_NOFILE, &soft, &got));
    CHECK(got.rlim_cur == limit.rlim_cur);
    MUST(prlimit(getpid(), RLIMIT_NOFILE, NULL, &got));
    CHECK(got.rlim_cur == 50 && got.rlim_max == 60);
    soft = (struct rlimit){61, 60};
    CHECK_ERR(setrlimit(RLIMIT_NOFILE, &soft), EINVAL);
    CHECK_ERR(getrlimit(99, &got), EINVAL);
    CHECK_ERR(prlimit(1 << 30, RLIMIT_NOFILE, NULL, &got), ESRCH);
    MUST(getrlimit(RLIMIT_STACK, &got));
    CHECK(got.rlim_cur >= 1 << 20);
    pid_t pid = must_fork();
    if (pid == 0) {
        MUST(getrlimit(RLIMIT_NOFILE, &got));
        _exit(got.rlim_cur == 50 ? 0 : 1);
    }
    CHECK_EXITED(pid, 0);
    MUST(setresuid(1000, 1000, 1000));
    soft = (struct rlimit){50, 70};
    CHECK_ERR(setrlimit(RLIMIT_NOFILE, &soft), EPERM);
}

TEST(affinity_and_processors)
{
    cpu_set_t set, one;
    unsigned cpu, node;
    MUST(sched_getaffinity(0, sizeof set, &set));
    CHECK(CPU_COUNT(&set) >= 1);
    CHECK_EQ(CPU_COUNT(&set), sysconf(_SC_NPROCESSORS_ONLN));
    MUST(syscall(SYS_getcpu, &cpu, &node, NULL));
    CHECK(CPU_ISSET(cpu, &set));
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    MUST(sched_setaffinity(0, sizeof one, &one));
    MUST(sched_getaffinity(0, sizeof set, &set));
    CHECK(CPU_EQUAL(&set, &one));
    CPU_ZERO(&one);
    CHECK_ERR(sched_setaffinity(0, sizeof one, &one), EINVAL);
    CHECK_ERR(sched_getaffinity(1 << 30, sizeof one, &one), ESRCH);
    CHECK_ERR(syscall(SYS_sched_getaffinity, 0, 3, &one), EINVAL);
}

TEST(scheduling_policy)
{
    struct sched_param param = {.sched_priority = 99};
    CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
    MUST(sched_getparam(0, &param));
    CHECK_EQ(param.sched_priority, 0);
    CHECK_EQ(sched_get_priority_max(SCHED_FIFO), 99);
    CHECK_EQ(sched_get_priority_min(SCHED_FIFO), 1);
    CHECK_EQ(sched_get_priority_max(SCHED_OTHER), 0);
    CHECK_ERR(sched_get_priority_max(77), EINVAL);
    MUST(sched_yield());
    CHECK_EQ(getpriority(PRIO_PROCESS, 0), 0);
    MUST(setpriority(PRIO_PROCESS, 0, 5));
    CHECK_EQ(getpriority(PRIO_PROCESS, 0), 5);
    CHECK_EQ(nice(3), 8);
    CHECK_ERR(getpriority(PRIO_PROCESS, 1 << 30), ESRCH);
}

TEST(host_name_may_be_set_by_root_of_its_own_namespace)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        struct utsname name;
        if (unshare(CLONE_NEWUTS) != 0)
            _exit(errno == EPERM || errno == EINVAL || errno == ENOSYS ? 0 : 1);
        MUST(sethostname("elsewhere", 9));
        MUST(uname(&name));
        _exit(strcmp(name.nodename, "elsewhere") == 0 ? 0 : 1);
    }
    CHECK_EXITED(pid, 0);
}

TEST(kernel_log_has_a_size)
{
    static char text[65536];
    CHECK(klogctl(10, NULL, 0) > 0);
    CHECK(klogctl(3, text, sizeof text) >= 0);
    CHECK_ERR(klogctl(99, NULL, 0), EINVAL);
}

TEST(personality_is_linux)
{
    CHECK_EQ(syscall(SYS_personality, 0xffffffff), 0);
}

TEST(unknown_calls_are_not_there)
{
    CHECK_ERR(syscall(499), ENOSYS);
    CHECK_ERR(syscall(1000000), ENOSYS);
    CHECK_ERR(syscall(-1), ENOSYS);
    CHECK_ERR(syscall(SYS_tuxcall), ENOSYS);
}

TEST(arch_prctl_bases)
{
    unsigned long fs, gs = 1;
    MUST(syscall(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, &fs));
    CHECK(fs != 0);
    MUST(syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, 0x12345000UL));
    MUST(syscall(SYS_arch_prctl, 0x1004 /* ARCH_GET_GS */, &gs));
    CHECK_EQ(gs, 0x12345000);
    CHECK_ERR(syscall(SYS_arch_prctl, 0x1001, 1UL << 63), EPERM);
    CHECK_ERR(syscall(SYS_arch_prctl, 0x9999, 0), EINVAL);
}

TEST(registers_survive_a_system_call)
{
    long rbx = 1, r12 = 2, r13 = 3, r14 = 4, r15 = 5, rdi = 6, rsi = 7, rdx = 8, r8 = 9, r9 = 10, r10 = 11, rax;
    register long a8 __asm__("r8") = r8, a9 __asm__("r9") = r9, a10 __asm__("r10") = r10;
    register long a12 __asm__("r12") = r12, a13 __asm__("r13") = r13, a14 __asm__("r14") = r14, a15 __asm__("r15") = r15;
    __asm__ volatile("syscall"
                     : "=a"(rax), "+b"(rbx), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(a8), "+r"(a9), "+r"(a10), "+r"(a12),
                       "+r"(a13), "+r"(a14), "+r"(a15)
                     : "a"(SYS_getpid)
                     : "rcx", "r11", "memory");
    CHECK_EQ(rax, getpid());
    CHECK(rbx == 1 && a12 == 2 && a13 == 3 && a14 == 4 && a15 == 5 && rdi == 6 && rsi == 7 && rdx == 8);
    CHECK(a8 == 9 && a9 == 10 && a10 == 11);
}

TEST(direction_and_carry_flags_survive)
{
    unsigned long flags, rax = SYS_getpid;
    __asm__ volatile("stc\n\tsyscall\n\tpushfq\n\tpop %0" : "=r"(flags), "+a"(rax)::"rcx", "r11", "memory", "cc");
    CHECK(flags & 1);
}
