# Shortcut: small batches go ahead of their bookkeeping, which is done from a journal (tunnel/ahead.py).
#
# A wake-up finds code and memory cold, so what is done for one small message at a time costs ten times what it costs in
# a loop. Here is only what cannot wait: receive, check that it is what was foreseen, send, note. It decides nothing:
# armed, it does what `arm` was told, and whatever is not exactly that is left to the usual way.

cdef enum:
    # The header of DATA: kind, flags, 0 (16 bits), channel (32), seq (64), born in microseconds (64), messages (32).
    DATA_KIND = 6
    ACKED = 2
    CHANNEL_AT = 4
    SEQ_AT = 8
    BORN_AT = 16
    MESSAGES_AT = 24
    HEADER_BYTES = 28
    # The record of a stream that holds bytes of a connection.
    BYTES_RECORD = 2
    # An acknowledgement: lane bytes (64), count (16), then so many times channel (32), delivered (64).
    COUNT_AT = 8
    ACK_BYTES = 10
    ITEM_BYTES = 12

cdef unsigned long long FAR = <unsigned long long>1 << 62
"""Times beyond this, in microseconds, are left to the usual way: here they would overflow."""


cdef inline unsigned long long read_number(const unsigned char *at, int size) noexcept nogil:
    cdef unsigned long long value = 0
    while size:
        size -= 1
        value = value << 8 | at[size]
    return value


cdef inline unsigned char *write_number(unsigned char *at, unsigned long long value, int size) noexcept nogil:
    """Little-endian; gives the place behind it."""
    cdef int i
    for i in range(size):
        at[i] = value & 0xFF
        value >>= 8
    return at + size


