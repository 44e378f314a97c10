# Topics: which sides subscribed to a prefix of a topic. A radix tree, so matching costs the topic's length at most.

cdef extern from *:
    """
    static int zt_lowest(unsigned long long mask) { return __builtin_ctzll(mask); }
    """
    int lowest_bit "zt_lowest"(unsigned long long mask) noexcept nogil

cdef struct Node:
    # Stands for its parent's prefix plus `label`. Any node but the root has sides, or several kids.
    unsigned long long sides
    size_t size
    char *label
    size_t kids
    Node **kid  # ascending by the first byte of their labels


cdef Node *new_node(const char *label, size_t size) except NULL:
    cdef Node *node = <Node *>calloc(1, sizeof(Node))
    if node != NULL:
        node.label = <char *>malloc(size + 1)
    if node == NULL or node.label == NULL:
        free(node)
        raise MemoryError
    memcpy(node.label, label, size)
    node.size = size
    return node


cdef inline size_t place_of(Node *node, unsigned char first) noexcept nogil:
    """Where the kid that begins with `first` is, or would be."""
    cdef size_t low = 0, high = node.kids, middle
    while low < high:
        middle = (low + high) // 2
        if <unsigned char>node.kid[middle].label[0] < first:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline Node **kid_of(Node *node, unsigned char first) noexcept nogil:
    cdef size_t place = place_of(node, first)
    if place < node.kids and <unsigned char>node.kid[place].label[0] == first:
        return &node.kid[place]
    return NULL


cdef int add_kid(Node *node, Node *kid) except -1:
    cdef size_t place = place_of(node, kid.label[0])
    cdef Node **kids = <Node **>realloc(node.kid, (node.kids + 1) * sizeof(Node *))
    if kids == NULL:
        raise MemoryError
    node.kid = kids
    memmove(&kids[place + 1], &kids[place], (node.kids - place) * sizeof(Node *))
    kids[place] = kid
    node.kids += 1
    return 0


cdef int insert_prefix(Node *node, const char *prefix, size_t size, unsigned long long side) except -1:
    cdef Node **slot
    cdef Node *kid
    cdef Node *upper
    cdef size_t common
    while size:
        slot = kid_of(node, prefix[0])
        if slot == NULL:
            kid = new_node(prefix, size)
            kid.sides = side
            return add_kid(node, kid)
        kid = slot[0]
        common = 1
        while common < size and common < kid.size and prefix[common] == kid.label[common]:
            common += 1
        if common < kid.size:
            upper = new_node(prefix, common)
            kid.size -= common
            memmove(kid.label, kid.label + common, kid.size)
            add_kid(upper, kid)
            slot[0] = kid = upper
        node = kid
        prefix += common
        size -= common
    node.sides |= side
    return 0


cdef int join_only_kid(Node **slot) except -1:
    """A node that stands for nothing and has one kid becomes one with it."""
    cdef Node *node = slot[0]
    cdef Node *kid = node.kid[0]
    cdef char *label = <char *>malloc(node.size + kid.size + 1)
    if label == NULL:
        raise MemoryError
    memcpy(label, node.label, node.size)
    memcpy(label + node.size, kid.label, kid.size)
    free(kid.label)
    kid.label = label
    kid.size += node.size
    slot[0] = kid
    free(node.kid)
    free(node.label)
    free(node)
    return 0


cdef int remove_prefix(Node *root, const char *prefix, size_t size, unsigned long long side) except -1:
    """Take `side` from a prefix that it is at."""
    cdef Node **above = NULL
    cdef Node **slot = NULL
    cdef Node *parent = NULL
    cdef Node *node = root
    cdef size_t place
    while size:
        parent = node
        above = slot
        slot = kid_of(node, prefix[0])
        if slot == NULL or slot[0].size > size:
            return 0
        node = slot[0]
        prefix += node.size
        size -= node.size
    node.sides &= ~side
    if node.sides or parent == NULL or node.kids > 1:
        return 0
    if node.kids == 1:
        return join_only_kid(slot)
    place = slot - parent.kid
    memmove(&parent.kid[place], &parent.kid[place + 1], (parent.kids - place - 1) * sizeof(Node *))
    parent.kids -= 1
    free(node.label)
    free(node.kid)
    free(node)
    if parent.kids == 1 and not parent.sides and above != NULL:
        return join_only_kid(above)
    return 0


cdef void free_tree(Node *node) noexcept:
    """Depth is bounded by memory only, so this goes down and up by the nodes themselves, not by recursion."""
    cdef Node *up = NULL
    cdef Node *kid
    while node != NULL:
        if node.kids:
            node.kids -= 1
            kid = node.kid[node.kids]
            if node.kids == 0:
                free(node.kid)
                node.kid = NULL
            node.sides = <unsigned long long><size_t>up  # the way back; the sides are not needed any more
            up = node
            node = kid
        else:
            free(node.kid)
            free(node.label)
            free(node)
            node = up
            if node != NULL:
                up = <Node *><size_t>node.sides


@cython.final
cdef class Topics:
    """Who wants which topics: a counted set of byte prefixes for each side 0..62, and DENY (63), which wins."""

    cdef Node *root
    cdef size_t longest
    cdef dict counts

    def __cinit__(self):
        self.counts = {}
        self.root = new_node(b"", 0)

    def __dealloc__(self):
        free_tree(self.root)

    def add(self, int side, bytes prefix not None):
        """One more subscription; True when it is this side's first to `prefix`."""
        if not 0 <= side <= 63:
            raise ValueError(f"A side of Topics is 0..63, not {side}.")
        cdef dict counts = self.counts.setdefault(side, {})
        cdef object count = counts.get(prefix, 0)
        if not count:
            insert_prefix(self.root, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix), <unsigned long long>1 << side)
            self.longest = max(self.longest, <size_t>PyBytes_GET_SIZE(prefix))
        counts[prefix] = count + 1
        return not count

    def remove(self, int side, bytes prefix not None):
        """One subscription less; True when it was this side's last to `prefix`. Unknown ones change nothing."""
        cdef dict counts = self.counts.get(side, {})
        cdef object count = counts.get(prefix, 0)
        if count > 1:
            counts[prefix] = count - 1
        if count != 1:
            return False
        del counts[prefix]
        remove_prefix(self.root, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix), <unsigned long long>1 << side)
        return True

    def clear(self, int side):
        """Forget every subscription of this side."""
        for prefix in self.counts.pop(side, {}):
            remove_prefix(self.root, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix), <unsigned long long>1 << side)

    def prefixes(self, int side):
        """The prefixes of this side, in the order of their first subscription."""
        return list(self.counts.get(side, {}))

    def match(self, topic):
        """Bit mask of the sides that subscribed to a prefix of `topic`; 0 when it is denied."""
        cdef bytes data = bytes(topic)
        cdef unsigned long long sides = self.sides_of(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        return 0 if sides >> 63 else sides

    cdef unsigned long long sides_of(self, const char *topic, size_t size) noexcept nogil:
        cdef Node *node = self.root
        cdef Node **slot
        cdef unsigned long long sides = node.sides
        while size:
            slot = kid_of(node, topic[0])
            if slot == NULL:
                break
            node = slot[0]
            if node.size > size or memcmp(node.label, topic, node.size):
                break
            topic += node.size
            size -= node.size
            sides |= node.sides
        return sides
