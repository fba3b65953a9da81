"""What cares how rows are cut is found out; what does not, is not."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream import testing
from mamba_stream.testing.operators import StepContract

BEGIN = datetime(2024, 1, 1)
ROWS = pl.DataFrame(
    {
        "ts": [BEGIN + timedelta(seconds=second * 7 % 150) for second in range(200)],
        "key": ["ab"[number % 2] for number in range(200)],
        "value": list(range(200)),
    }
)


def windowed(lateness: str = "400s") -> mamba.Stream:
    return (
        mamba.stream("rows", lateness=lateness)
        .window(mamba.tumbling("1m"), by="key")
        .agg(total=pl.col("value").sum(), first=pl.col("value").first(), all=pl.col("value"))
    )


def test_a_window_is_the_same_in_every_batching_partitioning_and_after_every_crash():
    same = testing.assert_equivalent(
        windowed(), {"rows": ROWS.unique("ts", keep="first", maintain_order=True)}, time="ts", runs=12
    )
    assert (same.runs, same.repartitioned) == (12, 6)
    assert same.crashes > 0
    assert same.played["out"].height > 0


def test_late_rows_are_the_same_too_and_then_partitions_are_left_alone():
    same = testing.assert_equivalent(windowed("10s"), {"rows": ROWS}, time="ts", runs=8)
    assert same.played.late > 0
    assert same.repartitioned == 0


def test_ties_keep_the_partitions_unless_asked_for():
    counts = mamba.stream("rows", lateness="400s").window(mamba.tumbling("1m")).agg(n=pl.len())
    assert testing.assert_equivalent(counts, {"rows": ROWS}, time="ts", runs=4).repartitioned == 0
    assert (
        testing.assert_equivalent(counts, {"rows": ROWS}, time="ts", runs=4, repartition=True).repartitioned
        == 2
    )


def test_what_depends_on_batches_is_found():
    numbered = mamba.stream("rows", lateness="400s").map_batches(
        lambda frame: frame.with_columns(value=pl.int_range(pl.len()))
    )
    with pytest.raises(AssertionError, match=r"run \d+ of seed 0 .* gave other rows in 'out'"):
        testing.assert_equivalent(numbered, {"rows": ROWS}, time="ts", runs=5)


def test_what_remembers_beyond_a_crash_is_found():
    seen: list[int] = []

    def once(frame: pl.DataFrame) -> pl.DataFrame:
        fresh = frame.filter(~pl.col("value").is_in(seen))
        seen.extend(fresh.get_column("value"))
        return fresh

    with pytest.raises(AssertionError, match="gave other rows"):
        testing.assert_equivalent(mamba.stream("rows").map_batches(once), {"rows": ROWS}, time="ts", runs=5)


class TestTumbling(StepContract):
    data = [{"rows": ROWS}, {"rows": [ROWS.head(90), ROWS.tail(80)]}, {"rows": ROWS.clear()}]

    def stream(self) -> mamba.Stream:
        return windowed()

    def expected(self, data):
        rows = data["rows"] if isinstance(data["rows"], pl.DataFrame) else pl.concat(data["rows"])
        start = pl.col("ts").dt.truncate("1m")
        return (
            rows.sort("ts", maintain_order=True)
            .group_by("key", window_start=start, maintain_order=True)
            .agg(
                window_end=start.first() + pl.duration(minutes=1),
                total=pl.col("value").sum(),
                first=pl.col("value").first(),
                all=pl.col("value"),
            )
        )
