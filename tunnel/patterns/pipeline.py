"""pipeline: PUSH applications at `from`, PULL applications at `to`; tasks are shared out among several `to` sides."""

from __future__ import annotations

from tunnel.patterns.base import Pattern
from tunnel.patterns.sharing import SharedOut


class PipelineFrom(SharedOut):
    """PULL: reads tasks."""

    only_enters = True


class PipelineTo(Pattern):
    """PUSH: hands tasks on."""

    def wants_to_read(self) -> bool:
        return False
