/* A disk that loses unsynced data at a power cut, for one program: preload this library.
 *
 * Files below POWER_ROOT are written as usual, so that the program sees its writes. In addition,
 * POWER_IMAGE holds the contents of a disk after a power cut:
 *   content/INODE  the content at the last sync of the file,
 *   live/INODE     a hard link to the file itself, so that no inode number is used twice,
 *   log            changes of names, and the syncs of folders that made them durable,
 *   state          the sectors written and not synced. It survives the process.
 * One sync in POWER_FAIL_ONE_IN fails with EIO. As on Linux, its pending writes are then lost
 * permanently and count as clean: a later sync that succeeds does not restore them. Number `fail` of the
 * state lets all syncs fail (1), or those of the inode of that number.
 *
 * Names that end in -shm are memory and are left alone. Writes by stdio are not intercepted, because
 * it does not call write by its public name.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 512
#define FILES 256
#define SECTORS 131072 /* files of up to 64 MiB */

struct tracked {
    uint64_t inode;
    uint8_t dirty[SECTORS / 8];
};

/* The first five outlast a power cut. The tests read and write them. */
struct state {
    uint64_t syncs, failed, lost_sectors, random, fail;
    uint64_t device, used;
    struct tracked files[FILES];
};

static char root[PATH_MAX], image[PATH_MAX];
static struct state *state;
static uint64_t fail_one_in;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(result, name, ...)                          \
    static result (*real_##name)(__VA_ARGS__);           \
    if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name)

static void fail(const char *what) {
    perror(what);
    abort();
}

__attribute__((constructor)) static void start(void) {
    const char *one_in = getenv("POWER_FAIL_ONE_IN"), *seed = getenv("POWER_SEED");
    char path[PATH_MAX + 8];
    if (!getenv("POWER_ROOT") || !getenv("POWER_IMAGE")) return;
    snprintf(root, sizeof root, "%s", getenv("POWER_ROOT"));
    snprintf(image, sizeof image, "%s", getenv("POWER_IMAGE"));
    snprintf(path, sizeof path, "%s/state", image);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof *state)) fail("POWER_IMAGE/state");
    void *memory = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) fail("POWER_IMAGE/state");
    struct stat stat;
    if (fstat(file, &stat)) fail("POWER_IMAGE/state");
    close(file);
    fail_one_in = one_in ? strtoull(one_in, NULL, 10) : 0;
    state = memory;
    state->device = stat.st_dev;
    if (!state->random) state->random = (seed ? strtoull(seed, NULL, 10) : 0) * 2 + 1;
}

static int is_below(const char *path) {
    size_t length = strlen(root), all = path ? strlen(path) : 0;
    if (!state || all <= length || strncmp(path, root, length) || path[length] != '/') return 0;
    return all < 4 || strcmp(path + all - 4, "-shm");
}

