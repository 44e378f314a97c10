# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The pump in C speed: the same API as `twin.py`, tested by the same tests. One module in several files:

    libzmq.pxi    the functions of libzmq that are called, by address, and errors
    chunk.pxi     Block (counted memory that any thread may let go) and Chunk (its face in Python)
    runs.pxi      reading a run, and gathering ranges of it into pieces
    drain.pxi     drain, drain_shares, drain_tagged, with intake.pxi for what they share
    feed.pxi      feed, send, recv
    shortcut.pxi  Shortcut: small batches ahead of their bookkeeping
    streams.pxi   read_record, records: byte streams
    sorting.pxi   cut, first_frame, keep_latest, split, with topics.pxi for Topics

What a peer sent is read through `Cursor`, which checks every length before it is used. The GIL is released in the loops
over messages; a socket still belongs to one thread at a time.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EHOSTUNREACH, EINTR, errno
from libc.limits cimport INT_MAX
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, strcmp
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from os import strerror as _strerror

import zmq as _zmq

from tunnel import limits as _limits
from tunnel.pump import base as _base
from tunnel.pump import libzmq as _libzmq

cdef size_t BATCH = _limits.BATCH_BYTES
cdef size_t FRAGMENT = _limits.FRAGMENT_BYTES
cdef size_t REFERENCE = _limits.REFERENCE_BYTES
cdef size_t INLINE = _limits.INLINE_BYTES
cdef size_t COST = _limits.BATCH_COST_BYTES
cdef Py_ssize_t JOURNAL = _limits.JOURNAL
cdef size_t FRAMES = _limits.MESSAGE_FRAMES
cdef size_t PARTS = _limits.LINK_PARTS
cdef size_t TAG_CHANGES = _base.TAG_CHANGES
cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    int POLLIN

cdef extern from "sys/socket.h" nogil:
    ssize_t recv_from "recv"(int fd, void *to, size_t size, int flags)
    ssize_t send_to "send"(int fd, const void *data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef enum:
    MORE = 0x80000000
    LENGTH = 0x7FFFFFFF
    RECORD_HEAD = 12  # of a stream's record: the frame's length, then the record's own header

include "libzmq.pxi"
include "chunk.pxi"
include "runs.pxi"
include "intake.pxi"
include "feed.pxi"
include "shortcut.pxi"
include "drain.pxi"
include "sorting.pxi"
include "streams.pxi"
