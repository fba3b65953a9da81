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
