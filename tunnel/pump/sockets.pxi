# Between sockets and runs: drain and its two relatives, feed, and send and recv for link sockets.

cdef enum:
    KEPT = 0
    NOTHING = 1
    TOO_LARGE = 2
    PROBE = 3
    UNTAGGED = 4
    NEW_TAG = 5
    NO_MEMORY = 6
    # other errors of libzmq are passed as FAILED + errno
    FAILED = 1000

cdef size_t SCRATCH_KEPT = 4 * BATCH


@cython.final
cdef class Intake:
    """Takes whole messages off a socket: small frames into one scratch buffer, large ones by reference.

    Its extents together are one long run. The scratch moves when it grows, so extents name an offset in it (`data` as
    a number) until `settle_extents`.
    """

    cdef zmq_msg_t message
    cdef char *scratch
    cdef size_t used, room
    cdef Extent *extents
    cdef size_t extents_used, extents_room
    cdef size_t size
    cdef size_t work
    cdef size_t last
    cdef size_t max_message
    cdef bint skip_probe
    cdef bint tagged
    cdef char *tag
    cdef size_t tag_size, tag_room, tag_changes

    def __cinit__(self):
        zmq_msg_init(&self.message)
        self.room = BATCH + 2 * REFERENCE
        self.scratch = <char *>malloc(self.room)
        if self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.rollback(0, 0, 0)
        zmq_msg_close(&self.message)
        free(self.scratch)
        free(self.extents)
        free(self.tag)

    cdef void begin(self, size_t max_message, bint skip_probe, bint tagged) noexcept:
        self.max_message = max_message
        self.skip_probe = skip_probe
        self.tagged = tagged
        self.size = self.work = self.last = self.tag_size = self.tag_changes = 0

    cdef void rollback(self, size_t extents, size_t last_size, size_t used) noexcept nogil:
        """Forget all extents but the first so many, and what was added to the last of these."""
        cdef size_t i
        for i in range(extents, self.extents_used):
            if self.extents[i].block != NULL:
                block_release(NULL, self.extents[i].block)
        self.extents_used = extents
        if extents:
            self.extents[extents - 1].size = last_size
        self.used = used

    cdef int extend(self, size_t size) noexcept nogil:
        """Room for `size` more bytes of scratch, as part of the run. -1: no memory."""
        cdef void *memory
        cdef size_t wanted
        if self.room - self.used < size:
            wanted = max(self.room * 2, self.used + size)
            memory = realloc(self.scratch, wanted)
            if memory == NULL:
                return -1
            self.scratch = <char *>memory
            self.room = wanted
        if self.extents_used and self.extents[self.extents_used - 1].block == NULL:
            self.extents[self.extents_used - 1].size += size
        elif self.new_extent(<const char *>self.used, size, NULL) < 0:
            return -1
        self.used += size
        return 0

    cdef int new_extent(self, const char *data, size_t size, Block *block) noexcept nogil:
        cdef void *memory = grown(self.extents, &self.extents_room, self.extents_used, sizeof(Extent))
        if memory == NULL:
            return -1
        self.extents = <Extent *>memory
        self.extents[self.extents_used].data = data
        self.extents[self.extents_used].size = size
        self.extents[self.extents_used].block = block
        self.extents_used += 1
        return 0

    cdef int append(self, size_t size, bint more) noexcept nogil:
        """The received frame and its header become part of the run. -1: no memory."""
        cdef bint copied = size < REFERENCE
        cdef unsigned char *to
        cdef Block *block
        if self.extend(4 + size if copied else 4) < 0:
            return -1
        to = <unsigned char *>self.scratch + self.used - (4 + size if copied else 4)
        to[0] = size & 0xFF
        to[1] = size >> 8 & 0xFF
        to[2] = size >> 16 & 0xFF
        to[3] = (size >> 24 & 0x7F) | (0x80 if more else 0)
        if copied:
            memcpy(to + 4, zmq_msg_data(&self.message), size)
            return 0
        block = block_of_message(&self.message)
        if block == NULL:
            return -1
        if self.new_extent(block_bytes(block), size, block) < 0:
            block_release(NULL, block)
            return -1
        return 0

    cdef int keep_tag(self, size_t size) noexcept nogil:
        """The received frame is the tag of its message: KEPT (as before), NEW_TAG or NO_MEMORY."""
        cdef void *memory
        if self.tag_changes and size == self.tag_size and not memcmp(self.tag, zmq_msg_data(&self.message), size):
            return KEPT
        if size > self.tag_room or self.tag == NULL:
            memory = realloc(self.tag, size + 1)
            if memory == NULL:
                return NO_MEMORY
            self.tag = <char *>memory
            self.tag_room = size
        memcpy(self.tag, zmq_msg_data(&self.message), size)
        self.tag_size = size
        self.tag_changes += 1
        return NEW_TAG

    cdef int take(self, void *socket, bint *new_tag) noexcept nogil:
        """Receive one whole message: KEPT, or why not. What is not kept leaves no trace in the run."""
        cdef size_t extents = self.extents_used
        cdef size_t last_size = self.extents[extents - 1].size if extents else 0
        cdef size_t used = self.used
        cdef size_t frames = 0, payload = 0, start = self.size, grew = 0, size
        cdef bint more
        cdef int rc, drop = KEPT
        new_tag[0] = False
        while True:
            rc = zmq_msg_recv(&self.message, socket, ZMQ_DONTWAIT)
            if rc < 0:
                rc = zmq_errno()
                if rc == EINTR:
                    continue
                self.rollback(extents, last_size, used)
                return NOTHING if rc == EAGAIN else FAILED + rc
            size = rc if rc < INT_MAX else zmq_msg_size(&self.message)
            more = zmq_msg_more(&self.message)
            frames += 1
            self.work += size + 4
            if self.tagged and frames == 1 and drop == KEPT:
                if not more:
                    return UNTAGGED
                rc = self.keep_tag(size)
                new_tag[0] = rc == NEW_TAG
                if rc == NO_MEMORY:
                    drop = UNTAGGED
                continue
            if drop == KEPT:
                payload += size
                grew += size + 4
                # No memory for the rest of a message is the same as a message too large: the rest must still be read.
                if payload > self.max_message or frames > FRAMES or size > LENGTH or self.append(size, more) < 0:
                    self.rollback(extents, last_size, used)
                    drop = TOO_LARGE
            if not more:
                break
        if drop == KEPT and self.skip_probe and frames == 2 and size == 0:
            self.rollback(extents, last_size, used)
            drop = PROBE
        if drop == KEPT:
            self.size = start + grew
            self.last = grew
        return drop

    cdef inline bint full(self) noexcept nogil:
        """Whether the next message, if it is as large as the last, would not fit any more."""
        return self.work + self.last > BATCH or self.tag_changes > TAG_CHANGES

    cdef void settle_extents(self) noexcept:
        cdef size_t i
        for i in range(self.extents_used):
            if self.extents[i].block == NULL:
                self.extents[i].data = self.scratch + <size_t>self.extents[i].data


