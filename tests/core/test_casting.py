"""A cast keeps every value, of slices too, however deep it goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from mamba_stream.core.casting import cast, first_misfit
from mamba_stream.core.types import canonical_type
from tests.core.arrow_shapes import arrow_types, plain, values_of


def arrays() -> st.SearchStrategy[pa.Array]:
    """Slices of arrays of any type that has a canonical one."""

    def of(dtype: Any) -> st.SearchStrategy[pa.Array]:
        whole = st.lists(values_of(dtype), max_size=8).map(lambda values: pa.array(values, dtype))
        return st.builds(
            lambda array, start, rows: array.slice(start, rows), whole, st.integers(0, 4), st.integers(0, 8)
        )

    return arrow_types().flatmap(of)


@settings(deadline=None)
@given(arrays())
def test_the_canonical_form_of_a_slice_has_its_values(array: pa.Array) -> None:
    want = canonical_type(array.type, "x")
    found = cast(array, want)
    assert found.type.equals(want, check_metadata=True)
    found.validate(full=True)
    assert plain(found.to_pylist()) == plain(array.to_pylist())


def test_what_lies_under_a_null_list_does_not_matter() -> None:
    offsets, values = pa.array([0, 2, 4, 5], pa.int32()), pa.array([1, 2, 3, 4, 5], pa.int8())
    array = pa.ListArray.from_arrays(offsets, values, mask=pa.array([False, True, False]))
    assert array.values.to_pylist() == [1, 2, 3, 4, 5]
    for part in (array, array[1:], array[2:], array[:2]):
        assert cast(part, pa.large_list(pa.int64())).to_pylist() == part.to_pylist()


def test_a_list_view_may_repeat_and_turn_back() -> None:
    values = pa.array([1, 2, 3], pa.int8())
    array = pa.ListViewArray.from_arrays(
        pa.array([1, 0, 0], pa.int32()), pa.array([2, 3, 0], pa.int32()), values
    )
    assert cast(array, pa.large_list(pa.int64())).to_pylist() == [[2, 3], [1, 2, 3], []]
    assert cast(array[1:], pa.large_list(pa.int64())).to_pylist() == [[1, 2, 3], []]
    gaps = pa.array([["1"], None, [], ["2", "3"]], pa.large_list_view(pa.string()))
    assert cast(gaps[1:], pa.large_list(pa.large_string())).to_pylist() == [None, [], ["2", "3"]]


def test_lists_of_a_fixed_size_become_lists() -> None:
    array = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2))
    assert cast(array[1:], pa.large_list(pa.int64())).to_pylist() == [None, [3, 4]]


def test_fields_go_by_name_at_every_depth() -> None:
    have = pa.list_(pa.struct([("b", pa.string()), ("a", pa.struct([("y", pa.int8()), ("x", pa.int8())]))]))
    want = pa.large_list(
        pa.struct([("a", pa.struct([("x", pa.int64()), ("y", pa.int64())])), ("b", pa.large_string())])
    )
    rows = [[{"b": "one", "a": {"y": 1, "x": 2}}, None, {"b": None, "a": None}], None]
    assert cast(pa.array(rows, have), want).to_pylist() == rows


def test_an_array_of_the_type_is_itself() -> None:
    array = pa.array([[1]], pa.large_list(pa.int64()))
    assert cast(array, pa.large_list(pa.int64())) is array


@pytest.mark.parametrize("bad", [0, 1, 499, 999])
def test_the_first_row_that_does_not_fit_is_found(bad: int) -> None:
    numbers = np.zeros(1000, np.int64)
    numbers[bad:] = 2**53 + 1
    array = pa.array(numbers)
    with pytest.raises(pa.ArrowInvalid):
        cast(array, pa.float64())
    assert first_misfit(array, pa.float64()) == bad
