/* The vector registers, all that the processor has, in every bit: a process's own, whoever runs meanwhile. */
#include "check.h"
#include <pthread.h>
#include <setjmp.h>

/* Whether CPUID tells of AVX is the platform's choice; whether programs have it, the register that XGETBV reads says. */
enum { SSE, AVX, AVX512 };
enum { SIZE = 32 * 64 + 8 * 8 }; /* zmm0 to zmm31, k0 to k7 */

static sigjmp_buf no_such_instruction;

static void leave(int signo)
{
    (void)signo;
    siglongjmp(no_such_instruction, 1);
}

static int level(void)
{
    static int known = -1;
    unsigned int low, high;
    if (known >= 0)
        return known;
    known = SSE;
    signal(SIGILL, leave);
    if (sigsetjmp(no_such_instruction, 1) == 0) {
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        known = (low & 0xe6) == 0xe6 ? AVX512 : (low & 6) == 6 ? AVX : SSE;
    }
    signal(SIGILL, SIG_DFL);
    return known;
}

static size_t size_of(int level)
{
    return level == AVX512 ? SIZE : level == AVX ? 16 * 32 : 16 * 16;
}

#define LOW "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define ALL LOW ",16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"
#define EACH(numbers, move) ".irp n," numbers "\n\t" move "\n\t.endr\n\t"
#define MASKS "0,1,2,3,4,5,6,7"

