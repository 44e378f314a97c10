# Block: counted memory that any thread may let go, without the GIL. Chunk: a stretch of a block, as Python sees it.

cdef extern from *:
    """
    static long zt_atomic_add(long *count, long by) { return __atomic_add_fetch(count, by, __ATOMIC_ACQ_REL); }
    """
    long atomic_add "zt_atomic_add"(long *count, long by) noexcept nogil

cdef struct Block:
    long users
    int is_message
    zmq_msg_t message
    # when it is no message, its bytes follow

cdef long alive = 0


def blocks() -> int:
    """How many blocks are alive (in Python, in libzmq's queues and in its I/O threads together)."""
    return atomic_add(&alive, 0)


cdef void block_release(void *data, void *hint) noexcept nogil:
    """One user less. Also the free callback of messages made of a block, so called from I/O threads."""
    cdef Block *block = <Block *>hint
    if atomic_add(&block.users, -1) == 0:
        if block.is_message:
            zmq_msg_close(&block.message)
        free(block)
        atomic_add(&alive, -1)


cdef Block *block_of_message(zmq_msg_t *message) noexcept nogil:
    """Takes the content over and leaves `message` empty. NULL: out of memory."""
    cdef Block *block = <Block *>malloc(sizeof(Block))
    if block != NULL:
        block.users = 1
        block.is_message = 1
        zmq_msg_init(&block.message)
        zmq_msg_move(&block.message, message)
        atomic_add(&alive, 1)
    return block


cdef Block *block_of_size(size_t size) noexcept nogil:
    cdef Block *block = <Block *>malloc(sizeof(Block) + size)
    if block != NULL:
        block.users = 1
        block.is_message = 0
        atomic_add(&alive, 1)
    return block


cdef inline char *block_bytes(Block *block) noexcept nogil:
    return <char *>zmq_msg_data(&block.message) if block.is_message else <char *>block + sizeof(Block)


@cython.final
@cython.freelist(64)
cdef class Chunk:
    """Read-only bytes held by reference: a received message, a copied run, or a stretch of either.

    Has the buffer protocol and `len()`; a slice is another Chunk of the same memory. `Chunk(data)` copies.
    """

    cdef Block *block
    cdef const char *data
    cdef Py_ssize_t size

    def __cinit__(self):
        self.data = b""

    def __init__(self, source):
        cdef bytes copied = bytes(source)
        if self.block != NULL:
            return
        self.block = block_of_size(PyBytes_GET_SIZE(copied))
        if self.block == NULL:
            raise MemoryError
        memcpy(block_bytes(self.block), PyBytes_AS_STRING(copied), PyBytes_GET_SIZE(copied))
        self.data = block_bytes(self.block)
        self.size = PyBytes_GET_SIZE(copied)

    def __dealloc__(self):
        if self.block != NULL:
            block_release(NULL, self.block)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        cdef Py_ssize_t start, stop, step
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step != 1:
                raise ValueError("A Chunk is sliced with step 1 only.")
            return chunk_of(self.block, self.data + start, max(0, stop - start))
        start = index
        if start < 0:
            start += self.size
        if not 0 <= start < self.size:
            raise IndexError("Chunk index out of range.")
        return <unsigned char>self.data[start]

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, <void *>self.data, self.size, 1, flags)

    def __repr__(self):
        return f"<Chunk {self.size} bytes>"


cdef Chunk chunk_of(Block *block, const char *data, size_t size):
    """A Chunk that is one more user of `block` (NULL: empty)."""
    cdef Chunk chunk = Chunk.__new__(Chunk)
    if block != NULL:
        atomic_add(&block.users, 1)
        chunk.block = block
        chunk.data = data
        chunk.size = size
    return chunk


cdef object new_segment(size_t size, char **data):
    """A segment of `size` bytes to be filled through `data`: bytes when small, else a Chunk."""
    cdef Block *block
    cdef Chunk chunk
    cdef object small
    if size < REFERENCE:
        small = PyBytes_FromStringAndSize(NULL, size)
        data[0] = PyBytes_AS_STRING(small)
        return small
    block = block_of_size(size)
    if block == NULL:
        raise MemoryError
    data[0] = block_bytes(block)
    chunk = chunk_of(block, data[0], size)
    block_release(NULL, block)
    return chunk
