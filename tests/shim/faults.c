/* A disk that is slow or fails, and a clock that is wrong, for one process: preloaded by fault tests.
 *
 * FAULT_KNOBS names a file of three 64-bit integers that the test rewrites while the process runs: microseconds that
 * every sync takes longer, nanoseconds that the wall clock is off, and the errno with which every sync fails (0: it
 * does not). The monotonic clock is left alone, as a step of the wall clock leaves it alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SYNC_DELAY_MICROS, CLOCK_OFFSET_NANOS, SYNC_ERRNO, KNOBS };
static const int64_t quiet[KNOBS];
static const volatile int64_t *knobs = quiet;
static const int64_t NANOS = 1000000000;

__attribute__((constructor)) static void find_knobs(void) {
    const char *path = getenv("FAULT_KNOBS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof quiet, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) knobs = mapped;
    close(file);
}

static int sync_with(const char *name, int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int64_t failure = knobs[SYNC_ERRNO], delay = knobs[SYNC_DELAY_MICROS];
    if (delay > 0) {
        struct timespec pause = {delay / 1000000, (delay % 1000000) * 1000};
        nanosleep(&pause, NULL);
    }
    if (failure != 0) {
        errno = (int)failure;
        return -1;
    }
    return real(file);
}

int fsync(int file) { return sync_with("fsync", file); }
int fdatasync(int file) { return sync_with("fdatasync", file); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    int64_t offset = knobs[CLOCK_OFFSET_NANOS];
    if (result == 0 && offset != 0 && clock == CLOCK_REALTIME) {
        int64_t nanos = now->tv_sec * NANOS + now->tv_nsec + offset;
        now->tv_sec = nanos / NANOS;
        now->tv_nsec = nanos % NANOS;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (seconds) *seconds = precise.tv_sec;
    return precise.tv_sec;
}
