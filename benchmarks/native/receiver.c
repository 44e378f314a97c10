/* PULL: takes the sender's messages, checks that each comes once and in order, and says how fast they came.
 *
 *   receiver lib=PATH bind=ENDPOINT size=BYTES
 *
 * Prints "probe" when message 0 arrives, and a JSON object after the last message: messages (counted from the first,
 * which starts the clock), seconds, and the faults: lost (numbers skipped), repeated (a number not above the one
 * before), damaged (size or the number at the end differ). Exit status 1 when there were faults.
 */
#include "bench.h"

#include <string.h>

struct count {
    uint64_t messages, expected, lost, repeated, damaged;
    int64_t first_ns, last_ns;
};

/* 1 when this was the last message. */
static int take(struct count *count, zmq_msg_t *message, size_t size) {
    uint64_t head = 0, tail = 0;
    const unsigned char *data = zmq_msg_data(message);
    if (zmq_msg_size(message) != size) {
        count->damaged++;
        return 0;
    }
    memcpy(&head, data, 8);
    memcpy(&tail, data + size - 8, 8);
    if (head != tail)
        count->damaged++;
    uint64_t sequence = head & ~LAST_MESSAGE;
    if (sequence == 0) {
        say("probe");
        return 0;
    }
    if (!count->messages)
        count->first_ns = now_ns();
    count->messages++;
    if (sequence < count->expected) {
        count->repeated++;
    } else {
        count->lost += sequence - count->expected;
        count->expected = sequence + 1;
    }
    return (head & LAST_MESSAGE) != 0;
}

int main(int argc, char **argv) {
    void *context = begin(argc, argv);
    void *socket = open_socket(context, ZMQ_PULL, "");
    size_t size = (size_t)number("size", 64);
    if (size < SMALLEST_MESSAGE)
        size = SMALLEST_MESSAGE;

    struct count count = {.expected = 1};
    zmq_msg_t message;
    int last = 0;
    checked(zmq_msg_init(&message), "zmq_msg_init");
    while (!last) {
        checked(zmq_msg_recv(&message, socket, 0), "zmq_msg_recv");
        last = take(&count, &message, size);
    }
    count.last_ns = now_ns();
    say("{\"messages\": %llu, \"seconds\": %.6f, \"lost\": %llu, \"repeated\": %llu, \"damaged\": %llu}",
        (unsigned long long)count.messages, (double)(count.last_ns - count.first_ns) / 1e9,
        (unsigned long long)count.lost, (unsigned long long)count.repeated, (unsigned long long)count.damaged);
    zmq_msg_close(&message);
    zmq_close(socket);
    zmq_ctx_term(context);
    return count.lost || count.repeated || count.damaged;
}
