/* System calls made again and again from one place: a platform may come to answer those in another way (systrap patches
 * the place), which the program must not notice.  And programs that look behind it, and meddle. */
#include "check.h"
#include <asm/prctl.h>
#include <pthread.h>
#include <ucontext.h>

enum { ROUNDS = 3000, MANY = 20000 };

/* A site of our own, `mov $39, %eax; syscall`, and its parts. */
asm(".text\n"
    ".globl site, site_call, site_end, call_site_with_flags\n"
    "site:\n"
    "	mov $39, %eax\n"
    "site_call:\n"
    "	syscall\n"
    "site_end:\n"
    "	ret\n"
    /* rdi: flags to begin with; rsi: where to put flags, rcx and rax behind the call. */
    "call_site_with_flags:\n"
    "	push %rbx\n"
    "	push %rbp\n"
    "	push %r12\n"
    "	push %r13\n"
    "	push %r14\n"
    "	push %r15\n"
    "	mov %rsi, %rbx\n"
    "	mov $1, %ebp\n"
    "	mov $2, %r12d\n"
    "	mov $3, %r13d\n"
    "	mov $4, %r14d\n"
    "	mov $5, %r15d\n"
    "	mov $6, %edx\n"
    "	mov $7, %r8d\n"
    "	mov $8, %r9d\n"
    "	mov $9, %r10d\n"
    "	movq $0x5a5a5a5a, -128(%rsp)\n" /* the red zone */
    "	push %rdi\n"
    "	popfq\n"
    "	movq $0x6b6b6b6b, -120(%rsp)\n"
    "	call site\n"
    "	pushfq\n"
    "	popq (%rbx)\n"
    "	mov %rcx, 8(%rbx)\n"
    "	mov %rax, 16(%rbx)\n"
    "	lea (%rdx,%rbp), %rax\n"
    "	add %r12, %rax\n"
    "	add %r13, %rax\n"
    "	add %r14, %rax\n"
    "	add %r15, %rax\n"
    "	add %r8, %rax\n"
    "	add %r9, %rax\n"
    "	add %r10, %rax\n"
    "	mov %rax, 24(%rbx)\n"
    "	mov -120(%rsp), %rax\n"
    "	mov %rax, 32(%rbx)\n"
    "	pop %r15\n"
    "	pop %r14\n"
    "	pop %r13\n"
    "	pop %r12\n"
    "	pop %rbp\n"
    "	pop %rbx\n"
    "	ret\n");

extern char site[], site_call[], site_end[], __executable_start[], etext[];
void call_site_with_flags(unsigned long flags, unsigned long *out);

static long call_site(void)
{
    long result;
    asm volatile("call site" : "=a"(result) : : "rcx", "r11", "memory");
    return result;
}

static void use_site(int rounds)
{
    for (int i = 0; i < rounds; i++)
        CHECK_EQ(call_site(), getpid());
}

TEST(results_are_right_whatever_the_form_of_the_site)
{
    char c;
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    pid_t pid = getpid(), tid = (pid_t)syscall(SYS_gettid);
    for (int i = 0; i < ROUNDS; i++) {
        c = (char)i;
        CHECK_EQ(pwrite(fd, &c, 1, i), 1);
    }
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(getpid(), pid);
        CHECK_EQ(syscall(SYS_gettid), tid);
        CHECK_EQ(read(fd, &c, 1), 1);
        CHECK_EQ(c, (char)i);
        CHECK_EQ(pread(fd, &c, 1, i / 2), 1);
        CHECK_EQ(c, (char)(i / 2));
        CHECK_ERR(close(-1), EBADF);
    }
}

