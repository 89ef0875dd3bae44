/* Preloaded into a program under test: makes calls that write fail under one
 * folder, as the control file says, and shifts the wall clock. Who controls it
 * writes the file (see lib.rs, which has the same layout); all calls but those
 * that are to fail go to the kernel unchanged. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, CREATE = 8, RENAME = 16, REMOVE = 32 };
enum { FAIL = 0, SHORT = 1, LOSE = 2 };

struct control {
  _Atomic uint64_t armed, calls, error, mode, skip, times, hits;
  _Atomic int64_t clock_ns;
  char folder[4032];
};

static struct control *ctl;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("AETHER_FAULTS");
  if (!path) return;
  int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return;
  void *map = mmap(0, sizeof *ctl, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (map != MAP_FAILED) ctl = map;
}

/* In the folder; or the file, or one beside it that it has made (-wal). */
static int inside(const char *path) {
  size_t n = strlen(ctl->folder);
  return n && !strncmp(path, ctl->folder, n) && (path[n] == '/' || path[n] == '-' || !path[n]);
}

static int fd_inside(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return inside(path);
}

static int path_inside(int at, const char *path) {
  if (path[0] == '/') return inside(path);
  if (at == AT_FDCWD) return 0;
  return fd_inside(at);
}

/* Whether this call, which lies inside, is one that fails. */
static int hit(void) {
  uint64_t skip = ctl->skip;
  while (skip) if (atomic_compare_exchange_weak(&ctl->skip, &skip, skip - 1)) return 0;
  uint64_t times = ctl->times;
  while (times) {
    if (times == UINT64_MAX || atomic_compare_exchange_weak(&ctl->times, &times, times - 1)) {
      ctl->hits++;
      return 1;
    }
  }
  return 0;
}

static int on(int call) { return ctl && ctl->armed && (ctl->calls & call); }
static int fd_fails(int call, int fd) { return on(call) && fd_inside(fd) && hit(); }
static int path_fails(int call, int at, const char *path) { return on(call) && path_inside(at, path) && hit(); }
static long refuse(void) { errno = (int)ctl->error; return -1; }
static size_t half(size_t n) { return n > 1 ? n / 2 : n; }

/* What was written since the last sync, to be lost by one that fails. */
struct old { struct old *next; dev_t dev; ino_t ino; off_t at; size_t len, had; char bytes[]; };
static struct old *olds;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void remember(int fd, size_t len, off_t at) {
  struct stat s;
  if (!ctl || !ctl->armed || ctl->mode != LOSE || !fd_inside(fd) || fstat(fd, &s)) return;
  struct old *o = calloc(1, sizeof *o + len);
  if (!o) return;
  ssize_t had = syscall(SYS_pread64, fd, o->bytes, len, at);
  o->dev = s.st_dev, o->ino = s.st_ino, o->at = at, o->len = len, o->had = had < 0 ? 0 : had;
  pthread_mutex_lock(&lock);
  o->next = olds, olds = o;
  pthread_mutex_unlock(&lock);
}

static void synced(int fd, int lose) {
  struct stat s;
  if (!olds || fstat(fd, &s)) return;
  pthread_mutex_lock(&lock);
  /* Newest first: the oldest bytes come last and stay. */
  for (struct old **p = &olds; *p;) {
    struct old *o = *p;
    if (o->dev != s.st_dev || o->ino != s.st_ino) { p = &o->next; continue; }
    if (lose) syscall(SYS_pwrite64, fd, o->bytes, o->len, o->at);
    *p = o->next;
    free(o);
  }
  pthread_mutex_unlock(&lock);
}

static int sync_as(long number, int fd) {
  if (fd_fails(SYNC, fd)) {
    if (ctl->mode == LOSE) synced(fd, 1);
    return refuse();
  }
  int done = syscall(number, fd);
  if (!done) synced(fd, 0);
  return done;
}

