/* Faults in system calls, as data.

   Preloaded into a child process (tests/children.py), which arms one fault: what happens at the k-th call of a kind on a
   file below a folder. Calls are counted in memory shared with the parent, so that the count outlives a killed child. */
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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The order of tests/children.py. */
enum op { ANY, CHANGE, OPEN_READ, OPEN_WRITE, READ, WRITE, FSYNC, RENAME, CLOSE, MKDIR, UNLINK, OPS };
enum how { FAIL, AFTER, SHORT, KILL, KILLED_AFTER, TORN, TERM, INT, STOP, CLOCK, TIMER };

static struct { long count[OPS], met; } *seen;
static struct { int armed, op, how, code, sticky; long k; size_t length; char under[PATH_MAX]; } plan;
static char ours[1 << 16];
static long clock_jump;

__attribute__((constructor)) static void share(void) {
  seen = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void fault_arm(const char *under, int op, long k, int how, int code, int sticky) {
  plan.length = strlen(strcpy(plan.under, under));
  plan.op = op, plan.k = k, plan.how = how, plan.code = code, plan.sticky = sticky, plan.armed = 1;
}

/* A place of its own for what the next child counts. */
void fault_fresh(void) { share(); }

long *fault_seen(void) { return (long *)seen; }

/* The kernel kills this process in so many microseconds, wherever it is then. */
static void kill_in(long microseconds) {
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
  struct itimerspec when = {.it_value = {microseconds / 1000000, microseconds % 1000000 * 1000 + 1}};
  timer_t timer;
  if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, NULL)) abort();
}

enum verdict { GO, FAILS, FAILS_AFTER, DIES_AFTER, HALF };

static int count(int op) {
  long n = __atomic_add_fetch(&seen->count[op], 1, __ATOMIC_SEQ_CST);
  return plan.op == op && (plan.sticky ? n >= plan.k : n == plan.k);
}

static enum verdict meet(int op) {
  int met = count(op) + count(ANY);
  if (op != OPEN_READ && op != READ && op != CLOSE) met += count(CHANGE);
  if (!met) return GO;
  __atomic_add_fetch(&seen->met, 1, __ATOMIC_SEQ_CST);
  errno = plan.code;
  switch (plan.how) {
    case FAIL: return FAILS;
    case AFTER: return FAILS_AFTER;
    case SHORT: case TORN: return op == WRITE ? HALF : GO;
    case KILL: kill(getpid(), SIGKILL); break;
    case KILLED_AFTER: return DIES_AFTER;
    case TERM: kill(getpid(), SIGTERM); break;
    case INT: kill(getpid(), SIGINT); break;
    case STOP: kill(getpid(), SIGSTOP); break;
    case CLOCK: clock_jump = plan.code; break;
    case TIMER: kill_in(plan.code); break;
  }
  return GO;
}

static int below(int folder, const char *path) {
  if (!plan.armed) return 0;
  if (path[0] != '/' && folder != AT_FDCWD) return folder >= 0 && folder < (int)sizeof ours && ours[folder];
  char whole[2 * PATH_MAX];
  if (path[0] != '/') {
    if (!getcwd(whole, PATH_MAX)) return 0;
    strcat(strcat(whole, "/"), path);
    path = whole;
  }
  return !strncmp(path, plan.under, plan.length) && strchr("/", path[plan.length]) != NULL;
}

static int is_ours(int fd) { return plan.armed && fd >= 0 && fd < (int)sizeof ours && ours[fd]; }

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define CALL(type, op, mine, call)                           \
  do {                                                       \
    if (!(mine)) return call;                                \
    enum verdict v = meet(op);                               \
    if (v == FAILS) return (type)-1;                         \
    type result = call;                                      \
    if (v == DIES_AFTER) kill(getpid(), SIGKILL);            \
    if (v == FAILS_AFTER) { errno = plan.code; return -1; }  \
    return result;                                           \
  } while (0)

/* ---- open and close */

static int opened(int mine, int fd) {
  if (fd >= 0 && fd < (int)sizeof ours) ours[fd] = mine;
  return fd;
}

