"""Stored messages become one by their bytes: what a reader finds in it is what lay in them, and damage is found before."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from mamba_stream.core.schemas import fingerprint
from mamba_stream.log import format
from mamba_stream.log.format import Damaged, Layout
from mamba_stream.log.rows import Entry
from mamba_stream.log.splicing import Splice
from mamba_stream.log.template import Template
from tests.log.shapes import FLAT, TYPES, batches
from tests.sizes import examples


def stored(batch: pa.RecordBatch, layout: Layout) -> tuple[Entry, memoryview]:
    message = format.encode(batch, layout)
    entry = Entry(1, 0, message.length, batch.num_rows, batch.num_rows, 0, 0, 0, 0, 1, message.header, 0)
    return entry, memoryview(b"".join(message.parts()))


@settings(max_examples=examples(150))
@given(batch=batches(types=FLAT, max_rows=40), data=st.data())
def test_however_rows_are_cut_the_messages_together_hold_them(
    batch: pa.RecordBatch, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, batch.num_rows), max_size=4)))
    layout = Layout.of(batch.schema, fingerprint(batch.schema))
    template = Template.of(layout)
    assert template is not None
    parts = [batch.slice(a, b - a) for a, b in pairwise([0, *cuts, batch.num_rows])]
    made = Splice(template, [stored(part, layout) for part in parts]).message(b"from")
    written = memoryview(b"".join(made.parts()))
    assert len(written) == made.length
    columns = format.verify_header(written, layout, made.header)
    format.verify_columns(written, columns, range(batch.num_columns))
    assert bytes(columns.origins) == b"from"
    back = format.decode(pa.py_buffer(bytes(written)), layout, None, False)
    back.validate(full=True)
    assert back.equals(batch)


@settings(max_examples=10)
@given(batch=batches(max_rows=3, types=FLAT), flip=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found(batch: pa.RecordBatch, flip: int) -> None:
    layout = Layout.of(batch.schema, fingerprint(batch.schema))
    template = Template.of(layout)
    assert template is not None
    entry, message = stored(batch, layout)
    for at in range(len(message)):
        damaged = bytearray(message)
        damaged[at] ^= 1 << flip
        with pytest.raises(Damaged):
            Splice(template, [(entry, message), (entry, memoryview(bytes(damaged)))])


@given(batch=batches(types=TYPES))
def test_what_has_others_inside_is_left_to_a_decoder(batch: pa.RecordBatch) -> None:
    plain = not any(pa.types.is_nested(kind) or pa.types.is_null(kind) for kind in batch.schema.types)
    assert (Template.of(Layout.of(batch.schema, fingerprint(batch.schema))) is not None) == plain


def test_rows_that_are_not_as_many_as_the_index_has_are_damage() -> None:
    batch = pa.record_batch({"n": pa.array([1, 2, 3])})
    layout = Layout.of(batch.schema, fingerprint(batch.schema))
    template = Template.of(layout)
    assert template is not None
    entry, message = stored(batch, layout)
    wrong = Entry(1, 0, entry.length, 2, 2, 0, 0, 0, 0, 1, entry.header, 0)
    with pytest.raises(Damaged, match="not as many"):
        Splice(template, [(wrong, message)])


def test_messages_of_one_length_that_are_laid_out_differently_are_told_apart() -> None:
    """As where nulls come, and where other columns are longer: each is read by its own numbers."""
    schema = pa.schema({"a": pa.int64(), "s": pa.large_string(), "t": pa.large_string()})
    layout = Layout.of(schema, fingerprint(schema))
    template = Template.of(layout)
    assert template is not None
    parts = [
        pa.RecordBatch.from_pylist(
            [{"a": n, "s": "x" * n, "t": ""}, {"a": m, "s": "y", "t": "z" * m}], schema
        )
        for n, m in ((3, 5), (5, 3), (100, 2), (2, 100), (3, 5))
    ]
    parts.append(pa.RecordBatch.from_pylist([{"a": None, "s": "b"}, {"a": 1, "t": ""}], schema))
    made = Splice(template, [stored(part, layout) for part in parts]).message()
    written = b"".join(made.parts())
    assert len({stored(part, layout)[0].length for part in parts[:2]}) == 1
    back = format.decode(pa.py_buffer(written), layout, None, False)
    assert back.equals(pa.concat_batches(parts))


def test_a_sound_message_in_the_place_of_another_is_found() -> None:
    layout = Layout.of(pa.schema({"n": pa.int64()}), fingerprint(pa.schema({"n": pa.int64()})))
    template = Template.of(layout)
    assert template is not None
    (entry, message), (_, other) = (stored(pa.record_batch({"n": pa.array([n, n])}), layout) for n in (1, 2))
    with pytest.raises(Damaged, match="header"):
        Splice(template, [(entry, message), (entry, other)])
