# Taking whole messages off a socket, with the bookkeeping that drain and its two relatives share.

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


cdef inline void write_header(unsigned char *to, size_t size, bint more) noexcept nogil:
    cdef unsigned int value = <unsigned int>size | (MORE if more else 0)
    to[0] = value & 0xFF
    to[1] = value >> 8 & 0xFF
    to[2] = value >> 16 & 0xFF
    to[3] = value >> 24


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
        write_header(to, size, more)
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

    cdef inline bint append_alone(self, size_t size) noexcept nogil:
        """A whole message of one small frame, the common case; False: it is not so common, nothing was done."""
        cdef unsigned char *to
        if size >= REFERENCE or self.room - self.used < 4 + size or size > self.max_message or not self.extents_used:
            return False
        if self.extents[self.extents_used - 1].block != NULL:
            return False
        to = <unsigned char *>self.scratch + self.used
        write_header(to, size, False)
        memcpy(to + 4, zmq_msg_data(&self.message), size)
        self.last = size + 4
        self.extents[self.extents_used - 1].size += size + 4
        self.used += size + 4
        self.size += size + 4
        self.work += size + 4
        return True

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
            if not more and not frames and not self.tagged and self.append_alone(size):
                return KEPT
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
