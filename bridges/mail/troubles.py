"""What can be the matter before a mail is begun: with a server, or with the domain that it is for.

    Unreachable       no name, no connection, no TLS, a 4xx to what we say before the first mail: later, perhaps
    Misconfigured     5xx to our login, our name or the greeting; TLS is wanted and not there: somebody has to look
    Stale             a connection that had carried mail before is gone, or ends: the same mail on a new one, at once
    NoMail            the domain takes no mail, and never will

Each sentence says why, in one line.
"""

from __future__ import annotations


class Unreachable(Exception):
    """See the module."""


class Misconfigured(Exception):
    """See the module."""


class Stale(Exception):
    """See the module."""


class NoMail(Exception):
    """See the module."""