TEST(memory_and_ending_calls_go_by_the_same_wrapper)
{
    for (int i = 0; i < ROUNDS / 4; i++) {
        char *page = (char *)syscall(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
        CHECK(page != MAP_FAILED);
        page[5] = 1;
        CHECK_EQ(syscall(SYS_getppid), getppid());
        MUST(syscall(SYS_munmap, page, 4096));
    }
    for (int i = 0; i < 10; i++) {
        pid_t pid = (pid_t)MUST(syscall(SYS_fork));
        if (pid == 0)
            syscall(SYS_exit_group, 7);
        CHECK_EXITED(pid, 7);
    }
}

TEST(registers_flags_and_red_zone_survive)
{
    static const unsigned long arithmetic = 0x8d5;
    unsigned long out[5];
    for (unsigned long i = 0; i < ROUNDS; i++) {
        unsigned long flags = 0x202 | (i * 0x9e3779b1 >> 3 & arithmetic);
        call_site_with_flags(flags, out);
        CHECK_EQ(out[0] & arithmetic, flags & arithmetic);
        CHECK_EQ(out[1], (long)site_end);
        CHECK_EQ(out[2], getpid());
        CHECK_EQ(out[3], 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9);
        CHECK_EQ(out[4], 0x6b6b6b6b);
    }
}

TEST(a_jump_to_the_instruction_itself_works)
{
    use_site(ROUNDS);
    for (int i = 0; i < ROUNDS; i++) {
        long result;
        asm volatile("call site_call" : "=a"(result) : "a"(SYS_getppid) : "rcx", "r11", "memory");
        CHECK_EQ(result, getppid());
        CHECK_EQ(call_site(), getpid());
    }
}

/* Two pages, the second of which is out of bounds: where that begins. */
static char *edge(void)
{
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    MUST(mprotect(pages + 4096, 4096, PROT_NONE));
    return pages + 4096;
}

TEST(what_a_call_reads_and_fills_is_right_or_EFAULT)
{
    static char data[5000], got[5000];
    static const int sizes[] = {0, 1, 7, 8, 9, 15, 16, 100, 255, 256, 257, 4095, 4096, 4097, 5000};
    char *end = edge(), *fixed = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char name[300];
    struct stat st;
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    memset(name, 'n', sizeof name);
    for (int i = 0; i < ROUNDS / 6; i++) {
        int n = sizes[i % 15];
        for (int k = 0; k < n; k++)
            data[k] = (char)(i * 7 + k);
        CHECK_EQ(pwrite(fd, data, n, 3), n);
        memset(got, 0x55, sizeof got);
        CHECK_EQ(pread(fd, got, n, 3), n);
        CHECK(memcmp(got, data, n) == 0 && (n == sizeof got || got[n] == 0x55));
        CHECK_ERR(pwrite(fd, end, 8, 0), EFAULT);
        CHECK_EQ(pwrite(fd, end - 5, 8, 0), 5);
        CHECK_ERR(pread(fd, end, 1, 0), EFAULT);
        CHECK_ERR(pread(fd, fixed, 1, 0), EFAULT);
        CHECK_EQ(pread(fd, end - 2, 3, 0), 2);
        CHECK_ERR(stat("file", (struct stat *)fixed), EFAULT);
        CHECK_ERR(stat("file", (struct stat *)(end - 8)), EFAULT);
        CHECK_ERR(fstat(fd, (struct stat *)~0xfful), EFAULT);
        memset(&st, 0x55, sizeof st);
        MUST(stat("file", &st));
        CHECK(S_ISREG(st.st_mode) && st.st_nlink == 1);
        memcpy(end - 4, "file", 4);
        CHECK_ERR(stat(end - 4, &st), EFAULT);
        memcpy(end - 5, "file", 5);
        MUST(stat(end - 5, &st));
        CHECK_ERR(stat(end, &st), EFAULT);
        CHECK_ERR(open(end - 3, O_RDONLY), ENOENT);
        name[255] = i & 1 ? 'n' : 0;
        name[299] = 0;
        CHECK_ERR(stat(name, &st), i & 1 ? ENAMETOOLONG : ENOENT);
    }
}

TEST(memory_that_must_be_fetched_first_is_used_all_the_same)
{
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    for (int i = 0; i < ROUNDS / 6; i++) {
        char *fresh = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(fresh != MAP_FAILED);
        for (int k = 0; k < 10; k++)
            CHECK_EQ(pwrite(fd, "some text", 10, 0), 10);
        CHECK_EQ(pread(fd, fresh + 4090, 10, 0), 10);
        CHECK(strcmp(fresh + 4090, "some text") == 0);
        MUST(munmap(fresh, 8192));
    }
}

static volatile sig_atomic_t alarms;
static volatile bool outside;
static int alarm_fd;

static void on_alarm(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)info;
    unsigned long rip = (unsigned long)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    uint64_t one = 1;
    if (rip < (unsigned long)__executable_start || rip > (unsigned long)etext)
        outside = true;
    alarms++;
    if (write(alarm_fd, &one, sizeof one) != sizeof one)
        outside = true;
}

/* Not so often that a slow machine does nothing else. */
static void alarm_every(long us)
{
    us *= slowness();
    struct timeval interval = {us / 1000000, us % 1000000};
    struct itimerval timer = {interval, interval};
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
}

