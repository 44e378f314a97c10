# Streams: what a connection's descriptor has, as one record of a run; a run as records; records to a descriptor.

cdef Block *spare = NULL
cdef size_t spare_size = 0


cdef Block *take_spare(size_t size) noexcept:
    """A block of at least `size` that nobody else holds: what a read left unused, or a fresh one."""
    global spare, spare_size
    cdef Block *block = spare
    if block != NULL and spare_size >= size:
        spare = NULL
        return block
    return block_of_size(max(size, BATCH))


cdef void keep_spare(Block *block, size_t size) noexcept:
    global spare, spare_size
    if spare != NULL:
        block_release(NULL, spare)
    spare = block
    spare_size = max(size, BATCH)


cdef inline void put_u32(unsigned char *to, unsigned int value) noexcept nogil:
    to[0] = value & 255
    to[1] = value >> 8 & 255
    to[2] = value >> 16 & 255
    to[3] = value >> 24


def read_record(int fd, unsigned char kind, unsigned int stream, size_t most):
    """One DATA record of at most `most` bytes from a descriptor. See the package's docstring."""
    cdef size_t room = RECORD_HEAD + most
    cdef Block *block = take_spare(room)
    cdef unsigned char *to
    cdef ssize_t got
    cdef int error = 0
    cdef object record
    if block == NULL:
        raise MemoryError
    to = <unsigned char *>block_bytes(block)
    with nogil:
        while True:
            got = recv_from(fd, to + RECORD_HEAD, most, MSG_DONTWAIT)
            if got >= 0:
                break
            error = errno
            if error != EINTR:
                break
    if got <= 0:
        keep_spare(block, room)
        if got == 0:
            return b""
        if error == EAGAIN:
            return None
        raise OSError(error, _strerror(error))
    put_u32(to, 8 + got)
    to[4] = kind
    to[5] = to[6] = to[7] = 0
    put_u32(to + 8, stream)
    if <size_t>got + RECORD_HEAD < REFERENCE:
        record = PyBytes_FromStringAndSize(<char *>to, RECORD_HEAD + got)
        keep_spare(block, room)
        return record
    block = shrunk(block, RECORD_HEAD + got, room)
    record = chunk_of(block, block_bytes(block), RECORD_HEAD + got)
    block_release(NULL, block)
    return record


cdef Block *shrunk(Block *block, size_t size, size_t room) noexcept nogil:
    """The same block without the memory that it does not need: a read may have filled little of it."""
    cdef void *less
    if size > room // 2:
        return block
    less = realloc(block, sizeof(Block) + size)
    return <Block *>less if less != NULL else block


def records(segments):
    """The run as a list of (kind, stream, body). See the package's docstring."""
    cdef Run run = Run.__new__(Run, segments)
    cdef Cursor at
    cdef Header header
    cdef unsigned char head[8]
    cdef list found = []
    cdef unsigned int stream
    run.seek(0, &at)
    while at.left:
        if read_header(&at, &header) < 0 or header.more or header.size < 8:
            raise malformed(run, &at)
        copy_out(&at, <char *>head, 8)
        stream = head[4] | <unsigned int>head[5] << 8 | <unsigned int>head[6] << 16 | <unsigned int>head[7] << 24
        found.append((head[0], stream, body_of(&at, header.size - 8)))
    return found


cdef object body_of(Cursor *at, size_t size):
    """The next `size` bytes as one segment, by reference when they are many and lie in a row."""
    cdef object body
    cdef char *to
    if size >= REFERENCE and at.extent.block != NULL and at.extent.size - at.offset >= size:
        body = chunk_of(at.extent.block, at.extent.data + at.offset, size)
        skip(at, size)
        return body
    if not size:
        return b""
    body = new_segment(size, &to)
    copy_out(at, to, size)
    return body
