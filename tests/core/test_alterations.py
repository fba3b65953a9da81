"""What a topic's columns may become: types by their greatest and least values, and words for what is refused."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mamba_stream.core.alterations import (
    COMPATIBILITIES,
    altered,
    check_compatibility,
    column_changes,
    history,
    refusals,
    widens,
)
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.errors import InvalidInput

INTEGERS = {
    **{f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
}
FLOATS = {"float32": "f", "float64": "d"}


def telling(name: str) -> list[Any]:
    """Values of a type that not every wider-looking one has."""
    if name in FLOATS:
        return [0.5, 2.0**127, 0.1 if name == "float64" else struct.unpack("f", struct.pack("f", 0.1))[0]]
    low, high = INTEGERS[name]
    return [low, high, *(v for v in (high - 1, 2**24 + 1, 2**53 + 1) if low <= v <= high)]


def holds(name: str, value: Any) -> bool:
    """Whether a type has exactly this value."""
    if name in INTEGERS:
        low, high = INTEGERS[name]
        return value == int(value) and low <= value <= high
    try:
        return struct.unpack(FLOATS[name], struct.pack(FLOATS[name], value))[0] == value
    except OverflowError:
        return False


@pytest.mark.parametrize(("have", "want"), [*itertools.product([*INTEGERS, *FLOATS], repeat=2)])
def test_a_type_widens_to_those_that_hold_all_its_values_and_to_no_others(have: str, want: str) -> None:
    expected = have == want or all(holds(want, value) for value in telling(have))
    assert widens(pa.type_for_alias(have), pa.type_for_alias(want)) is expected


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        (pl.Null, pl.List(pl.String), True),
        (pl.Date, pl.Datetime("ms"), True),
        (pl.Date, pl.Datetime("us"), False),
        (pl.Datetime("ms"), pl.Datetime("us"), False),
        (pl.Datetime("us"), pl.Datetime("us", "UTC"), False),
        (pl.String, pl.Binary, False),
        (pl.Boolean, pl.Int8, False),
        (pl.Int32, pl.Decimal(38, 2), False),
        (pl.Decimal(10, 2), pl.Decimal(12, 4), True),
        (pl.Decimal(10, 2), pl.Decimal(12, 5), False),
        (pl.List(pl.Int8), pl.List(pl.Int64), True),
        (pl.List(pl.Int64), pl.List(pl.Int8), False),
        (pl.Array(pl.Int8, 2), pl.Array(pl.Int16, 2), True),
        (pl.Array(pl.Int8, 2), pl.Array(pl.Int16, 3), False),
        (pl.Struct({"a": pl.Int8}), pl.Struct({"a": pl.Float32}), True),
        (pl.Struct({"a": pl.Int8}), pl.Struct({"a": pl.Int8, "b": pl.Int8}), False),
        (pl.Int8, pl.List(pl.Int8), False),
    ],
)
def test_other_types_widen_only_where_nothing_can_be_lost(have: Any, want: Any, expected: bool) -> None:
    first, second = canonical_schema({"x": have}), canonical_schema({"x": want})
    assert widens(first.field(0).type, second.field(0).type) is expected


BEFORE = canonical_schema({"ts": pl.Datetime("us"), "who": pl.String, "n": pl.Int32, "x": pl.Float32})


def to(**columns: Any) -> pa.Schema:
    """The columns that are there with others in their place, or more."""
    return canonical_schema({**pl.Schema(BEFORE), **columns})


def test_what_is_in_the_way_is_named_column_by_column() -> None:
    words = refusals(
        BEFORE, canonical_schema({"who": pl.Binary, "n": pl.Int16, "xx": pl.Float32, "ts": pl.Date})
    )
    assert "'who' is String and not to become Binary" in words
    assert (
        "'n' is Int32 and not to become Int16, which does not hold all its values; it may become Int64"
        in words
    )
    assert (
        "column 'x' (Float32) is missing, did you mean 'xx'?" in words
        or "missing (did you mean 'xx'?)" in words
    )
    assert "'ts' is Datetime('us')" in words


@pytest.mark.parametrize("mode", COMPATIBILITIES)
def test_what_each_compatibility_admits(mode: Any) -> None:
    more, wider = to(note=pl.String), to(n=pl.Int64)
    judged = to(n=pl.Float32)
    admitted = [not refusals(BEFORE, wanted, mode) for wanted in (BEFORE, more, wider, judged)]
    assert (
        admitted
        == {
            "backward": [True, True, True, False],
            "forward": [True, True, False, False],
            "full": [True, True, False, False],
            "none": [True, True, True, True],
        }[mode]
    )


def test_the_columns_of_key_and_time_keep_their_types_whatever_the_mode() -> None:
    fixed = {"n": "a column of the topic's key", "ts": "the topic's time column"}
    assert "it is a column of the topic's key, whose type stays" in refusals(
        BEFORE, to(n=pl.Int64), "none", fixed
    )
    assert refusals(BEFORE, to(x=pl.Float64, note=pl.String), "backward", fixed) == ""


def test_new_columns_come_behind_those_that_are_there_whatever_order_was_given() -> None:
    wanted = canonical_schema(
        {"new": pl.Int8, "x": pl.Float64, "n": pl.Int64, "who": pl.String, "ts": pl.Datetime("us")}
    )
    assert refusals(BEFORE, wanted) == ""
    assert altered(BEFORE, wanted).names == ["ts", "who", "n", "x", "new"]
    assert altered(BEFORE, wanted).field("n").type == pa.int64()


def test_more_columns_than_a_schema_has_are_refused() -> None:
    wide = canonical_schema({f"c{n}": pl.Int8 for n in range(1998)})
    words = refusals(BEFORE, wide)
    assert "column 'ts'" in words
    assert "there would be 2002 columns" in words


def test_an_unknown_compatibility_is_refused_with_the_choices() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'backward'.*'full'"):
        check_compatibility("backwards")


def test_a_history_tells_what_changed_and_when() -> None:
    second = altered(BEFORE, to(n=pl.Int64, note=pl.String))
    first, last = history([(0, BEFORE), (5_000_000, second)])
    assert (first.number, first.changes, last.number, last.since.timestamp()) == (1, (), 2, 5.0)
    assert [str(change) for change in last.changes] == ["'n' Int32 -> Int64", "added 'note' (String)"]
    assert [str(change) for change in column_changes(second, BEFORE)] == [
        "'n' Int64 -> Int32",
        "without 'note' (String)",
    ]
