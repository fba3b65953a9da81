"""Another time for rows that come from sources as they are: judged anew, per partition, in the order of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import polars as pl

from mamba_stream.operators.columns import BEHIND, ORIGIN, PARTITION, SOURCE, tick_values
from mamba_stream.operators.lateness import NEVER, rows_behind, watermark_of
from mamba_stream.operators.step import Made

REACHED: Final = "reached"
COUNTED: Final = "rejected"
REJECTED_REASON: Final = "rejected_reason"
NO_TIME: Final = "no time"

_GREATEST: Final = "greatest"


class Retimed:
    """What is known of the new time of each partition of each source."""

    def __init__(self, time: str, lateness: int, *, with_origin: bool) -> None:
        """Nothing is known yet.

        Args:
            time: The time column.
            lateness: In its ticks.
            with_origin: Whether a later step needs the origin of rows.
        """
        self._time = time
        self.lateness = lateness
        self._with_origin = with_origin
        self._greatest: dict[tuple[int, int], int] = {}
        self._fresh: set[tuple[int, int]] = set()
        self._closed = NEVER
        self.rejected = 0
        """How many rows had no time."""
        self._was_rejected = 0

    @property
    def bytes(self) -> int:
        """The size of the state."""
        return 24 * len(self._greatest)

    @property
    def rows(self) -> int:
        """How many partitions there are."""
        return len(self._greatest)

    @property
    def closed(self) -> int:
        """How far its own time has come, in ticks."""
        return self._closed

    @property
    def horizon(self) -> int:
        return self._closed

    def greatest(self, source: int, partition: int) -> int:
        """The greatest time of a partition's rows so far."""
        return self._greatest.get((source, partition), NEVER)

    def watermark(self, source: int, partition: int) -> int:
        """How far time has come in a partition."""
        return watermark_of(self.greatest(source, partition), self.lateness)

    def come_to(self, watermark: int) -> None:
        """Its own time has come so far, over all partitions."""
        self._closed = max(self._closed, watermark)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Judges rows, which carry where they are from."""
        frame = frame.drop(BEHIND, strict=False)
        missing = frame.get_column(self._time).is_null()
        sides = {}
        if missing.any():
            without = frame.filter(missing).with_columns(pl.lit(NO_TIME).alias(REJECTED_REASON))
            sides = {COUNTED: without.drop(ORIGIN)}
            self.rejected += without.height
            frame = frame.filter(~missing)
        if frame.height:
            frame = self._judged(frame)
        return Made(frame if self._with_origin else frame.drop(ORIGIN), sides=sides)

    def _judged(self, frame: pl.DataFrame) -> pl.DataFrame:
        places = frame.select(SOURCE, PARTITION).unique(maintain_order=True).rows()
        times = tick_values(frame, self._time).to_numpy()
        parts = []
        for source, partition in places:
            mine = None
            if len(places) > 1:
                here = (pl.col(SOURCE) == source) & (pl.col(PARTITION) == partition)
                mine = frame.select(here.arg_true()).to_series().to_numpy()
            behind, greatest = rows_behind(
                times if mine is None else times[mine], self.greatest(source, partition), self.lateness
            )
            self._greatest[source, partition] = greatest
            self._fresh.add((source, partition))
            if behind is not None:
                parts.append((mine, behind))
        if not parts:
            return frame
        late = np.zeros(len(times), np.bool_)
        met = times.copy()
        for mine, behind in parts:
            late[slice(None) if mine is None else mine] = behind.rows
            met[slice(None) if mine is None else mine] = behind.watermark
        return frame.with_columns(pl.Series(BEHIND, met).set(pl.Series(~late), None))

    def advance(self, watermark: int) -> Iterator[Made]:
        """Rows never wait here, and its time is not that of its input."""
        yield from ()

    def delta(self) -> Mapping[str, pl.DataFrame]:
        """The partitions whose time moved."""
        parts = self._parts(self._fresh)
        self._fresh = set()
        return parts

    def snapshot(self) -> Mapping[str, pl.DataFrame]:
        """All partitions."""
        self._fresh, self._was_rejected = set(), -1
        return self._parts(set(self._greatest))

    def _parts(self, places: set[tuple[int, int]]) -> dict[str, pl.DataFrame]:
        parts = {}
        if places:
            rows = [
                (source, partition, self._greatest[source, partition]) for source, partition in sorted(places)
            ]
            schema = {SOURCE: pl.Int16(), PARTITION: pl.Int32(), _GREATEST: pl.Int64()}
            parts[REACHED] = pl.DataFrame(rows, schema=schema, orient="row")
        if self.rejected != self._was_rejected:
            parts[COUNTED] = pl.DataFrame({COUNTED: [self.rejected]})
            self._was_rejected = self.rejected
        return parts

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        if part == COUNTED:
            self.rejected = self._was_rejected = frame.item()
        else:
            self._greatest.update(((source, place), greatest) for source, place, greatest in frame.rows())

    def restored(self, closed: int) -> None:
        """Time had come so far."""
        self._closed = closed

    def view(self) -> pl.DataFrame:
        """How far each partition's time has come, in ticks."""
        rows = [(source, place, greatest) for (source, place), greatest in sorted(self._greatest.items())]
        return pl.DataFrame(
            rows, schema={"source": pl.Int16, "partition": pl.Int32, "greatest": pl.Int64}, orient="row"
        )
