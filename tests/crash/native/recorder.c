/* Records what a process asks of the disk under one directory, in order, with the bytes.
 *
 * Loaded by LD_PRELOAD. RECORDER_ROOT names the directory, RECORDER_TRACE the file that the trace is appended
 * to. A call is recorded once it has succeeded, under one lock with the call itself, so that the trace is an
 * order in which the calls may have happened. Lines that the writer gives to recorder_mark() are put between.
 *
 * A record is the header below, then a path, then data. Files are known by their inode number; a number that
 * is given again begins with a record of its creation. RECORDER_SHORT=n cuts every n-th write to a *.commit or
 * *.arrows file short, which callers must take.
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
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    MARK = 1, OPEN, CREATE, WRITE, SYNC, TRUNCATE, RENAME, UNLINK, MKDIR, RMDIR, LINK, MAPPED
};
enum { DURABLE = 1 }; /* the write itself was synchronous (O_SYNC, O_DSYNC) */

struct header {
    uint8_t kind;
    uint8_t flags;
    uint16_t path;
    uint32_t data;
    uint64_t inode;
    uint64_t position; /* of a write; the size, of a truncation; the length of the first path, of a renaming */
};

#define FDS 65536
static unsigned char tracked[FDS];
static int trace = -1;
static char root[PATH_MAX];
static size_t root_length;
static long short_every, short_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name, type) static type (*real_##name)
static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

static void emit(int kind, int flags, uint64_t inode, uint64_t position, const char *path, const struct iovec *data,
                 int count, size_t length)
{
    struct header header = {(uint8_t)kind, (uint8_t)flags, (uint16_t)strlen(path), (uint32_t)length, inode, position};
    size_t total = sizeof header + header.path + length, done = 0;
    char *record = malloc(total), *at = record;
    memcpy(at, &header, sizeof header), at += sizeof header;
    memcpy(at, path, header.path), at += header.path;
    for (int i = 0; i < count && length; i++) {
        size_t piece = data[i].iov_len < length ? data[i].iov_len : length;
        memcpy(at, data[i].iov_base, piece), at += piece, length -= piece;
    }
    while (done < total) { /* by system call: these writes are nobody's business */
        long n = syscall(SYS_write, trace, record + done, total - done);
        if (n < 0) {
            if (errno == EINTR) continue;
            abort();
        }
        done += (size_t)n;
    }
    free(record);
}

static int inside(const char *path)
{
    return root_length && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]);
}

