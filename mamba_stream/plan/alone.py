"""Whether one worker does a plan faster than several, as far as the plan tells.

Polars spreads the work of one process over all processors, so what it alone does gains little by further workers, and
pays for what goes from one to another. A function of Python's holds its process while it runs: what that takes is
divided among workers. ``docs/decisions/0031`` has the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from mamba_stream.plan import nodes as n
from mamba_stream.plan.process import Process
from mamba_stream.plan.stages import Stage

WORTH: Final = 1.3
"""Several workers are to be so many times as fast as one."""
_PARTIAL_WINDOWS: Final = 4.4
"""So many times what a row costs in one process it costs where partial results of windows go to other tasks."""


class Alone(msgspec.Struct, frozen=True):
    """That one worker is better.

    Attributes:
        why: Why that is so, in words.
        enough: How many workers are worth it all the same; ``None`` where no number is.
    """

    why: str
    enough: int | None = None

    def is_better(self, workers: int) -> bool:
        """Whether it is better than so many.

        Example:
            >>> Alone("all of it is one task").is_better(64), Alone("partial results cost", 6).is_better(6)
            (True, False)
        """
        return self.enough is None or workers < self.enough


def alone(stages: Sequence[Stage]) -> Alone | None:
    """Why one worker is better, if it is.

    Args:
        stages: The plan, as it is cut for several.
    """
    if sum(stage.tasks for stage in stages) == 1:
        return Alone(_why_one_task(stages[0]))
    held = [stage for stage in stages if any(_holds_python(node) for node in stage.nodes)]
    if len(held) > 1 or any(stage.tasks > 1 for stage in held):
        return None
    if any(isinstance(exchange.partials, n.Window) for stage in stages for exchange in stage.leaves):
        why = "Polars does all of it over all processors, and to send partial results of windows costs more than that"
        return Alone(why, math.ceil(WORTH * _PARTIAL_WINDOWS))
    return None


def _why_one_task(stage: Stage) -> str:
    if any(isinstance(node, n.Handover) for node in stage.nodes):
        return "all of it is one task, since what comes second in a sequence waits for the first"
    topics = [repr(node.topic) for node in stage.sources if isinstance(node, n.TopicSource)]
    if topics and len(topics) == len(stage.sources):
        return f"all of it is one task: {' and '.join(topics)} {'have' if len(topics) > 1 else 'has'} one partition"
    return "all of it is one task"


def _holds_python(node: n.Node) -> bool:
    """Whether a step runs code that only one thread of a process runs at a time."""
    # Expressions never do: one with a function in it is refused.
    return isinstance(node, n.MapBatches | n.Inspect | n.ConnectorSource | n.SinkOutput | Process)
