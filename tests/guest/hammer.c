/* Futexes and pipes under load, for a number of seconds, with sums that must come out right:
 *
 *   hammer --plain SECONDS | --signals SECONDS
 *
 *   queue     8 threads and a bounded queue under a futex mutex and two condition variables: what goes in comes out
 *   ring      8 processes pass tokens round through pipes; after each hop they lock a futex in shared memory and
 *             send a record with a checksum to one collector: hops, lockings and records are the same number
 * and with --signals, while that goes on:
 *   pest      sends signals to all of them: queued ones, which are counted at both ends, others that restart calls or
 *             do not, SIGSTOP and SIGCONT; besides, each has an interval timer
 *   lives     two processes that make, fork, exec, stop and kill processes with threads in calls of every kind
 *
 * The first process is the watchdog: every worker must get on, or it says who does not and ends all.  Without
 * arguments, both for a few seconds.  tests/integration/test_hammer.py does so for longer, with worse from outside.
 */
#include "check.h"
#include "crowd.h"

#define THREADS 8
#define RING 8
#define TOKENS 3
#define SLOTS 4
#define STUCK_NS (15000000000LL * slowness())

enum { QUEUE = 0, RING_FIRST = THREADS, COLLECTOR = THREADS + RING, PEST, LIVES, LIVES_2, WORKERS };

struct worker {
    volatile uint64_t done;     /* rounds */
    volatile uint64_t received; /* queued signals; the process's, in its first worker */
    uint64_t sent;
    volatile int pid, tid;
};

static struct {
    volatile int stop, stop_pest;
    struct worker workers[WORKERS];
    uint32_t lock; /* shared futex */
    volatile uint64_t locked;
    volatile uint64_t put, taken, records;
    volatile uint64_t stops;
} *all;

static struct worker *self; /* whose process this is: signals are counted there */
static bool with_signals;

/* ---- mutexes and condition variables, as in U. Drepper, "Futexes Are Tricky" ---- */

/* 0: free, 1: held, 2: held, and others may wait */
static void lock_waiting(uint32_t *mutex, int private)
{
    while (__atomic_exchange_n(mutex, 2, __ATOMIC_ACQUIRE))
        futex(mutex, FUTEX_WAIT | private, 2, NULL, NULL, 0);
}

