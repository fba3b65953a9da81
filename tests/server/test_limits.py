"""How much a batch is, whatever it says of itself."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mamba_stream.errors import InvalidInput
from mamba_stream.server.limits import Limits


def test_columns_that_share_their_bytes_count_each_by_itself() -> None:
    column = pa.array(np.arange(1_000))
    batch = pa.RecordBatch.from_arrays([column] * 100, names=[f"c{n}" for n in range(100)])
    assert batch.get_total_buffer_size() < 10_000
    with pytest.raises(InvalidInput, match="800,000 bytes"):
        Limits(most_bytes=500_000).check_batch(batch, "here")
    assert Limits(most_bytes=800_000).check_batch(batch, "here") == 800_000


def test_columns_that_share_their_bytes_are_found_where_that_could_be_much() -> None:
    limits = Limits(most_bytes=100 << 20)
    column = pa.array(np.arange(1 << 15))
    batch = pa.RecordBatch.from_arrays([column] * 1_000, names=[f"c{n}" for n in range(1_000)])
    form = limits.check_schema(batch.schema, "here")
    with pytest.raises(InvalidInput, match="262,144,000 bytes"):
        limits.check_batch(batch, "here", form)
    few = batch.select(range(3))
    assert limits.check_batch(few, "here", limits.check_schema(few.schema, "here")) == 8 << 15


@pytest.mark.parametrize(
    ("kind", "is_plain"),
    [
        (pa.int64(), True),
        (pa.bool_(), True),
        (pa.string(), True),
        (pa.large_binary(), True),
        (pa.timestamp("ns", "UTC"), True),
        (pa.large_list(pa.struct([("a", pa.map_(pa.string(), pa.int8()))])), True),
        (pa.dictionary(pa.int32(), pa.string()), False),
        (pa.string_view(), False),
        (pa.binary_view(), False),
        (pa.list_view(pa.int64()), False),
        (pa.run_end_encoded(pa.int32(), pa.int64()), False),
        (pa.struct([("a", pa.int8()), ("b", pa.dictionary(pa.int8(), pa.int64()))]), False),
        (pa.list_(pa.string_view()), False),
        (pa.map_(pa.string(), pa.list_(pa.large_list_view(pa.int8()))), False),
    ],
    ids=str,
)
def test_plain_is_what_says_nothing_twice(kind: pa.DataType, is_plain: bool) -> None:
    assert (
        Limits().check_schema(pa.schema({"first": pa.int64(), "second": kind}), "here").is_plain is is_plain
    )


_VIEWS = 100


def _views() -> pa.Array:
    """Each points at the same hundred thousand bytes."""
    one = pa.array(["y" * 100_000], pa.string_view())
    _, view, text = one.buffers()
    return pa.Array.from_buffers(
        pa.string_view(), _VIEWS, [None, pa.py_buffer(view.to_pybytes() * _VIEWS), text]
    )


_EVERY = pa.array(range(_VIEWS + 1), pa.int32())


@pytest.mark.parametrize(
    "around",
    [
        lambda views: views,
        lambda views: pa.StructArray.from_arrays([views], ["a"]),
        lambda views: pa.ListArray.from_arrays(_EVERY, views),
        lambda views: pa.FixedSizeListArray.from_arrays(views, 1),
        lambda views: pa.MapArray.from_arrays(_EVERY, pa.array(range(_VIEWS)), views),
        lambda views: pa.StructArray.from_arrays([pa.ListArray.from_arrays(_EVERY, views)], ["a"]),
        lambda views: pa.DictionaryArray.from_arrays(_EVERY[:-1], views),
        lambda views: pa.ExtensionArray.from_storage(pa.json_(pa.string_view()), views),
    ],
    ids=["plain", "struct", "list", "fixed", "map", "list in struct", "dictionary", "extension"],
)
def test_text_that_many_views_point_at_is_not_read_to_be_validated(monkeypatch, around) -> None:
    batch = pa.record_batch({"n": around(_views())})
    validated = []
    monkeypatch.setattr("mamba_stream.server.limits._validate", lambda *_, full: validated.append(full))
    with pytest.raises(InvalidInput, match="10,000,000 bytes"):
        Limits(most_bytes=9_000_000).check_batch(batch, "here")
    assert validated == [False]
    Limits(most_bytes=11_000_000).check_batch(batch, "here")
    assert validated == [False, False, True]
