"""What one task of a job works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from mamba_stream.plan.stages import Exchange, Stage
from mamba_stream.runtime.exchanges import Word


class Share(msgspec.Struct, frozen=True, eq=False):
    """What one task works on.

    Attributes:
        stage: The stage.
        number: Which of the stage's tasks it is: it reads this partition of what the stage reads, or, where it is the
            only one, all.
        words: For each exchange that is read, what gives how far those that write to it have come.
    """

    stage: Stage
    number: int = 0
    words: Mapping[Exchange, Callable[[], Word]] = msgspec.field(default_factory=dict)
