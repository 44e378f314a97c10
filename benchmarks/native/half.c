/* One half of the baseline: zmq_proxy between two sockets, as anyone would write it.
 *
 *   half lib=PATH pattern=pipeline|reqrep front_bind=|front_connect=ENDPOINT back_bind=|back_connect=ENDPOINT
 *        [front_server_key= ... back_server_secret= ...]
 *
 * Two of them, joined by a CURVE hop, are what ztunnel is measured against.
 */
#include "bench.h"

#include <string.h>

int main(int argc, char **argv) {
    void *context = begin(argc, argv);
    int requests = !strcmp(text("pattern", "pipeline"), "reqrep");
    void *front = open_socket(context, requests ? ZMQ_ROUTER : ZMQ_PULL, "front_");
    void *back = open_socket(context, requests ? ZMQ_DEALER : ZMQ_PUSH, "back_");
    return checked(zmq_proxy(front, back, 0), "zmq_proxy");
}
