/* execve: what the new image starts with, scripts, and the ways to fail. */
#include "check.h"
#include <elf.h>
#include <sys/auxv.h>

static char *const empty_env[] = {NULL};

static pid_t run(const char *path, char *const argv[], char *const envp[], int out)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        if (out >= 0)
            dup2(out, 1);
        execve(path, argv, envp);
        _exit(100 + (errno & 63));
    }
    return pid;
}

/* What the program prints; its status must be 0. */
static char *output_of(const char *path, char *const argv[], char *const envp[])
{
    static char text[8192];
    int fds[2];
    MUST(pipe2(fds, O_CLOEXEC));
    pid_t pid = run(path, argv, envp, fds[1]);
    close(fds[1]);
    size_t have = 0;
    ssize_t n;
    while ((n = read(fds[0], text + have, sizeof text - 1 - have)) > 0)
        have += (size_t)n;
    text[have] = 0;
    close(fds[0]);
    CHECK_EXITED(pid, 0);
    return text;
}

int helper(int argc, char **argv)
{
    if (strcmp(argv[1], "--exit") == 0)
        return atoi(argv[2]);
    if (strcmp(argv[1], "--print") == 0) {
        for (int i = 0; i < argc; i++)
            printf("[%s]", argv[i]);
        for (char **e = environ; *e; e++)
            printf("{%s}", *e);
    }
    if (strcmp(argv[1], "--fds") == 0)
        for (int fd = 3; fd < 20; fd++)
            if (fcntl(fd, F_GETFD) != -1)
                printf("%d ", fd);
    if (strcmp(argv[1], "--signals") == 0) {
        struct sigaction hup, usr;
        sigset_t mask, pending;
        sigaction(SIGHUP, NULL, &hup);
        sigaction(SIGUSR1, NULL, &usr);
        sigprocmask(SIG_SETMASK, NULL, &mask);
        sigpending(&pending);
        printf("%d %d %d %d", hup.sa_handler == SIG_IGN, usr.sa_handler == SIG_DFL, sigismember(&mask, SIGUSR2),
               sigismember(&pending, SIGUSR2));
    }
    if (strcmp(argv[1], "--auxv") == 0)
        printf("%lu %d %d %lu %lu %s", getauxval(AT_PAGESZ), getauxval(AT_PHDR) != 0, getauxval(AT_RANDOM) != 0,
               getauxval(AT_UID), getauxval(AT_SECURE), (char *)getauxval(AT_EXECFN));
    if (strcmp(argv[1], "--comm") == 0) {
        char name[17] = {0};
        prctl(PR_GET_NAME, name);
        printf("%s", name);
    }
    return 0;
}

TEST(arguments_and_environment)
{
    char *argv[] = {program_path, "--print", "", "a b", NULL}, *envp[] = {"X=1", "Y=", NULL};
    char want[PATH_MAX + 100];
    snprintf(want, sizeof want, "[%s][--print][][a b]{X=1}{Y=}", program_path);
    CHECK(strcmp(output_of(program_path, argv, envp), want) == 0);
}

TEST(many_arguments)
{
    enum { COUNT = 2000 };
    static char *argv[COUNT + 1], words[COUNT][8];
    for (int i = 0; i < COUNT; i++) {
        snprintf(words[i], sizeof words[i], "a%d", i);
        argv[i] = words[i];
    }
    argv[0] = program_path;
    argv[1] = "--exit";
    argv[2] = "43";
    CHECK_EXITED(run(program_path, argv, empty_env, -1), 43);
}

TEST(auxiliary_vector)
{
    char *argv[] = {program_path, "--auxv", NULL}, want[PATH_MAX + 100];
    snprintf(want, sizeof want, "4096 1 1 %u 0 %s", getuid(), program_path);
    CHECK(strcmp(output_of(program_path, argv, empty_env), want) == 0);
}

TEST(process_name_is_the_files)
{
    char *argv[] = {program_path, "--comm", NULL};
    MUST(symlink(program_path, "another-name-for-it"));
    CHECK(strcmp(output_of("another-name-for-it", argv, empty_env), "another-name-fo") == 0);
}

