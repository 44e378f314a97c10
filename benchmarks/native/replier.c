/* REP: sends every request back as it came, until it is ended.
 *
 *   replier lib=PATH bind=ENDPOINT
 */
#include "bench.h"

int main(int argc, char **argv) {
    void *context = begin(argc, argv);
    void *socket = open_socket(context, ZMQ_REP, "");
    zmq_msg_t message;
    for (;;) {
        checked(zmq_msg_init(&message), "zmq_msg_init");
        checked(zmq_msg_recv(&message, socket, 0), "zmq_msg_recv");
        checked(zmq_msg_send(&message, socket, 0), "zmq_msg_send");
    }
}
