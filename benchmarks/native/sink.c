/* TCP: takes what `source` sends, and says how fast it came.
 *
 *   sink lib=PATH connections=N
 *
 * Listens on a free port of 127.0.0.1 ("bound tcp://127.0.0.1:PORT"), prints "probe" when N connections have sent their
 * first byte, counts until all of them are half-closed, half-closes them in turn. Prints a JSON object: bytes, the probe
 * included, and the seconds from the first byte after the probe to the last.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BLOCK = 256 * 1024, MOST = 64 };

static int fail(const char *what) {
    perror(what);
    exit(1);
}

static int open_port(void) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, MOST) < 0)
        fail("listen");
    if (getsockname(fd, (struct sockaddr *)&at, &size) < 0)
        fail("getsockname");
    say("bound tcp://127.0.0.1:%d", ntohs(at.sin_port));
    return fd;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    int count = (int)number("connections", 1);
    static char block[BLOCK];
    struct pollfd polled[MOST];
    if (count < 1 || count > MOST)
        return fprintf(stderr, "connections: 1 to %d\n", MOST), 1;
    int port = open_port();
    for (int i = 0; i < count;) {
        polled[i].fd = accept(port, NULL, NULL);
        polled[i].events = POLLIN;
        if (polled[i].fd < 0)
            fail("accept");
        if (read(polled[i].fd, block, 1) == 1)
            i++;
        else
            close(polled[i].fd); /* somebody only looked whether the way is open */
    }
    say("probe");
    unsigned long long bytes = (unsigned long long)count;
    int64_t first = 0, last = 0;
    for (int open = count; open;) {
        if (poll(polled, (nfds_t)count, -1) < 0)
            fail("poll");
        for (int i = 0; i < count; i++) {
            if (!polled[i].revents)
                continue;
            ssize_t got = read(polled[i].fd, block, BLOCK);
            if (got < 0 && errno != EINTR)
                fail("read");
            if (got > 0) {
                last = now_ns();
                first = first ? first : last;
                bytes += (unsigned long long)got;
            } else if (got == 0) {
                close(polled[i].fd);
                polled[i].fd = -1;
                polled[i].revents = 0;
                open--;
            }
        }
    }
    say("{\"bytes\": %llu, \"seconds\": %.6f}", bytes, (double)(last - first) / 1e9);
    return 0;
}
