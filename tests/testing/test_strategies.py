"""The strategies make rows that topics take."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from mamba_stream.testing import assert_equivalent, strategies
from tests.sizes import examples

SCHEMA = {
    "ts": pl.Datetime("us"), "key": pl.String, "n": pl.Int8, "u": pl.UInt64, "x": pl.Float64, "ok": pl.Boolean,
    "day": pl.Date, "gap": pl.Duration("us"), "raw": pl.Binary,
}  # fmt: skip


@settings(max_examples=examples(20), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=strategies.partitions(SCHEMA, time="ts", max_rows=30))
def test_random_rows_of_all_types_go_through_a_pipeline(parts):
    counts = (
        mamba.stream("rows", lateness="10m")
        .window(mamba.tumbling("5m"), by="key")
        .agg(n=pl.len(), days=pl.col("day").max())
    )
    assert_equivalent(counts, {"rows": parts}, time="ts", runs=2)


@settings(max_examples=examples(20), deadline=None)
@given(frame=strategies.frames(SCHEMA, time="ts", span="1m", nulls=False))
def test_times_lie_within_the_span_and_nulls_may_be_left_out(frame):
    assert frame.schema == SCHEMA
    assert sum(frame.null_count().row(0)) == 0
    if frame.height:
        assert (frame["ts"].max() - frame["ts"].min()).total_seconds() <= 60


def test_a_type_without_a_strategy_says_so():
    with pytest.raises(mamba.UnsupportedType, match="no strategy makes values of Decimal"):
        strategies.values(pl.Decimal(10, 2))