TEST(each_call_happens_once_amid_signals)
{
    struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART};
    uint64_t got;
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    alarm_fd = (int)MUST(open("alarms", O_RDWR | O_CREAT, 0600));
    MUST(sigaction(SIGALRM, &action, NULL));
    alarm_every(2000);
    for (uint64_t i = 0; i < (uint64_t)(MANY / slowness()) || alarms < 5; i++) {
        CHECK_EQ(write(fd, &i, sizeof i), sizeof i);
        CHECK_EQ(pread(fd, &got, sizeof got, (off_t)(i * sizeof i)), sizeof got);
        CHECK_EQ(got, i);
        CHECK(!outside);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), (i + 1) * sizeof i);
    }
    alarm_every(0);
    CHECK_EQ(lseek(alarm_fd, 0, SEEK_END), alarms * 8);
}

TEST(a_fork_is_itself)
{
    for (int turn = 0; turn < 10; turn++) {
        pid_t parent = getpid(), pid;
        use_site(ROUNDS / 10);
        pid = must_fork();
        if (pid == 0) {
            for (int i = 0; i < ROUNDS / 3; i++) {
                CHECK_EQ(getppid(), parent);
                CHECK(call_site() != parent);
            }
            use_site(ROUNDS / 3);
            if (turn % 3 == 0) {
                pid_t grandchild = must_fork();
                if (grandchild == 0) {
                    use_site(ROUNDS / 3);
                    _exit(3);
                }
                use_site(ROUNDS / 3);
                CHECK_EXITED(grandchild, 3);
            }
            _exit(4);
        }
        for (int i = 0; i < ROUNDS / 3; i++)
            CHECK_EQ(call_site(), parent);
        CHECK_EXITED(pid, 4);
    }
}

TEST(a_child_that_shares_the_memory_is_itself)
{
    for (int turn = 0; turn < 10; turn++) {
        volatile long seen = 0;
        use_site(ROUNDS / 10);
        pid_t pid = vfork();
        if (pid == 0) {
            for (int i = 0; i < ROUNDS / 3; i++)
                seen = call_site();
            _exit(5);
        }
        CHECK_EXITED(pid, 5);
        CHECK_EQ(seen, pid);
        use_site(ROUNDS / 10);
    }
}

static pthread_barrier_t barrier;

static void *be_oneself(void *unused)
{
    (void)unused;
    pid_t tid = (pid_t)syscall(SYS_gettid);
    for (int turn = 0; turn < 4; turn++) {
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < ROUNDS / 4; i++)
            if (syscall(SYS_gettid) != tid)
                return "another thread's result";
        for (int i = 0; i < ROUNDS / 4; i++)
            if (call_site() != getpid())
                return "another process's result";
    }
    return NULL;
}

TEST(threads_are_themselves)
{
    pthread_t threads[4];
    void *result;
    use_site(ROUNDS);
    pthread_barrier_init(&barrier, NULL, 4);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, be_oneself, NULL), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], &result);
        CHECK(result == NULL);
    }
    use_site(ROUNDS);
}

static __attribute__((noinline, no_stack_protector)) long call_with_fs(unsigned long base)
{
    unsigned long old = 0;
    long result = 0, sum = 0;
    asm volatile("syscall" : "=a"(result) : "0"(SYS_arch_prctl), "D"(ARCH_GET_FS), "S"(&old) : "rcx", "r11", "memory");
    asm volatile("syscall" : "=a"(result) : "0"(SYS_arch_prctl), "D"(ARCH_SET_FS), "S"(base) : "rcx", "r11", "memory");
    for (int i = 0; i < 200; i++)
        sum += call_site();
    asm volatile("syscall" : "=a"(result) : "0"(SYS_arch_prctl), "D"(ARCH_SET_FS), "S"(old) : "rcx", "r11", "memory");
    return sum;
}

TEST(any_thread_pointer_will_do)
{
    use_site(ROUNDS);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(call_with_fs(0), 200 * getpid());
        CHECK_EQ(call_with_fs(0x1000), 200 * getpid());
        CHECK_EQ(call_with_fs(0x7fffffffe000), 200 * getpid());
        use_site(ROUNDS / 10);
    }
}

static volatile int steps;

static void on_step(int signo, siginfo_t *info, void *context)
{
    (void)signo;
    (void)info;
    unsigned long rip = (unsigned long)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    steps++;
    if (rip < (unsigned long)__executable_start || rip > (unsigned long)etext)
        outside = true;
}

TEST(single_steps_stay_in_the_program)
{
    struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    unsigned long out[5];
    use_site(ROUNDS);
    MUST(sigaction(SIGTRAP, &action, NULL));
    for (int i = 0; i < 20; i++) {
        call_site_with_flags(0x302, out);
        asm volatile("pushfq\n andq $~0x100, (%%rsp)\n popfq" : : : "cc", "memory");
        CHECK_EQ(out[2], getpid());
        CHECK(!outside);
    }
    CHECK(steps > 20 * 10);
}

