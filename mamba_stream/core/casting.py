"""Arrow arrays in another type, every value kept or the whole refused.

Arrow's own safe cast does it for plain values. Nested arrays are taken apart and put together again here, since
what Arrow makes of them depends on its version: fields of structs by position or by name, children that lose rows.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types as pat

_Bounds = NDArray[np.int64]


def cast(array: pa.Array, want: pa.DataType) -> pa.Array:
    """The array in a canonical type that it fits (:func:`mamba_stream.core.types.fits`).

    Raises:
        pyarrow.ArrowInvalid: A value is beyond the type.
    """
    if array.type.equals(want, check_metadata=True) and not holds_arrays(want):
        return array
    if not pat.is_nested(want):
        function, options = _arrows_own()
        return function.call([array], options.safe(want))
    if pat.is_null(array.type):
        return pa.nulls(len(array), want)
    if pat.is_dictionary(array.type):
        return cast(array.dictionary_decode(), want)
    if pat.is_struct(want):
        fields = [want.field(i) for i in range(want.num_fields)]
        if not fields:
            return array
        children = [cast(array.field(field.name), field.type) for field in fields]
        return pa.StructArray.from_arrays(children, fields=fields, mask=_nulls(array))
    if pat.is_map(want):
        return _cast_map(array, want)
    if pat.is_fixed_size_list(want):
        return pa.FixedSizeListArray.from_arrays(
            cast(_children(array), want.value_type), type=want, mask=_nulls(array)
        )
    return _cast_list(array, want)


@cache
def _arrows_own() -> tuple[Any, Any]:
    # This import alone takes a seventh of what opening a log takes, and most values need no cast.
    import pyarrow.compute as pc

    return pc.get_function("cast"), pc.CastOptions


@lru_cache(maxsize=1024)
def holds_arrays(dtype: Any) -> bool:
    """Whether fixed-size lists occur in a type.

    Polars 2.1 panics on slices of them that have nulls, so :func:`cast` puts even those of the right type
    together anew, from their own rows alone.
    """
    if pat.is_fixed_size_list(dtype):
        return True
    return pat.is_nested(dtype) and any(holds_arrays(dtype.field(i).type) for i in range(dtype.num_fields))


def first_misfit(array: pa.Array, want: pa.DataType) -> int:
    """The first row that :func:`cast` refuses, given that it refuses one."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cast(array[low:middle], want)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _nulls(array: pa.Array) -> pa.Array | None:
    return array.is_null() if array.null_count else None


def _children(array: Any) -> pa.Array:
    """The elements of a fixed-size list, of its own rows only."""
    size = array.type.list_size
    return array.values[array.offset * size : (array.offset + len(array)) * size]


def _cast_list(array: Any, want: Any) -> pa.Array:
    if pat.is_fixed_size_list(array.type):
        bounds = np.arange(len(array) + 1, dtype=np.int64) * array.type.list_size
        values = _children(array)
    elif pat.is_list_view(array.type) or pat.is_large_list_view(array.type):
        bounds, values = _gathered(array)
    else:
        bounds, values = _bounded(array, array.values)
    inner = cast(values, want.value_type)
    return pa.LargeListArray.from_arrays(pa.array(bounds), inner, type=want, mask=_nulls(array))


def _cast_map(array: Any, want: Any) -> pa.Array:
    bounds, keys = _bounded(array, array.keys)
    _, items = _bounded(array, array.items)
    offsets = pa.array(bounds.astype(np.int32))
    keys, items = cast(keys, want.key_type), cast(items, want.item_type)
    return pa.MapArray.from_arrays(offsets, keys, items, type=want, mask=_nulls(array))


def _gathered(array: Any) -> tuple[_Bounds, pa.Array]:
    """The same of list views, whose lists may lie in any order and share elements."""
    sizes = array.sizes.to_numpy().astype(np.int64)
    sizes[array.is_null().to_numpy(zero_copy_only=False)] = 0
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    at = np.arange(bounds[-1]) + np.repeat(array.offsets.to_numpy() - bounds[:-1], sizes)
    return bounds, array.values.take(pa.array(at))


def _bounded(array: Any, values: pa.Array) -> tuple[_Bounds, pa.Array]:
    """Where each list begins among its elements, with the end, and the elements of these rows only."""
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], values[int(offsets[0]) : int(offsets[-1])]
