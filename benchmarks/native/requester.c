/* REQ: one request after the other, each timed.
 *
 *   requester lib=PATH connect=ENDPOINT size=BYTES seconds=S [warmup=N]
 *
 * One round trip, then "probe"; then for every line on stdin a measurement of S seconds after N requests of warm-up,
 * printed as JSON: round_trips, p50_us, p90_us, p99_us, max_us. Ends when stdin is closed.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_ROUND_TRIPS = 4000000 };

static int64_t round_trip_ns(void *socket, size_t size, uint64_t sequence) {
    zmq_msg_t request, reply;
    checked(zmq_msg_init_size(&request, size), "zmq_msg_init_size");
    memset(zmq_msg_data(&request), 0, size);
    memcpy(zmq_msg_data(&request), &sequence, 8);
    int64_t start = now_ns();
    checked(zmq_msg_send(&request, socket, 0), "zmq_msg_send");
    checked(zmq_msg_init(&reply), "zmq_msg_init");
    checked(zmq_msg_recv(&reply, socket, 0), "zmq_msg_recv");
    int64_t taken = now_ns() - start;
    if (zmq_msg_size(&reply) != size || memcmp(zmq_msg_data(&reply), &sequence, 8)) {
        say("{\"error\": \"the reply is not the echo of the request\"}");
        exit(1);
    }
    zmq_msg_close(&reply);
    return taken;
}

static int by_size(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static double percentile_us(const int64_t *sorted, size_t count, double part) {
    return (double)sorted[(size_t)((double)(count - 1) * part)] / 1e3;
}

static void measure(void *socket, size_t size, double seconds, uint64_t *sequence, int64_t *taken) {
    for (int i = (int)number("warmup", 200); i > 0; i--)
        round_trip_ns(socket, size, ++*sequence);
    size_t count = 0;
    int64_t end = now_ns() + (int64_t)(seconds * 1e9);
    while (!count || (now_ns() < end && count < MOST_ROUND_TRIPS))
        taken[count++] = round_trip_ns(socket, size, ++*sequence);
    qsort(taken, count, sizeof *taken, by_size);
    say("{\"round_trips\": %zu, \"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f}", count,
        percentile_us(taken, count, 0.5), percentile_us(taken, count, 0.9), percentile_us(taken, count, 0.99),
        (double)taken[count - 1] / 1e3);
}

int main(int argc, char **argv) {
    void *context = begin(argc, argv);
    void *socket = open_socket(context, ZMQ_REQ, "");
    size_t size = (size_t)number("size", 64);
    if (size < SMALLEST_MESSAGE)
        size = SMALLEST_MESSAGE;
    uint64_t sequence = 0;
    int64_t *taken = malloc(MOST_ROUND_TRIPS * sizeof *taken);
    int now = 0;
    checked(zmq_setsockopt(socket, ZMQ_LINGER, &now, sizeof now), "LINGER");
    checked(taken ? 0 : -1, "malloc");

    round_trip_ns(socket, size, sequence);
    say("probe");
    while (told_to_go())
        measure(socket, size, number("seconds", 2), &sequence, taken);
    zmq_close(socket);
    return checked(zmq_ctx_term(context), "zmq_ctx_term");
}
