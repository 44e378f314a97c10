# Reading a run that lies in several segments (Extents, Cursor), and gathering ranges of it into pieces (Ranges, Gather).

cdef struct Extent:
    # Bytes in a row. `block` is NULL when the bytes may not be referenced, only copied.
    const char *data
    size_t size
    Block *block

cdef struct Cursor:
    # A place in a run. Never past `left`: whoever moves it asks first.
    Extent *extent
    size_t offset
    size_t left

cdef struct Header:
    size_t size
    bint more


cdef inline void settle(Cursor *at) noexcept nogil:
    """Step over the ends of extents, so that a byte lies before the cursor (unless nothing is left)."""
    while at.left and at.offset >= at.extent.size:
        at.offset -= at.extent.size
        at.extent += 1


cdef inline void skip(Cursor *at, size_t size) noexcept nogil:
    """Go on by `size` <= left."""
    at.offset += size
    at.left -= size
    settle(at)


cdef void copy_out(Cursor *at, char *to, size_t size) noexcept nogil:
    """Copy `size` <= left bytes and go on behind them."""
    cdef size_t stretch
    while size:
        stretch = min(size, at.extent.size - at.offset)
        memcpy(to, at.extent.data + at.offset, stretch)
        to += stretch
        size -= stretch
        skip(at, stretch)


cdef inline int read_header(Cursor *at, Header *header) noexcept nogil:
    """The next frame's header; -1 when it, or the frame behind it, is not whole."""
    cdef unsigned char raw[4]
    cdef const unsigned char *b
    cdef unsigned int value
    header.size = header.more = 0
    if at.left < 4:
        return -1
    if at.extent.size - at.offset >= 4:
        b = <const unsigned char *>at.extent.data + at.offset
        value = b[0] | <unsigned int>b[1] << 8 | <unsigned int>b[2] << 16 | <unsigned int>b[3] << 24
        skip(at, 4)
    else:
        copy_out(at, <char *>raw, 4)
        value = raw[0] | <unsigned int>raw[1] << 8 | <unsigned int>raw[2] << 16 | <unsigned int>raw[3] << 24
    header.size = value & LENGTH
    header.more = (value & MORE) != 0
    return 0 if header.size <= at.left else -1


cdef inline int skip_message(Cursor *at) noexcept nogil:
    """Go on behind the next message; -1 when it is malformed or has too many frames."""
    cdef Header header
    cdef size_t frames = 0
    while True:
        if read_header(at, &header) < 0:
            return -1
        skip(at, header.size)
        frames += 1
        if not header.more:
            return 0 if frames <= FRAMES else -1
        if frames >= FRAMES:
            return -1


@cython.final
cdef class Run:
    """The extents of a sequence of segments, which it keeps alive (and their buffers exported)."""

    cdef Extent few[8]
    cdef Extent *extents
    cdef Py_buffer *views
    cdef Py_ssize_t count
    cdef Py_ssize_t exported
    cdef size_t size
    cdef tuple segments

    def __cinit__(self, segments):
        cdef Py_ssize_t i
        cdef object segment
        cdef Extent *extent
        self.segments = tuple(segments)
        self.count = len(self.segments)
        self.extents = self.few
        if self.count > 8:
            self.extents = <Extent *>malloc(self.count * sizeof(Extent))
            if self.extents == NULL:
                raise MemoryError
        for i in range(self.count):
            segment = self.segments[i]
            extent = &self.extents[i]
            extent.block = NULL
            if type(segment) is bytes:
                extent.data = PyBytes_AS_STRING(segment)
                extent.size = PyBytes_GET_SIZE(segment)
            elif type(segment) is Chunk:
                extent.data = (<Chunk>segment).data
                extent.size = (<Chunk>segment).size
                extent.block = (<Chunk>segment).block
            else:
                self.export(segment, extent)
            self.size += extent.size

    cdef int export(self, object segment, Extent *extent) except -1:
        if self.views == NULL:
            self.views = <Py_buffer *>calloc(self.count, sizeof(Py_buffer))
            if self.views == NULL:
                raise MemoryError
        PyObject_GetBuffer(segment, &self.views[self.exported], PyBUF_SIMPLE)
        extent.data = <const char *>self.views[self.exported].buf
        extent.size = self.views[self.exported].len
        self.exported += 1
        return 0

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.exported):
            PyBuffer_Release(&self.views[i])
        free(self.views)
        if self.extents != self.few:
            free(self.extents)

    cdef int seek(self, size_t position, Cursor *at) except -1:
        """Put the cursor at `position`; RunError when the run ends before it."""
        at.extent = self.extents
        at.offset = 0
        at.left = self.size
        if position > self.size:
            raise _base.RunError(f"Position {position} lies behind the end of a run of {self.size} bytes.")
        settle(at)
        skip(at, position)
        return 0


cdef object malformed(Run run, Cursor *at):
    return _base.RunError(f"The run is malformed in the message at byte {run.size - at.left} of {run.size}.")


cdef struct Range:
    size_t start
    size_t stop

cdef struct Piled:
    # A piece to be: `count` ranges from `first` on.
    size_t first
    size_t count
    size_t size
    size_t messages

cdef struct Pile:
    # Messages on their way to one receiver, as ranges of a run, already divided into pieces.
    Range *ranges
    size_t ranges_used
    size_t ranges_room
    Piled *pieces
    size_t pieces_used
    size_t pieces_room