int fsync(int fd) { return sync_as(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_as(SYS_fdatasync, fd); }

ssize_t write(int fd, const void *b, size_t n) {
  if (fd_fails(WRITE, fd)) {
    if (ctl->mode != SHORT) return refuse();
    n = half(n);
  }
  return syscall(SYS_write, fd, b, n);
}

ssize_t pwrite64(int fd, const void *b, size_t n, off_t at) {
  remember(fd, n, at);
  if (fd_fails(WRITE, fd)) {
    if (ctl->mode != SHORT) return refuse();
    n = half(n);
  }
  return syscall(SYS_pwrite64, fd, b, n, at);
}
ssize_t pwrite(int fd, const void *b, size_t n, off_t at) { return pwrite64(fd, b, n, at); }

ssize_t writev(int fd, const struct iovec *v, int n) {
  if (fd_fails(WRITE, fd)) {
    if (ctl->mode != SHORT || n < 1) return refuse();
    return syscall(SYS_write, fd, v[0].iov_base, half(v[0].iov_len));
  }
  return syscall(SYS_writev, fd, v, n);
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned f) {
  if (fd_fails(WRITE, out)) {
    if (ctl->mode != SHORT) return refuse();
    n = half(n);
  }
  return syscall(SYS_copy_file_range, in, from, out, to, n, f);
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t n) {
  if (fd_fails(WRITE, out)) {
    if (ctl->mode != SHORT) return refuse();
    n = half(n);
  }
  return syscall(SYS_sendfile, out, in, at, n);
}
ssize_t sendfile(int out, int in, off_t *at, size_t n) { return sendfile64(out, in, at, n); }

int ftruncate64(int fd, off_t n) { return fd_fails(TRUNCATE, fd) ? refuse() : syscall(SYS_ftruncate, fd, n); }
int ftruncate(int fd, off_t n) { return ftruncate64(fd, n); }
int fallocate64(int fd, int mode, off_t at, off_t n) {
  return fd_fails(TRUNCATE, fd) ? refuse() : syscall(SYS_fallocate, fd, mode, at, n);
}
int fallocate(int fd, int mode, off_t at, off_t n) { return fallocate64(fd, mode, at, n); }
int posix_fallocate64(int fd, off_t at, off_t n) {
  if (fd_fails(TRUNCATE, fd)) return (int)ctl->error;
  return syscall(SYS_fallocate, fd, 0, at, n) ? errno : 0;
}
int posix_fallocate(int fd, off_t at, off_t n) { return posix_fallocate64(fd, at, n); }

static int open_as(int at, const char *path, int flags, mode_t mode) {
  if ((flags & (O_CREAT | __O_TMPFILE)) && path_fails(CREATE, at, path)) return refuse();
  return syscall(SYS_openat, at, path, flags, mode);
}
#define MODE(last) mode_t mode = 0; if (last & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, last); mode = va_arg(a, mode_t); va_end(a); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_as(AT_FDCWD, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE(flags) return open_as(AT_FDCWD, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_as(at, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_as(at, path, flags, mode); }
int mkdirat(int at, const char *path, mode_t mode) {
  return path_fails(CREATE, at, path) ? refuse() : syscall(SYS_mkdirat, at, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
  return path_fails(RENAME, b, to) ? refuse() : syscall(SYS_renameat2, a, from, b, to, flags);
}
int renameat(int a, const char *from, int b, const char *to) { return renameat2(a, from, b, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
  return path_fails(RENAME, b, to) ? refuse() : syscall(SYS_linkat, a, from, b, to, flags);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int at, const char *path, int flags) {
  return path_fails(REMOVE, at, path) ? refuse() : syscall(SYS_unlinkat, at, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int clock_gettime(clockid_t clock, struct timespec *t) {
  int done = syscall(SYS_clock_gettime, clock, t);
  if (!done && ctl && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t ns = t->tv_sec * 1000000000LL + t->tv_nsec + ctl->clock_ns;
    t->tv_sec = ns / 1000000000LL, t->tv_nsec = ns % 1000000000LL;
  }
  return done;
}
