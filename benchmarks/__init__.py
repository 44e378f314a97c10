"""`make bench`: ztunnel beside two chained zmq_proxy and beside direct CURVE sockets, in one interleaved run."""