cdef Intake spare_intake = None


cdef Intake intake(object max_message, bint skip_probe, bint tagged):
    """A fresh Intake, or the one that was used last (a scratch buffer is dear)."""
    global spare_intake
    cdef Intake found = spare_intake
    spare_intake = None
    if found is None:
        found = Intake.__new__(Intake)
    found.begin(max_message, skip_probe, tagged)
    return found


cdef void give_back(Intake taken):
    global spare_intake
    taken.rollback(0, 0, 0)
    if taken.room <= SCRATCH_KEPT:
        spare_intake = taken


cdef void *handle_of(object socket) except? NULL:
    return <void *><size_t>socket.underlying


def drain(socket, max_message, bint skip_probe=False):
    """Receive whole messages until EAGAIN or a batch is full. See the package's docstring."""
    cdef void *handle = handle_of(socket)
    cdef Intake taken = intake(max_message, skip_probe, False)
    cdef size_t start, too_large = 0, probes = 0
    cdef Pile pile = Pile(NULL, 0, 0, NULL, 0, 0)
    cdef bint new_tag
    cdef int rc
    with nogil:
        while True:
            start = taken.size
            rc = taken.take(handle, &new_tag)
            if rc == KEPT:
                if pile_message(&pile, start, taken.size) < 0:
                    too_large += 1
                    break
            elif rc == TOO_LARGE:
                too_large += 1
            elif rc == PROBE:
                probes += 1
            else:
                break
            if taken.full():
                break
    try:
        if taken.size == 0 and not too_large and not probes and rc != NOTHING:
            raise failure(rc - FAILED)
        taken.settle_extents()
        drained = _base.Drained(pieces_of(&pile, taken.extents, taken.size), too_large, probes)
        drained.emptied = rc == NOTHING
        return drained
    finally:
        pile_free(&pile)
        give_back(taken)


