/* A file server that gives no locks: preloaded into a process, flock(2) and the locks of fcntl(2) fail with the numbers in
   REFUSE_FLOCK and REFUSE_FCNTL. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
static int refused(const char *which) {
    const char *number = getenv(which);
    if (number == 0 || *number == 0) return 0;
    errno = atoi(number);
    return 1;
}
int flock(int fd, int how) {
    static int (*real)(int, int);
    if (refused("REFUSE_FLOCK")) return -1;
    if (!real) real = dlsym(RTLD_NEXT, "flock");
    return real(fd, how);
}
static int control(const char *name, int fd, int command, void *argument) {
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
    if ((command == F_SETLK || command == F_SETLKW || command == F_GETLK) && refused("REFUSE_FCNTL")) return -1;
    return real(fd, command, argument);
}
int fcntl(int fd, int command, ...) { va_list a; va_start(a, command); void *p = va_arg(a, void *); va_end(a); return control("fcntl", fd, command, p); }
int fcntl64(int fd, int command, ...) { va_list a; va_start(a, command); void *p = va_arg(a, void *); va_end(a); return control("fcntl64", fd, command, p); }
