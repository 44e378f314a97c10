# feed: run → socket; send and recv: one message of a link socket.

cdef enum:
    MALFORMED = -1  # the other errors are errnos


cdef struct Tally:
    size_t messages
    size_t unreachable


cdef inline int make_frame(zmq_msg_t *message, Cursor *at, size_t size) noexcept nogil:
    """A 0MQ frame of the next `size` bytes, and go on behind them. Large ones by reference. -1: no memory."""
    cdef Block *block = at.extent.block if size >= REFERENCE else NULL
    if block != NULL and at.extent.size - at.offset >= size:
        atomic_add(&block.users, 1)
        if zmq_msg_init_data(message, <void *>(at.extent.data + at.offset), size, block_release, block) < 0:
            atomic_add(&block.users, -1)
            return -1
        skip(at, size)
        return 0
    if zmq_msg_init_size(message, size) < 0:
        return -1
    copy_out(at, <char *>zmq_msg_data(message), size)
    return 0


cdef inline int send_frame(void *socket, zmq_msg_t *message, bint more) noexcept nogil:
    """0 or errno; `message` is spent in either case."""
    cdef int error
    while zmq_msg_send(message, socket, ZMQ_DONTWAIT | (ZMQ_SNDMORE if more else 0)) < 0:
        error = zmq_errno()
        if error != EINTR:
            zmq_msg_close(message)
            return error
    return 0


cdef void end_broken_message(void *socket) noexcept nogil:
    """Give a message whose middle part met EAGAIN a last part: PUSH and DEALER throw away everything up to it.

    (libzmq, lb_t::sendpipe: the pipe died, what was written is rolled back, `_dropping` until a part without MORE.)
    PAIR keeps no such state: an extra part would be a message of its own.
    """
    cdef int kind = 0
    cdef size_t size = sizeof(int)
    cdef zmq_msg_t last
    if zmq_getsockopt(socket, ZMQ_TYPE, &kind, &size) == 0 and kind in (ZMQ_PUSH, ZMQ_DEALER, ZMQ_REQ):
        zmq_msg_init(&last)
        send_frame(socket, &last, False)


cdef int send_next(void *socket, Cursor *at, const char *prefix, size_t prefix_size) noexcept nogil:
    """Send the (valid) message at the cursor and go on behind it. 0 or errno."""
    cdef zmq_msg_t message
    cdef Header header
    cdef int error
    cdef bint begun = False
    if prefix != NULL:
        if zmq_msg_init_size(&message, prefix_size) < 0:
            return zmq_errno()
        memcpy(zmq_msg_data(&message), prefix, prefix_size)
        error = send_frame(socket, &message, True)
        if error:
            return error
        begun = True
    while True:
        read_header(at, &header)
        if make_frame(&message, at, header.size) < 0:
            if not begun:
                return zmq_errno()
            abort()  # half a message cannot be taken back; libzmq itself ends the process when memory is out
        error = send_frame(socket, &message, header.more)
        if error == EAGAIN and begun and header.more:
            end_broken_message(socket)
        if error or not header.more:
            return error
        begun = True


def events(socket):
    """ZMQ_EVENTS of the socket: POLLIN (1) and POLLOUT (2). Takes in what its descriptor announced."""
    cdef int ready = 0
    cdef size_t size = sizeof(int)
    if zmq_getsockopt(handle_of(socket), ZMQ_EVENTS, &ready, &size) != 0:
        raise failure(zmq_errno())
    return ready


