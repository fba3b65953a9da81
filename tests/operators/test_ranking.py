"""Rows are ranked as Polars sorts them, whatever their columns hold."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from mamba_stream.operators.best import BestSettings
from mamba_stream.operators.bestrows import BestOfRows
from mamba_stream.operators.columns import (
    DELETE,
    OFFSET,
    OP,
    ORDINAL,
    ORIGIN_TYPES,
    PARTITION,
    SOURCE,
    UPDATE_BEFORE,
)
from mamba_stream.operators.ranking import best_of_each, codes_of, ranked, rough_codes
from tests.sizes import crossed, examples

EDGES = [-(2**63), 2**63 - 1, -1, 0, 1, 7]
VALUES: dict[str, tuple[pl.DataType, st.SearchStrategy]] = {
    "i64": (pl.Int64(), st.sampled_from(EDGES) | st.integers(-3, 3)),
    "u64": (pl.UInt64(), st.sampled_from([0, 1, 2**64 - 1, 2**63])),
    "i8": (pl.Int8(), st.integers(-128, 127)),
    "i128": (pl.Int128(), st.sampled_from([-(2**100), 0, 2**100])),
    "flt": (
        pl.Float64(),
        st.sampled_from([0.0, -0.0, 1.5, -1.5, 1e300, float("inf"), float("-inf"), float("nan")]),
    ),
    "f32": (pl.Float32(), st.sampled_from([0.5, -2.0, float("nan"), float("-inf")])),
    "flag": (pl.Boolean(), st.booleans()),
    "word": (pl.String(), st.sampled_from(["", "a", "b", "ba", "ä"])),
    "raw": (pl.Binary(), st.sampled_from([b"", b"\x00", b"a"])),
    "day": (pl.Date(), st.sampled_from([date(1969, 1, 1), date(1970, 1, 1), date(2026, 1, 1)])),
    "span": (pl.Duration("us"), st.sampled_from([timedelta(-1), timedelta(0), timedelta(9)])),
    "money": (pl.Decimal(10, 2), st.sampled_from([Decimal("-1.50"), Decimal("0.10"), Decimal("0.20")])),
    "kind": (pl.Enum(["z", "a"]), st.sampled_from(["z", "a"])),
}


@st.composite
def frames(draw: st.DrawFn) -> tuple[pl.DataFrame, list[str], list[bool]]:
    rows = draw(st.integers(1, 60))
    by = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4, unique=True))
    columns = {
        name: pl.Series(
            draw(st.lists(VALUES[name][1] | st.none(), min_size=rows, max_size=rows)), dtype=VALUES[name][0]
        )
        for name in by
    }
    groups = draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows))
    decides = draw(st.lists(st.integers(-2, 2) | st.none(), min_size=rows, max_size=rows))
    frame = pl.DataFrame(
        {**columns, "group": groups, "decides": decides}, schema_overrides={"decides": pl.Int64}
    )
    return frame.with_row_index("row"), by, [draw(st.booleans()) for _ in by]


@settings(max_examples=examples(300), deadline=None)
@given(drawn=frames(), decided=st.booleans())
def test_rows_are_ranked_as_polars_sorts_them(drawn, decided):
    frame, by, descending = drawn
    groups = frame.get_column("group").to_numpy()
    found = ranked(groups, frame, by, descending, ["decides"] if decided else [])

    order = ["decides"] if decided else []
    expected = frame.sort(
        "group", *by, *order, "row",
        descending=[False, *descending, *(False for _ in order), False],
        nulls_last=[False, *(True for _ in by), *(False for _ in order), False],
    ).with_columns(rank=pl.int_range(pl.len()).over("group"))  # fmt: skip
    assert found.rows.tolist() == expected.get_column("row").to_list()
    assert found.rank.tolist() == expected.get_column("rank").to_list()
    assert found.groups.tolist() == expected.get_column("group").to_list()


@settings(max_examples=examples(200), deadline=None)
@given(drawn=frames())
def test_the_best_of_each_group_are_those_that_nothing_is_better_than(drawn):
    frame, by, descending = drawn
    groups = frame.get_column("group").to_numpy()
    codes = [
        code
        for name, greatest in zip(by, descending, strict=True)
        for code in codes_of(frame.get_column(name), descending=greatest)
    ]
    first = frame.sort("group", *by, descending=[False, *descending], nulls_last=True).unique(
        "group", keep="first", maintain_order=True
    )
    # -0.0 and 0.0 compare as equal.
    plain = frame.with_columns(pl.col(pl.Float64) + 0.0)
    alike = plain.join(
        first.with_columns(pl.col(pl.Float64) + 0.0), on=["group", *by], how="semi", nulls_equal=True
    )
    assert best_of_each(groups, codes).tolist() == sorted(alike.get_column("row").to_list())


@settings(max_examples=examples(200), deadline=None)
@given(drawn=frames(), cut=st.integers(0, 60))
def test_rough_codes_of_different_batches_can_be_compared(drawn, cut):
    frame, by, descending = drawn
    column = frame.get_column(by[0])
    parts = [rough_codes(part, descending=descending[0]) for part in (column[:cut], column[cut:])]
    if any(part is None for part in parts):
        return
    codes = np.concatenate(parts)
    order = column.arg_sort(descending=descending[0], nulls_last=True).to_numpy()
    assert (np.diff(codes[order].astype(object)) >= 0).all()


def steps(k: int, by: tuple[str, ...], descending: tuple[bool, ...], rank: str | None) -> BestOfRows:
    values = {"n": pl.Int64(), "x": pl.Float64(), "text": pl.String()}
    columns = ("key", *values, *([rank] if rank else []))
    return BestOfRows(
        BestSettings(
            k=k, by=by, descending=descending, per={"key": pl.Int64()}, values=values, columns=columns,
            rank=rank, time=None, shift=0, order=(), origin=ORIGIN_TYPES, number=None,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("by", "k", "rank"), crossed([("n",), ("x", "n"), ("text",), ("key",)], [1, 3], [None, "rank"], every=2)
)
def test_a_long_stream_of_few_groups_folds_to_the_best_and_goes_on_from_what_was_saved(k, rank, by):
    random = np.random.default_rng(7)
    step, given, seen, offset = steps(k, by, (True,) * len(by), rank), [], [], 0
    saved: list[tuple[str, pl.DataFrame]] = []
    for batch in range(60):
        rows = int(random.integers(1, 80))
        frame = pl.DataFrame(
            {
                "key": random.integers(0, 8 + batch // 4, rows),
                "n": random.integers(0, 1000, rows),
                "x": random.choice([0.5, -1.0, np.nan, 3.0], rows),
                "text": [f"word {n}" for n in random.integers(0, 500, rows)],
                SOURCE: pl.Series([0] * rows, dtype=pl.Int16),
                PARTITION: pl.Series([0] * rows, dtype=pl.Int32),
                OFFSET: pl.Series(range(offset, offset + rows)),
                ORDINAL: pl.Series([0] * rows, dtype=pl.Int64),
            }
        ).sample(fraction=1.0, shuffle=True, seed=batch)
        offset += rows
        seen.append(frame)
        made = step.add(frame)
        if made.rows is not None:
            given.append(made.rows)
        saved += step.delta().items()
        if batch % 11 == 10:
            step = steps(k, by, (True,) * len(by), rank)
            for part, part_frame in saved:
                step.restore(part, part_frame)
            step.restored(0)

    by_order = pl.concat(seen).sort(*by, OFFSET, descending=[*(True for _ in by), False], nulls_last=True)
    best = by_order.with_columns(rank=pl.int_range(1, pl.len() + 1).over("key")).filter(pl.col("rank") <= k)
    columns = ["key", "n", "x", "text", *([rank] if rank else [])]
    expected = best.select(columns).sort(columns)
    changes = pl.concat(given)
    takes = pl.when(pl.col(OP).is_in([DELETE, UPDATE_BEFORE])).then(-1).otherwise(1)
    folded = changes.group_by(columns).agg(takes.sum().alias("count")).filter(pl.col("count") != 0)
    assert folded.get_column("count").min() > 0
    table = folded.select(pl.col(columns).repeat_by("count").explode()).sort(columns)
    assert table.equals(expected)
    assert step.view().select(columns).sort(columns).equals(expected)
