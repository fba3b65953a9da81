"""What may happen to a pipeline under test, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True)
class Rows:
    """Rows arrive in a topic, as one batch, and the pipeline works on them.

    Attributes:
        topic: The topic's name.
        data: A frame, a list of dicts, or a table in text (see :func:`mamba_stream.testing.table`).
        partition: Where they go; by the topic's key, or in turn, where ``None``.
    """

    topic: str
    data: Any
    partition: int | None = None


@dataclass(frozen=True)
class Silence:
    """Nothing comes for a while: the pipeline polls, finds nothing, and its clock moves on.

    Attributes:
        lasting: ``"31s"``, or a timedelta.
    """

    lasting: str | timedelta


@dataclass(frozen=True)
class Commit:
    """The pipeline commits what it has done so far."""


@dataclass(frozen=True)
class Crash:
    """The pipeline dies: what it did since its last commit never happened. The next event finds it started again."""


@dataclass(frozen=True)
class End:
    """A topic ends: it is bounded from here on, and time comes to its end.

    Attributes:
        topic: Its name.
    """

    topic: str


Event = Rows | Silence | Commit | Crash | End
