"""Runs single seeds of the simulation, or a range, and says what happened.

`python -m tests.sim [--spooled] SEED [SEED_AFTER]`
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from tests.sim.scenario import describe, prepare, replay

spooled = "--spooled" in sys.argv
first, *rest = (int(word) for word in sys.argv[1:] if word.isdigit())
last = rest[0] if rest else first + 1
began = time.process_time()
totals: Counter[str] = Counter()
failures: list[str] = []
for seed in range(first, last):
    try:
        run = replay(seed, spooled=spooled)
    except Exception as error:
        failures.append(str(error))
        print(error, "\n ", describe(prepare(seed, spooled=spooled)))
        if last == first + 1:
            raise
        continue
    totals["events"] += run.world.events
    totals["messages"] += run.ledger.messages
    totals["fragmented"] += run.ledger.fragments
    totals["opens"] += sum(half.dialler.redials + 1 for half in run.diallers)
    totals["resumes"] += sum(half.dialler.resumes for half in run.diallers)
    totals["repeated"] += sum(stream.repeated for stream in run.ledger.streams)
    totals["lost"] += sum(stream.lost for stream in run.ledger.streams)
    totals["settled_s"] += int(run.settled_s)
    if last == first + 1:
        print(describe(run))
        for stream in run.ledger.streams:
            print(f"  {stream.name}: {len(stream.got)} sent, {stream.lost} lost, {stream.repeated} repeated")
print(dict(totals), f"{time.process_time() - began:.1f} s CPU", f"{len(failures)} failures")
