"""Which bridge for mail a command means, and its process asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tunnel.supervise.places import Running

PATIENCE_S: Final = 8.0
KINDS: Final = ("smtp-client", "smtp-server", "imap")
_KEEPS_NONE: Final = "is an imap, which keeps no mail here: it lies in its mailbox, and `ztunnel status` counts it."
_TAKES: Final = "is an smtp-server, which cannot be paused: it takes mail while it runs, and gives it on at once."
_CANNOT: Final = {
    **dict.fromkeys((("imap", f"mail-{do}") for do in ("list", "show", "retry", "drop")), _KEEPS_NONE),
    **dict.fromkeys((("smtp-server", f"mail-{do}") for do in ("pause", "resume")), _TAKES),
}
"""What a kind has no use for, and why."""


def bridge_meant(running: Running, named: str | None) -> str:
    """The name of a bridge for mail of this side. UsageError: there is none, or several could be meant."""
    from tunnel.config.values import listing, suggest
    from tunnel.errors import UsageError
    from tunnel.supervise.beside import known_bridges

    there = [name for name, kind in known_bridges(running) if kind in KINDS]
    if named is not None:
        name = named.removeprefix("bridge-")
        if name not in there:
            raise UsageError(f"{name!r} is no bridge for mail of this side.{suggest(name, there)}")
        return name
    if not there:
        raise UsageError("this side has no bridge for mail.")
    senders = [name for name, kind in known_bridges(running) if kind == "smtp-client"]
    for only in (there, senders):
        if len(only) == 1:
            return only[0]
    raise UsageError(f"which bridge? There are {listing(there, 'and')}.")


def kind_of(running: Running, bridge: str) -> str:
    """Of a bridge of this side."""
    from tunnel.supervise.beside import known_bridges

    return dict(known_bridges(running))[bridge]


def asked(running: Running, bridge: str, do: str, patience_s: float = PATIENCE_S, **arguments: Any) -> dict[str, Any]:
    """What its process answers; see tunnel.control.ask for what may go wrong. UsageError: its kind cannot do that."""
    from tunnel.control import ask
    from tunnel.errors import UsageError
    from tunnel.supervise.beside import control_of

    if (why := _CANNOT.get((kind_of(running, bridge), do))) is not None:
        raise UsageError(f"{bridge} {why}")
    control = control_of(running, f"bridge-{bridge}")
    assert control is not None
    return ask(running.folder / control, do, patience_s, **arguments)


def safe(text: str) -> str:
    """Somebody else's words on a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
