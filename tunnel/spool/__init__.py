"""The spool: the only code that writes messages to disk.

    loop thread                          the spool's own thread              disk
    Spool.put, done, finish, bury  ──►   Worker: everything that waits   ──► SpoolFile: one SQLite file, WAL,
    on_durable, on_room, then      ◄──   goes in one transaction (fsync)     one connection, one owner

A row is taken when it is on disk, and not a moment before (`on_durable`). Nothing is dropped because a disk fails or is
full: what waits stays in memory, `has_room` turns False, and the worker tries again until the disk works. What is
removed on purpose is counted: `expired`, `dropped`, `dead_lost`.

`spool.py` is what users call, `worker.py` the thread, `file.py` the file and its SQL, `rows.py` what passes between.
"""

from tunnel.spool.rows import Entry, Row
from tunnel.spool.spool import Spool

__all__ = ["Entry", "Row", "Spool"]
