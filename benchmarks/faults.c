/* Loaded before libc: counts the calls that change files below one folder, and at call number `at` ends the process or lets the call fail.

   A write that the process dies in writes half of what it was given first. A call that fails once fails from then on where `sticky` is set, as on a
   disk that stays full; only calls that need room fail with ENOSPC. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, FAIL };
static char folder[PATH_MAX];
static long at, seen;
static int mode, failure, sticky;

#define NEXT(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

void faults_arm(const char *path, long number, int how, int error, int stays) {
    snprintf(folder, sizeof folder, "%s", path);
    at = number, mode = how, failure = error, sticky = stays, seen = 0;
}

long faults_seen(void) { return seen; }

static int below(const char *path) {
    char whole[PATH_MAX + NAME_MAX + 2];
    if (!folder[0] || !path) return 0;
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
        path = whole;
    }
    return !strncmp(path, folder, strlen(folder));
}

static int in_folder(int fd) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

/* 0: go on; 1: fail with errno; 2: write half, then die */
static int strikes(int needs_room, int is_write) {
    long number = __sync_add_and_fetch(&seen, 1);
    if (mode == KILL && number == at) {
        if (is_write) return 2;
        kill(getpid(), SIGKILL);
    }
    if (mode == FAIL && (number == at || (sticky && number > at)) && (needs_room || failure != ENOSPC)) {
        errno = failure;
        return 1;
    }
    return 0;
}

ssize_t write(int fd, const void *data, size_t size) {
    int what = in_folder(fd) ? strikes(1, 1) : 0;
    if (what == 1) return -1;
    if (what == 2) {
        NEXT(write)(fd, data, size / 2);
        kill(getpid(), SIGKILL);
    }
    return NEXT(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    int what = in_folder(fd) ? strikes(1, 1) : 0;
    if (what == 1) return -1;
    if (what == 2) kill(getpid(), SIGKILL);
    return NEXT(writev)(fd, parts, n);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
    int what = in_folder(fd) ? strikes(1, 1) : 0;
    if (what == 1) return -1;
    if (what == 2) kill(getpid(), SIGKILL);
    return NEXT(pwrite64)(fd, data, size, place);
}

int fsync(int fd) { return in_folder(fd) && strikes(1, 0) == 1 ? -1 : NEXT(fsync)(fd); }
int fdatasync(int fd) { return in_folder(fd) && strikes(1, 0) == 1 ? -1 : NEXT(fdatasync)(fd); }
int ftruncate64(int fd, off64_t size) { return in_folder(fd) && strikes(1, 0) == 1 ? -1 : NEXT(ftruncate64)(fd, size); }
int rename(const char *from, const char *to) { return below(to) && strikes(1, 0) == 1 ? -1 : NEXT(rename)(from, to); }
int link(const char *from, const char *to) { return below(to) && strikes(1, 0) == 1 ? -1 : NEXT(link)(from, to); }
int unlink(const char *path) { return below(path) && strikes(0, 0) == 1 ? -1 : NEXT(unlink)(path); }
int rmdir(const char *path) { return below(path) && strikes(0, 0) == 1 ? -1 : NEXT(rmdir)(path); }
int mkdir(const char *path, mode_t rights) { return below(path) && strikes(1, 0) == 1 ? -1 : NEXT(mkdir)(path, rights); }
int chmod(const char *path, mode_t rights) { return below(path) && strikes(0, 0) == 1 ? -1 : NEXT(chmod)(path, rights); }

#define OPENED(name, call)                                                \
    mode_t rights = 0;                                                    \
    if (flags & O_CREAT) {                                  \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        rights = va_arg(rest, mode_t);                                    \
        va_end(rest);                                                     \
        if (below(path) && strikes(1, 0) == 1) return -1;                 \
    }                                                                     \
    return NEXT(name) call;

int open(const char *path, int flags, ...) { OPENED(open, (path, flags, rights)) }
int open64(const char *path, int flags, ...) { OPENED(open64, (path, flags, rights)) }
int openat(int at_fd, const char *path, int flags, ...) { OPENED(openat, (at_fd, path, flags, rights)) }
int openat64(int at_fd, const char *path, int flags, ...) { OPENED(openat64, (at_fd, path, flags, rights)) }

FILE *fopen(const char *path, const char *how) { return strpbrk(how, "wa+") && below(path) && strikes(1, 0) == 1 ? NULL : NEXT(fopen)(path, how); }
FILE *fopen64(const char *path, const char *how) { return strpbrk(how, "wa+") && below(path) && strikes(1, 0) == 1 ? NULL : NEXT(fopen64)(path, how); }
