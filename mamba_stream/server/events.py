"""The record of what happens: a line an event, JSON for programs or coloured for people, on standard error.

No row, no token and no key is ever among the facts of an event.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, TextIO

import structlog

from mamba_stream.core.clock import Clock
from mamba_stream.server.rating import Rate

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_RATED: Final = frozenset({"listener wrote", "library"})
"""Events that others can cause as often as they like."""


class Events:
    """Writes events. For any number of threads."""

    def __init__(
        self,
        clock: Clock,
        style: str = "auto",
        level: str = "info",
        stream: TextIO | None = None,
    ) -> None:
        """Begins a record.

        Args:
            clock: Tells the time.
            style: ``json``, ``console``, or ``auto``, which is for people where somebody looks.
            level: From which weight on.
            stream: Where to; standard error where left out.
        """
        out = sys.stderr if stream is None else stream
        people = style == "console" or (style == "auto" and out.isatty())
        last: list[Any] = (
            [structlog.dev.ConsoleRenderer(colors=out.isatty())]
            if people
            else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        )
        self._least = LEVELS[level]
        self._logger = structlog.wrap_logger(
            structlog.PrintLogger(out),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _ordered,
                *last,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(self._least),
        )
        self._lock = threading.Lock()
        self._rates = {event: Rate(clock) for event in _RATED}

    def __call__(self, level: str, event: str, **facts: Any) -> None:
        if LEVELS.get(level, LEVELS["info"]) < self._least:
            return
        rate = self._rates.get(event)
        if rate is not None:
            left_out = rate.take()
            if left_out is None:
                return
            facts["left_out"] = left_out
        # Lines of several threads do not mix.
        with self._lock:
            getattr(self._logger, level if level in LEVELS else "info")(event, **facts)


def _ordered(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """With what every event has at its beginning, where people look."""
    return {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event} | dict(event)


class Forward(logging.Handler):
    """Takes what libraries log, from warnings on, into the record."""

    def __init__(self, events: Events) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events(record.levelname.lower(), "library", name=record.name, message=record.getMessage())


@contextmanager
def forwarded(events: Events, *names: str) -> Iterator[None]:
    """What these libraries log goes into the record, and nowhere else, as long as the block lasts."""
    before = {name: logging.getLogger(name).handlers for name in names}
    for name in names:
        logging.getLogger(name).handlers = [Forward(events)]
    try:
        yield
    finally:
        for name, handlers in before.items():
            logging.getLogger(name).handlers = handlers