/* Loads all registers from r8, runs the code, stores them all at r9. */
#define AROUND(load, code, store)                                                                                   \
    __asm__ volatile(load code store                                                                                \
                     : "+a"(number)                                                                                 \
                     : "D"(a), "S"(b), "d"(c), "r"(word), "r"(from), "r"(to)                                        \
                     : "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",      \
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

#define AROUND_AT(level, code)                                                                                      \
    do {                                                                                                            \
        if ((level) == AVX512)                                                                                      \
            AROUND(EACH(ALL, "vmovdqu64 64*\\n(%%r8), %%zmm\\n") EACH(MASKS, "kmovq 2048+8*\\n(%%r8), %%k\\n"), code, \
                   EACH(ALL, "vmovdqu64 %%zmm\\n, 64*\\n(%%r9)") EACH(MASKS, "kmovq %%k\\n, 2048+8*\\n(%%r9)")      \
                   "vzeroupper");                                                                                   \
        else if ((level) == AVX)                                                                                    \
            AROUND(EACH(LOW, "vmovdqu 32*\\n(%%r8), %%ymm\\n"), code,                                               \
                   EACH(LOW, "vmovdqu %%ymm\\n, 32*\\n(%%r9)") "vzeroupper");                                       \
        else                                                                                                        \
            AROUND(EACH(LOW, "movdqu 16*\\n(%%r8), %%xmm\\n"), code, EACH(LOW, "movdqu %%xmm\\n, 16*\\n(%%r9)"));   \
    } while (0)

static long call_with(int level, const char *in, char *out, long number, long a, long b, long c)
{
    register const char *from __asm__("r8") = in;
    register char *to __asm__("r9") = out;
    register void *word __asm__("r10") = NULL;
    AROUND_AT(level, "syscall\n\t");
    return number;
}

/* Without a system call: only a preemption can come between. */
static void spin_with(int level, const char *in, char *out, long number)
{
    register const char *from __asm__("r8") = in;
    register char *to __asm__("r9") = out;
    register void *word __asm__("r10") = NULL;
    long a = 0, b = 0, c = 0;
    AROUND_AT(level, "1: dec %%rax\n\tjnz 1b\n\t");
}

static __thread char pattern[SIZE], found[SIZE];

static void make_pattern(unsigned int seed)
{
    for (size_t i = 0; i < SIZE; i++)
        pattern[i] = (char)((i * 7 + seed * 31) ^ (i >> 5) ^ 0x55);
    memset(found, 0, sizeof found);
}

static int is_kept(int level)
{
    return memcmp(pattern, found, size_of(level)) == 0;
}

TEST(calls_keep_them)
{
    int have = level();
    for (unsigned int i = 0; i < 20; i++) {
        make_pattern(i);
        call_with(have, pattern, found, i % 2 ? SYS_getppid : SYS_umask, 022, 0, 0);
        CHECK(is_kept(have));
    }
}

TEST(a_fork_has_them)
{
    int have = level();
    make_pattern(5);
    pid_t pid = (pid_t)call_with(have, pattern, found, SYS_fork, 0, 0, 0);
    CHECK(pid >= 0 && is_kept(have));
    if (pid == 0)
        _exit(42);
    CHECK_EXITED(pid, 42);
}

/* What a raw thread stores its registers in, before it changes and leaves them. */
static struct {
    int tid; /* 0 when it has ended */
    char born[SIZE] __attribute__((aligned(64)));
} thread_of;

enum { BORN = offsetof(__typeof__(thread_of), born) };

#define IN_THREAD(store)                                                                                             \
    "syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\t" store EACH(LOW, "pcmpeqd %%xmm\\n, %%xmm\\n")                  \
    "mov $60, %%eax\n\txor %%edi, %%edi\n\tsyscall\n\tud2\n\t1: "

#define START_AT(level)                                                                                              \
    do {                                                                                                             \
        if ((level) == AVX512)                                                                                       \
            AROUND(EACH(ALL, "vmovdqu64 64*\\n(%%r8), %%zmm\\n") EACH(MASKS, "kmovq 2048+8*\\n(%%r8), %%k\\n"),      \
                   IN_THREAD(EACH(ALL, "vmovdqu64 %%zmm\\n, 64*\\n+64(%%r10)")                                       \
                             EACH(MASKS, "kmovq %%k\\n, 2048+8*\\n+64(%%r10)")),                                     \
                   EACH(ALL, "vmovdqu64 %%zmm\\n, 64*\\n(%%r9)") EACH(MASKS, "kmovq %%k\\n, 2048+8*\\n(%%r9)")       \
                   "vzeroupper");                                                                                    \
        else if ((level) == AVX)                                                                                     \
            AROUND(EACH(LOW, "vmovdqu 32*\\n(%%r8), %%ymm\\n"),                                                    \
                   IN_THREAD(EACH(LOW, "vmovdqu %%ymm\\n, 32*\\n+64(%%r10)")),                                     \
                   EACH(LOW, "vmovdqu %%ymm\\n, 32*\\n(%%r9)") "vzeroupper");                                      \
        else                                                                                                         \
            AROUND(EACH(LOW, "movdqu 16*\\n(%%r8), %%xmm\\n"),                                                     \
                   IN_THREAD(EACH(LOW, "movdqu %%xmm\\n, 16*\\n+64(%%r10)")),                                      \
                   EACH(LOW, "movdqu %%xmm\\n, 16*\\n(%%r9)"));                                                    \
    } while (0)

/* clone(2) of a thread that does the above, with its word to clear where it stores. */
static long start_with(int level, const char *in, char *out, char *stack)
{
    register const char *from __asm__("r8") = in;
    register char *to __asm__("r9") = out;
    register void *word __asm__("r10") = &thread_of;
    long number = SYS_clone, c = 0;
    long a = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
    char *b = stack;
    START_AT(level);
    return number;
}

TEST(a_thread_has_them_from_its_maker)
{
    static char stack[4096] __attribute__((aligned(64)));
    int have = level();
    CHECK_EQ(BORN, 64);
    for (unsigned int i = 0; i < 5; i++) {
        make_pattern(i);
        __atomic_store_n(&thread_of.tid, 1, __ATOMIC_SEQ_CST);
        CHECK(start_with(have, pattern, found, stack + sizeof stack) > 0);
        CHECK(is_kept(have));
        while (__atomic_load_n(&thread_of.tid, __ATOMIC_SEQ_CST))
            syscall(SYS_futex, &thread_of.tid, 0 /* FUTEX_WAIT */, 1, NULL);
        CHECK(memcmp(thread_of.born, pattern, size_of(have)) == 0);
    }
}

TEST(a_faulting_page_keeps_them)
{
    int have = level();
    for (unsigned int i = 0; i < 20; i++) {
        make_pattern(i);
        char *fresh = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(fresh != MAP_FAILED);
        spin_with(have, pattern, fresh, 1);
        CHECK(memcmp(fresh, pattern, size_of(have)) == 0);
        munmap(fresh, 4096);
    }
}

static int handler_level, handled;

static void clobber(int signo)
{
    static char others[SIZE], stored[SIZE];
    (void)signo;
    handled++;
    memset(others, 0xa5, sizeof others);
    spin_with(handler_level, others, stored, 1);
}

TEST(a_signal_handler_gives_them_back)
{
    int have = handler_level = level();
    struct sigaction action = {.sa_handler = clobber};
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 1; i <= 10; i++) {
        make_pattern((unsigned int)i);
        CHECK_EQ(call_with(have, pattern, found, SYS_tgkill, getpid(), gettid(), SIGUSR1), 0);
        CHECK_EQ(handled, i);
        CHECK(is_kept(have));
    }
}

