/* A disk that can fail and lose power, between a process and its files (LD_PRELOAD): for tests/test_spool_crash.py.

   For every file below DISK_FOLDER it keeps DISK_SHADOW/<name>: what a disk without power would still hold. Writes go to
   the real file and are remembered as dirty; fsync carries the dirty stretches into the shadow. While the file DISK_FAULT
   exists, holding "CALL ERRNO" (CALL is pwrite or fsync), that call fails; and a failed fsync forgets what was dirty, as
   Linux does: the next fsync succeeds without having written it (https://lwn.net/Articles/752063/). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 16
struct stretch { off_t at; size_t length; };
static struct file { char path[PATH_MAX]; struct stretch *dirty; size_t n, room; } files[FILES];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static struct file *file_of(int fd) {
    const char *folder = getenv("DISK_FOLDER");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!folder || length < 0) return NULL;
    path[length] = 0;
    struct stat is;
    if (strncmp(path, folder, strlen(folder)) || fstat(fd, &is) || !S_ISREG(is.st_mode) || !is.st_nlink) return NULL;
    for (int i = 0; i < FILES; i++) {
        if (!files[i].path[0]) strcpy(files[i].path, path);
        if (!strcmp(files[i].path, path)) return &files[i];
    }
    abort();
}

static int fault(const char *call) {
    const char *path = getenv("DISK_FAULT");
    FILE *order = path ? fopen(path, "r") : NULL;
    char which[16];
    int number = 0, found = order && fscanf(order, "%15s %d", which, &number) == 2 && !strcmp(which, call);
    if (order) fclose(order);
    return found ? number : 0;
}

static void dirty(int fd, off_t at, size_t length) {
    pthread_mutex_lock(&mutex);
    struct file *file = file_of(fd);
    if (file) {
        if (file->n == file->room) file->dirty = realloc(file->dirty, (file->room = 2 * file->room + 64) * sizeof *file->dirty);
        file->dirty[file->n++] = (struct stretch){at, length};
    }
    pthread_mutex_unlock(&mutex);
}

static ssize_t (*next_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*next_pread)(int, void *, size_t, off_t);

static ssize_t write_at(int fd, const void *from, size_t length, off_t at) {
    if (!next_pwrite) next_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    int number = fault("pwrite");
    if (number && file_of(fd)) { errno = number; return -1; }
    ssize_t wrote = next_pwrite(fd, from, length, at);
    if (wrote > 0) dirty(fd, at, wrote);
    return wrote;
}
ssize_t pwrite(int fd, const void *from, size_t length, off_t at) { return write_at(fd, from, length, at); }
ssize_t pwrite64(int fd, const void *from, size_t length, off_t at) { return write_at(fd, from, length, at); }

static void carry(int fd, struct file *file) {
    char shadow[2 * PATH_MAX], *piece;
    snprintf(shadow, sizeof shadow, "%s/%s", getenv("DISK_SHADOW"), strrchr(file->path, '/') + 1);
    int to = open(shadow, O_CREAT | O_RDWR, 0600);
    struct stat is;
    if (to < 0 || fstat(fd, &is)) abort();
    for (size_t i = 0; i < file->n; i++) {
        piece = malloc(file->dirty[i].length);
        ssize_t got = next_pread(fd, piece, file->dirty[i].length, file->dirty[i].at);
        if (got > 0 && next_pwrite(to, piece, got, file->dirty[i].at) != got) abort();
        free(piece);
    }
    if (ftruncate(to, is.st_size)) abort();
    close(to);
}

static int sync_it(int fd, const char *name) {
    if (!next_pwrite) next_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    if (!next_pread) next_pread = dlsym(RTLD_NEXT, "pread64");
    int number = fault("fsync");
    pthread_mutex_lock(&mutex);
    struct file *file = file_of(fd);
    if (file && !number) carry(fd, file);
    if (file) file->n = 0;
    pthread_mutex_unlock(&mutex);
    if (file && number) { errno = number; return -1; }
    (void)name;
    return 0;
}
int fsync(int fd) { return sync_it(fd, "fsync"); }
int fdatasync(int fd) { return sync_it(fd, "fdatasync"); }

int unlink(const char *path) {
    const char *folder = getenv("DISK_FOLDER");
    if (folder && !strncmp(path, folder, strlen(folder))) {
        char shadow[2 * PATH_MAX];
        snprintf(shadow, sizeof shadow, "%s/%s", getenv("DISK_SHADOW"), strrchr(path, '/') + 1);
        unlinkat(AT_FDCWD, shadow, 0);
        pthread_mutex_lock(&mutex);
        for (int i = 0; i < FILES; i++)
            if (!strcmp(files[i].path, path)) files[i].n = 0;
        pthread_mutex_unlock(&mutex);
    }
    return unlinkat(AT_FDCWD, path, 0);
}