/* Appends a line to the log. Paths in it are relative to the root. */
static void note(const char *verb, const char *one, const char *other) {
    REAL(int, open64, const char *, int, ...);
    REAL(ssize_t, write, int, const void *, size_t);
    char path[PATH_MAX + 8], line[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/log", image);
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", verb, one, other);
    int log = real_open64(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log < 0 || real_write(log, line, (size_t)length) != length) fail("POWER_IMAGE/log");
    close(log);
}

static const char *relative(const char *path) {
    return path + strlen(root) + 1;
}

/* Returns the file of a descriptor, if it is one of ours. */
static struct tracked *find(int fd, struct stat *stat) {
    if (!state || fstat(fd, stat) || !S_ISREG(stat->st_mode) || stat->st_dev != state->device)
        return NULL;
    for (uint64_t place = 0; place < state->used; place++)
        if (state->files[place].inode == stat->st_ino) return &state->files[place];
    return NULL;
}

/* Follows a file that was opened, from its creation on. */
static void follow(int fd, const char *path) {
    REAL(int, open64, const char *, int, ...);
    struct stat stat;
    char name[PATH_MAX + 64], number[32];
    if (find(fd, &stat) || !S_ISREG(stat.st_mode)) return;
    if (state->used == FILES) fail("too many files below POWER_ROOT");
    state->files[state->used].inode = stat.st_ino;
    state->used++;
    snprintf(number, sizeof number, "%lu", (unsigned long)stat.st_ino);
    snprintf(name, sizeof name, "%s/live/%s", image, number);
    /* It is in the image already: the file is older than this process. */
    if (link(path, name)) return;
    snprintf(name, sizeof name, "%s/content/%s", image, number);
    int content = real_open64(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (content < 0) fail("POWER_IMAGE/content");
    close(content);
    note("create", relative(path), number);
}

static void mark(struct tracked *file, off_t from, off_t to) {
    if (to > (off_t)SECTORS * SECTOR) fail("a file below POWER_ROOT is too large");
    for (off_t sector = from / SECTOR; sector * SECTOR < to; sector++)
        file->dirty[sector / 8] |= (uint8_t)(1 << sector % 8);
}

/* Bytes after the new end read as zeros once the file grows again. */
static void mark_cut(int fd, off_t length) {
    struct stat stat;
    struct tracked *file = find(fd, &stat);
    if (file && stat.st_size > length) mark(file, length, stat.st_size);
}

/* Copies the dirty sectors to the image. */
static void keep(int fd, struct tracked *file, off_t size) {
    REAL(int, open64, const char *, int, ...);
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    REAL(int, ftruncate64, int, off_t);
    char name[PATH_MAX + 64], sector[SECTOR];
    snprintf(name, sizeof name, "%s/content/%lu", image, (unsigned long)file->inode);
    int content = real_open64(name, O_WRONLY | O_CLOEXEC);
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int readable = real_open64(name, O_RDONLY | O_CLOEXEC);
    if (content < 0 || readable < 0 || real_ftruncate64(content, size)) fail("POWER_IMAGE/content");
    for (off_t byte = 0; byte < SECTORS / 8; byte++) {
        for (int bit = 0; file->dirty[byte] && bit < 8; bit++) {
            off_t at = (byte * 8 + bit) * SECTOR;
            if (!(file->dirty[byte] & 1 << bit) || at >= size) continue;
            ssize_t length = pread64(readable, sector, SECTOR, at);
            if (length < 0 || real_pwrite64(content, sector, (size_t)length, at) != length)
                fail("POWER_IMAGE/content");
        }
        file->dirty[byte] = 0;
    }
    close(readable);
    close(content);
}

static void lose(struct tracked *file) {
    for (size_t byte = 0; byte < sizeof file->dirty; byte++) {
        state->lost_sectors += (uint64_t)__builtin_popcount(file->dirty[byte]);
        file->dirty[byte] = 0;
    }
}

static int is_to_fail(uint64_t inode) {
    state->syncs++;
    state->random ^= state->random << 13;
    state->random ^= state->random >> 7;
    state->random ^= state->random << 17;
    int chosen = state->fail == 1 || state->fail == inode;
    if (!chosen && (!fail_one_in || state->random % fail_one_in)) return 0;
    state->failed++;
    return 1;
}

/* Returns a folder's path below the root, "" for the root itself, or 0 if it is neither. */
static int folder(int fd, char *path, size_t size) {
    struct stat stat;
    char link[64];
    if (!state || fstat(fd, &stat) || !S_ISDIR(stat.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return !strcmp(path, root) || is_below(path);
}

static int sync_one(int fd) {
    struct stat stat;
    char path[PATH_MAX];
    int result = 0;
    pthread_mutex_lock(&mutex);
    struct tracked *file = find(fd, &stat);
    int names = !file && folder(fd, path, sizeof path);
    if ((file || names) && is_to_fail(stat.st_ino)) {
        /* Names stay pending, because a file system that cannot write them stops permanently. */
        if (file) lose(file);
        errno = EIO;
        result = -1;
    } else if (file) {
        keep(fd, file, stat.st_size);
    } else if (names) {
        note("sync", strcmp(path, root) ? relative(path) : "", "");
    }
    pthread_mutex_unlock(&mutex);
    return result;
}

int fsync(int fd) { return sync_one(fd); }
int fdatasync(int fd) { return sync_one(fd); }

static int open_one(int at, const char *path, int flags, mode_t mode) {
    REAL(int, openat64, int, const char *, int, ...);
    if (!is_below(path)) return real_openat64(at, path, flags, mode);
    pthread_mutex_lock(&mutex);
    if (flags & O_TRUNC) {
        int before = real_openat64(at, path, O_RDONLY | O_CLOEXEC);
        if (before >= 0) {
            mark_cut(before, 0);
            close(before);
        }
    }
    int fd = real_openat64(at, path, flags, mode), error = errno;
    if (fd >= 0) follow(fd, path);
    pthread_mutex_unlock(&mutex);
    errno = error;
    return fd;
}

#define MODE(flags)                                          \
    mode_t mode = 0;                                         \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest;                                        \
        va_start(rest, flags);                               \
        mode = va_arg(rest, mode_t);                         \
        va_end(rest);                                        \
    }

int open(const char *path, int flags, ...) {
    MODE(flags)
    return open_one(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE(flags)
    return open_one(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
int openat(int at, const char *path, int flags, ...) {
    MODE(flags)
    return open_one(at, path, flags, mode);
}
int openat64(int at, const char *path, int flags, ...) {
    MODE(flags)
    return open_one(at, path, flags | O_LARGEFILE, mode);
}
int creat(const char *path, mode_t mode) {
    return open_one(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* Must run before the call, because only then the position of a plain write is known. Returns -1 if the file is none of ours. */
static off_t place(int fd) {
    struct stat stat;
    if (!find(fd, &stat)) return -1;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && flags & O_APPEND ? stat.st_size : lseek(fd, 0, SEEK_CUR);
}

static void wrote(int fd, off_t from, ssize_t length) {
    struct stat stat;
    int error = errno;
    struct tracked *file = from >= 0 && length > 0 ? find(fd, &stat) : NULL;
    if (file) mark(file, from, from + length);
    errno = error;
}

/* Most calls go to sockets and pipes, which may block and must not hold the mutex. */
#define WRITE(fd, from, call)                                \
    struct stat kind;                                        \
    int error = errno;                                       \
    if (!find(fd, &kind)) { errno = error; return call; }    \
    pthread_mutex_lock(&mutex);                              \
    off_t start = (from);                                    \
    ssize_t length = call;                                   \
    wrote(fd, start, length);                                \
    pthread_mutex_unlock(&mutex);                            \
    return length;

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    WRITE(fd, place(fd), real_write(fd, data, size))
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    WRITE(fd, place(fd), real_writev(fd, parts, count))
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    WRITE(fd, at, real_pwrite64(fd, data, size, at))
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
    return pwrite(fd, data, size, at);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(ssize_t, pwritev64, int, const struct iovec *, int, off_t);
    WRITE(fd, at, real_pwritev64(fd, parts, count, at))
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    return pwritev(fd, parts, count, at);
}

int ftruncate(int fd, off_t length) {
    REAL(int, ftruncate64, int, off_t);
    pthread_mutex_lock(&mutex);
    mark_cut(fd, length);
    int result = real_ftruncate64(fd, length);
    pthread_mutex_unlock(&mutex);
    return result;
}
int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }

/* Changes a name, and appends its line to the log. */
#define NAMES(ours, call, verb, one, other)                  \
    if (!(ours)) return call;                                \
    pthread_mutex_lock(&mutex);                              \
    int result = call, error = errno;                        \
    if (!result) note(verb, relative(one), other);           \
    pthread_mutex_unlock(&mutex);                            \
    errno = error;                                           \
    return result;

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    NAMES(is_below(path), real_mkdir(path, mode), "mkdir", path, "")
}
int unlink(const char *path) {
    REAL(int, unlink, const char *);
    NAMES(is_below(path), real_unlink(path), "unlink", path, "")
}
int unlinkat(int at, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    NAMES(is_below(path) && !flags, real_unlinkat(at, path, flags), "unlink", path, "")
}
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    NAMES(is_below(from) && is_below(to), real_rename(from, to), "rename", from, relative(to))
}
int renameat(int old, const char *from, int new, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    NAMES(is_below(from) && is_below(to), real_renameat(old, from, new, to), "rename", from,
          relative(to))
}
int renameat2(int old, const char *from, int new, const char *to, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    NAMES(is_below(from) && is_below(to), real_renameat2(old, from, new, to, flags), "rename", from,
          relative(to))
}

/* None of these may write without updating the image. */
int fallocate(int fd, int mode, off_t from, off_t length) {
    REAL(int, fallocate, int, int, off_t, off_t);
    struct stat stat;
    if (find(fd, &stat)) fail("fallocate below POWER_ROOT is not provided for");
    return real_fallocate(fd, mode, from, length);
}
int truncate(const char *path, off_t length) {
    REAL(int, truncate, const char *, off_t);
    if (is_below(path)) fail("truncate below POWER_ROOT is not provided for");
    return real_truncate(path, length);
}
