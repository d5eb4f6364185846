/* The micro-benchmark: nanoseconds per operation, one JSON line per row.
 *
 *   micro DIR MILLISECONDS [ROW...]     the rows, or all; their files are made in a new folder of DIR
 *   micro list                          the names of the rows
 *   micro time NAME COMMAND...          how long one run of a shell command takes, in the same form
 *   micro nothing                       ends at once: what the fork+exec row executes
 *
 *   {"row": "getpid", "ns": 131.2, "n": 65536}         the median batch of BATCHES; n operations each
 *   {"row": "tcp", "error": "socket: EAFNOSUPPORT"}    cannot be measured here, and why
 *
 * MILLISECONDS is about what one row takes, however slow its operation: the size of a batch is found by doubling,
 * which is the warm-up too.
 */
#include "micro.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

enum { BATCHES = 7, ROW_SECONDS = 30 };

const char *failed_call;
const char *program;

static const struct row *const groups[] = {simple_rows, file_rows, memory_rows, process_rows, message_rows};
enum { GROUPS = sizeof groups / sizeof groups[0] };

static double now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

/* Nanoseconds that a batch took; negative if it failed. */
static double timed(const struct row *row, long n) {
    double start = now_ns();
    return row->batch(n) < 0 ? -1 : now_ns() - start;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int print_failure(const char *name) {
    const char *error = strerrorname_np(errno);
    const char *assignment = strstr(failed_call, " = ");
    const char *call = assignment ? assignment + 3 : failed_call;
    printf("{\"row\": \"%s\", \"error\": \"%.*s: %s\"}\n", name, (int)strcspn(call, "("), call,
           error ? error : "unknown error");
    return 1;
}

static int measure(const struct row *row, double row_ns) {
    double batch_ns = row_ns / (BATCHES + 2), took = 0, results[BATCHES];
    long n = 1;

    if (row->set_up && row->set_up() < 0)
        return print_failure(row->name);
    for (;; n *= 2) {
        took = timed(row, n);
        if (took < 0)
            return print_failure(row->name);
        if (took >= batch_ns / 2)
            break;
    }
    if (took < batch_ns)
        n *= batch_ns / took;

    for (int i = 0; i < BATCHES; i++) {
        results[i] = timed(row, n);
        if (results[i] < 0)
            return print_failure(row->name);
    }
    qsort(results, BATCHES, sizeof results[0], by_size);
    printf("{\"row\": \"%s\", \"ns\": %.1f, \"n\": %ld}\n", row->name, results[BATCHES / 2] / n, n);
    return 0;
}

/* In a child, with a limit: what one row does to its process, or a hang, is not the next row's trouble. */
static void run(const struct row *row, double row_ns) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(ROW_SECONDS);
        measure(row, row_ns);
        fflush(stdout);
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0) {
        failed_call = "fork";
        print_failure(row->name);
    } else if (WIFSIGNALED(status)) {
        printf("{\"row\": \"%s\", \"error\": \"killed by SIG%s\"}\n", row->name, sigabbrev_np(WTERMSIG(status)));
    }
}

static int wanted(const char *name, char **names, int count) {
    for (int i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return count == 0;
}

static void remove_files(const char *folder) {
    DIR *dir = opendir(folder);
    if (dir == NULL || chdir(folder) < 0)
        return;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (unlink(entry->d_name) < 0 && entry->d_name[0] != '.')
            rmdir(entry->d_name);
    closedir(dir);
}

static int run_rows(const char *dir, double row_ns, char **names, int count) {
    for (int group = 0; group < GROUPS; group++) {
        for (const struct row *row = groups[group]; row->name; row++) {
            char folder[256];
            if (!wanted(row->name, names, count))
                continue;
            snprintf(folder, sizeof folder, "%s/XXXXXX", dir);
            if (mkdtemp(folder) == NULL || chdir(folder) < 0) {
                perror(folder);
                return 1;
            }
            run(row, row_ns);
            remove_files(folder);
            if (chdir("/") < 0 || rmdir(folder) < 0)
                perror(folder);
        }
    }
    return 0;
}

static int list_rows(void) {
    for (int group = 0; group < GROUPS; group++)
        for (const struct row *row = groups[group]; row->name; row++)
            puts(row->name);
    return 0;
}

/* Standard output of the command is dropped; its standard error is ours. */
static int time_command(const char *name, char **command) {
    int status = 0;
    fflush(stdout);
    double start = now_ns();
    pid_t child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stdout))
            execvp(command[0], command);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0) {
        failed_call = "fork";
        return print_failure(name);
    }
    double took = now_ns() - start;
    if (WIFSIGNALED(status))
        printf("{\"row\": \"%s\", \"error\": \"killed by SIG%s\"}\n", name, sigabbrev_np(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 0)
        printf("{\"row\": \"%s\", \"error\": \"exit status %d\"}\n", name, WEXITSTATUS(status));
    else
        printf("{\"row\": \"%s\", \"ns\": %.0f, \"n\": 1}\n", name, took);
    return 0;
}

int main(int argc, char **argv) {
    program = argv[0];
    if (argc == 2 && strcmp(argv[1], "nothing") == 0)
        return 0;
    if (argc == 2 && strcmp(argv[1], "list") == 0)
        return list_rows();
    if (argc > 3 && strcmp(argv[1], "time") == 0)
        return time_command(argv[2], argv + 3);
    if (argc < 3 || atof(argv[2]) <= 0) {
        fprintf(stderr, "usage: micro DIR MILLISECONDS [ROW...] | list | nothing | time NAME COMMAND...\n");
        return 2;
    }
    return run_rows(argv[1], atof(argv[2]) * 1e6, argv + 3, argc - 3);
}
