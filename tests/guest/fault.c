/* Faults as signals: which one, its code and address, and life after it. */
#include "check.h"
#include <setjmp.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile int signo_seen, code_seen;
static void *volatile address_seen;
static volatile long trap_seen, error_seen;

static void on_fault(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    signo_seen = signo;
    code_seen = info->si_code;
    address_seen = info->si_addr;
    trap_seen = uc->uc_mcontext.gregs[REG_TRAPNO];
    error_seen = uc->uc_mcontext.gregs[REG_ERR];
    siglongjmp(back, 1);
}

static void catch_faults(void)
{
    static const int signos[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    for (unsigned i = 0; i < sizeof signos / sizeof *signos; i++)
        MUST(sigaction(signos[i], &action, NULL));
}

#define FAULTS(statement)              \
    do {                               \
        catch_faults();                \
        signo_seen = 0;                \
        if (sigsetjmp(back, 1) == 0) { \
            statement;                 \
        }                              \
    } while (0)

TEST(unmapped_address)
{
    volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap((void *)p, 4096);
    FAULTS(p[17] = 1);
    CHECK_EQ(signo_seen, SIGSEGV);
    CHECK_EQ(code_seen, SEGV_MAPERR);
    CHECK(address_seen == p + 17);
    CHECK_EQ(trap_seen, 14);
    CHECK_EQ(error_seen & 6, 6); /* a write from user mode */
}

TEST(read_of_null)
{
    volatile char *volatile p = NULL;
    FAULTS((void)*p);
    CHECK_EQ(signo_seen, SIGSEGV);
    CHECK_EQ(code_seen, SEGV_MAPERR);
    CHECK(address_seen == NULL);
    CHECK_EQ(error_seen & 6, 4);
}

TEST(write_to_a_read_only_page)
{
    volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAULTS(p[5] = 1);
    CHECK_EQ(signo_seen, SIGSEGV);
    CHECK_EQ(code_seen, SEGV_ACCERR);
    CHECK(address_seen == p + 5);
}

TEST(execution_of_data)
{
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    p[0] = (char)0xc3;
    FAULTS(((void (*)(void))p)());
    CHECK_EQ(signo_seen, SIGSEGV);
    CHECK_EQ(code_seen, SEGV_ACCERR);
    CHECK(address_seen == p);
}

TEST(non_canonical_address)
{
    volatile char *volatile p = (char *)0x8000000000000000;
    FAULTS((void)*p);
    CHECK_EQ(signo_seen, SIGSEGV);
    CHECK_EQ(code_seen, SI_KERNEL);
    CHECK(address_seen == NULL);
}

TEST(division_by_zero)
{
    volatile int zero = 0, one = 1;
    FAULTS(one = one / zero);
    CHECK_EQ(signo_seen, SIGFPE);
    CHECK_EQ(code_seen, FPE_INTDIV);
    CHECK(address_seen != NULL);
}

TEST(illegal_instruction)
{
    FAULTS(__asm__ volatile("ud2"));
    CHECK_EQ(signo_seen, SIGILL);
    CHECK_EQ(code_seen, ILL_ILLOPN);
    CHECK(address_seen != NULL);
}

TEST(privileged_instruction)
{
    FAULTS(__asm__ volatile("hlt"));
    CHECK_EQ(signo_seen, SIGSEGV);
    CHECK_EQ(code_seen, SI_KERNEL);
}

TEST(breakpoint)
{
    FAULTS(__asm__ volatile("int3"));
    CHECK_EQ(signo_seen, SIGTRAP);
    CHECK_EQ(code_seen, SI_KERNEL);
}

TEST(single_step_flag)
{
    FAULTS(__asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tnop\n\tnop" ::: "memory", "cc"));
    CHECK_EQ(signo_seen, SIGTRAP);
    CHECK_EQ(code_seen, TRAP_TRACE);
}

TEST(page_beyond_the_end_of_a_file)
{
    int fd = (int)MUST(open("f", O_RDWR | O_CREAT, 0600));
    MUST(ftruncate(fd, 100));
    volatile char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    p[200] = 1; /* the rest of the last page is there */
    FAULTS(p[4096] = 1);
    CHECK_EQ(signo_seen, SIGBUS);
    CHECK_EQ(code_seen, BUS_ADRERR);
    CHECK(address_seen == p + 4096);
}

TEST(default_action_of_a_fault)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        *(volatile char *volatile)8 = 1;
        _exit(0);
    }
    CHECK_KILLED(pid, SIGSEGV);
    pid = must_fork();
    if (pid == 0) {
        __asm__ volatile("ud2");
        _exit(0);
    }
    CHECK_KILLED(pid, SIGILL);
}

TEST(a_blocked_or_ignored_fault_kills)
{
    for (int ignored = 0; ignored < 2; ignored++) {
        pid_t pid = must_fork();
        if (pid == 0) {
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGSEGV);
            if (ignored)
                signal(SIGSEGV, SIG_IGN);
            else {
                catch_faults();
                sigprocmask(SIG_BLOCK, &set, NULL);
            }
            *(volatile char *volatile)8 = 1;
            _exit(0);
        }
        CHECK_KILLED(pid, SIGSEGV);
    }
}

TEST(a_handler_may_mend_the_fault)
{
    static char *page;
    void mend(int signo, siginfo_t *info, void *context)
    {
        (void)signo, (void)context;
        CHECK(info->si_addr == page + 9);
        MUST(mprotect(page, 4096, PROT_READ | PROT_WRITE));
    }
    struct sigaction action = {.sa_sigaction = mend, .sa_flags = SA_SIGINFO};
    page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(SIGSEGV, &action, NULL);
    *(volatile char *)(page + 9) = 'm';
    CHECK_EQ(page[9], 'm');
}

TEST(stack_overflow_on_the_alternate_stack)
{
    static char memory[65536];
    stack_t stack = {.ss_sp = memory, .ss_size = sizeof memory};
    pid_t pid = must_fork();
    if (pid == 0) {
        void leave(int signo)
        {
            (void)signo;
            _exit(77);
        }
        struct sigaction action = {.sa_handler = leave, .sa_flags = SA_ONSTACK};
        MUST(sigaltstack(&stack, NULL));
        sigaction(SIGSEGV, &action, NULL);
        __asm__ volatile("1: push %%rax\n\tjmp 1b" ::: "memory");
    }
    CHECK_EXITED(pid, 77);
}

TEST(the_stack_grows_by_itself)
{
    volatile char big[1 << 20];
    for (int i = (int)sizeof big - 1; i >= 0; i -= 4096)
        big[i] = 1;
    CHECK_EQ(big[sizeof big - 1], 1);
}

TEST(kernel_reports_bad_pointers_as_efault)
{
    int fds[2];
    MUST(pipe(fds));
    CHECK_ERR(write(fds[1], (void *)8, 1), EFAULT);
    CHECK_EQ(write(fds[1], "x", 1), 1);
    CHECK_ERR(read(fds[0], (void *)8, 1), EFAULT);
    CHECK_ERR(pipe((int *)8), EFAULT);
    CHECK_ERR(open((char *)8, O_RDONLY), EFAULT);
    CHECK_ERR(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, 8), EFAULT);
    char *readonly = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_ERR(read(fds[0], readonly, 1), EFAULT);
    char *above = (char *)0xffff800000000000;
    CHECK_ERR(read(fds[0], above, 1), EFAULT);
}
