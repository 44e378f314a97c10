"""A right table that tests change, and how to write and load one."""

from __future__ import annotations

from pathlib import Path

from tunnel.config import Table, load_table
from tunnel.keys import write_pair

DMZ_KEY = "A%ew)taBp3XTVcZc[c]:a{8Vg2elYuOpuVSmX4y>"
PLANT_KEY = "bvU]dl/dPgVk[merYvh@y&]8v9@]8QVj}26X2=F?"
BASE = f"""\
version: 1
name: dmz

sides:
  dmz:
    key: '{DMZ_KEY}'
  plant:
    key: '{PLANT_KEY}'

links:
  - listen: dmz tcp://127.0.0.1:9440
    dial: plant tcp://127.0.0.1:9440

routes:
  orders:
    pattern: reqrep
    # who asks and who answers
    from: dmz bind tcp://127.0.0.1:5555
    to: plant connect tcp://127.0.0.1:6555
    # nobody waits longer
    max_age: 5s
  ticks:
    pattern: pubsub
    from: plant connect tcp://127.0.0.1:6556
    to: dmz bind tcp://127.0.0.1:5556
"""


def write(folder: Path, text: str, name: str = "dmz.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str) -> Table:
    return load_table(write(folder, text))


def with_keys(folder: Path, text: str = BASE) -> Path:
    """The table with keys in files beside it, secrets included; fresh ones the first time."""
    for side in ("dmz", "plant"):
        if not (folder / "keys" / f"{side}.key").exists():
            write_pair(folder / "keys", side)
    text = text.replace(f"'{DMZ_KEY}'", "keys/dmz.key").replace(f"'{PLANT_KEY}'", "keys/plant.key")
    return write(folder, text)
