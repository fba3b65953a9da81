"""What most steps with state have in common: how far they have come, and a state of parts that save themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import polars as pl

from mamba_stream.operators.lateness import NEVER
from mamba_stream.operators.step import Made

_INNER: Final = "/"
"""Between the name of a part and that of a part of its own."""


class Part(Protocol):
    """A piece of a step's state, such as a table, a buffer or a count.

    What it saves is a frame, ``None`` where there is nothing, or frames by name; it takes back what it gave: a frame,
    or a name and a frame.
    """

    @property
    def rows(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def delta(self) -> pl.DataFrame | Mapping[str, pl.DataFrame] | None: ...
    def snapshot(self) -> pl.DataFrame | Mapping[str, pl.DataFrame] | None: ...
    @property
    def restore(self) -> Any: ...


class Remembering:
    """A step with its parts; it inherits this and says what rows and time do (:mod:`mamba_stream.operators.step`)."""

    def __init__(self, **parts: Part | None) -> None:
        """A step that has seen nothing.

        Args:
            **parts: Its state by the names under which it is saved; ``None`` where a step does without one.
        """
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._closed = NEVER

    @property
    def rows(self) -> int:
        """The rows of all parts together."""
        return sum(part.rows for part in self._parts.values())

    @property
    def bytes(self) -> int:
        """The size of all parts together."""
        return sum(part.bytes for part in self._parts.values())

    @property
    def closed(self) -> int:
        """The watermark that the step has acted upon, in ticks."""
        return self._closed

    @property
    def horizon(self) -> int:
        """Nothing comes out with a time before the watermark that was acted upon."""
        return self._closed

    def advance(self, watermark: int) -> Iterator[Made]:
        """Time does nothing to a step that does not say what."""
        self._closed = watermark
        yield from ()

    def delta(self) -> dict[str, pl.DataFrame]:
        """What changed since the last delta or snapshot, by part."""
        return _named({name: part.delta() for name, part in self._parts.items()})

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All that is there, by part."""
        return _named({name: part.snapshot() for name, part in self._parts.items()})

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        name, _, inner = part.partition(_INNER)
        restore = self._parts[name].restore
        if inner:
            restore(inner, frame)
        else:
            restore(frame)

    def restored(self, closed: int) -> None:
        """All parts are back."""
        self._closed = closed


def _named(saved: Mapping[str, pl.DataFrame | Mapping[str, pl.DataFrame] | None]) -> dict[str, pl.DataFrame]:
    """What parts saved, under names that tell whose it is."""
    found: dict[str, pl.DataFrame] = {}
    for name, frames in saved.items():
        if isinstance(frames, pl.DataFrame):
            found[name] = frames
        elif frames is not None:
            found.update((f"{name}{_INNER}{inner}", frame) for inner, frame in frames.items())
    return found
