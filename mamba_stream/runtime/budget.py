"""How much a job takes in at once."""

from __future__ import annotations

from typing import Final

import msgspec

MOST_ROWS: Final = 524_288
"""Few enough to stay in a processor's caches while they are grouped, enough to make a call's own cost vanish."""


class Budget(msgspec.Struct, frozen=True):
    """How much a step may take in.

    Attributes:
        rows: Rows of one step.
        bytes: Bytes of one step.
        memory: What the job may use in all.
        ahead: So many bytes are read of sources that run ahead of others, before they wait for these.
        pending: So many bytes wait for the next commit, before it is made.
    """

    rows: int
    bytes: int
    memory: int
    ahead: int
    pending: int

    @classmethod
    def within(cls, memory: int, rows: int = MOST_ROWS, tasks: int = 1) -> Budget:
        """What suits a memory limit.

        Args:
            memory: The limit.
            rows: Rows of one step.
            tasks: How many take turns within the limit, each with rows that wait.
        """
        return cls(
            rows=rows,
            bytes=max(1 << 20, min(64 << 20, memory // 16)),
            memory=memory,
            ahead=memory // 8 // tasks,
            # To write it takes about as much once more.
            pending=max(1 << 20, min(64 << 20, memory // 8) // tasks),
        )