cdef void *grown(void *memory, size_t *room, size_t used, size_t item) noexcept nogil:
    """Memory with room for one more item; NULL (and the old one stays) when there is none."""
    cdef size_t wanted = max(<size_t>16, room[0] * 2)
    cdef void *more
    if used < room[0]:
        return memory
    more = realloc(memory, wanted * item)
    if more != NULL:
        room[0] = wanted
    return more


cdef inline int pile_message(Pile *pile, size_t start, size_t stop) noexcept nogil:
    """Add the message at start..stop; it opens a new piece when the last one has no room for it. -1: no memory."""
    cdef Piled *piece = pile.pieces + pile.pieces_used - 1
    cdef Range *last = pile.ranges + pile.ranges_used - 1
    if pile.pieces_used and last.stop == start and piece.size + (stop - start) <= BATCH:
        last.stop = stop
        piece.size += stop - start
        piece.messages += 1
        return 0
    return pile_range(pile, start, stop)


cdef int pile_range(Pile *pile, size_t start, size_t stop) noexcept nogil:
    """pile_message where a range, and perhaps a piece, begins."""
    cdef size_t size = stop - start
    cdef Piled *piece
    cdef void *memory
    if not pile.pieces_used or pile.pieces[pile.pieces_used - 1].size + size > BATCH:
        memory = grown(pile.pieces, &pile.pieces_room, pile.pieces_used, sizeof(Piled))
        if memory == NULL:
            return -1
        pile.pieces = <Piled *>memory
        piece = &pile.pieces[pile.pieces_used]
        pile.pieces_used += 1
        piece.first = pile.ranges_used
        piece.count = piece.size = piece.messages = 0
    else:
        piece = &pile.pieces[pile.pieces_used - 1]
    memory = grown(pile.ranges, &pile.ranges_room, pile.ranges_used, sizeof(Range))
    if memory == NULL:
        return -1
    pile.ranges = <Range *>memory
    pile.ranges[pile.ranges_used].start = start
    pile.ranges[pile.ranges_used].stop = stop
    pile.ranges_used += 1
    piece.size += size
    piece.messages += 1
    piece.count += 1
    return 0


cdef inline void pile_free(Pile *pile) noexcept nogil:
    free(pile.ranges)
    free(pile.pieces)


@cython.final
cdef class Gather:
    """Turns ascending ranges of a run into segments: large stretches by reference, what lies between is copied."""

    cdef Cursor at
    cdef size_t position
    cdef Extent *stretches
    cdef size_t used
    cdef size_t room
    cdef size_t pending
    cdef list segments

    def __dealloc__(self):
        free(self.stretches)

    cdef void start(self, Extent *extents, size_t size) noexcept:
        self.at.extent = extents
        self.at.offset = 0
        self.at.left = size
        self.position = 0
        settle(&self.at)

    cdef int add(self, size_t start, size_t stop) except -1:
        """Add the bytes start..stop, which lie behind all that were added before."""
        cdef size_t left = stop - start
        cdef size_t size
        cdef Cursor *at = &self.at
        if self.segments is None:
            self.segments = []
        skip(at, start - self.position)
        self.position = stop
        while left:
            size = min(left, at.extent.size - at.offset)
            if at.extent.block != NULL and size >= REFERENCE:
                self.flush()
                self.segments.append(chunk_of(at.extent.block, at.extent.data + at.offset, size))
            else:
                self.stretch(at.extent.data + at.offset, size)
            left -= size
            skip(at, size)
        return 0

    cdef int stretch(self, const char *data, size_t size) except -1:
        cdef void *memory
        self.pending += size
        if self.used and self.stretches[self.used - 1].data + self.stretches[self.used - 1].size == data:
            self.stretches[self.used - 1].size += size
            return 0
        memory = grown(self.stretches, &self.room, self.used, sizeof(Extent))
        if memory == NULL:
            raise MemoryError
        self.stretches = <Extent *>memory
        self.stretches[self.used].data = data
        self.stretches[self.used].size = size
        self.used += 1
        return 0

    cdef int flush(self) except -1:
        cdef char *to
        cdef size_t i
        if not self.pending:
            return 0
        self.segments.append(new_segment(self.pending, &to))
        for i in range(self.used):
            memcpy(to, self.stretches[i].data, self.stretches[i].size)
            to += self.stretches[i].size
        self.used = 0
        self.pending = 0
        return 0

    cdef tuple take(self):
        """What was added since the last time."""
        cdef list segments
        self.flush()
        segments = self.segments
        self.segments = None
        return tuple(segments) if segments is not None else ()


cdef list pieces_of(Pile *pile, Extent *extents, size_t size):
    """The pieces of a pile; a message larger than FRAGMENT becomes fragments."""
    cdef Gather gather = Gather.__new__(Gather)
    cdef list pieces = []
    cdef Piled *piece
    cdef size_t i, j, start, stop
    gather.start(extents, size)
    for i in range(pile.pieces_used):
        piece = &pile.pieces[i]
        if piece.size <= FRAGMENT:
            for j in range(piece.first, piece.first + piece.count):
                gather.add(pile.ranges[j].start, pile.ranges[j].stop)
            pieces.append(_base.Piece(gather.take(), piece.size, piece.messages))
            continue
        start = pile.ranges[piece.first].start
        stop = pile.ranges[piece.first].stop
        while stop - start > FRAGMENT:
            gather.add(start, start + FRAGMENT)
            pieces.append(_base.Piece(gather.take(), FRAGMENT, 0, True))
            start += FRAGMENT
        gather.add(start, stop)
        pieces.append(_base.Piece(gather.take(), stop - start, 1))
    return pieces
