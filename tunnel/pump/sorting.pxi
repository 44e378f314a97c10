# Runs cut up and sorted without a socket: cut, first_frame, keep_latest, split.

include "topics.pxi"


def cut(segments, size_t position):
    """Take the message at `position` out: (a run of it alone, the position behind it). RunError: malformed."""
    cdef Run run = Run.__new__(Run, segments)
    cdef Gather gather = Gather.__new__(Gather)
    cdef Cursor at
    run.seek(position, &at)
    if skip_message(&at) < 0:
        run.seek(position, &at)
        raise malformed(run, &at)
    gather.start(run.extents, run.size)
    gather.add(position, run.size - at.left)
    return gather.take(), run.size - at.left


def first_frame(segments, size_t position):
    """The first frame of the message at `position`. RunError: malformed."""
    cdef Run run = Run.__new__(Run, segments)
    cdef Cursor at, behind
    cdef Header header
    cdef object frame
    run.seek(position, &at)
    behind = at
    if skip_message(&behind) < 0:
        raise malformed(run, &at)
    read_header(&at, &header)
    frame = PyBytes_FromStringAndSize(NULL, header.size)
    copy_out(&at, PyBytes_AS_STRING(frame), header.size)
    return frame


def keep_latest(runs):
    """Of messages with the same first frame only the newest stays: (pieces, how many were dropped)."""
    cdef Run run = Run.__new__(Run, [segment for segments in runs for segment in segments])
    cdef Pile pile = Pile(NULL, 0, 0, NULL, 0, 0)
    cdef Cursor at, behind
    cdef Header header
    cdef dict newest = {}
    cdef list names = [], stops = []
    cdef size_t start = 0, stop, number = 0
    run.seek(0, &at)
    while at.left:
        behind = at
        if skip_message(&behind) < 0:
            raise malformed(run, &at)
        read_header(&at, &header)
        name = PyBytes_FromStringAndSize(NULL, header.size)
        copy_out(&at, PyBytes_AS_STRING(name), header.size)
        newest[name] = number
        names.append(name)
        stops.append(run.size - behind.left)
        number += 1
        at = behind
    try:
        for number in range(<size_t>len(names)):
            stop = stops[number]
            if newest[names[number]] == number and pile_message(&pile, start, stop) < 0:
                raise MemoryError
            start = stop
        return pieces_of(&pile, run.extents, run.size), len(names) - len(newest)
    finally:
        pile_free(&pile)


def split(segments, Topics topics not None, int n):
    """Sort messages by their first frame to the sides 0..n-1 that want it. RunError: malformed."""
    cdef Run run = Run.__new__(Run, segments)
    cdef Pile *piles
    cdef size_t unmatched = 0, denied = 0
    cdef int side
    cdef object result = _base.Split()
    if not 1 <= n <= 63:
        raise ValueError(f"A split has 1..63 sides, not {n}.")
    piles = <Pile *>calloc(n, sizeof(Pile))
    if piles == NULL:
        raise MemoryError
    try:
        sort_by_topic(run, topics, piles, n, &unmatched, &denied)
        for side in range(n):
            result.append(_base.Drained(pieces_of(&piles[side], run.extents, run.size)))
    finally:
        for side in range(n):
            pile_free(&piles[side])
        free(piles)
    result.unmatched = unmatched
    result.denied = denied
    return result


cdef int sort_by_topic(Run run, Topics topics, Pile *piles, int n, size_t *unmatched, size_t *denied) except -1:
    cdef Cursor at, behind
    cdef Header header
    cdef unsigned long long sides, known = (<unsigned long long>1 << n) - 1
    cdef size_t start, looked
    cdef const char *topic
    cdef bytearray copied = bytearray(topics.longest)
    run.seek(0, &at)
    while at.left:
        behind = at
        start = run.size - at.left
        if skip_message(&behind) < 0:
            raise malformed(run, &at)
        read_header(&at, &header)
        looked = min(header.size, topics.longest)
        if looked == 0:
            topic = b""
        elif at.extent.size - at.offset >= looked:
            topic = at.extent.data + at.offset
        else:
            topic = <char *>copied
            copy_out(&at, <char *>copied, looked)
        sides = topics.sides_of(topic, looked)
        if sides >> 63:
            denied[0] += 1
            sides = 0
        sides &= known
        if not sides:
            unmatched[0] += 1
        while sides:
            if pile_message(&piles[lowest_bit(sides)], start, run.size - behind.left) < 0:
                raise MemoryError
            sides &= sides - 1
        at = behind
    return 0
