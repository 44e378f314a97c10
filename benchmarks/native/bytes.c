/* The least that carries one TCP connection's bytes by 0MQ under CURVE: no numbers, acknowledgements or replay.
 *
 *   bytes lib=PATH bind=ENDPOINT server_secret=...                        listens for the client as well ("listening ...")
 *   bytes lib=PATH connect=ENDPOINT server_key=... ... target=PORT        connects to the service
 *
 * Two of them are the floor under a stream: what libzmq's CURVE and the kernel cost alone, one thread beside libzmq's.
 * What is read becomes a message; an empty one is the end of that direction.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BLOCK = 256 * 1024 };

typedef struct { void *socket; int fd; short events, revents; } zmq_pollitem_t;
enum { ZMQ_POLLIN = 1, ZMQ_POLLOUT = 2 };

static int fail(const char *what) {
    perror(what);
    exit(1);
}

static int meet(int target) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)target)};
    socklen_t size = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0)
        fail("socket");
    if (target) {
        if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
            fail("connect");
        return fd;
    }
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 1) < 0)
        fail("listen");
    if (getsockname(fd, (struct sockaddr *)&at, &size) < 0)
        fail("getsockname");
    say("listening tcp://127.0.0.1:%d", ntohs(at.sin_port));
    int came = accept(fd, NULL, NULL);
    if (came < 0)
        fail("accept");
    return came;
}

/* From the link to the connection: 0 at the end of this direction. */
static int out(void *socket, int fd) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    checked(zmq_msg_recv(&message, socket, 0), "recv");
    const char *data = zmq_msg_data(&message);
    size_t size = zmq_msg_size(&message), sent = 0;
    while (sent < size) {
        ssize_t wrote = send(fd, data + sent, size - sent, MSG_NOSIGNAL);
        if (wrote < 0)
            fail("send");
        sent += (size_t)wrote;
    }
    zmq_msg_close(&message);
    if (!size)
        shutdown(fd, SHUT_WR);
    return size > 0;
}

/* From the connection to the link: 0 at the end of this direction. */
static int in(void *socket, int fd) {
    static char block[BLOCK];
    ssize_t got = read(fd, block, sizeof block);
    if (got < 0)
        fail("read");
    zmq_msg_t message;
    zmq_msg_init_size(&message, (size_t)got);
    memcpy(zmq_msg_data(&message), block, (size_t)got);
    checked(zmq_msg_send(&message, socket, 0), "send");
    return got > 0;
}

int main(int argc, char **argv) {
    void *context = begin(argc, argv);
    void *socket = open_socket(context, ZMQ_DEALER, "");
    int target = (int)number("target", 0), open_in = 1, open_out = 1;
    if (target) {  /* the client has come once its first bytes have */
        zmq_pollitem_t first = {socket, 0, ZMQ_POLLIN, 0};
        checked(zmq_poll(&first, 1, -1), "poll");
    }
    int fd = meet(target);
    while (open_in || open_out) {
        zmq_pollitem_t items[2] = {{socket, 0, open_out ? ZMQ_POLLIN : 0, 0}, {NULL, fd, open_in ? ZMQ_POLLIN : 0, 0}};
        checked(zmq_poll(items, open_in ? 2 : 1, -1), "poll");
        if (items[0].revents & ZMQ_POLLIN)
            open_out = out(socket, fd);
        if (open_in && items[1].revents & ZMQ_POLLIN)
            open_in = in(socket, fd);
    }
    close(fd);
    return told_to_go();  /* what was sent leaves; whoever started us ends us */
}