#define OPEN(name, folder, args, call)                                                   \
  {                                                                                      \
    mode_t mode = 0;                                                                     \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                               \
      va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest);    \
    }                                                                                    \
    REAL(name);                                                                          \
    int mine = below(folder, path);                                                      \
    CALL(int, flags & (O_WRONLY | O_RDWR) ? OPEN_WRITE : OPEN_READ, mine, opened(mine, call)); \
  }

int open(const char *path, int flags, ...) OPEN(open, AT_FDCWD, path, real(path, flags, mode))
int open64(const char *path, int flags, ...) OPEN(open64, AT_FDCWD, path, real(path, flags, mode))
int openat(int folder, const char *path, int flags, ...) OPEN(openat, folder, path, real(folder, path, flags, mode))
int openat64(int folder, const char *path, int flags, ...) OPEN(openat64, folder, path, real(folder, path, flags, mode))

static int closed(int (*real)(int), int fd) {
  if (fd >= 0 && fd < (int)sizeof ours) ours[fd] = 0;
  return real(fd);
}

/* As on Linux, a close that fails has closed: the descriptor may be another thread's by now. */
int close(int fd) {
  REAL(close);
  if (!is_ours(fd)) return closed(real, fd);
  enum verdict v = meet(CLOSE);
  int code = errno, result = closed(real, fd);
  if (v == DIES_AFTER) kill(getpid(), SIGKILL);
  if (v == FAILS || v == FAILS_AFTER) { errno = code; return -1; }
  return result;
}

/* ---- read and write */

ssize_t read(int fd, void *data, size_t size) { REAL(read); CALL(ssize_t, READ, is_ours(fd), real(fd, data, size)); }
ssize_t pread(int fd, void *data, size_t size, off_t at) { REAL(pread); CALL(ssize_t, READ, is_ours(fd), real(fd, data, size, at)); }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) { REAL(pread64); CALL(ssize_t, READ, is_ours(fd), real(fd, data, size, at)); }
ssize_t preadv(int fd, const struct iovec *to, int n, off_t at) { REAL(preadv); CALL(ssize_t, READ, is_ours(fd), real(fd, to, n, at)); }
ssize_t preadv64(int fd, const struct iovec *to, int n, off64_t at) { REAL(preadv64); CALL(ssize_t, READ, is_ours(fd), real(fd, to, n, at)); }

#define WRITING(call_half, call)                             \
  do {                                                       \
    if (!is_ours(fd)) return call;                           \
    enum verdict v = meet(WRITE);                            \
    if (v == FAILS) return -1;                               \
    ssize_t result = v == HALF && size > 1 ? call_half : call; \
    if (v == DIES_AFTER || (v == HALF && plan.how == TORN)) kill(getpid(), SIGKILL); \
    if (v == FAILS_AFTER) { errno = plan.code; return -1; }  \
    return result;                                           \
  } while (0)

ssize_t write(int fd, const void *data, size_t size) { REAL(write); WRITING(real(fd, data, size / 2), real(fd, data, size)); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite); WRITING(real(fd, data, size / 2, at), real(fd, data, size, at)); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64); WRITING(real(fd, data, size / 2, at), real(fd, data, size, at)); }

int fsync(int fd) { REAL(fsync); CALL(int, FSYNC, is_ours(fd), real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); CALL(int, FSYNC, is_ours(fd), real(fd)); }

/* ---- names */

int rename(const char *from, const char *to) { REAL(rename); CALL(int, RENAME, below(AT_FDCWD, to), real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); CALL(int, RENAME, below(b, to), real(a, from, b, to)); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); CALL(int, MKDIR, below(AT_FDCWD, path), real(path, mode)); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(mkdirat); CALL(int, MKDIR, below(folder, path), real(folder, path, mode)); }
int unlink(const char *path) { REAL(unlink); CALL(int, UNLINK, below(AT_FDCWD, path), real(path)); }
int rmdir(const char *path) { REAL(rmdir); CALL(int, UNLINK, below(AT_FDCWD, path), real(path)); }
int unlinkat(int folder, const char *path, int flags) { REAL(unlinkat); CALL(int, UNLINK, below(folder, path), real(folder, path, flags)); }

/* ---- the clock on the wall */

int clock_gettime(clockid_t id, struct timespec *now) {
  REAL(clock_gettime);
  int result = real(id, now);
  if (id == CLOCK_REALTIME) now->tv_sec += clock_jump;
  return result;
}
time_t time(time_t *to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}
