"""How many rows came too late for a step, and by how much."""

from __future__ import annotations

import msgspec

from mamba_stream.operators.step import LATE_REASON, Late
from mamba_stream.operators.tally import Tally


class LateCounts(msgspec.Struct):
    """How many rows came too late for a step.

    Attributes:
        by_watermark: Too late for the watermark of their own partition.
        by_idleness: In time for it, but their partition had been silent for so long that time went on without it.
        short: By how many ticks the lateness fell short, for the former.
        rows: All rows that arrived at the step.
    """

    by_watermark: int = 0
    by_idleness: int = 0
    short: Tally = msgspec.field(default_factory=Tally)
    rows: int = 0

    def count(self, late: Late) -> None:
        """Counts late rows."""
        idle = late.frame.get_column(LATE_REASON).eq("idle").to_numpy()
        self.by_idleness += int(idle.sum())
        self.by_watermark += int((~idle).sum())
        self.short.add(late.by[~idle])
