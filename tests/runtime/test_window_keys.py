"""Keys of every type, null and NaN among them, group rows into every kind of window; and windows are made of windows."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given, settings

import mamba_stream as mamba
from tests.sizes import examples

BEGIN = datetime(2024, 1, 1)
KEYS = {
    "boolean": pl.Series([True, None, False]),
    "float": pl.Series([float("nan"), None, -0.0]),
    "unsigned": pl.Series([2**64 - 1, None, 0], dtype=pl.UInt64),
    "struct": pl.Series([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
    "decimal": pl.Series(["1.5", None, "2.5"]).cast(pl.Decimal(10, 2)),
    "date": pl.Series([date(2024, 1, 1), None, date(2023, 1, 1)]),
    "enum": pl.Series(["a", None, "b"], dtype=pl.Enum(["a", "b"])),
    "binary": pl.Series([b"a", None, b""]),
}
KINDS = [
    (mamba.session("30s"), {}, [3, 3, 3]),
    (mamba.rows(2), {}, [1, 1, 1, 2, 2, 2]),
    (mamba.tumbling("1m"), {}, [3, 3, 3]),
    (mamba.tumbling("1m"), {"emit": "update"}, [3, 3, 3]),
]


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize(("spec", "way", "counts"), KINDS, ids=["session", "rows", "tumbling", "update"])
def test_a_key_of_any_type_is_one_null_and_nan_too(key, spec, way, counts):
    seconds = [0, 1, 2, 20, 21, 22, 40, 41, 42]
    times = [BEGIN + timedelta(seconds=second) for second in seconds]
    frame = pl.DataFrame({"ts": times, "key": pl.concat([key] * 3), "value": range(9)})
    found = (
        mamba.stream(frame, time="ts")
        .window(spec, by="key", **way)
        .agg(count=pl.len(), listed=pl.col("value"), first=pl.col("value").first(), its=pl.col("key").first())
        .collect()
    )
    assert sorted(found.get_column("count").to_list()) == counts
    assert found.select(pl.col("key").eq_missing(pl.col("its")).all()).item()
    assert sorted(found.get_column("listed").explode()) == list(range(9))
    assert found.get_column("first").to_list() == found.get_column("listed").list.first().to_list()


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=80), st.integers(1, 20), st.integers(20, 60))
def test_sessions_of_sessions_and_minutes_of_sessions_lose_no_row(seconds, gap, outer):
    times = sorted(seconds)
    frame = pl.DataFrame({"ts": [BEGIN + timedelta(seconds=second) for second in times]})
    inner = mamba.stream(frame, time="ts").window(mamba.session(f"{gap}s")).agg(count=pl.len())
    ends: list[tuple[int, int]] = []
    for second in times:
        if ends and second - ends[-1][0] <= gap:
            ends[-1] = second, ends[-1][1] + 1
        else:
            ends.append((second, 1))
    expected: list[list[int]] = []
    last = None
    for end, count in ends:
        if last is not None and end - last <= outer:
            expected[-1].append(count)
        else:
            expected.append([count])
        last = end
    counts = pl.col("count")
    found = inner.window(mamba.session(f"{outer}s")).agg(total=counts.sum(), parts=counts).collect()
    assert found.get_column("parts").to_list() == expected
    minutes = inner.window(mamba.tumbling("1m")).agg(total=counts.sum())
    assert minutes.collect().get_column("total").sum() == len(times)
    assert minutes.late.collect().height == 0
