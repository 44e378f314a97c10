# The functions of libzmq that are called, by address (tunnel/pump/libzmq.py), and errors.

cdef struct zmq_msg_t:
    # 64 bytes, aligned like a pointer: so since libzmq 4.1 (zmq.h), and part of its binary interface.
    unsigned long long opaque[8]

ctypedef void (*free_fn)(void *data, void *hint) noexcept nogil

cdef int (*zmq_errno)() noexcept nogil
cdef int (*zmq_getsockopt)(void *socket, int option, void *value, size_t *size) noexcept nogil
cdef int (*zmq_msg_close)(zmq_msg_t *message) noexcept nogil
cdef void *(*zmq_msg_data)(zmq_msg_t *message) noexcept nogil
cdef const char *(*zmq_msg_gets)(const zmq_msg_t *message, const char *name) noexcept nogil
cdef int (*zmq_msg_init)(zmq_msg_t *message) noexcept nogil
cdef int (*zmq_msg_init_data)(zmq_msg_t *message, void *data, size_t size, free_fn done, void *hint) noexcept nogil
cdef int (*zmq_msg_init_size)(zmq_msg_t *message, size_t size) noexcept nogil
cdef int (*zmq_msg_more)(const zmq_msg_t *message) noexcept nogil
cdef int (*zmq_msg_move)(zmq_msg_t *to, zmq_msg_t *source) noexcept nogil
cdef int (*zmq_msg_recv)(zmq_msg_t *message, void *socket, int flags) noexcept nogil
cdef int (*zmq_msg_send)(zmq_msg_t *message, void *socket, int flags) noexcept nogil
cdef size_t (*zmq_msg_size)(const zmq_msg_t *message) noexcept nogil

cdef enum:
    ZMQ_DONTWAIT = 1
    ZMQ_SNDMORE = 2
    ZMQ_POLLIN = 1
    ZMQ_POLLOUT = 2
    ZMQ_FD = 14
    ZMQ_EVENTS = 15
    ZMQ_TYPE = 16
    ZMQ_REQ = 3
    ZMQ_DEALER = 5
    ZMQ_PUSH = 8


def bind_libzmq(dict found):
    """Call these addresses from now on (a dict name → address). Tests put faults in here."""
    global zmq_errno, zmq_getsockopt, zmq_msg_close, zmq_msg_data, zmq_msg_gets, zmq_msg_init, zmq_msg_init_data
    global zmq_msg_init_size, zmq_msg_more, zmq_msg_move, zmq_msg_recv, zmq_msg_send, zmq_msg_size
    cdef dict at = {name: found[name] for name in _libzmq.FUNCTIONS}
    zmq_errno = <int (*)() noexcept nogil><size_t>at["zmq_errno"]
    zmq_getsockopt = <int (*)(void *, int, void *, size_t *) noexcept nogil><size_t>at["zmq_getsockopt"]
    zmq_msg_close = <int (*)(zmq_msg_t *) noexcept nogil><size_t>at["zmq_msg_close"]
    zmq_msg_data = <void *(*)(zmq_msg_t *) noexcept nogil><size_t>at["zmq_msg_data"]
    zmq_msg_gets = <const char *(*)(const zmq_msg_t *, const char *) noexcept nogil><size_t>at["zmq_msg_gets"]
    zmq_msg_init = <int (*)(zmq_msg_t *) noexcept nogil><size_t>at["zmq_msg_init"]
    zmq_msg_init_data = <int (*)(zmq_msg_t *, void *, size_t, free_fn, void *) noexcept nogil><size_t>at["zmq_msg_init_data"]
    zmq_msg_init_size = <int (*)(zmq_msg_t *, size_t) noexcept nogil><size_t>at["zmq_msg_init_size"]
    zmq_msg_more = <int (*)(const zmq_msg_t *) noexcept nogil><size_t>at["zmq_msg_more"]
    zmq_msg_move = <int (*)(zmq_msg_t *, zmq_msg_t *) noexcept nogil><size_t>at["zmq_msg_move"]
    zmq_msg_recv = <int (*)(zmq_msg_t *, void *, int) noexcept nogil><size_t>at["zmq_msg_recv"]
    zmq_msg_send = <int (*)(zmq_msg_t *, void *, int) noexcept nogil><size_t>at["zmq_msg_send"]
    zmq_msg_size = <size_t (*)(const zmq_msg_t *) noexcept nogil><size_t>at["zmq_msg_size"]


cdef object failure(int error):
    """The exception that pyzmq raises for this errno."""
    if error == _ETERM:
        return _zmq.ContextTerminated(error)
    return _zmq.ZMQError(error)


cdef int _ETERM = _zmq.ETERM
bind_libzmq(_libzmq.addresses())
