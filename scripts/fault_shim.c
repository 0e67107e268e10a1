/* Lets one file operation of one process of a run fail, or ends the process at it. For scripts/faults and its test only.

LD_PRELOAD it into `fedsag simulator`. The environment says what happens:
  FAULT_ROOTS   prefixes of the paths that count, separated by ':'; sockets, pipes, forks and threads always count
  FAULT         ROLE:N:ACT, at the Nth operation of the process ROLE; ACT is an errno, or "kill" or "int" for a signal
  FAULT_TRACE   a folder; each process writes its operations to the file ROLE there
A ROLE is "command", "nursery", or "child1", "child2", …: what the nursery forked, in this order. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char role[32] = "other", wanted[32], act[16], roots[4096], trace[1024];
static int wanted_n = -1, count, forks;
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

static void in_child(void) {
    pthread_mutex_init(&counting, 0);
    if (!strcmp(role, "nursery")) snprintf(role, sizeof role, "child%d", ++forks);
    else strcpy(role, "other");
    count = 0;
}

static void in_parent(void) { forks++; }

__attribute__((constructor)) static void start(void) {
    const char *value;
    if ((value = getenv("FAULT_ROOTS"))) snprintf(roots, sizeof roots, "%s", value);
    if ((value = getenv("FAULT_TRACE"))) snprintf(trace, sizeof trace, "%s", value);
    if ((value = getenv("FAULT"))) sscanf(value, "%31[^:]:%d:%15s", wanted, &wanted_n, act);
    char words[4096] = "";
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
    long size = syscall(SYS_read, fd, words, sizeof words - 1);
    syscall(SYS_close, fd);
    for (long i = 0; i < size; i++)
        if (!words[i]) words[i] = ' ';
    if (strstr(words, "fedsag_cli.processes.nursery")) strcpy(role, "nursery");
    else if (strstr(words, "fedsag simulator")) strcpy(role, "command");
    pthread_atfork(0, in_parent, in_child);
}

static int is_inside(const char *path) {
    char full[8192], list[4096], *rest;
    if (!path) return 0;
    if (*path == '/') snprintf(full, sizeof full, "%s", path);
    else if (!getcwd(full, 4096)) return 0;
    else snprintf(full + strlen(full), 4096, "/%s", path);
    strcpy(list, roots);
    for (char *root = strtok_r(list, ":", &rest); root; root = strtok_r(0, ":", &rest))
        if (!strncmp(full, root, strlen(root))) return 1;
    return 0;
}

static int of_fd(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
    return is_inside(path) || !strncmp(path, "/memfd:", 7);
}

static int is_inside_at(int folder, const char *path) {
    char base[4096];
    return folder == AT_FDCWD || *path == '/' ? is_inside(path) : of_fd(folder, base, sizeof base);
}

/* 1: the operation fails, errno is set. */
static int fails(const char *call, const char *path) {
    if (!strcmp(role, "other")) return 0;
    int before = errno;
    pthread_mutex_lock(&counting);
    int is_now = ++count == wanted_n && !strcmp(role, wanted);
    if (*trace) {
        char name[1200], line[4400];
        snprintf(name, sizeof name, "%s/%s", trace, role);
        int length = snprintf(line, sizeof line, "%d %s %.4000s\n", count, call, path);
        int fd = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd >= 0) syscall(SYS_write, fd, line, length), syscall(SYS_close, fd);
    }
    pthread_mutex_unlock(&counting);
    errno = before;
    if (!is_now) return 0;
    if (!strcmp(act, "kill")) syscall(SYS_kill, getpid(), SIGKILL);
    else if (!strcmp(act, "int")) syscall(SYS_kill, getpid(), SIGINT);
    else return errno = atoi(act), 1;
    return 0;
}

#define REAL(type, name) static type; if (!real) real = dlsym(RTLD_NEXT, name)
#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
#define WAY (flags & (O_CREAT | O_WRONLY | O_RDWR) ? "open to write" : "open")