def drain_shares(socket, max_message, int n):
    """Like `drain`, dealt out message by message to `n` runs, beginning with the first."""
    cdef void *handle = handle_of(socket)
    cdef Intake taken
    cdef size_t start, too_large = 0, dealt = 0
    cdef Pile *piles
    cdef bint new_tag
    cdef int rc, i
    if n < 1:
        raise ValueError("drain_shares needs at least one share.")
    piles = <Pile *>calloc(n, sizeof(Pile))
    if piles == NULL:
        raise MemoryError
    taken = intake(max_message, False, False)
    with nogil:
        while True:
            start = taken.size
            rc = taken.take(handle, &new_tag)
            if rc == KEPT:
                if pile_message(&piles[dealt % n], start, taken.size) < 0:
                    too_large += 1
                    break
                dealt += 1
            elif rc == TOO_LARGE:
                too_large += 1
            else:
                break
            if taken.full():
                break
    try:
        if taken.size == 0 and not too_large and rc != NOTHING:
            raise failure(rc - FAILED)
        taken.settle_extents()
        shares = [_base.Drained(pieces_of(&piles[i], taken.extents, taken.size)) for i in range(n)]
        shares[0].too_large = too_large
        return shares
    finally:
        for i in range(n):
            pile_free(&piles[i])
        free(piles)
        give_back(taken)


def drain_tagged(socket, max_message):
    """Like `drain`; the first frame of each message is taken off and says to which (tag, Drained) it belongs."""
    cdef void *handle = handle_of(socket)
    cdef Intake taken = intake(max_message, False, True)
    cdef object tagged = _base.Tagged()
    cdef list tags = [], too_large = []
    cdef Pile *piles = <Pile *>calloc(TAG_CHANGES + 2, sizeof(Pile))
    cdef Pile *pile = piles - 1
    cdef size_t start, i
    cdef bint new_tag
    cdef int rc
    if piles == NULL:
        raise MemoryError
    try:
        while True:
            with nogil:
                start = taken.size
                rc = taken.take(handle, &new_tag)
                while rc == KEPT and not new_tag and not taken.full() and not pile_message(pile, start, taken.size):
                    start = taken.size
                    rc = taken.take(handle, &new_tag)
            if new_tag:
                pile += 1
                tags.append(PyBytes_FromStringAndSize(taken.tag, taken.tag_size))
                too_large.append(0)
            if rc == TOO_LARGE or (rc == KEPT and pile_message(pile, start, taken.size) < 0):
                too_large[<size_t>len(tags) - 1] += 1
            elif rc == UNTAGGED:
                tagged.untagged += 1
            if rc == NOTHING or rc >= FAILED or taken.full():
                break
        if not tags and not tagged.untagged and rc >= FAILED:
            raise failure(rc - FAILED)
        taken.settle_extents()
        for i in range(<size_t>len(tags)):
            pieces = pieces_of(&piles[i], taken.extents, taken.size)
            tagged.append((tags[i], _base.Drained(pieces, too_large[i])))
        tagged.emptied = rc == NOTHING
        return tagged
    finally:
        for i in range(TAG_CHANGES + 2):
            pile_free(&piles[i])
        free(piles)
        give_back(taken)


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


def feed(
    socket, segments, size_t position=0, bytes prefix=None, size_t max_messages=0, long long patience_us=0
):
    """Send the messages of a run from `position` on until EAGAIN. See the package's docstring."""
    cdef void *handle = handle_of(socket)
    cdef Run run = Run.__new__(Run, segments)
    cdef const char *first = NULL
    cdef size_t first_size = 0, messages = 0, unreachable = 0
    cdef Cursor at, behind, going
    cdef object status = _base.DONE
    cdef int error = 0
    cdef bint bad = False
    cdef long long until_us = 0
    if prefix is not None:
        first = PyBytes_AS_STRING(prefix)
        first_size = PyBytes_GET_SIZE(prefix)
    if position > run.size:
        return _base.Fed(0, position, _base.BAD)
    run.seek(position, &at)
    with nogil:
        while at.left and (not max_messages or messages + unreachable < max_messages):
            behind = at
            if skip_message(&behind) < 0:
                bad = True
                break
            going = at
            error = send_next(handle, &going, first, first_size)
            if error == EHOSTUNREACH:
                unreachable += 1
                error = 0
            elif error == EAGAIN and patience_us:
                if not until_us:
                    until_us = microseconds() + patience_us
                if not wait_for_room(handle, until_us):
                    break
                error = 0
                continue
            elif error:
                break
            else:
                messages += 1
            at = behind
    if bad:
        status = _base.BAD
    elif error == EAGAIN:
        status = _base.AGAIN
    elif error and not messages and not unreachable:
        raise failure(error)
    elif error:
        status = _base.AGAIN
    elif at.left:
        status = _base.LIMIT
    return _base.Fed(messages, run.size - at.left, status, unreachable)


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


def recv(socket, bint router=False):
    """Receive one multipart message, or None. See the package's docstring."""
    cdef void *handle = handle_of(socket)
    cdef zmq_msg_t message
    cdef const char *user
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
                if user != NULL:
                    user_id = (<bytes>user).decode("utf-8", "replace")
                if router:
                    routing_id = PyBytes_FromStringAndSize(<char *>zmq_msg_data(&message), zmq_msg_size(&message))
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
