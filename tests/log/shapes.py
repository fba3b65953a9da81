"""Batches of any type that the log stores."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_LETTERS = "aZ0 é€😀\0\n"
_PLAIN: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.null(): st.none(),
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.date32(): st.dates(date(1900, 1, 1), date(2100, 1, 1)),
    pa.time64("ns"): st.times().map(lambda t: time(t.hour, t.minute, t.second, t.microsecond)),
    pa.timestamp("us"): st.integers(-(10**15), 10**15).map(
        lambda n: (_EPOCH + timedelta(microseconds=n)).replace(tzinfo=None)
    ),
    pa.timestamp("ms", "UTC"): st.integers(-(10**12), 10**12).map(
        lambda n: _EPOCH + timedelta(milliseconds=n)
    ),
    pa.duration("us"): st.integers(-(10**12), 10**12).map(lambda n: timedelta(microseconds=n)),
    pa.decimal128(10, 2): st.integers(-(10**9), 10**9).map(lambda n: Decimal(n).scaleb(-2)),
    pa.large_string(): st.text(_LETTERS, max_size=8),
    pa.large_binary(): st.binary(max_size=8),
}


def _nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    return st.one_of(
        inner.map(pa.large_list),
        st.tuples(inner, st.integers(1, 3)).map(lambda pair: pa.list_(*pair)),
        st.lists(inner, max_size=3).map(
            lambda kinds: pa.struct([(f"f{at}", kind) for at, kind in enumerate(kinds)])
        ),
        inner.map(lambda kind: pa.map_(pa.large_string(), kind)),
    )


FLAT = st.sampled_from([kind for kind in _PLAIN if kind != pa.null()])
"""Types of columns that have bytes and no others inside."""
TYPES = st.recursive(st.sampled_from(list(_PLAIN)), _nested, max_leaves=4)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Python values of an Arrow type, nulls among them."""
    if kind in _PLAIN:
        inner = _PLAIN[kind]
    elif pa.types.is_struct(kind):
        inner = st.fixed_dictionaries(
            {kind.field(at).name: values_of(kind.field(at).type) for at in range(kind.num_fields)}
        )
    elif pa.types.is_map(kind):
        inner = st.lists(st.tuples(st.text(_LETTERS, max_size=3), values_of(kind.item_type)), max_size=3)
    elif pa.types.is_fixed_size_list(kind):
        inner = st.lists(values_of(kind.value_type), min_size=kind.list_size, max_size=kind.list_size)
    else:
        inner = st.lists(values_of(kind.value_type), max_size=3)
    return st.none() | inner


@st.composite
def batches(
    draw: st.DrawFn,
    max_columns: int = 4,
    max_rows: int = 6,
    types: st.SearchStrategy[pa.DataType] = TYPES,
    max_before: int = 2,
) -> pa.RecordBatch:
    """A batch of canonical types, sometimes a slice of a larger one."""
    kinds = draw(st.lists(types, min_size=1, max_size=max_columns))
    rows = draw(st.integers(1, max_rows))
    before, after = draw(st.integers(0, max_before)), draw(st.integers(0, 2))
    arrays = [
        pa.array(
            draw(st.lists(values_of(k), min_size=rows + before + after, max_size=rows + before + after)), k
        )
        for k in kinds
    ]
    whole = pa.RecordBatch.from_arrays(arrays, names=[f"c{at}" for at in range(len(kinds))])
    return whole.slice(before, rows)
