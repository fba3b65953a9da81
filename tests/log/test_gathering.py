"""Messages that point into the batches they are of: Arrow reads them like any other, and nothing was copied."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from mamba_stream.core.schemas import fingerprint
from mamba_stream.log import format, gathering
from mamba_stream.log.format import Damaged, Layout, Message
from mamba_stream.log.gathering import Gathering
from tests.log.shapes import FLAT, batches


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_WORTH", 0)


def layout_of(schema: pa.Schema) -> Layout:
    return Layout.of(schema, fingerprint(schema))


def gathered(*batches: pa.RecordBatch) -> tuple[Layout, Message | None]:
    layout = layout_of(batches[0].schema)
    made = Gathering.of(layout)
    return layout, None if made is None else made.message(batches)


def decoded(data: bytes, layout: Layout, message: Message, wanted: list[int] | None = None) -> pa.RecordBatch:
    columns = format.verify_header(memoryview(data), layout, message.header)
    format.verify_columns(memoryview(data), columns, range(len(layout.schema)) if wanted is None else wanted)
    return format.decode(pa.py_buffer(data), layout, wanted, False)


@given(batch=batches(types=FLAT, max_before=0), choice=st.data())
def test_a_batch_of_plain_columns_comes_back_whole_and_by_column(
    batch: pa.RecordBatch, choice: st.DataObject
) -> None:
    layout, message = gathered(batch)
    assert message is not None
    data = b"".join(message.parts())
    assert len(data) == message.length
    assert len(data) % format.ALIGNMENT == len(message.head) % format.ALIGNMENT == 0
    back = decoded(data, layout, message)
    back.validate(full=True)
    assert back.equals(batch)
    wanted = choice.draw(st.lists(st.sampled_from(range(batch.num_columns)), unique=True, min_size=1))
    assert decoded(data, layout, message, wanted).equals(batch.select(wanted))
    stream = format.schema_message(batch.schema) + data + data + format.END_OF_STREAM
    with pa.ipc.open_stream(stream) as reader:
        assert list(reader) == [batch, batch]


@settings(max_examples=15)
@given(batch=batches(max_rows=3, types=FLAT, max_before=0), flip=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found_before_decoding(batch: pa.RecordBatch, flip: int) -> None:
    layout, message = gathered(batch)
    assert message is not None
    data = b"".join(message.parts())
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << flip
        with pytest.raises(Damaged):
            decoded(bytes(damaged), layout, message)


VALUES: dict[pa.DataType, Callable[[int], Any]] = {
    pa.bool_(): lambda n: n % 2 == 0,
    pa.int8(): lambda n: n % 100,
    pa.uint16(): lambda n: n,
    pa.float16(): lambda n: np.float16(n),
    pa.float64(): lambda n: n / 8,
    pa.date32(): lambda n: date.fromordinal(700_000 + n),
    pa.time32("s"): lambda n: time(0, n // 60, n % 60),
    pa.timestamp("ns", "UTC"): lambda n: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=n),
    pa.duration("ms"): lambda n: timedelta(milliseconds=n),
    pa.decimal128(20, 3): lambda n: Decimal(n) / 8,
    pa.decimal256(60, 3): lambda n: Decimal(n) / 8,
    pa.binary(5): lambda n: n.to_bytes(5, "big"),
    pa.large_string(): lambda n: "é" * (n % 5),
    pa.large_binary(): lambda n: bytes(n % 5),
}


@given(batch=batches(types=FLAT, max_before=0, max_rows=40), data=st.data())
def test_several_batches_are_one_message(batch: pa.RecordBatch, data: st.DataObject) -> None:
    """However the rows are cut, and also where parts begin in the middle of their buffers."""
    cuts = sorted(data.draw(st.lists(st.integers(0, batch.num_rows), max_size=4)))
    parts = [batch.slice(a, b - a) for a, b in pairwise([0, *cuts, batch.num_rows])]
    if data.draw(st.booleans()):
        parts = [pa.concat_batches([part, part]).slice(0, part.num_rows) for part in parts]
    layout, message = gathered(*parts)
    assert message is not None
    stream = b"".join(message.parts())
    back = decoded(stream, layout, message)
    back.validate(full=True)
    assert back.equals(batch)
    for column in range(batch.num_columns):
        assert decoded(stream, layout, message, [column]).equals(batch.select([column]))


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_several_batches_of_every_type_are_one_message(kind: pa.DataType) -> None:
    values = pa.array([VALUES[kind](n) for n in range(100)], kind)
    some = pa.array([None if n % 7 == 3 else VALUES[kind](n) for n in range(100)], kind)
    whole = pa.record_batch([values, some], names=["all", "some"])
    parts = [
        pa.record_batch(
            [values.take(pa.array(range(a, b), pa.int64())), some.take(pa.array(range(a, b), pa.int64()))],
            schema=whole.schema,
        )
        for a, b in pairwise([0, 8, 8, 13, 64, 100])
    ]
    layout, message = gathered(*parts)
    assert message is not None
    assert decoded(b"".join(message.parts()), layout, message).equals(whole)


@pytest.mark.parametrize("kind", VALUES, ids=str)
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 64, 1_000])
def test_every_type_without_others_inside_is_gathered(kind: pa.DataType, rows: int) -> None:
    values = [VALUES[kind](n) for n in range(rows)]
    some = [None if n % 3 == 1 else value for n, value in enumerate(values)]
    batch = pa.record_batch([pa.array(values, kind), pa.array(some, kind)], names=["all", "some"])
    layout, message = gathered(batch)
    assert message is not None
    assert decoded(b"".join(message.parts()), layout, message).equals(batch)


def test_what_is_gathered_is_not_copied() -> None:
    batch = pa.record_batch({"n": np.arange(1_000), "text": pa.array(["abc"] * 1_000, pa.large_string())})
    _, message = gathered(batch)
    assert message is not None
    own = {buffer.address for column in batch.columns for buffer in column.buffers() if buffer is not None}
    pieces = [np.frombuffer(piece, np.uint8) for piece in message.body]
    assert own <= {piece.__array_interface__["data"][0] for piece in pieces}


def test_what_does_not_begin_with_its_buffers_or_has_columns_inside_is_left_to_arrow() -> None:
    numbers = pa.record_batch({"n": np.arange(10)})
    assert gathered(numbers)[1] is not None
    assert gathered(numbers.slice(0, 4))[1] is not None
    assert gathered(numbers.slice(1))[1] is None
    assert gathered(numbers.slice(0, 0))[1] is None
    texts = pa.array(["ab", "c"], pa.large_string())
    shifted = pa.LargeStringArray.from_buffers(
        1, pa.py_buffer(memoryview(texts.buffers()[1])[8:]), texts.buffers()[2]
    )
    assert shifted.to_pylist() == ["c"]
    assert gathered(pa.record_batch([shifted], names=["t"]))[1] is None
    for kind in (pa.null(), pa.large_list(pa.int64()), pa.struct([("x", pa.int64())])):
        assert Gathering.of(layout_of(pa.schema({"a": pa.int64(), "b": kind}))) is None


def test_a_part_of_a_batch_holds_its_own_rows_alone() -> None:
    texts = pa.array(["ab", None, "c", "defg"], pa.large_string())
    batch = pa.record_batch([texts, pa.array([True, None, False, True])], names=["t", "b"]).slice(0, 2)
    layout, message = gathered(batch)
    assert message is not None
    data = b"".join(message.parts())
    assert decoded(data, layout, message).equals(batch)
    assert b"defg" not in data


def test_little_is_copied_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_WORTH", 8 << 10)
    assert gathered(pa.record_batch({"n": np.arange(1_000)}))[1] is None
    assert gathered(pa.record_batch({"n": np.arange(4_096)}))[1] is not None
