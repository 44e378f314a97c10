/* PUSH: sends numbered messages as fast as the path takes them.
 *
 *   sender lib=PATH connect=ENDPOINT size=BYTES seconds=S [leave_out=N]
 *
 * Sends message 0 (the probe) at once, waits for a line on stdin, then sends 1, 2, 3 ... for S seconds and one last
 * message with its top bit set. seconds=0: for ever. leave_out=N: message N is not sent, which the receiver must notice.
 */
#include "bench.h"

#include <string.h>

static void send_numbered(void *socket, size_t size, uint64_t number_and_flag) {
    zmq_msg_t message;
    checked(zmq_msg_init_size(&message, size), "zmq_msg_init_size");
    unsigned char *data = zmq_msg_data(&message);
    memcpy(data, &number_and_flag, 8);
    memcpy(data + size - 8, &number_and_flag, 8);
    checked(zmq_msg_send(&message, socket, 0), "zmq_msg_send");
}

int main(int argc, char **argv) {
    void *context = begin(argc, argv);
    void *socket = open_socket(context, ZMQ_PUSH, "");
    size_t size = (size_t)number("size", 64);
    if (size < SMALLEST_MESSAGE)
        size = SMALLEST_MESSAGE;
    double seconds = number("seconds", 2);
    uint64_t leave_out = (uint64_t)number("leave_out", 0);

    send_numbered(socket, size, 0);
    if (!told_to_go())
        return 1;
    int64_t start = now_ns(), end = start + (int64_t)(seconds * 1e9);
    uint64_t clock_every = size < 4096 ? 64 : 1, sent = 0;
    while (seconds == 0 || sent % clock_every || now_ns() < end) {
        sent++;
        if (sent != leave_out)
            send_numbered(socket, size, sent);
    }
    sent++;
    send_numbered(socket, size, sent | LAST_MESSAGE);
    say("{\"sent\": %llu, \"seconds\": %.6f}", (unsigned long long)sent, (double)(now_ns() - start) / 1e9);
    checked(zmq_close(socket), "zmq_close");
    return checked(zmq_ctx_term(context), "zmq_ctx_term");
}
