"""What tests of runs share: rows put into a topic, and a clock that is moved by hand."""

from __future__ import annotations

from mamba_stream.log import Topic
from tests.runtime.model import Row, frame


def put(topic: Topic, partition: int, *rows: tuple[int | None, str | None, int]) -> None:
    topic.append(frame([Row(*row) for row in rows]), partition=partition)


class ManualClock:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> int:
        return int(self.seconds * 1_000_000)

    def monotonic(self) -> float:
        return self.seconds