@cython.final
cdef class Shortcut:
    """One channel each way between a local socket and a link socket, for small batches while nothing else happens.

    The local socket is a 0MQ socket, or one connection of a stream, whose bytes are records.

    `stir(first, local, link)` is called when the journal got its `first` entry, when there is something to receive from
    the `local` or the `link` socket and its edge was taken, and when it is `full`: the local socket took only a part of
    a batch, or the room towards the link is used up.
    """

    cdef readonly bint leaves
    cdef readonly bint enters
    cdef readonly bint full
    cdef object stir, local, link
    # the connection, where `local` is none of 0MQ
    cdef int fd
    cdef unsigned int stream
    cdef size_t granted
    cdef bytes routing_id, user_id, prefix
    cdef list journal
    # local to link
    cdef unsigned int out_channel
    cdef unsigned long long next_seq
    cdef long long room
    # link to local
    cdef unsigned int in_channel
    cdef unsigned long long due_seq
    cdef long long max_age_us, offset_us
    # what the next batch out acknowledges
    cdef readonly long long owed_at_us
    cdef bint owed_item
    cdef unsigned long long lane_bytes

    def __init__(self, stir):
        self.stir = stir
        self.journal = []

    def arm(self, local, link, bytes routing_id not None, bytes user_id not None, departs, enters, owed):
        """Go ahead from now on.

        `local`: a 0MQ socket, or (descriptor, stream, bytes that it may be given) of a connection.
        `routing_id`, `user_id`: of the connection at a ROUTER; both empty for a DEALER.
        `departs`: (channel, next seq, bytes that may go), or None when nothing may go ahead to the link.
        `enters`: (channel, seq that is due, prefix or None, max_age_us or -1, what to add to the sender's clock in us),
        or None when nothing may go ahead to the local socket.
        `owed`: (lane bytes received, since when an acknowledgement is owed in us or 0, is one of the channel `enters`).
        OverflowError: a number does not fit; then nothing goes ahead.
        """
        self.full = self.leaves = self.enters = False
        self.local = local
        self.fd = -1
        if isinstance(local, tuple):
            self.fd, self.stream, self.granted = local
        self.link = link
        self.routing_id = routing_id
        self.user_id = user_id
        if departs is not None:
            self.out_channel, self.next_seq, self.room = departs
        if enters is not None:
            self.in_channel, self.due_seq, self.prefix, self.max_age_us, self.offset_us = enters
        self.lane_bytes, self.owed_at_us, self.owed_item = owed
        self.leaves = departs is not None
        self.enters = enters is not None

    def disarm(self):
        """Nothing goes ahead any more; the journal stays."""
        self.leaves = self.enters = False

    def __len__(self):
        """Entries of the journal."""
        return len(self.journal)

    def take(self):
        """The journal, and begin a new one. Disarms. In order of time:

        (False, seq, at in us, Piece, bytes of its header) left; (True, seq, at in us, frame, Fed) entered.
        """
        self.leaves = self.enters = False
        journal, self.journal = self.journal, []
        return journal

    cdef int note(self, tuple entry, bint local, bint link) except -1:
        self.journal.append(entry)
        if local or link or self.full or len(self.journal) == 1:
            self.stir(len(self.journal) == 1, local, link)
        return 0

    cdef bint go(self, Intake taken, Pile *pile) except -1:
        """Send what was drained. False: it must go the usual way, and nothing was done."""
        if pile.pieces_used != 1 or taken.extents_used != 1 or taken.extents[0].block != NULL:
            return False
        if pile.pieces[0].size != taken.size:
            return False
        return self.leave(None, taken.extents[0].data, taken.size, pile.pieces[0].messages)

    def depart(self, bytes record not None):
        """Send one record of a connection. False: it must go the usual way, and nothing was done."""
        if not self.leaves:
            return False
        return self.leave(record, PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record), 1)

    cdef bint leave(self, bytes whole, const char *run, size_t size, size_t messages) except -1:
        """Send a run, which is all of `whole` where that is given."""
        cdef void *link
        cdef long long now_us
        cdef size_t header
        if size > INLINE or self.room <= 0 or len(self.journal) >= JOURNAL:
            return False
        link = handle_of(self.link)
        now_us = microseconds()
        header = self.send(link, run, size, messages, now_us)
        if not header:
            self.disarm()
            return False
        if whole is None:
            whole = PyBytes_FromStringAndSize(run, size)
        self.next_seq += 1
        self.room -= max(size, COST) + header
        self.owed_at_us = 0
        self.owed_item = False
        self.full = self.room <= 0
        piece = _base.Piece((whole,), size, messages)
        self.note((False, self.next_seq - 1, now_us, piece, header), False, is_readable(link))
        return True

    cdef size_t send(self, void *link, const char *run, size_t size, size_t messages, long long now_us) except? 0:
        """One frame to the link: the length of its header, or 0: it could not be sent."""
        cdef size_t header = HEADER_BYTES
        cdef size_t id_size = PyBytes_GET_SIZE(self.routing_id)
        cdef zmq_msg_t message
        cdef unsigned char *to
        if self.owed_at_us:
            header += ACK_BYTES + (ITEM_BYTES if self.owed_item else 0)
        if id_size:
            if zmq_msg_init_size(&message, id_size) < 0:
                raise MemoryError
            memcpy(zmq_msg_data(&message), PyBytes_AS_STRING(self.routing_id), id_size)
            if send_frame(link, &message, True):
                return 0
        if zmq_msg_init_size(&message, header + size) < 0:
            abort()  # see send_next
        to = <unsigned char *>zmq_msg_data(&message)
        to = write_number(to, DATA_KIND | (ACKED << 8 if self.owed_at_us else 0), 4)
        to = write_number(to, self.out_channel, 4)
        to = write_number(to, self.next_seq, 8)
        to = write_number(to, now_us, 8)
        to = write_number(to, messages, 4)
        if self.owed_at_us:
            to = write_number(to, self.lane_bytes, 8)
            to = write_number(to, 1 if self.owed_item else 0, 2)
            if self.owed_item:
                to = write_number(to, self.in_channel, 4)
                to = write_number(to, self.due_seq - 1, 8)
        memcpy(to, run, size)
        return 0 if send_frame(link, &message, False) else header

    cdef bint is_from(self, bytes routing_id, const char *user) noexcept:
        cdef size_t size = PyBytes_GET_SIZE(self.routing_id)
        if not size:
            return True
        if PyBytes_GET_SIZE(routing_id) != <Py_ssize_t>size:
            return False
        if memcmp(PyBytes_AS_STRING(routing_id), PyBytes_AS_STRING(self.routing_id), size):
            return False
        if user == NULL:
            user = b""
        return strcmp(user, PyBytes_AS_STRING(self.user_id)) == 0

    cdef size_t run_at(self, const unsigned char *data, size_t size, long long now_us) noexcept nogil:
        """Where the run begins in the frame that is due; 0: this is another one, or must not be fed now."""
        cdef size_t at = HEADER_BYTES
        cdef unsigned long long born_us
        if size <= HEADER_BYTES or size > HEADER_BYTES + INLINE or data[0] != DATA_KIND or data[1] & ~ACKED:
            return 0
        if read_number(data + CHANNEL_AT, 4) != self.in_channel or read_number(data + SEQ_AT, 8) != self.due_seq:
            return 0
        if self.max_age_us >= 0:
            born_us = read_number(data + BORN_AT, 8)
            if born_us > FAR or now_us - self.offset_us - <long long>born_us > self.max_age_us:
                return 0
        if data[1] & ACKED:
            if size < at + ACK_BYTES:
                return 0
            at += ACK_BYTES + ITEM_BYTES * read_number(data + at + COUNT_AT, 2)
        return at if at < size else 0

    cdef bint feed(self, const unsigned char *data, size_t size) except -1:
        """Feed a frame of the link. False: it must go the usual way, and nothing was done."""
        cdef long long now_us = microseconds()
        cdef size_t begin = self.run_at(data, size, now_us)
        if not begin or len(self.journal) >= JOURNAL:
            fed = None
        elif self.fd >= 0:
            fed = self.feed_connection(data + begin, size - begin)
        else:
            fed = self.feed_socket(<const char *>data + begin, size - begin)
        if fed is None:
            self.disarm()
            return False
        if fed.status != _base.DONE:
            self.disarm()
            self.full = True
        frame = PyBytes_FromStringAndSize(<const char *>data, size)
        self.due_seq += 1
        self.lane_bytes += size
        if not self.owed_at_us:
            self.owed_at_us = now_us
        self.owed_item = True
        self.note(
            (True, self.due_seq - 1, now_us, frame, fed), self.fd < 0 and is_readable(handle_of(self.local)), False
        )
        return True

    cdef object feed_socket(self, const char *run, size_t size):
        """Messages to a 0MQ socket: Fed, or None: nothing was done."""
        cdef const char *first = NULL if self.prefix is None else PyBytes_AS_STRING(self.prefix)
        cdef size_t first_size = 0 if self.prefix is None else PyBytes_GET_SIZE(self.prefix)
        cdef Tally tally
        cdef Extent extent
        cdef Cursor at, next
        cdef int error
        extent.data = run
        extent.size = size
        extent.block = NULL
        at.extent = &extent
        at.offset = 0
        at.left = size
        next = at
        while next.left:
            if skip_message(&next) < 0:
                return None
        tally.messages = tally.unreachable = 0
        error = feed_messages(handle_of(self.local), &at, first, first_size, 0, 0, &tally)
        if error and not tally.messages and not tally.unreachable:
            return None
        return _base.Fed(tally.messages, size - at.left, _base.AGAIN if error else _base.DONE, tally.unreachable)

    cdef object feed_connection(self, const unsigned char *run, size_t size):
        """The bytes of one record to the connection: Fed, with the bytes that it took as its position; or None."""
        cdef size_t body = size - RECORD_HEAD
        cdef ssize_t sent
        if size <= RECORD_HEAD or body > self.granted or read_number(run, 4) != size - 4:
            return None
        if read_number(run + 4, 4) != BYTES_RECORD or read_number(run + 8, 4) != self.stream:
            return None
        sent = send_to(self.fd, run + RECORD_HEAD, body, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent <= 0:
            return None  # whatever it is, the usual way meets it too
        self.granted -= body
        return _base.Fed(1, sent, _base.DONE if <size_t>sent == body else _base.AGAIN)


cdef bint is_readable(void *socket) noexcept nogil:
    """Reads EVENTS, which also takes in what the descriptor announced."""
    cdef int ready = 0
    cdef size_t size = sizeof(int)
    return zmq_getsockopt(socket, ZMQ_EVENTS, &ready, &size) == 0 and ready & ZMQ_POLLIN