/* Into the first register as it is after the handler; 0: nothing. */
static char into_frame;

static void clobber_or_not(int signo, siginfo_t *info, void *context)
{
    const ucontext_t *uc = context;
    (void)info;
    if (handled % 40 < 3)
        clobber(signo);
    else
        handled++;
    if (into_frame)
        uc->uc_mcontext.fpregs->_xmm[0].element[0] = (unsigned int)into_frame;
}

/* A platform may look whether there is anything to give back. */
TEST(handlers_that_leave_them_alone_and_others_give_them_back)
{
    int have = handler_level = level();
    struct sigaction action = {.sa_sigaction = clobber_or_not, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 1; i <= 200; i++) {
        make_pattern((unsigned int)(i / 3));
        CHECK_EQ(call_with(have, pattern, found, SYS_tgkill, getpid(), gettid(), SIGUSR1), 0);
        CHECK_EQ(handled, i);
        CHECK(is_kept(have));
    }
}

TEST(a_handler_may_change_them_in_its_frame)
{
    int have = handler_level = level();
    struct sigaction action = {.sa_sigaction = clobber_or_not, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 1; i <= 100; i++) {
        unsigned int first;
        make_pattern(9);
        into_frame = (char)(i % 3);
        CHECK_EQ(call_with(have, pattern, found, SYS_tgkill, getpid(), gettid(), SIGUSR1), 0);
        memcpy(&first, found, sizeof first);
        if (into_frame)
            CHECK_EQ(first, into_frame);
        CHECK(memcmp(pattern + 4, found + 4, size_of(have) - 4) == 0);
        CHECK(into_frame || is_kept(have));
    }
}

enum { COUNT = 5 };

/* Some processes at once, each of which does this with its number. */
static void in_each_of_some(void (*one)(int have, unsigned int number))
{
    pid_t pids[COUNT];
    int have = level();
    for (unsigned int i = 0; i < COUNT; i++) {
        pids[i] = must_fork();
        if (pids[i])
            continue;
        one(have, i);
        _exit((int)i);
    }
    for (int i = 0; i < COUNT; i++)
        CHECK_EXITED(pids[i], i);
}

static void call_often(int have, unsigned int number)
{
    enum { ROUNDS = 30 };
    struct timespec moment = {0, 1000};
    for (unsigned int round = 0; round < ROUNDS; round++) {
        make_pattern(number * ROUNDS + round);
        call_with(have, pattern, found, round % 2 ? SYS_sched_yield : SYS_nanosleep, (long)&moment, 0, 0);
        CHECK(is_kept(have));
    }
}

TEST(processes_take_turns_with_them)
{
    in_each_of_some(call_often);
}

static void spin_often(int have, unsigned int number)
{
    for (unsigned int round = 0; round < 10; round++) {
        make_pattern(number * 10 + round);
        spin_with(have, pattern, found, 10 * 1000 * 1000);
        CHECK(is_kept(have));
    }
}

TEST(spinning_processes_take_turns_with_them)
{
    in_each_of_some(spin_often);
}

static void *take_turns(void *argument)
{
    int have = level();
    for (unsigned int round = 0; round < 30; round++) {
        make_pattern((unsigned int)(uintptr_t)argument * 30 + round);
        call_with(have, pattern, found, SYS_sched_yield, 0, 0, 0);
        CHECK(is_kept(have));
        spin_with(have, pattern, found, 100 * 1000);
        CHECK(is_kept(have));
    }
    return NULL;
}

TEST(threads_take_turns_with_them)
{
    enum { COUNT = 4 };
    pthread_t threads[COUNT];
    level(); /* while there is one thread: it sets a handler */
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, take_turns, (void *)(uintptr_t)i), 0);
    for (int i = 0; i < COUNT; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
}
