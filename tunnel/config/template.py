"""The table that `ztunnel init` writes: small, commented, right as it stands."""

from __future__ import annotations

from typing import Final

_TEXT: Final = """\
# A ztunnel route table: the whole tunnel, for both sides. Each box runs the side whose secret key it holds.
#   ztunnel check                says what this table means, or everything that is wrong with it
#   ztunnel check --ports        who listens where, who dials, who is let in
#   ztunnel up                   runs this box's side
version: 1
name: {name}

sides:                                   # who takes part, and the public key that proves it
  {listener}:
    key: keys/{listener}.key
  {dialler}:
    key: keys/{dialler}.key

links:                                   # the one port: who opens it, and who dials it
  - listen: {listener} tcp://127.0.0.1:9440
    dial: {dialler} tcp://127.0.0.1:9440
    # Beyond this machine say the real addresses, and the networks that may dial in:
    # listen: {listener} tcp://192.0.2.10:9440
    # dial: {dialler} tcp://{listener}.example.com:9440
    # allow: [198.51.100.7/32]

routes:                                  # messages enter at `from` and leave at `to`
  orders:                                # REQ clients at {listener} ask a REP service at {dialler}
    pattern: reqrep
    from: {listener} bind tcp://127.0.0.1:5555
    to: {dialler} connect tcp://127.0.0.1:6555
    max_age: 5s                          # a request older than this is not carried out any more

  ticks:                                 # a PUB feed at {dialler} is seen by SUB clients at {listener}
    pattern: pubsub
    from: {dialler} connect tcp://127.0.0.1:6556
    to: {listener} bind tcp://127.0.0.1:5556

  # tasks:                               # PUSH clients at {listener}, PULL workers at {dialler}
  #   pattern: pipeline
  #   from: {listener} bind tcp://127.0.0.1:5557
  #   to: {dialler} bind tcp://127.0.0.1:6557

  # chat:                                # one PAIR at each side
  #   pattern: pair
  #   from: {listener} bind tcp://127.0.0.1:5558
  #   to: {dialler} bind tcp://127.0.0.1:6558
  #   max_age: never
"""


def sides_for(side: str | None, other: str | None = None) -> tuple[str, str]:
    """The two sides of the new table: who listens, who dials. Whichever of the two asks, the answer is the same.

    `dmz` listens where it is one of them, else the first by the alphabet. The other is `dmz`, or else `plant`, where
    it is not told.
    """
    side = side or "dmz"
    other = other or ("plant" if side == "dmz" else "dmz")
    first, second = sorted((side, other), key=lambda one: (one != "dmz", one))
    return first, second


def table_text(listener: str, dialler: str, name: str = "ztunnel") -> str:
    plain = name[0].isalpha() and name not in ("true", "null")  # else YAML takes it for something else
    return _TEXT.format(name=name if plain else f"'{name}'", listener=listener, dialler=dialler)
