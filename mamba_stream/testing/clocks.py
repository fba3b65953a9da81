"""A clock that stands still until it is moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mamba_stream.core.durations import duration_us
from mamba_stream.errors import InvalidInput

_START = datetime(2024, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock:
    """A clock for tests: pass it where the engine takes one, and move it.

    Example:
        >>> clock = Clock()
        >>> clock.advance("1m")
        >>> clock.time
        datetime.datetime(2024, 1, 1, 0, 1, tzinfo=datetime.timezone.utc)
    """

    def __init__(self, start: datetime = _START) -> None:
        """A clock that shows ``start``; naive is UTC."""
        moment = start if start.tzinfo is not None else start.replace(tzinfo=UTC)
        self._us = (moment - _EPOCH) // timedelta(microseconds=1)
        self._begun = self._us

    @property
    def time(self) -> datetime:
        """What it shows."""
        return _EPOCH + timedelta(microseconds=self._us)

    def advance(self, by: str | timedelta) -> None:
        """Moves it forward.

        Args:
            by: ``"30s"``, or a timedelta.

        Raises:
            InvalidInput: That would be backwards.
        """
        moved = duration_us(by, what="advance")
        if moved < 0:
            raise InvalidInput(f"advance({by!r}): a clock for tests goes forward")
        self._us += moved

    def now(self) -> int:
        """Microseconds since 1970-01-01T00:00:00 UTC."""
        return self._us

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return (self._us - self._begun) / 1_000_000
