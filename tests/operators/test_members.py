"""Rows of groups come and go as a list of them would."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import polars as pl
from hypothesis import given, settings

from mamba_stream.operators.members import PLACE, Members

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([None, 0.0, float("nan"), 1.5]),
        st.sampled_from([None, (1,), (1, None), ()]),
        st.sampled_from([1, 1, 1, -1]),
    ),
    max_size=30,
)
SCHEMA = {"x": pl.Float64(), "l": pl.List(pl.Int64)}


@settings(deadline=None)
@given(batches=st.lists(ROWS, max_size=6))
def test_rows_are_added_and_taken_away(batches):
    members, expected = Members({"g": pl.Int64()}, SCHEMA, ["x"]), Counter()
    for batch in batches:
        rows = []
        for group, x, values, sign in batch:
            row = (group, x, values, sign)
            there = Counter(expected)
            for done in rows:
                there[repr(done[:3])] += done[3]
            if sign > 0 or there[repr(row[:3])] > 0:
                rows.append(row)
        for row in rows:
            expected[repr(row[:3])] += row[3]
        if rows:
            frame = pl.DataFrame(
                [(x, None if v is None else list(v)) for _, x, v, _ in rows], schema=SCHEMA, orient="row"
            )
            groups = pl.DataFrame({"g": [row[0] for row in rows]}, schema={"g": pl.Int64})
            members.change(groups, frame, pl.Series([row[3] for row in rows]))
        found = members.of(pl.DataFrame({"g": [0, 1, 2, 3]}))
        told = Counter(
            repr((place, x, None if values is None else tuple(values)))
            for place, x, values in found.select(PLACE, "x", "l").iter_rows()
        )
        assert told == +expected
        assert found.get_column(PLACE).is_sorted()
        assert members.rows == found.height