TEST(close_on_exec)
{
    char *argv[] = {program_path, "--fds", NULL};
    for (int fd = 3; fd < 30; fd++)
        close(fd);
    MUST(dup2(1, 5));
    MUST(dup3(1, 6, O_CLOEXEC));
    MUST(fcntl(1, F_DUPFD_CLOEXEC, 7));
    MUST(dup2(1, 8));
    MUST(fcntl(8, F_SETFD, FD_CLOEXEC));
    CHECK(strcmp(output_of(program_path, argv, empty_env), "5 ") == 0);
    MUST(fcntl(6, F_GETFD)); /* the caller's own stay open */
}

static void ignore(int signo)
{
    (void)signo;
}

TEST(signals_across_exec)
{
    char *argv[] = {program_path, "--signals", NULL};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, ignore);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fds[2];
    char text[32] = {0};
    MUST(pipe(fds));
    pid_t pid = must_fork();
    if (pid == 0) {
        raise(SIGUSR2);
        dup2(fds[1], 1);
        execve(program_path, argv, empty_env);
        _exit(1);
    }
    CHECK_EXITED(pid, 0);
    read(fds[0], text, sizeof text);
    CHECK(strcmp(text, "1 1 1 1") == 0);
}

static void make_script(const char *path, const char *text, mode_t mode)
{
    make_file(path, text);
    MUST(chmod(path, mode));
}

TEST(script_with_and_without_argument)
{
    char text[PATH_MAX + 32], want[PATH_MAX + 64];
    char *argv[] = {"ignored", "one", NULL};
    snprintf(text, sizeof text, "#!%s --print\nnot read\n", program_path);
    make_script("script", text, 0755);
    snprintf(want, sizeof want, "[%s][--print][./script][one]", program_path);
    CHECK(strcmp(output_of("./script", argv, empty_env), want) == 0);
    snprintf(text, sizeof text, "#! \t%s  --print two words  \n", program_path);
    make_script("script", text, 0755);
    snprintf(want, sizeof want, "[%s][--print two words][./script][one]", program_path);
    CHECK_EXITED(run("./script", argv, empty_env, -1), 0); /* one argument, however many words */
    snprintf(text, sizeof text, "#!%s", program_path);
    make_script("script", text, 0755);
    argv[1] = NULL;
    CHECK_EXITED(run("./script", (char *[]){"no-such-test", NULL}, empty_env, -1), 0);
}

TEST(script_of_a_script)
{
    char text[PATH_MAX + 32], want[2 * PATH_MAX], cwd[PATH_MAX];
    char *argv[] = {"ignored", NULL};
    snprintf(text, sizeof text, "#!%s --print\n", program_path);
    make_script("inner", text, 0755);
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    snprintf(text, sizeof text, "#!%s/inner\n", cwd);
    make_script("outer", text, 0755);
    snprintf(want, sizeof want, "[%s][--print][%s/inner][./outer]", program_path, cwd);
    CHECK(strcmp(output_of("./outer", argv, empty_env), want) == 0);
}

TEST(script_loops_end)
{
    char text[PATH_MAX + 32], cwd[PATH_MAX];
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    snprintf(text, sizeof text, "#!%s/self\n", cwd);
    make_script("self", text, 0755);
    char *argv[] = {"self", NULL};
    CHECK_EXITED(run("./self", argv, empty_env, -1), 100 + ELOOP);
}

TEST(errors)
{
    char *argv[] = {"x", NULL};
    MUST(mkdir("dir", 0755));
    make_script("plain", "\177ELF", 0644);
    make_script("garbage", "this is not a program\n", 0755);
    make_script("empty", "", 0755);
    make_script("noninterp", "#!/no/such/interpreter\n", 0755);
    MUST(symlink("loop", "loop"));
    CHECK_ERR(execve("./none", argv, empty_env), ENOENT);
    CHECK_ERR(execve("", argv, empty_env), ENOENT);
    CHECK_ERR(execve("./dir", argv, empty_env), EACCES);
    CHECK_ERR(execve("./plain", argv, empty_env), EACCES);
    CHECK_ERR(execve("./plain/x", argv, empty_env), ENOTDIR);
    CHECK_ERR(execve("./garbage", argv, empty_env), ENOEXEC);
    CHECK_ERR(execve("./empty", argv, empty_env), ENOEXEC);
    CHECK_ERR(execve("./noninterp", argv, empty_env), ENOENT);
    CHECK_ERR(execve("./loop", argv, empty_env), ELOOP);
    CHECK_ERR(syscall(SYS_execve, 8, argv, empty_env), EFAULT);
    CHECK_ERR(syscall(SYS_execve, program_path, 8, empty_env), EFAULT);
    char truncated[64] = "\177ELF\2\1\1";
    int fd = (int)MUST(open("short", O_WRONLY | O_CREAT, 0755));
    write(fd, truncated, sizeof truncated);
    close(fd);
    CHECK_ERR(execve("./short", argv, empty_env), ENOEXEC);
}