#define OPEN(name) int name(const char *path, int flags, ...) { MODE REAL(int (*real)(const char *, int, ...), #name); \
    return is_inside(path) && fails(WAY, path) ? -1 : real(path, flags, mode); }
OPEN(open) OPEN(open64)

#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { MODE REAL(int (*real)(int, const char *, int, ...), #name); \
    return is_inside_at(folder, path) && fails(WAY, path) ? -1 : real(folder, path, flags, mode); }
OPENAT(openat) OPENAT(openat64)

#define PATH(name, declared, passed) int name declared { REAL(int (*real) declared, #name); \
    return is_inside(path) && fails(#name, path) ? -1 : real passed; }
PATH(unlink, (const char *path), (path))
PATH(rmdir, (const char *path), (path))
PATH(mkdir, (const char *path, mode_t mode), (path, mode))
PATH(rename, (const char *path, const char *to), (path, to))
PATH(link, (const char *path, const char *to), (path, to))
PATH(chmod, (const char *path, mode_t mode), (path, mode))
PATH(chdir, (const char *path), (path))

#define PATHAT(name, declared, passed) int name declared { REAL(int (*real) declared, #name); \
    return is_inside_at(folder, path) && fails(#name, path) ? -1 : real passed; }
PATHAT(unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
PATHAT(mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode))
PATHAT(renameat, (int folder, const char *path, int other, const char *to), (folder, path, other, to))
PATHAT(linkat, (int folder, const char *path, int other, const char *to, int flags), (folder, path, other, to, flags))
PATHAT(fchmodat, (int folder, const char *path, mode_t mode, int flags), (folder, path, mode, flags))

#define FD(type, name, declared, passed) type name declared { REAL(type (*real) declared, #name); char path[4096]; \
    return of_fd(fd, path, sizeof path) && fails(#name, path) ? -1 : real passed; }
FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
FD(ssize_t, writev, (int fd, const struct iovec *pieces, int count), (fd, pieces, count))
FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
FD(ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size))
FD(ssize_t, copy_file_range, (int from, off64_t *at, int fd, off64_t *to, size_t size, unsigned flags), (from, at, fd, to, size, flags))
FD(int, fsync, (int fd), (fd))
FD(int, ftruncate64, (int fd, off64_t size), (fd, size))
FD(int, flock, (int fd, int how), (fd, how))
FD(int, fchmod, (int fd, mode_t mode), (fd, mode))
FD(int, futimens, (int fd, const struct timespec times[2]), (fd, times))

#define ANY(type, name, declared, passed) type name declared { REAL(type (*real) declared, #name); \
    return fails(#name, "") ? -1 : real passed; }
ANY(int, memfd_create, (const char *name, unsigned flags), (name, flags))
ANY(int, socketpair, (int domain, int type, int protocol, int pair[2]), (domain, type, protocol, pair))
ANY(int, socket, (int domain, int type, int protocol), (domain, type, protocol))
ANY(int, bind, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size))
ANY(int, connect, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size))
ANY(int, accept4, (int fd, struct sockaddr *address, socklen_t *size, int flags), (fd, address, size, flags))
ANY(int, pipe2, (int ends[2], int flags), (ends, flags))
ANY(pid_t, fork, (void), ())
ANY(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
ANY(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
ANY(ssize_t, send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags))
ANY(ssize_t, recv, (int fd, void *data, size_t size, int flags), (fd, data, size, flags))

int pthread_create(pthread_t *thread, const pthread_attr_t *settings, void *(*run)(void *), void *value) {
    REAL(int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *), "pthread_create");
    return fails("pthread_create", "") ? errno : real(thread, settings, run, value);
}

#define MAP(name, offset) void *name(void *at, size_t size, int protection, int flags, int fd, offset from) { \
    REAL(void *(*real)(void *, size_t, int, int, int, offset), #name); char path[4096]; \
    return fd >= 0 && of_fd(fd, path, sizeof path) && fails("mmap", path) ? MAP_FAILED : real(at, size, protection, flags, fd, from); }
MAP(mmap, off_t) MAP(mmap64, off64_t)
