/*
 * Ends the process in the middle of what SQLite writes. Tests build this with the machine's compiler and preload it into
 * a controller: between SQLite and the kernel is no other place from which a write can be cut in two.
 *
 * STERNWAY_TORN=WHERE:N:kill|power ends it in the N-th call, counted
 *   log          on the write-ahead log,
 *   sync         of the syncs of the log,
 *   checkpoint   on either file, from the first write to the database on,
 *   restart      on the log, likewise: what follows a checkpoint.
 *
 * A call is a write or a sync. Of the write in which the process ends only the first half is done. `kill` leaves what
 * was written before, as the kernel does; `power` takes away what was written and not synced, as a power cut may. Says
 * on stderr what it has done.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum file { LOG, DATABASE, OTHER };
static const char *const NAMES[] = {"controller.db-wal", "controller.db"};

/* What a write has covered, the newest first. Nothing is kept of truncations: here SQLite makes neither file shorter. */
struct covered {
    off_t size, at;
    size_t length;
    char *bytes;
    struct covered *before;
};

/* Held in each call: of what is counted and covered, and so that nobody writes on while one ends. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static unsigned long calls_left;
static int power;
static char where[16];
static struct covered *unsynced[2];
static char paths[2][PATH_MAX];

__attribute__((constructor)) static void arm(void) {
    char how[16];
    const char *asked = getenv("STERNWAY_TORN");
    if (!asked)
        return;
    if (sscanf(asked, "%15[a-z]:%lu:%15[a-z]", where, &calls_left, how) != 3)
        abort();
    power = !strcmp(how, "power");
}

/* By its name: each connection of a pool opens both files anew. */
static enum file file_of(int fd) {
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return OTHER;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    for (enum file file = LOG; name && file < OTHER; file++)
        if (!strcmp(name + 1, NAMES[file])) {
            strcpy(paths[file], path);
            return file;
        }
    return OTHER;
}

static int counts(enum file file, int writes) {
    static int in_checkpoint;
    in_checkpoint |= file == DATABASE && writes;
    switch (where[0]) {
    case 'l': return file == LOG;
    case 's': return file == LOG && !writes;
    case 'c': return in_checkpoint;
    case 'r': return in_checkpoint && file == LOG;
    default: return 0;
    }
}

static int is_last(enum file file, int writes) {
    return counts(file, writes) && calls_left && !--calls_left;
}

/* By its path: the descriptor of an older write may be closed by now. */
static void take_away(enum file file) {
    int fd = unsynced[file] ? open(paths[file], O_RDWR) : -1;
    for (struct covered *one = unsynced[file]; one; one = one->before)
        if (syscall(SYS_pwrite64, fd, one->bytes, one->length, one->at) < 0 || ftruncate(fd, one->size) < 0)
            abort();
}

static void cover(enum file file, int fd, size_t length, off_t at) {
    struct stat now;
    struct covered *one = malloc(sizeof *one);
    char *bytes = malloc(length);
    if (!one || !bytes || fstat(fd, &now) < 0)
        abort();
    ssize_t there = pread(fd, bytes, length, at);
    if (there < 0)
        abort();
    *one = (struct covered){now.st_size, at, there, bytes, unsynced[file]};
    unsynced[file] = one;
}

static void forget(enum file file) {
    while (unsynced[file]) {
        struct covered *one = unsynced[file];
        unsynced[file] = one->before;
        free(one->bytes);
        free(one);
    }
}

static void end(void) {
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) {
    enum file file = file_of(fd);
    if (file == OTHER)
        return syscall(SYS_pwrite64, fd, bytes, length, at);
    pthread_mutex_lock(&turn);
    if (is_last(file, 1)) {
        if (power)
            take_away(LOG), take_away(DATABASE);
        ssize_t done = syscall(SYS_pwrite64, fd, bytes, length / 2, at);
        dprintf(STDERR_FILENO, "torn: %s %zd of %zu\n", NAMES[file], done, length);
        end();
    }
    if (power)
        cover(file, fd, length, at);
    ssize_t done = syscall(SYS_pwrite64, fd, bytes, length, at);
    pthread_mutex_unlock(&turn);
    return done;
}

int fsync(int fd) {
    enum file file = file_of(fd);
    if (file == OTHER)
        return syscall(SYS_fsync, fd);
    pthread_mutex_lock(&turn);
    if (is_last(file, 0)) {
        if (power)
            take_away(LOG), take_away(DATABASE);
        dprintf(STDERR_FILENO, "torn: %s sync\n", NAMES[file]);
        end();
    }
    int done = syscall(SYS_fsync, fd);
    if (!done)
        forget(file);
    pthread_mutex_unlock(&turn);
    return done;
}

/* Which of them SQLite calls depends on how it was built. */
ssize_t pwrite(int, const void *, size_t, off_t) __attribute__((alias("pwrite64")));
int fdatasync(int) __attribute__((alias("fsync")));