TEST(one_argument_too_long)
{
    enum { LIMIT = 131072 };
    char *word = malloc(LIMIT + 1), *argv[] = {program_path, "--exit", "7", word, NULL};
    memset(word, 'a', LIMIT);
    word[LIMIT] = 0;
    CHECK_ERR(execve(program_path, argv, empty_env), E2BIG);
    word[LIMIT - 1] = 0;
    CHECK_EXITED(run(program_path, argv, empty_env, -1), 7);
}

TEST(all_arguments_too_long)
{
    enum { COUNT = 400 };
    static char *argv[COUNT + 1], word[100000];
    memset(word, 'a', sizeof word - 1);
    for (int i = 0; i < COUNT; i++)
        argv[i] = word;
    CHECK_ERR(execve(program_path, argv, empty_env), E2BIG);
}

TEST(empty_argv_becomes_one_empty_string)
{
    pid_t pid = must_fork();
    if (pid == 0) {
        execve(program_path, (char *[]){NULL}, empty_env);
        _exit(100);
    }
    int status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) != 100);
}

TEST(open_for_writing_cannot_be_executed)
{
    int in = (int)MUST(open(program_path, O_RDONLY)), out = (int)MUST(open("copy", O_WRONLY | O_CREAT, 0755));
    static char block[65536];
    ssize_t n;
    while ((n = read(in, block, sizeof block)) > 0)
        CHECK_EQ(write(out, block, (size_t)n), n);
    char *argv[] = {program_path, "--exit", "9", NULL};
    CHECK_ERR(execve("./copy", argv, empty_env), ETXTBSY);
    close(out);
    CHECK_EXITED(run("./copy", argv, empty_env, -1), 9);
}

TEST(execveat_and_fexecve)
{
    char *argv[] = {program_path, "--exit", "12", NULL};
    int fd = (int)MUST(open(program_path, O_RDONLY | O_CLOEXEC));
    pid_t pid = must_fork();
    if (pid == 0) {
        syscall(SYS_execveat, fd, "", argv, empty_env, AT_EMPTY_PATH);
        _exit(1);
    }
    CHECK_EXITED(pid, 12);
    CHECK_ERR(syscall(SYS_execveat, fd, "", argv, empty_env, 0), ENOENT);
    CHECK_ERR(syscall(SYS_execveat, AT_FDCWD, program_path, argv, empty_env, 0x4000), EINVAL);
    MUST(symlink(program_path, "link"));
    CHECK_ERR(syscall(SYS_execveat, AT_FDCWD, "link", argv, empty_env, AT_SYMLINK_NOFOLLOW), ELOOP);
    int dir = (int)MUST(open(".", O_RDONLY | O_DIRECTORY));
    pid = must_fork();
    if (pid == 0) {
        syscall(SYS_execveat, dir, "link", argv, empty_env, 0);
        _exit(1);
    }
    CHECK_EXITED(pid, 12);
}

TEST(vfork_and_exec)
{
    char *argv[] = {program_path, "--exit", "23", NULL};
    for (int i = 0; i < 3; i++) {
        pid_t pid = vfork();
        if (pid == 0) {
            execve(program_path, argv, empty_env);
            _exit(1);
        }
        CHECK_EXITED(pid, 23);
    }
}

TEST(failed_exec_after_vfork)
{
    static volatile int error;
    pid_t pid = vfork();
    if (pid == 0) {
        execve("/no/such/file", NULL, empty_env);
        error = errno;
        _exit(127);
    }
    CHECK_EQ(error, ENOENT);
    CHECK_EXITED(pid, 127);
}

TEST(pid_and_cwd_stay)
{
    char cwd[PATH_MAX], text[64] = {0}, want[32];
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    int fds[2];
    MUST(pipe(fds));
    pid_t pid = must_fork();
    if (pid == 0) {
        dup2(fds[1], 1);
        execl(program_path, program_path, "--comm", NULL);
        _exit(1);
    }
    CHECK_EXITED(pid, 0);
    read(fds[0], text, sizeof text);
    snprintf(want, sizeof want, "%.15s", strrchr(program_path, '/') + 1);
    CHECK(strcmp(text, want) == 0);
}
