"""How a group shares a topic, and what became of its messages: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mamba_stream.messaging.latency import Latencies
from mamba_stream.messaging.message import Rule

MOST_RUNS: Final = 2_048
"""A group with so many runs open in a topic takes nothing new until some are done."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a group shares a topic. Times in microseconds.

    Attributes:
        dead_letter: The topic of the dead letters, created when there is one.
        visibility: How long a message is one subscriber's before it is delivered again.
        attempts: After so many deliveries it goes to the dead letters.
        backoff: The first delay of a retry, which doubles from attempt to attempt, and the longest.
        ordered: Whether messages of a key are kept in order.
        rule: Which messages there are for this group; ``None``: all.
    """

    dead_letter: str
    visibility: int = 30_000_000
    attempts: int = 5
    backoff: tuple[int, int] = (1_000_000, 300_000_000)
    ordered: bool = True
    rule: Rule | None = None


@dataclass(slots=True)
class Counts:
    """What became of messages here; latencies are from the append to when the acknowledgement was written."""

    delivered: int = 0
    acknowledged: int = 0
    retried: int = 0
    dead: int = 0
    expired: int = 0
    stale: int = 0
    trimmed: int = 0
    latencies: Latencies = field(default_factory=Latencies)