/* ---- what is behind a patched site ---- */

static unsigned long word_at(const char *p)
{
    unsigned long word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* The code that the site jumps to, NULL if it was not patched. */
static const char *block_of_site(void)
{
    int32_t distance;
    if (*(volatile unsigned char *)site != 0xe9)
        return NULL;
    memcpy(&distance, site + 1, sizeof distance);
    return site + 5 + distance;
}

/* The nth constant that the block loads into r11: 0, the private page, 1, the shared one. */
static char *page_of_block(const char *block, int n)
{
    for (int i = 5; i < 250; i++)
        if (block[i] == 0x49 && (unsigned char)block[i + 1] == 0xbb && n-- == 0)
            return (char *)word_at(block + i + 2);
    return NULL;
}

static void check_hidden(char *page)
{
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long start, end;
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx", &start, &end) == 2)
            CHECK((unsigned long)page < start || (unsigned long)page >= end);
    fclose(maps);
}

TEST(what_a_site_jumps_to_is_out_of_reach)
{
    use_site(ROUNDS);
    const char *block = block_of_site();
    if (block == NULL)
        return;
    char *pages[] = {page_of_block(block, 0), page_of_block(block, 1), (char *)((unsigned long)block & ~4095ul)};
    for (int i = 0; i < 3; i++) {
        char *page = pages[i];
        check_hidden(page);
        CHECK_EQ(munmap(page, 4096), -1);
        CHECK_EQ(munmap(page - 4096, 3 * 4096), -1);
        CHECK_EQ(mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC), -1);
        CHECK_EQ(madvise(page, 4096, MADV_DONTNEED), -1);
        CHECK(mmap(page, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED);
        CHECK(mremap(page, 4096, 8192, MREMAP_MAYMOVE) == MAP_FAILED);
        char *other = mmap(page, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(other != MAP_FAILED && other != page);
        CHECK(mremap(other, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, page) == MAP_FAILED);
    }
    use_site(ROUNDS);
}

static void *call_for_ever(void *unused)
{
    for (;;)
        call_site();
    return unused;
}

/* Writes whatever comes to mind into both pages, beside a thread that makes calls. */
static void meddle(unsigned int seed)
{
    const char *block = block_of_site();
    volatile uint32_t *shared = (volatile uint32_t *)page_of_block(block, 1);
    volatile uint64_t *private = (volatile uint64_t *)page_of_block(block, 0);
    static const uint32_t numbers[] = {SYS_getpid, SYS_clone, SYS_exit, SYS_munmap, SYS_execve, 0x7fffffff, 0xffffffff,
                                       SYS_rt_sigreturn, SYS_write, SYS_mmap, SYS_restart_syscall, 0x40000027};
    pthread_t thread;
    pthread_create(&thread, NULL, call_for_ever, NULL);
    for (int i = 0; i < 200000; i++) {
        seed = seed * 1103515245 + 12345;
        shared[2] = numbers[seed >> 16 & 7];
        shared[3] = seed >> 8 & 1 ? seed : 0;
        shared[4 + (seed >> 20 & 15)] = seed;
        shared[1] = 100;
        shared[0] = seed >> 16 & 7;
        if (seed >> 28 == 3)
            call_site();
        if (seed >> 24 == 5)
            private[0] = seed;
    }
    _exit(0);
}

TEST(who_meddles_harms_nobody_else)
{
    use_site(ROUNDS);
    if (block_of_site() == NULL)
        return;
    for (unsigned int i = 0; i < 6; i++) {
        pid_t pid = must_fork();
        if (pid == 0) {
            alarm(3);
            use_site(ROUNDS);
            meddle(i);
        }
        use_site(ROUNDS);
        wait_for(pid);
    }
    use_site(ROUNDS);
}

TEST(any_part_of_the_code_may_be_jumped_to)
{
    use_site(ROUNDS);
    const char *block = block_of_site();
    if (block == NULL)
        return;
    for (int offset = 0; offset < 450; offset += 5) {
        pid_t pid = must_fork();
        if (pid == 0) {
            char *shared;
            alarm(1);
            use_site(300);
            shared = page_of_block(block, 1);
            asm volatile("mov %0, %%r11\n mov $1, %%eax\n mov $-1, %%edi\n mov $3, %%ecx\n call *%1"
                         : : "r"(shared), "r"(block + offset) : "rax", "rcx", "r11", "rdi", "memory");
            _exit(0);
        }
        wait_for(pid);
    }
    use_site(ROUNDS);
}
