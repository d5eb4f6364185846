/* Runs the programs named on its command line one after the other as the first process of a container (or of a PID
 * namespace, natively) and prints, around the output of each,
 *   # begin PROGRAM
 *   # end PROGRAM exit N | killed N | timeout
 * Whatever a program leaves behind is killed before the next one starts. PYSC_TEST_SLOWNESS multiplies the time limit.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECONDS_EACH 60

static volatile sig_atomic_t expired;

static void on_alarm(int signo)
{
    (void)signo;
    expired = 1;
}

/* Waits for pid; reaps everything else that ends meanwhile. */
static int wait_for(pid_t pid)
{
    int status;
    for (;;) {
        pid_t got = wait(&status);
        if (got == pid)
            return status;
        if (got == -1 && errno != EINTR)
            return -1;
        if (expired)
            kill(-1, SIGKILL);
    }
}

static void clear_up(void)
{
    kill(-1, SIGKILL);
    while (wait(NULL) != -1 || errno == EINTR) {
    }
}

static void run(char *program)
{
    expired = 0;
    printf("# begin %s\n", program);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        execl(program, program, (char *)NULL);
        printf("not ok main: cannot execute %s: %s\n", program, strerror(errno));
        fflush(stdout);
        _exit(127);
    }
    const char *slowness = getenv("PYSC_TEST_SLOWNESS");
    alarm(SECONDS_EACH * (slowness ? atoi(slowness) : 1));
    int status = wait_for(pid);
    alarm(0);
    clear_up();
    if (expired)
        printf("# end %s timeout\n", program);
    else if (WIFSIGNALED(status))
        printf("# end %s killed %d\n", program, WTERMSIG(status));
    else
        printf("# end %s exit %d\n", program, WEXITSTATUS(status));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (getpid() != 1) {
        fprintf(stderr, "%s kills all other processes of its PID namespace: start it as the first of one\n", argv[0]);
        return 2;
    }
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    for (int i = 1; i < argc; i++)
        run(argv[i]);
    return 0;
}