cdef long long microseconds() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef bint wait_for_room(void *socket, long long until_us) noexcept nogil:
    """Sleep until the socket can be written; False when `until_us` has come first.

    A send with DONTWAIT looks for news from the I/O thread at most once a millisecond; reading EVENTS always does.
    """
    cdef pollfd watched
    cdef int events = 0
    cdef size_t size = sizeof(int)
    cdef long long left_us
    watched.events = POLLIN
    while True:
        if zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size) != 0:
            return False
        if events & ZMQ_POLLOUT:
            return True
        left_us = until_us - microseconds()
        if left_us <= 0 or zmq_getsockopt(socket, ZMQ_FD, &watched.fd, &size) != 0:
            return False
        if poll(&watched, 1, <int>((left_us + 999) // 1000)) <= 0:
            return False


cdef int feed_messages(
    void *socket, Cursor *at, const char *prefix, size_t prefix_size, size_t most, long long patience_us, Tally *tally
) noexcept nogil:
    """Send messages from the cursor on, at most `most` (0: all), and count them. 0, errno, or MALFORMED.

    The cursor ends behind the last one that was dealt with, wherever in a message an error struck.
    """
    cdef Cursor going, behind
    cdef size_t waited_at = <size_t>-1
    cdef long long until_us = 0
    cdef int error
    while at.left and (not most or tally.messages + tally.unreachable < most):
        behind = at[0]
        if skip_message(&behind) < 0:
            return MALFORMED
        going = at[0]
        error = send_next(socket, &going, prefix, prefix_size)
        if error == EHOSTUNREACH:
            tally.unreachable += 1
        elif error == EAGAIN and patience_us:
            if not until_us:
                until_us = microseconds() + patience_us
            # A ROUTER says that it can be written while this one client is full: wait once for a message, no more.
            if waited_at == at.left or not wait_for_room(socket, until_us):
                return error
            waited_at = at.left
            continue
        elif error:
            return error
        else:
            tally.messages += 1
        at[0] = behind
    return 0


def feed(
    socket, segments, size_t position=0, bytes prefix=None, size_t max_messages=0, long long patience_us=0
):
    """Send the messages of a run from `position` on until EAGAIN. See the package's docstring.

    `patience_us`: how long EAGAIN may be waited for altogether; the loop stands still meanwhile.
    """
    cdef void *handle = handle_of(socket)
    cdef Run run = Run.__new__(Run, segments)
    cdef const char *first = NULL
    cdef size_t first_size = 0
    cdef Tally tally
    cdef Cursor at
    cdef object status = _base.DONE
    cdef int error = 0
    if prefix is not None:
        first = PyBytes_AS_STRING(prefix)
        first_size = PyBytes_GET_SIZE(prefix)
    if position > run.size:
        return _base.Fed(0, position, _base.BAD)
    tally.messages = tally.unreachable = 0
    run.seek(position, &at)
    with nogil:
        error = feed_messages(handle, &at, first, first_size, max_messages, patience_us, &tally)
    if error == MALFORMED:
        status = _base.BAD
    elif error == EAGAIN:
        status = _base.AGAIN
    elif error and not tally.messages and not tally.unreachable:
        raise failure(error)
    elif error:
        status = _base.AGAIN
    elif at.left:
        status = _base.LIMIT
    return _base.Fed(tally.messages, run.size - at.left, status, tally.unreachable)


def send(socket, parts):
    """Send one multipart message. See the package's docstring."""
    cdef void *handle = handle_of(socket)
    cdef Run run = Run.__new__(Run, parts)
    cdef zmq_msg_t message
    cdef Cursor at
    cdef Py_ssize_t i
    cdef int error
    cdef bint more
    for i in range(run.count):
        at.extent = &run.extents[i]
        at.offset = 0
        at.left = at.extent.size
        more = i + 1 < run.count
        if make_frame(&message, &at, at.left) < 0:
            if i == 0:
                raise MemoryError
            abort()  # see send_next
        error = send_frame(handle, &message, more)
        if error == EAGAIN:
            if i and more:
                end_broken_message(handle)
            return _base.AGAIN
        if error == EHOSTUNREACH:
            return _base.UNREACHABLE
        if error:
            raise failure(error)
    return _base.SENT


def recv(socket, bint router=False, Shortcut shortcut=None):
    """Receive one multipart message that the shortcut does not take, or None. See the package's docstring."""
    cdef void *handle = handle_of(socket)
    cdef zmq_msg_t message
    cdef const char *user = NULL
    cdef bytes routing_id = b""
    cdef str user_id = ""
    cdef list parts = []
    cdef bint overlong = False, more = True
    cdef size_t frames = 0
    cdef int error
    zmq_msg_init(&message)
    try:
        while more:
            if zmq_msg_recv(&message, handle, ZMQ_DONTWAIT) < 0:
                error = zmq_errno()
                if error == EINTR:
                    continue
                if error == EAGAIN:
                    return None
                raise failure(error)
            more = zmq_msg_more(&message)
            frames += 1
            if frames == 1:
                user = zmq_msg_gets(&message, b"User-Id")
                user_id = (<bytes>user).decode("utf-8", "replace") if user != NULL else ""
                if router:
                    routing_id = PyBytes_FromStringAndSize(<char *>zmq_msg_data(&message), zmq_msg_size(&message))
                    continue
            if shortcut is not None and shortcut.enters and shortcut.is_from(routing_id, user):
                if more or parts:
                    shortcut.disarm()
                elif shortcut.feed(<const unsigned char *>zmq_msg_data(&message), zmq_msg_size(&message)):
                    frames = 0
                    more = True
                    continue
            if <size_t>len(parts) < PARTS:
                parts.append(received(&message))
            else:
                overlong = True
        return _base.LinkMessage(routing_id, user_id, parts, overlong)
    finally:
        zmq_msg_close(&message)


cdef object received(zmq_msg_t *message):
    """The frame as bytes when it is small, else as a Chunk."""
    cdef size_t size = zmq_msg_size(message)
    cdef Block *block
    cdef Chunk chunk
    if size < REFERENCE:
        return PyBytes_FromStringAndSize(<char *>zmq_msg_data(message), size)
    block = block_of_message(message)
    if block == NULL:
        raise MemoryError
    chunk = chunk_of(block, block_bytes(block), size)
    block_release(NULL, block)
    return chunk
