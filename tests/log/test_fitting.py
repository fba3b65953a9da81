"""Batches of one schema as they are in another, with Polars' casts as the oracle."""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given

from mamba_stream.core.alterations import widens
from mamba_stream.core.batches import batch_from_frame
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.log.fitting import Fitting, Misfit

WIDTHS = (8, 16, 32, 64)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    **{getattr(pl, f"Int{bits}"): st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for bits in WIDTHS},
    **{getattr(pl, f"UInt{bits}"): st.integers(0, (1 << bits) - 1) for bits in WIDTHS},
    pl.Float32: st.floats(width=32),
    # Few of all floats are others' values.
    pl.Float64: st.floats() | st.floats(width=32) | st.integers(-(2**63), 2**63).map(float),
}


def arrow(dtype: Any) -> pa.DataType:
    return canonical_schema({"x": dtype}).field(0).type


@given(
    have=st.sampled_from(list(VALUES)),
    want=st.sampled_from(list(VALUES)),
    cut=st.integers(0, 3),
    data=st.data(),
)
def test_a_batch_is_as_polars_casts_it_or_the_first_row_that_does_not_fit_is_told(
    have: Any, want: Any, cut: int, data: st.DataObject
) -> None:
    stored = pl.DataFrame(
        {"x": pl.Series(data.draw(st.lists(st.none() | VALUES[have], max_size=6)), dtype=have)}
    )
    batch, stored = batch_from_frame(stored).slice(cut), stored.slice(cut)
    cast = stored["x"].cast(want, strict=False)
    # As Python compares: exactly, whatever the types.
    misfits = [
        row
        for row, (before, after) in enumerate(zip(stored["x"], cast, strict=True))
        if before is not None
        and (after is None or (before != after and not math.isnan(before)) or _beyond(before, want))
    ]
    fitting = Fitting(batch.schema, canonical_schema({"x": want}))
    if misfits:
        assert not widens(arrow(have), arrow(want))
        with pytest.raises(Misfit) as found:
            fitting.fitted(batch)
        assert found.value.row == misfits[0]
        assert "column 'x'" in found.value.words
    else:
        assert pl.DataFrame(fitting.fitted(batch))["x"].equals(cast, null_equal=True)


def _beyond(value: Any, want: Any) -> bool:
    """Integers that a float may round, whether or not it rounds this one."""
    most = {pl.Float32: 2**24, pl.Float64: 2**53}.get(want)
    return isinstance(value, int) and most is not None and abs(value) > most


@pytest.mark.parametrize(
    ("have", "want", "value", "fits"),
    [
        (pl.Datetime("us"), pl.Date, datetime(2026, 1, 1), True),
        (pl.Datetime("us"), pl.Date, datetime(2026, 1, 1, 1), False),
        (pl.Datetime("us"), pl.Datetime("ms"), datetime(2026, 1, 1, 0, 0, 0, 1), False),
        (pl.Date, pl.Datetime("ms"), date(9999, 12, 31), True),
        (pl.List(pl.Float64), pl.List(pl.Float32), [0.5, None], True),
        (pl.List(pl.Float64), pl.List(pl.Float32), [0.5, 0.1], False),
        (pl.List(pl.Int8), pl.List(pl.Int64), [1], True),
        (
            pl.Struct({"a": pl.Int8, "b": pl.String}),
            pl.Struct({"a": pl.Int64, "b": pl.String}),
            {"a": 1, "b": "x"},
            True,
        ),
        (pl.Int8, pl.Null, None, True),
        (pl.Int8, pl.Null, 1, False),
        (pl.Null, pl.List(pl.String), None, True),
    ],
)
def test_other_types_keep_their_values_or_are_refused(have: Any, want: Any, value: Any, fits: bool) -> None:
    batch = batch_from_frame(pl.DataFrame({"x": pl.Series([None, value], dtype=have)}))
    fitting = Fitting(batch.schema, canonical_schema({"x": want}))
    if fits:
        found = pl.DataFrame(fitting.fitted(batch))["x"]
        assert found.dtype == pl.Series([], dtype=want).dtype
        assert (
            found.cast(have).to_list() == [None, value]
            if have != pl.Null
            else found.to_list() == [None, None]
        )
    else:
        with pytest.raises(Misfit) as told:
            fitting.fitted(batch)
        assert told.value.row == 1


EVERY = {
    "i": pl.Int64, "b": pl.Boolean, "s": pl.String, "l": pl.List(pl.String), "a": pl.Array(pl.Int32, 2),
    "d": pl.Decimal(10, 2), "t": pl.Datetime("us", "UTC"), "st": pl.Struct({"x": pl.Int8}), "n": pl.Null,
}  # fmt: skip


def test_columns_that_were_not_there_are_null_in_batches_of_any_size() -> None:
    stored, wanted = canonical_schema({"old": pl.Int8}), canonical_schema({**EVERY, "old": pl.Int8})
    fitting = Fitting(stored, wanted)
    for rows in (3, 0, 70, 5):
        batch = pa.RecordBatch.from_arrays([pa.array([7] * rows, pa.int8())], schema=stored)
        found = fitting.fitted(batch)
        found.validate(full=True)
        assert found.schema.equals(wanted)
        frame = pl.DataFrame(found)
        assert frame.select(*EVERY).null_count().row(0) == (rows,) * len(EVERY)
        assert frame["old"].to_list() == [7] * rows
    only = Fitting(stored, canonical_schema({"i": pl.Int64}))
    assert only.columns == ()
    assert only.nulls(4).num_rows == 4


def test_a_batch_of_no_columns_keeps_its_number_of_rows() -> None:
    fitting = Fitting(canonical_schema({"old": pl.Int8}), pa.schema([]))
    assert (fitting.columns, fitting.nulls(9).num_rows, fitting.nulls(9).num_columns) == ((), 9, 0)
