/* TCP: sends bytes as fast as the path takes them, over several connections at once.
 *
 *   source lib=PATH connect=tcp://127.0.0.1:PORT|ipc://PATH connections=N seconds=S
 *
 * Opens the connections, sends one byte on each (so that the whole path is there), waits for a line on stdin, sends for
 * S seconds on whichever takes more, then half-closes all of them and waits for the other end to do the same. Prints a
 * JSON object: bytes sent, the probe included.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BLOCK = 256 * 1024, MOST = 64 };

static int fail(const char *what) {
    perror(what);
    exit(1);
}

static int dial_file(const char *path) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof to.sun_path)
        return fail("path");
    strcpy(to.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("connect");
    return fd;
}

static int dial_port(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("connect");
    return fd;
}

static int dial(const char *address) {
    int fd = strncmp(address, "ipc://", 6) ? dial_port(atoi(strrchr(address, ':') + 1)) : dial_file(address + 6);
    if (write(fd, "p", 1) != 1)
        fail("write");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    int count = (int)number("connections", 1);
    double seconds = number("seconds", 2);
    const char *address = text("connect", ":0");
    static char block[BLOCK];
    struct pollfd polled[MOST];
    if (count < 1 || count > MOST)
        return fprintf(stderr, "connections: 1 to %d\n", MOST), 1;
    for (int i = 0; i < count; i++) {
        polled[i].fd = dial(address);
        polled[i].events = POLLOUT;
    }
    if (!told_to_go())
        return 1;
    int64_t end = now_ns() + (int64_t)(seconds * 1e9);
    unsigned long long sent = (unsigned long long)count;
    while (now_ns() < end) {
        if (poll(polled, (nfds_t)count, 100) < 0)
            fail("poll");
        for (int i = 0; i < count; i++) {
            if (!polled[i].revents)
                continue;
            ssize_t wrote = write(polled[i].fd, block, BLOCK);
            if (wrote < 0 && errno != EAGAIN)
                fail("write");
            sent += wrote > 0 ? (unsigned long long)wrote : 0;
        }
    }
    for (int i = 0; i < count; i++)
        shutdown(polled[i].fd, SHUT_WR);
    for (int i = 0; i < count; i++) {
        fcntl(polled[i].fd, F_SETFL, 0);
        while (read(polled[i].fd, block, BLOCK) > 0)
            ;
        close(polled[i].fd);
    }
    say("{\"bytes\": %llu}", sent);
    return 0;
}
