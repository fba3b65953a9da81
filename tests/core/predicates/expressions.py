"""Frames of every type that a predicate can speak of, and expressions over them."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import strategies as st

NAN, INF = float("nan"), float("inf")
_INTEGERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
_FLOATS = ("Float16", "Float32", "Float64")

TYPES: dict[str, pl.DataType] = {
    **{
        name.lower(): getattr(pl, name)()
        for name in (*_INTEGERS, *_FLOATS, "Boolean", "String", "Binary", "Date", "Time")
    },
    "decimal_10": pl.Decimal(10, 2),
    "decimal_38": pl.Decimal(38, 10),
    **{
        f"datetime_{unit}_{zone}": pl.Datetime(unit, zone)
        for unit in ("ms", "us", "ns")
        for zone in (None, "UTC", "Europe/Paris")
    },
    **{f"duration_{unit}": pl.Duration(unit) for unit in ("ms", "us", "ns")},
    "list": pl.List(pl.Int64()),
}
NUMBERS = [name for name, dtype in TYPES.items() if dtype.is_numeric()]
NAMES = [name for name in TYPES if name != "list"]
_PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def pool(dtype: pl.DataType) -> list[Any]:
    """Values of a type, so few that comparisons of them meet; of times the ticks."""
    if dtype.is_integer():
        low, high = _range(dtype)
        return sorted({low, max(low, -1), 0, 1, 2, 7, high})
    if dtype.is_float():
        return [0.0, -0.0, 1.0, -1.5, 0.1, 2.0, NAN, INF, -INF]
    match dtype:
        case pl.Datetime():
            second = _PER_SECOND[dtype.time_unit]
            far = min(95_000_000 * 86_400 * second, 2**63 - 1)
            return [0, -1, 1, 20_000 * 86_400 * second, 20_000 * 86_400 * second + 1, far, -far]
        case pl.Duration():
            return [0, -1, 3_600 * _PER_SECOND[dtype.time_unit], 2**63 - 1]
    pools: dict[type[pl.DataType], list[Any]] = {
        pl.Boolean: [True, False],
        pl.Decimal: [Decimal(text) for text in ("0", "0.01", "-0.05", "1.5", "1.50", "99999999.99", "-2")],
        pl.String: ["", "a", "A", "ab", "b", "é", "ß", "12", "1.5", "a.c", "\n", "2024-01-01"],
        pl.Binary: [b"", b"a", b"ab", b"\x00\xff"],
        pl.Date: [-1, 0, 1, 20_000],
        pl.Time: [0, 1, 43_200_000_000_000, 86_399_999_999_999],
        pl.List: [[], [1, 2], [None]],
    }
    return pools[type(dtype)]


def _range(dtype: pl.DataType) -> tuple[int, int]:
    zero = pl.lit(0, dtype=dtype)
    return pl.select(low=zero.lower_bound(), high=zero.upper_bound()).row(0)


def frame(seed: int, rows: int) -> pl.DataFrame:
    """So many rows with a column of each type, nulls among them."""
    chance = random.Random(seed)
    return pl.DataFrame(
        {
            name: pl.Series([chance.choice([None, *pool(dtype)]) for _ in range(rows)], dtype=dtype)
            for name, dtype in TYPES.items()
        }
    )


#: Two rows and more: a single one Polars computes otherwise than it does many.
frames = st.builds(frame, st.integers(0, 1_000), st.integers(2, 30))


def _literals(dtype: pl.DataType) -> st.SearchStrategy[pl.Expr]:
    typed = st.sampled_from([None, *pool(dtype)]).map(lambda value: pl.lit(value, dtype=dtype))
    if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.String, pl.Binary)):
        return typed
    return typed | st.sampled_from([None, *pool(dtype)]).map(pl.lit)


@st.composite
def _values(draw: st.DrawFn, name: str, depth: int = 2) -> pl.Expr:
    """An expression with the type of a column, or about it."""
    dtype = TYPES[name]
    column = pl.col(name)
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        return column if draw(st.integers(0, 2)) else draw(_literals(dtype))
    inner = _values(name, depth - 1)
    if dtype == pl.String:
        return draw(inner).str.to_uppercase() if draw(st.booleans()) else draw(inner).str.to_lowercase()
    if dtype.is_numeric():
        operation = draw(st.sampled_from(["add", "sub", "mul", "truediv", "floordiv", "mod", "neg"]))
        if operation == "neg":
            return draw(inner).neg()
        return getattr(draw(inner), operation)(draw(_values(draw(st.sampled_from(NUMBERS)), depth - 1)))
    if isinstance(dtype, pl.Datetime):
        gap = draw(_literals(pl.Duration(dtype.time_unit)))
        return draw(inner) + gap if draw(st.booleans()) else draw(inner) - gap
    return column


@st.composite
def _comparisons(draw: st.DrawFn) -> pl.Expr:
    name = draw(st.sampled_from(NAMES))
    other = draw(st.sampled_from(NUMBERS)) if name in NUMBERS else name
    how = draw(st.sampled_from(["eq", "ne", "eq_missing", "ne_missing", "lt", "le", "gt", "ge"]))
    return getattr(draw(_values(name)), how)(draw(_values(other)))


@st.composite
def _searches(draw: st.DrawFn) -> pl.Expr:
    name = draw(st.sampled_from(NAMES))
    dtype = TYPES[name]
    if draw(st.booleans()):
        among = draw(st.lists(st.sampled_from([None, *pool(dtype)]), max_size=4))
        return pl.col(name).is_in(pl.lit(among, dtype=pl.List(dtype)), nulls_equal=draw(st.booleans()))
    closed = draw(st.sampled_from(["both", "left", "right", "none"]))
    return draw(_values(name)).is_between(draw(_values(name)), draw(_values(name)), closed=closed)


@st.composite
def _texts(draw: st.DrawFn) -> pl.Expr:
    text, other = draw(_values("string")), draw(_values("string"))
    pattern = draw(st.sampled_from(["a", "", "^a", "a.c", "(?i)A|é", r"\d+$", "[ab]{1,2}", "("]))
    return draw(
        st.sampled_from(
            [
                text.str.starts_with(other),
                text.str.ends_with(other),
                text.str.contains(pattern, literal=True),
                text.str.contains(pattern, strict=False),
                text.str.len_chars() > 1,
                text.str.len_bytes() % 2 == 0,
            ]
        )
    )


def _group(dtype: pl.DataType) -> str:
    return "number" if dtype.is_numeric() else type(dtype).__name__.lower()


#: What Polars casts, and not by guessing a format from all rows.
_GROUPS = {
    "boolean": "boolean number string",
    "number": "boolean number string",
    "string": "string number binary",
    "binary": "binary",
    "date": "date datetime number string",
    "datetime": "datetime date time number string",
    "time": "time number string",
    "duration": "duration number",
}
_CASTS = [
    (source, target)
    for source in NAMES
    for target in NAMES
    if _group(TYPES[target]) in _GROUPS[_group(TYPES[source])].split()
    and not (TYPES[target].is_decimal() and not TYPES[source].is_numeric() and source != "string")
]


@st.composite
def _casts(draw: st.DrawFn) -> pl.Expr:
    source, target = draw(st.sampled_from(_CASTS))
    strict = draw(st.booleans())
    return pl.col(source).cast(TYPES[target], strict=strict).eq_missing(draw(_values(target, 0)))


@st.composite
def _tests(draw: st.DrawFn) -> pl.Expr:
    if draw(st.booleans()):
        how = draw(st.sampled_from(["is_null", "is_not_null"]))
        return getattr(pl.col(draw(st.sampled_from(list(TYPES)))), how)()
    how = draw(st.sampled_from(["is_nan", "is_not_nan", "is_finite", "is_infinite"]))
    return getattr(pl.col(draw(st.sampled_from(NUMBERS))), how)()


_LEAVES = st.one_of(_comparisons(), _searches(), _texts(), _casts(), _tests(), st.just(pl.col("boolean")))

#: Filters of what a predicate may have.
filters: st.SearchStrategy[pl.Expr] = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.builds(pl.Expr.and_, inner, inner),
        st.builds(pl.Expr.or_, inner, inner),
        st.builds(pl.Expr.xor, inner, inner),
        st.builds(pl.Expr.not_, inner),
        st.builds(pl.all_horizontal, inner, inner),
        st.builds(pl.any_horizontal, inner, inner, inner),
        st.builds(lambda one: one.alias("named"), inner),
    ),
    max_leaves=6,
)

#: Filters that look at single rows, with what no predicate has.
foreign: st.SearchStrategy[pl.Expr] = st.sampled_from(
    [
        pl.col("string").str.reverse() == "a",
        pl.col("int64").abs() > 1,
        pl.col("date").dt.year() == 1970,
        pl.col("list").list.contains(1),
        pl.col("int64").is_in(pl.col("list")),
        pl.when(pl.col("boolean")).then(pl.col("int8") > 0).otherwise(None),
    ]
)
