# drain, drain_shares, drain_tagged: socket → pieces.


def drain(socket, max_message, bint skip_probe=False, Shortcut shortcut=None):
    """Receive whole messages until EAGAIN or a batch is full; None: the shortcut took them. See the package's docstring."""
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
        if shortcut is not None and shortcut.leaves and rc == NOTHING and not too_large and not probes:
            if shortcut.go(taken, &pile):
                return None
        drained = _base.Drained(pieces_of(&pile, taken.extents, taken.size), too_large, probes)
        drained.emptied = rc == NOTHING
        return drained
    finally:
        pile_free(&pile)
        give_back(taken)


def drain_shares(socket, max_message, int n, bint skip_probe=False):
    """Like `drain`, dealt out message by message to `n` runs, beginning with the first, which has the counts."""
    cdef void *handle = handle_of(socket)
    cdef Intake taken
    cdef size_t start, too_large = 0, probes = 0, dealt = 0
    cdef Pile *piles
    cdef bint new_tag
    cdef int rc, i
    if n < 1:
        raise ValueError("drain_shares needs at least one share.")
    piles = <Pile *>calloc(n, sizeof(Pile))
    if piles == NULL:
        raise MemoryError
    taken = intake(max_message, skip_probe, False)
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
        shares = [_base.Drained(pieces_of(&piles[i], taken.extents, taken.size)) for i in range(n)]
        shares[0].too_large = too_large
        shares[0].probes = probes
        return shares
    finally:
        for i in range(n):
            pile_free(&piles[i])
        free(piles)
        give_back(taken)


def drain_tagged(socket, max_message, Shortcut shortcut=None, bytes tag=b""):
    """Like `drain`; the first frame of each message is taken off and says to which (tag, Drained) it belongs.

    None: all was under `tag`, and the shortcut took it.
    """
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
        if shortcut is not None and shortcut.leaves and rc == NOTHING and not tagged.untagged:
            if len(tags) == 1 and tags[0] == tag and not too_large[0] and shortcut.go(taken, piles):
                return None
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
