"""Local ends: the 0MQ sockets that the applications at this side talk to.

`LocalEnd` opens one for a route, keeps it open, and knows who is connected and why somebody is not. It may know the
plan, the reactor, the monitor, ZAP and name lookup; nothing of channels, patterns or the link.
"""

from tunnel.local.end import EndWatch, LocalEnd

__all__ = ["EndWatch", "LocalEnd"]