static void lock(uint32_t *mutex, int private)
{
    uint32_t free = 0;
    if (!__atomic_compare_exchange_n(mutex, &free, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        lock_waiting(mutex, private);
}

static void unlock(uint32_t *mutex, int private)
{
    if (__atomic_exchange_n(mutex, 0, __ATOMIC_RELEASE) == 2)
        futex(mutex, FUTEX_WAKE | private, 1, NULL, NULL, 0);
}

static void cond_wait(uint32_t *cond, uint32_t *mutex, const struct timespec *timeout)
{
    uint32_t seen = __atomic_load_n(cond, __ATOMIC_RELAXED);
    unlock(mutex, FUTEX_PRIVATE_FLAG);
    futex(cond, FUTEX_WAIT_PRIVATE, seen, timeout, NULL, 0);
    lock_waiting(mutex, FUTEX_PRIVATE_FLAG);
}

/* Wake one, and let the others wait for the mutex, which the caller holds. */
static void cond_broadcast(uint32_t *cond, uint32_t *mutex)
{
    uint32_t seen = __atomic_add_fetch(cond, 1, __ATOMIC_RELAXED);
    futex(cond, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)(long)INT_MAX, mutex, seen);
}

static void cond_signal(uint32_t *cond)
{
    __atomic_add_fetch(cond, 1, __ATOMIC_RELAXED);
    futex(cond, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* ---- the queue ---- */

static uint32_t mutex, not_full, not_empty;
static volatile uint64_t slots[SLOTS];
static volatile int filled, producers;

static void produce(struct worker *me, unsigned n)
{
    static const struct timespec soon = {.tv_nsec = 300000};
    while (!all->stop) {
        uint64_t value = me->done * THREADS + n;
        lock(&mutex, FUTEX_PRIVATE_FLAG);
        while (filled == SLOTS)
            cond_wait(&not_full, &mutex, n % 4 ? NULL : &soon);
        slots[filled++] = value;
        all->put += value;
        if (n % 2)
            cond_broadcast(&not_empty, &mutex);
        else
            cond_signal(&not_empty);
        unlock(&mutex, FUTEX_PRIVATE_FLAG);
        me->done++;
    }
    lock(&mutex, FUTEX_PRIVATE_FLAG);
    producers--;
    cond_broadcast(&not_empty, &mutex);
    unlock(&mutex, FUTEX_PRIVATE_FLAG);
}

static void consume(struct worker *me)
{
    lock(&mutex, FUTEX_PRIVATE_FLAG);
    for (;;) {
        while (!filled && producers)
            cond_wait(&not_empty, &mutex, NULL);
        if (!filled)
            break;
        all->taken += slots[--filled];
        me->done++;
        cond_broadcast(&not_full, &mutex);
        if (me->done % 16 == 0) {
            unlock(&mutex, FUTEX_PRIVATE_FLAG);
            sched_yield();
            lock(&mutex, FUTEX_PRIVATE_FLAG);
        }
    }
    unlock(&mutex, FUTEX_PRIVATE_FLAG);
}

static void *queue_thread(void *arg)
{
    unsigned n = (unsigned)(long)arg;
    struct worker *me = &all->workers[QUEUE + n];
    me->tid = (int)syscall(SYS_gettid);
    if (n < THREADS / 2)
        produce(me, n);
    else
        consume(me);
    return NULL;
}

static void queue(void)
{
    pthread_t threads[THREADS];
    producers = THREADS / 2;
    for (long n = 0; n < THREADS; n++)
        CHECK_EQ(pthread_create(&threads[n], NULL, queue_thread, (void *)n), 0);
    for (int n = 0; n < THREADS; n++)
        CHECK_EQ(pthread_join(threads[n], NULL), 0);
    CHECK_EQ(filled, 0);
    CHECK_EQ(all->put, all->taken);
}

/* ---- the ring ---- */

struct token {
    uint64_t hops;
    uint64_t check; /* of hops */
};

struct record {
    uint16_t length, sender;
    uint32_t check; /* of the text behind it */
    uint64_t serial;
};

static int ring[RING][2], collected[2];

static uint64_t mixed(uint64_t value)
{
    return (value ^ value >> 31) * 0x9e3779b97f4a7c15ULL;
}

static uint32_t check_of(const uint8_t *text, size_t length)
{
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < length; i++)
        b += a += text[i];
    return b << 16 ^ a;
}

/* Pipes keep what is written at once together; a signal only ever comes before or after it. */
static void put(int fd, const void *data, size_t length)
{
    ssize_t n;
    while ((n = write(fd, data, length)) == -1 && errno == EINTR) {
    }
    CHECK_EQ(n, length);
}

/* false at the end of the pipe */
static bool get(int fd, void *data, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t n = read(fd, (char *)data + done, length - done);
        if (n == -1 && errno == EINTR)
            continue;
        CHECK(n >= 0);
        if (n == 0) {
            CHECK_EQ(done, 0);
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

static void report_hop(struct worker *me, unsigned n)
{
    uint8_t message[sizeof(struct record) + 2048];
    struct record *record = (struct record *)message;
    uint8_t *text = message + sizeof *record;
    *record = (struct record){.length = (uint16_t)(mixed(me->done) % 2048), .sender = (uint16_t)n, .serial = me->done};
    for (unsigned i = 0; i < record->length; i++)
        text[i] = (uint8_t)(me->done * 7 + n + i);
    record->check = check_of(text, record->length);
    put(collected[1], message, sizeof *record + record->length);
}

static void keep_ends(int n)
{
    for (int i = 0; i < RING; i++) {
        if (i != n)
            close(ring[i][0]);
        if (n < 0 || i != (n + 1) % RING)
            close(ring[i][1]);
    }
    close(collected[n >= 0 ? 0 : 1]);
}

static void ring_member(unsigned n)
{
    struct worker *me = self;
    int in = ring[n][0], out = ring[(n + 1) % RING][1];
    int absorbed = 0;
    struct token token = {.check = mixed(0)};
    keep_ends((int)n);
    for (int i = 0; n == 0 && i < TOKENS; i++)
        put(out, &token, sizeof token);
    while (absorbed < TOKENS && get(in, &token, sizeof token)) {
        CHECK_EQ(token.check, mixed(token.hops));
        token.check = mixed(++token.hops);
        lock(&all->lock, 0);
        all->locked = all->locked + 1;
        unlock(&all->lock, 0);
        report_hop(me, n);
        me->done++;
        if (n == 0 && all->stop)
            absorbed++;
        else
            put(out, &token, sizeof token);
    }
}

static void collector(void)
{
    struct record record;
    static uint8_t text[65536];
    uint64_t serials[RING] = {0};
    keep_ends(-1);
    while (get(collected[0], &record, sizeof record)) {
        CHECK(record.sender < RING);
        CHECK_EQ(record.serial, serials[record.sender]);
        serials[record.sender]++;
        CHECK(record.length == 0 || get(collected[0], text, record.length));
        CHECK_EQ(record.check, check_of(text, record.length));
        all->records++;
        self->done++;
    }
}

/* ---- signals ---- */

static void count_signal(int signo)
{
    (void)signo;
    __atomic_add_fetch(&self->received, 1, __ATOMIC_RELAXED);
}

static void ignore_signal(int signo)
{
    (void)signo;
}

static void receive_signals(void)
{
    int usec = 4000 * slowness(); /* a machine that cannot handle as many signals does nothing else */
    struct itimerval timer = {{.tv_usec = usec}, {.tv_usec = usec}};
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGRTMIN, &action, NULL));
    action.sa_handler = ignore_signal;
    MUST(sigaction(SIGUSR1, &action, NULL));
    MUST(sigaction(SIGALRM, &action, NULL));
    action.sa_flags = 0;
    MUST(sigaction(SIGUSR2, &action, NULL));
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
}

/* Every queued signal that was sent to this process must have been handled. */
static void drain_signals(void)
{
    struct itimerval never = {0};
    MUST(setitimer(ITIMER_REAL, &never, NULL));
    CHECK_EQ(self->received, self->sent);
}

static void pester(struct worker *target, unsigned dice)
{
    int tid = all->workers[QUEUE + dice % THREADS].tid;
    switch (dice / 64 % 8) {
    case 0:
    case 1:
        MUST(kill(target->pid, SIGUSR1));
        break;
    case 2:
        MUST(kill(target->pid, SIGUSR2));
        break;
    case 3:
        if (tid)
            MUST(syscall(SYS_tgkill, all->workers[QUEUE].pid, tid, dice & 1 ? SIGUSR1 : SIGUSR2));
        break;
    case 4:
        MUST(kill(target->pid, SIGSTOP));
        if (dice & 1)
            sched_yield();
        MUST(kill(target->pid, SIGCONT));
        all->stops++;
        break;
    default:
        if (sigqueue(target->pid, SIGRTMIN, (union sigval){0}) == 0)
            target->sent++;
        else
            CHECK(errno == EAGAIN);
    }
}

static void pest(void)
{
    uint64_t dice = 1;
    while (!all->stop_pest) {
        dice = mixed(dice + self->done);
        unsigned n = (unsigned)(dice >> 40) % (RING + 2);
        pester(n == 0 ? &all->workers[QUEUE] : &all->workers[RING_FIRST + n - 1], (unsigned)(dice >> 20 & 0xfffff));
        if (dice & 3)
            usleep((useconds_t)((dice >> 8 & 0x3ff) * (unsigned)slowness()));
        self->done++;
    }
}

/* ---- lives ---- */

static void kill_crowd(void)
{
    pid_t pid = crowd(stay);
    if (self->done & 32)
        usleep(1000);
    MUST(kill(pid, SIGKILL));
    CHECK_KILLED(pid, SIGKILL);
}

static void live(unsigned kind)
{
    switch (kind % 9) {
    case 0:
        CHECK_EXITED(crowd(exec_exit), 43);
        break;
    case 1:
        CHECK_EXITED(crowd(exec_in_thread), 43);
        break;
    case 2:
        CHECK_EXITED(crowd(exit_group), 44);
        break;
    case 3:
        CHECK_EXITED(crowd(exit_in_thread), 45);
        break;
    case 4:
        CHECK_EXITED(crowd(leave_first), 45);
        break;
    case 5:
        kill_crowd();
        break;
    case 6:
        stop_crowd();
        break;
    case 7:
        spawn_program();
        break;
    default: {
        pid_t pid = must_fork();
        if (pid == 0)
            join_all();
        CHECK_EXITED(pid, 46);
    }
    }
}

static void lives(unsigned n)
{
    while (!all->stop) {
        live((unsigned)self->done + 4 * n);
        self->done++;
    }
}

/* ---- the watchdog ---- */

static pid_t pids[WORKERS];

static void run_worker(int index)
{
    bool pestered = with_signals && index < PEST;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (pestered)
        receive_signals();
    self->pid = getpid();
    if (index == QUEUE)
        queue();
    else if (index < COLLECTOR)
        ring_member((unsigned)(index - RING_FIRST));
    else if (index == COLLECTOR)
        collector();
    else if (index == PEST)
        pest();
    else
        lives((unsigned)(index - LIVES));
    if (pestered)
        drain_signals();
    _exit(0);
}

static void start_worker(int index)
{
    self = &all->workers[index];
    pids[index] = must_fork();
    if (pids[index] == 0)
        run_worker(index);
    while (!self->pid)
        sched_yield();
}

static const char *name_of(int index)
{
    static char name[32];
    if (index < RING_FIRST)
        snprintf(name, sizeof name, "queue %d", index);
    else if (index < COLLECTOR)
        snprintf(name, sizeof name, "ring %d", index - RING_FIRST);
    else
        strcpy(name, index == COLLECTOR ? "collector" : index == PEST ? "pest" : "lives");
    return name;
}

static bool runs(int index)
{
    return pids[index < RING_FIRST ? QUEUE : index] != 0;
}

static void kill_all(void)
{
    for (int i = 0; i < WORKERS; i++)
        if (pids[i])
            kill(pids[i], SIGKILL);
}

/* Reaps who has ended; whether anybody from `first` on is left. */
static bool anybody(int first)
{
    int status;
    bool left = false;
    for (int i = 0; i < WORKERS; i++) {
        if (!pids[i])
            continue;
        if (waitpid(pids[i], &status, WNOHANG) == 0) {
            left = left || i >= first;
            continue;
        }
        pids[i] = 0;
        if (status) {
            kill_all();
            fail_at(__FILE__, __LINE__, "%s ended with status %#x", name_of(i), status);
        }
    }
    return left;
}

static void look_for_stuck(void)
{
    static struct {
        uint64_t done;
        int64_t since;
    } seen[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        uint64_t done = all->workers[i].done;
        if (!runs(i) || done != seen[i].done || !seen[i].since) {
            seen[i].done = done;
            seen[i].since = now_ns();
        } else if (now_ns() - seen[i].since > STUCK_NS) {
            kill_all();
            fail_at(__FILE__, __LINE__, "%s stands still at %lu", name_of(i), done);
        }
    }
}

/* Until all workers from `first` on have ended, or for at most that long. */
static void watch(int first, int64_t ns)
{
    int64_t end = now_ns() + ns;
    while (anybody(first) && now_ns() < end) {
        look_for_stuck();
        usleep(20000);
    }
}

static uint64_t done_by(int first, int count)
{
    uint64_t sum = 0;
    for (int i = first; i < first + count; i++)
        sum += all->workers[i].done;
    return sum;
}

static void report(void)
{
    uint64_t received = all->workers[QUEUE].received;
    for (int i = RING_FIRST; i <= COLLECTOR; i++)
        received += all->workers[i].received;
    printf("# queue %lu, ring %lu, records %lu", done_by(QUEUE, THREADS / 2), done_by(RING_FIRST, RING), all->records);
    if (with_signals)
        printf(", signals %lu (%lu of them queued), stops %lu, lives %lu", all->workers[PEST].done, received,
               all->stops, done_by(LIVES, 2));
    printf("\n");
    fflush(stdout);
}

static void hammer(int seconds, bool signals)
{
    with_signals = signals;
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(all != MAP_FAILED);
    for (int i = 0; i < RING; i++)
        MUST(pipe(ring[i]));
    MUST(pipe(collected));
    for (int i = RING_FIRST; i <= COLLECTOR; i++)
        start_worker(i);
    keep_ends(-1);
    close(collected[0]);
    start_worker(QUEUE);
    for (int i = PEST; signals && i < WORKERS; i++)
        start_worker(i);
    watch(QUEUE, seconds * 1000000000LL);
    while (anybody(QUEUE) && (!all->records || !all->put)) /* a machine that is so busy has not begun yet */
        watch(QUEUE, 100000000);
    all->stop_pest = 1;
    while (runs(PEST))
        watch(PEST, 1000000);
    all->stop = 1;
    while (anybody(QUEUE))
        watch(QUEUE, INT64_MAX / 2);
    CHECK_EQ(done_by(QUEUE, THREADS / 2), done_by(THREADS / 2, THREADS / 2));
    CHECK_EQ(all->locked, done_by(RING_FIRST, RING));
    CHECK_EQ(all->records, all->locked);
    CHECK(all->records > 0 && all->put > 0);
    report();
}

TEST(futexes_and_pipes)
{
    hammer(2, false);
}

TEST(amid_signals_and_processes)
{
    hammer(3, true);
}

int helper(int argc, char **argv)
{
    if (strcmp(argv[1], "--exit") == 0)
        return atoi(argv[2]);
    CHECK(argc == 3 && (strcmp(argv[1], "--plain") == 0 || strcmp(argv[1], "--signals") == 0));
    hammer(atoi(argv[2]), strcmp(argv[1], "--signals") == 0);
    printf("ok\n");
    return 0;
}
