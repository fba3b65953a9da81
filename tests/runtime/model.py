"""Windows and lateness in plain Python, row by row: what the engine must agree with."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import numpy as np
import polars as pl

EPOCH = datetime(2024, 1, 1)
SEEDS = st.integers(0, 1 << 32)
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


def make_rows(height: int, back: int, ahead: int, missing: float, chance: np.random.Generator) -> list[Row]:
    """Rows whose times creep forward and jump back."""
    times = np.cumsum(chance.integers(-back, ahead, height, endpoint=True)).tolist()
    gone = chance.random(height) < missing
    keys = [("a", "b", None)[number] for number in chance.integers(0, 3, height)]
    values = chance.integers(-5, 6, height).tolist()
    return [
        Row(None if lost else time, key, value)
        for time, key, value, lost in zip(times, keys, values, gone, strict=True)
    ]


@st.composite
def partitions(draw: st.DrawFn, most: int = 3) -> list[list[Row]]:
    """Rows from a seed, as drawing each is slow and gives few; sometimes a partition is empty and holds back all."""
    height = draw(st.sampled_from([0, 1, 5, 40, 150]))
    back, ahead = draw(st.sampled_from([(0, 4), (3, 5), (25, 30), (10, 30)]))
    missing, empty = draw(st.sampled_from([0.0, 0.1])), draw(st.sampled_from([0.0, 0.0, 0.3]))
    count, chance = draw(st.integers(1, most)), np.random.default_rng(draw(SEEDS))
    heights = [
        0 if chance.random() < empty else int(chance.integers(height // 2, height + 1)) for _ in range(count)
    ]
    return [make_rows(height, back, ahead, missing, chance) for height in heights]


def cuts(partitions: list[list[Row]], chance: np.random.Generator) -> list[tuple[int, list[Row]]]:
    """The rows of all partitions in some interleaving of batches."""
    left = {number: list(rows) for number, rows in enumerate(partitions) if rows}
    batches = []
    while left:
        number = int(chance.choice(sorted(left)))
        size = int(chance.integers(1, 30))
        batches.append((number, left[number][:size]))
        left[number] = left[number][size:]
        if not left[number]:
            del left[number]
    return batches


def at(seconds: int) -> datetime:
    return EPOCH + timedelta(seconds=seconds)
