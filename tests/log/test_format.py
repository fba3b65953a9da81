"""Messages with their own checksums: what goes in comes out, and nothing else ever does."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings

from mamba_stream.core.schemas import fingerprint
from mamba_stream.log import format
from mamba_stream.log.format import Damaged, Layout
from tests.log.shapes import batches

COMPRESSIONS = st.sampled_from(["none", "lz4", "zstd"])


def encoded(batch: pa.RecordBatch, compression: str = "none") -> tuple[Layout, format.Message, bytes]:
    layout = Layout.of(batch.schema, fingerprint(batch.schema))
    message = format.encode(batch, layout, compression)
    return layout, message, b"".join(message.parts())


def decoded(
    data: bytes, layout: Layout, header: int, wanted: list[int] | None, compression: str
) -> pa.RecordBatch:
    columns = format.verify_header(memoryview(data), layout, header)
    format.verify_columns(memoryview(data), columns, range(len(layout.schema)) if wanted is None else wanted)
    return format.decode(pa.py_buffer(data), layout, wanted, compression != "none")


@given(batch=batches(), compression=COMPRESSIONS)
def test_a_batch_of_any_type_comes_back_from_its_message(batch: pa.RecordBatch, compression: str) -> None:
    layout, message, data = encoded(batch, compression)
    back = decoded(data, layout, message.header, None, compression)
    back.validate(full=True)
    assert back.equals(batch)
    assert back.schema.equals(batch.schema)


@given(batch=batches(), compression=COMPRESSIONS, choice=st.data())
def test_a_projection_gives_its_columns_in_its_order(
    batch: pa.RecordBatch, compression: str, choice: st.DataObject
) -> None:
    layout, message, data = encoded(batch, compression)
    wanted = choice.draw(st.lists(st.sampled_from(range(batch.num_columns)), unique=True, min_size=1))
    back = decoded(data, layout, message.header, wanted, compression)
    assert back.equals(batch.select(wanted))


@given(batch=batches(), compression=COMPRESSIONS)
def test_messages_behind_a_schema_message_are_an_ordinary_stream(
    batch: pa.RecordBatch, compression: str
) -> None:
    _, _, data = encoded(batch, compression)
    stream = format.schema_message(batch.schema) + data + data + format.END_OF_STREAM
    with pa.ipc.open_stream(stream) as reader:
        assert reader.schema.equals(batch.schema)
        assert list(reader) == [batch, batch]


@given(batch=batches(), compression=COMPRESSIONS)
def test_start_body_and_length_of_a_message_are_aligned(batch: pa.RecordBatch, compression: str) -> None:
    _, message, data = encoded(batch, compression)
    assert message.length == len(data)
    assert len(data) % format.ALIGNMENT == 0
    assert len(message.head) % format.ALIGNMENT == 0
    assert len(format.schema_message(batch.schema)) % format.ALIGNMENT == 0


@settings(max_examples=15)
@given(batch=batches(max_rows=3), compression=COMPRESSIONS, flip=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found_before_decoding(
    batch: pa.RecordBatch, compression: str, flip: int
) -> None:
    layout, message, data = encoded(batch, compression)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << flip
        with pytest.raises(Damaged):
            decoded(bytes(damaged), layout, message.header, None, compression)


@settings(max_examples=15)
@given(batch=batches(max_rows=3), compression=COMPRESSIONS)
def test_a_message_cut_anywhere_is_found_before_decoding(batch: pa.RecordBatch, compression: str) -> None:
    layout, message, data = encoded(batch, compression)
    for length in range(len(data)):
        with pytest.raises(Damaged):
            decoded(data[:length], layout, message.header, None, compression)


def test_damage_to_one_column_leaves_the_others_readable() -> None:
    batch = pa.RecordBatch.from_pydict(
        {"a": [1, 2], "b": ["x", "y"]}, pa.schema({"a": pa.int64(), "b": pa.large_string()})
    )
    layout, message, data = encoded(batch)
    columns = format.verify_header(memoryview(data), layout, message.header)
    damaged = bytearray(data)
    damaged[columns.starts[0]] ^= 1
    format.verify_columns(memoryview(damaged), columns, [1])
    assert format.decode(pa.py_buffer(bytes(damaged)), layout, [1], False)["b"].to_pylist() == ["x", "y"]
    with pytest.raises(Damaged, match="column 0"):
        format.verify_columns(memoryview(damaged), columns, [0])


def test_a_message_does_not_pass_for_one_of_another_schema() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array([1, 2], pa.int64())})
    _, message, data = encoded(batch)
    other = pa.schema({"a": pa.timestamp("us")})
    layout = Layout.of(other, fingerprint(other))
    with pytest.raises(Damaged, match="header"):
        format.verify_header(memoryview(data), layout, message.header)


def test_a_message_does_not_pass_for_its_neighbour_of_the_same_schema() -> None:
    one = pa.RecordBatch.from_pydict({"a": pa.array([1, 2], pa.int64())})
    layout, message, _ = encoded(one)
    _, _, other = encoded(pa.RecordBatch.from_pydict({"a": pa.array([1, 3], pa.int64())}))
    with pytest.raises(Damaged):
        decoded(other, layout, message.header, None, "none")


def test_a_slice_is_written_without_the_rows_around_it() -> None:
    whole = pa.RecordBatch.from_pydict({"a": pa.array(range(100_000), pa.int64())})
    _, message, _ = encoded(whole.slice(500, 10))
    assert message.length < 1_000


def test_uncompressed_columns_are_read_without_a_copy() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array(np.arange(1000))})
    layout, message, data = encoded(batch)
    buffer = pa.py_buffer(data)
    column = format.decode(buffer, layout, None, False).column(0)
    start = column.buffers()[1].address - buffer.address
    assert 0 < start < message.length
    assert start % 64 == 0


def test_columns_that_have_no_bytes_at_all_are_stored() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.nulls(3), "b": pa.array([{}, {}, {}], pa.struct([]))})
    layout, message, data = encoded(batch)
    back = decoded(data, layout, message.header, None, "none")
    assert (back.num_rows, back.schema) == (3, batch.schema)
    empty = pa.RecordBatch.from_pydict({"a": pa.nulls(3)})
    layout, message, data = encoded(empty)
    assert decoded(data, layout, message.header, None, "none").num_rows == 3


def test_the_padding_belongs_to_the_last_column_that_has_bytes() -> None:
    batch = pa.RecordBatch.from_pydict(
        {"a": pa.array([None], pa.bool_()), "b": pa.nulls(1), "c": pa.nulls(1)}
    )
    layout, message, data = encoded(batch)
    assert len(message.body) == 2
    for wanted in (None, [0], [1], [2, 0]):
        assert decoded(data, layout, message.header, wanted, "none").num_rows == 1


def test_polars_reads_the_stream_as_well() -> None:
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
    batch = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches()[0]
    _, _, data = encoded(batch)
    stream = format.schema_message(batch.schema) + data + format.END_OF_STREAM
    assert pl.read_ipc_stream(stream).equals(frame)
