"""Windows and lateness in plain Python, row by row: what the engine must agree with."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import polars as pl

EPOCH = datetime(2024, 1, 1)
SCHEMA = pl.Schema({"ts": pl.Datetime("ms"), "key": pl.String, "value": pl.Int64})


@dataclass(frozen=True)
class Row:
    """A row; its time is in seconds since ``EPOCH``."""

    time: int | None
    key: str | None
    value: int


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (None if row.time is None else EPOCH + timedelta(seconds=row.time), row.key, row.value)
            for row in rows
        ],
        schema=SCHEMA,
        orient="row",
    )


@dataclass
class Expected:
    """What must come out.

    Attributes:
        windows: The rows in each (key, window start), in the stream's order.
        late: The late rows with how many milliseconds of lateness they lacked.
        rejected: Rows without a time.
    """

    windows: dict[tuple[str | None, int], list[Row]] = field(default_factory=lambda: defaultdict(list))
    late: list[tuple[Row, int]] = field(default_factory=list)
    rejected: list[Row] = field(default_factory=list)


def expect(partitions: list[list[Row]], *, lateness: int, size: int, every: int) -> Expected:
    """Judges every row against the greatest time of the rows before it in its own partition."""
    found = Expected()
    origin = int((EPOCH.replace(tzinfo=UTC)).timestamp())
    placed = []
    for partition, rows in enumerate(partitions):
        greatest = None
        for offset, row in enumerate(rows):
            if row.time is None:
                found.rejected.append(row)
                continue
            watermark = None if greatest is None else greatest - lateness
            starts = [
                start
                for start in range((row.time + origin - size) // every * every, row.time + origin + 1, every)
                if start <= row.time + origin < start + size
            ]
            open_ = [
                start - origin for start in starts if watermark is None or start - origin + size > watermark
            ]
            if open_:
                placed.append((row.time, partition, offset, row, open_))
            else:
                assert watermark is not None
                last_end = max(starts) - origin + size
                found.late.append((row, (watermark - last_end) * 1000 + 1))
            greatest = row.time if greatest is None else max(greatest, row.time)
    for _, _, _, row, starts in sorted(placed, key=lambda item: item[:3]):
        for start in starts:
            found.windows[row.key, start].append(row)
    return found


def rows(nulls: bool = True) -> st.SearchStrategy[list[Row]]:
    """Rows whose times creep forward and jump back."""
    step = st.integers(-25, 30)
    key = st.sampled_from(["a", "b", None])
    value = st.integers(-5, 5)
    gap = st.booleans() if nulls else st.just(False)

    def build(parts: list[tuple[int, str | None, int, bool]]) -> list[Row]:
        made, now = [], 0
        for move, key, value, missing in parts:
            now += move
            made.append(Row(None if missing and value == 0 else now, key, value))
        return made

    return st.lists(st.tuples(step, key, value, gap), max_size=60).map(build)


def cuts(partitions: list[list[Row]], draw: st.DrawFn) -> list[tuple[int, list[Row]]]:
    """The rows of all partitions in some interleaving of batches."""
    left = {number: list(rows) for number, rows in enumerate(partitions) if rows}
    batches = []
    while left:
        number = draw(st.sampled_from(sorted(left)))
        size = draw(st.integers(1, 30))
        batches.append((number, left[number][:size]))
        left[number] = left[number][size:]
        if not left[number]:
            del left[number]
    return batches


def at(seconds: int) -> datetime:
    return EPOCH + timedelta(seconds=seconds)
