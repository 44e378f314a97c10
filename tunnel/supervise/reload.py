"""`ztunnel reload`: the device takes in the changed table itself; the list of processes is brought in line with it."""

from __future__ import annotations

import json
from typing import Any

from tunnel.control import ask
from tunnel.limits import DOWN_S
from tunnel.programs import KEEPER, PROGRAMS, Program
from tunnel.supervise.daemon import Supervisor
from tunnel.supervise.places import DEVICE_SOCKET, Running


def reload_side(running: Running, *, dry_run: bool) -> dict[str, Any]:
    """{changes: [sentence], device: its reply, processes: {added, changed, removed}}.

    The device reads the table, with the variables and credentials that it was started with, and says which processes
    there should be. When it refuses (UsageError, ZtunnelError), nothing is touched.
    """
    before = _running_programs(running)
    reply = ask(running.folder / DEVICE_SOCKET, "reload", timeout_s=DOWN_S, dry_run=dry_run)
    reply.pop("ok", None)
    wanted = [Program.told(fields) for fields in reply.pop("programs")]
    planned = {
        "added": [p.name for p in wanted if p.name not in before],
        "changed": [p.name for p in wanted if before.get(p.name, p.fingerprint) != p.fingerprint],
        "removed": [name for name in before if name not in {p.name for p in wanted}],
    }
    if not dry_run and any(planned.values()):
        planned = Supervisor(running).take_in(wanted)
    changes = _sentences(reply)
    changes += [f"process {name} {how}" for how, names in planned.items() for name in names]
    return {"changes": changes, "device": reply, "processes": planned}


def _sentences(reply: dict[str, Any]) -> list[str]:
    """The device says {added, removed: [route], links: bool}; a route that changed is in both lists."""
    added, removed = set(reply["added"]), set(reply["removed"])
    sentences = [f"route {name} changed" for name in sorted(added & removed)]
    sentences += [f"route {name} added" for name in sorted(added - removed)]
    sentences += [f"route {name} removed" for name in sorted(removed - added)]
    return [*sentences, "links made anew"] if reply["links"] else sentences


def _running_programs(running: Running) -> dict[str, str]:
    """name → fingerprint of what was last started or taken in."""
    table = json.loads((running.folder / PROGRAMS).read_text())
    return {name: Program.told(fields).fingerprint for name, fields in table.items() if name != KEEPER}