/* The absolute name of what a call names; it need not exist. */
static int absolute(int dir, const char *path, char *out)
{
    char base[PATH_MAX];
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char link[64];
        ssize_t n;
        if (dir == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        n = readlink(link, base, sizeof base - 1);
        if (n < 0) return 0;
        base[n] = 0;
        if ((size_t)snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return inside(out);
}

static uint64_t inode_of(int fd)
{
    struct stat found;
    return fstat(fd, &found) ? 0 : (uint64_t)found.st_ino;
}

static void arm(void)
{
    const char *where = getenv("RECORDER_TRACE"), *of = getenv("RECORDER_ROOT"), *cut = getenv("RECORDER_SHORT");
    struct stat found;
    if (!where || !of || root_length) return;
    if (!realpath(of, root)) return;
    trace = (int)syscall(SYS_openat, AT_FDCWD, where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (trace < 0) abort();
    root_length = strlen(root);
    short_every = cut ? atol(cut) : 0;
    if (!stat(root, &found)) emit(OPEN, 0, found.st_ino, 0, root, NULL, 0, 0);
}

__attribute__((constructor)) static void begin(void) { arm(); }

void recorder_mark(const char *text, size_t length)
{
    struct iovec data = {(void *)text, length};
    if (trace < 0) return;
    pthread_mutex_lock(&lock);
    emit(MARK, 0, 0, 0, "", &data, 1, length);
    pthread_mutex_unlock(&lock);
}

/* --- names ------------------------------------------------------------------------------------------------- */

static int opened(int (*call)(int, const char *, int, mode_t), int dir, const char *path, int flags, mode_t mode)
{
    char name[PATH_MAX];
    struct stat before;
    int fd, was, saved;
    if (trace < 0 || !absolute(dir, path, name)) return call(dir, path, flags, mode);
    pthread_mutex_lock(&lock);
    was = !lstat(name, &before);
    fd = call(dir, path, flags, mode);
    saved = errno;
    if (fd >= 0 && fd < FDS) {
        uint64_t inode = inode_of(fd);
        tracked[fd] = 1;
        emit(!was && (flags & O_CREAT) ? CREATE : OPEN, 0, inode, 0, name, NULL, 0, 0);
        if (was && (flags & O_TRUNC)) emit(TRUNCATE, 0, inode, 0, "", NULL, 0, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return fd;
}

REAL(openat, int)(int, const char *, int, mode_t);
static int call_openat(int dir, const char *path, int flags, mode_t mode)
{
    if (!real_openat) *(void **)&real_openat = next("openat64");
    return real_openat(dir, path, flags, mode);
}

#define MODE(flags, mode) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { MODE(flags, mode) return opened(call_openat, AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return opened(call_openat, AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags, mode) return opened(call_openat, dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags, mode) return opened(call_openat, dir, path, flags, mode); }
int __open_2(const char *path, int flags) { return opened(call_openat, AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(call_openat, AT_FDCWD, path, flags, 0); }
int __openat_2(int dir, const char *path, int flags) { return opened(call_openat, dir, path, flags, 0); }
int __openat64_2(int dir, const char *path, int flags) { return opened(call_openat, dir, path, flags, 0); }
int creat(const char *path, mode_t mode) { return opened(call_openat, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return opened(call_openat, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd)
{
    REAL(close, int)(int);
    if (!real_close) *(void **)&real_close = next("close");
    if (fd >= 0 && fd < FDS) tracked[fd] = 0;
    return real_close(fd);
}

static int two_names(int kind, const char *call, int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    char source[PATH_MAX], target[PATH_MAX];
    int result, saved, known;
    known = trace >= 0 && absolute(from_dir, from, source) && absolute(to_dir, to, target);
    if (known) pthread_mutex_lock(&lock);
    if (kind == LINK) {
        int (*real)(int, const char *, int, const char *, int);
        *(void **)&real = next(call);
        result = real(from_dir, from, to_dir, to, flags);
    } else {
        int (*real)(int, const char *, int, const char *, unsigned);
        *(void **)&real = next(call);
        result = real(from_dir, from, to_dir, to, (unsigned)flags);
    }
    saved = errno;
    if (known) {
        struct iovec data = {target, strlen(target)};
        if (!result) emit(kind, 0, 0, strlen(source), source, &data, 1, data.iov_len);
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
    return result;
}

int rename(const char *from, const char *to) { return two_names(RENAME, "renameat2", AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return two_names(RENAME, "renameat2", a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned f) { return two_names(RENAME, "renameat2", a, from, b, to, (int)f); }
int link(const char *from, const char *to) { return two_names(LINK, "linkat", AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int a, const char *from, int b, const char *to, int f) { return two_names(LINK, "linkat", a, from, b, to, f); }

static int removed(int dir, const char *path, int flags)
{
    static int (*real)(int, const char *, int);
    char name[PATH_MAX];
    int result, saved, known = trace >= 0 && absolute(dir, path, name);
    if (!real) *(void **)&real = next("unlinkat");
    if (known) pthread_mutex_lock(&lock);
    result = real(dir, path, flags);
    saved = errno;
    if (known) {
        if (!result) emit(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, 0, 0, name, NULL, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
    return result;
}

int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) { return removed(dir, path, flags); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path)
{
    struct stat found;
    return removed(AT_FDCWD, path, !lstat(path, &found) && S_ISDIR(found.st_mode) ? AT_REMOVEDIR : 0);
}

static int made(int dir, const char *path, mode_t mode)
{
    static int (*real)(int, const char *, mode_t);
    char name[PATH_MAX];
    int result, saved, known = trace >= 0 && absolute(dir, path, name);
    struct stat found;
    if (!real) *(void **)&real = next("mkdirat");
    if (known) pthread_mutex_lock(&lock);
    result = real(dir, path, mode);
    saved = errno;
    if (known) {
        if (!result && !stat(name, &found)) emit(MKDIR, 0, found.st_ino, 0, name, NULL, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = saved;
    return result;
}

int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { return made(dir, path, mode); }

/* --- bytes ------------------------------------------------------------------------------------------------- */

static int known(int fd) { return trace >= 0 && fd >= 0 && fd < FDS && tracked[fd]; }

static int durable(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && flags & (O_DSYNC | O_SYNC) ? DURABLE : 0;
}

/* Whether this write is to be cut short: then only its first bytes are asked for. */
static int cut(int fd)
{
    char link[64], name[PATH_MAX];
    ssize_t n;
    if (!short_every) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, name, sizeof name - 1);
    if (n < 8) return 0;
    name[n] = 0;
    if (strcmp(name + n - 7, ".commit") && strcmp(name + n - 7, ".arrows") && !strstr(name, "/new-")) return 0;
    return ++short_count % short_every == 0;
}

/* All writes end here; position -1 stands for where the descriptor is. */
static ssize_t written(int fd, const struct iovec *data, int count, off_t position)
{
    static ssize_t (*real)(int, const struct iovec *, int, off_t);
    static ssize_t (*real_here)(int, const struct iovec *, int);
    ssize_t n;
    int saved, recorded = known(fd);
    struct iovec first;
    if (!real) *(void **)&real = next("pwritev64"), *(void **)&real_here = next("writev");
    if (!recorded) return position < 0 ? real_here(fd, data, count) : real(fd, data, count, position);
    pthread_mutex_lock(&lock);
    if (count && cut(fd)) {
        first = data[0];
        if (first.iov_len > 1) first.iov_len = first.iov_len / 3 + 1;
        data = &first, count = 1;
    }
    n = position < 0 ? real_here(fd, data, count) : real(fd, data, count, position);
    saved = errno;
    if (n > 0) {
        off_t at = position < 0 ? lseek(fd, 0, SEEK_CUR) - n : position;
        emit(WRITE, durable(fd), inode_of(fd), (uint64_t)at, "", data, count, (size_t)n);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return n;
}

#define ONE(data, length) (&(struct iovec){(void *)(data), (length)})
/* Descriptors that are not ours take the direct way: this is every write of the process. */
ssize_t write(int fd, const void *data, size_t length)
{
    if (!known(fd)) return syscall(SYS_write, fd, data, length);
    return written(fd, ONE(data, length), 1, -1);
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return written(fd, ONE(data, length), 1, at); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) { return written(fd, ONE(data, length), 1, at); }
ssize_t writev(int fd, const struct iovec *data, int count)
{
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) *(void **)&real = next("writev");
    return known(fd) ? written(fd, data, count, -1) : real(fd, data, count);
}
ssize_t pwritev(int fd, const struct iovec *data, int count, off_t at) { return written(fd, data, count, at); }
ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t at) { return written(fd, data, count, at); }
ssize_t pwritev2(int fd, const struct iovec *data, int count, off_t at, int flags)
{
    ssize_t n = written(fd, data, count, at);
    if (flags & (RWF_DSYNC | RWF_SYNC) && n > 0 && fdatasync(fd)) return -1;
    return n;
}
ssize_t pwritev64v2(int fd, const struct iovec *data, int count, off64_t at, int flags) { return pwritev2(fd, data, count, at, flags); }

static void copied(int fd, off64_t at, size_t length)
{
    char *data = malloc(length);
    struct iovec piece = {data, length};
    if (pread(fd, data, length, at) == (ssize_t)length)
        emit(WRITE, durable(fd), inode_of(fd), (uint64_t)at, "", &piece, 1, length);
    else
        abort();
    free(data);
}

ssize_t copy_file_range(int from, off64_t *source, int to, off64_t *target, size_t length, unsigned flags)
{
    REAL(copy, ssize_t)(int, off64_t *, int, off64_t *, size_t, unsigned);
    ssize_t n;
    int saved, fd;
    off64_t at;
    if (!real_copy) *(void **)&real_copy = next("copy_file_range");
    if (!known(to)) return real_copy(from, source, to, target, length, flags);
    pthread_mutex_lock(&lock);
    at = target ? *target : lseek64(to, 0, SEEK_CUR);
    if (cut(to) && length > 1) length = length / 3 + 1;
    n = real_copy(from, source, to, target, length, flags);
    saved = errno;
    if (n > 0) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", to);
        fd = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0); /* it may be open to write only */
        if (fd < 0) abort();
        copied(fd, at, (size_t)n);
        syscall(SYS_close, fd);
    }
    pthread_mutex_unlock(&lock);
    errno = saved;
    return n;
}

static int sized(const char *call, int fd, off64_t size)
{
    int (*real)(int, off64_t);
    int result, saved, recorded = known(fd);
    *(void **)&real = next(call);
    if (!recorded) return real(fd, size);
    pthread_mutex_lock(&lock);
    result = real(fd, size);
    saved = errno;
    if (!result) emit(TRUNCATE, 0, inode_of(fd), (uint64_t)size, "", NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return result;
}

int ftruncate(int fd, off_t size) { return sized("ftruncate64", fd, size); }
int ftruncate64(int fd, off64_t size) { return sized("ftruncate64", fd, size); }

/* Not used by what is tested; a trace without them would be wrong. */
static int unrecorded(int fd)
{
    if (known(fd)) {
        pthread_mutex_lock(&lock);
        emit(MAPPED, 0, inode_of(fd), 0, "", NULL, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    return fd;
}
int fallocate(int fd, int mode, off_t at, off_t length) { return (int)syscall(SYS_fallocate, unrecorded(fd), mode, at, length); }
int fallocate64(int fd, int mode, off64_t at, off64_t length) { return (int)syscall(SYS_fallocate, unrecorded(fd), mode, at, length); }
int posix_fallocate(int fd, off_t at, off_t length) { return syscall(SYS_fallocate, unrecorded(fd), 0, at, length) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t length) { return syscall(SYS_fallocate, unrecorded(fd), 0, at, length) ? errno : 0; }

static int synced(const char *call, int fd)
{
    int (*real)(int);
    int result, saved, recorded = known(fd);
    *(void **)&real = next(call);
    if (!recorded) return real(fd);
    pthread_mutex_lock(&lock);
    result = real(fd);
    saved = errno;
    if (!result) emit(SYNC, 0, inode_of(fd), 0, "", NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return result;
}

int fsync(int fd) { return synced("fsync", fd); }
int fdatasync(int fd) { return synced("fdatasync", fd); }
/* sync_file_range() promises nothing over a power loss, and is not recorded. */

static void *mapped(void *at, size_t length, int protection, int flags, int fd, off64_t offset)
{
    static void *(*real)(void *, size_t, int, int, int, off64_t);
    if (!real) *(void **)&real = next("mmap64");
    if (fd >= 0 && protection & PROT_WRITE && (flags & MAP_TYPE) != MAP_PRIVATE) unrecorded(fd);
    return real(at, length, protection, flags, fd, offset);
}
void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) { return mapped(at, length, protection, flags, fd, offset); }
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) { return mapped(at, length, protection, flags, fd, offset); }
