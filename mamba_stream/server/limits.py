"""How much a client may send at once: judged before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pat

from mamba_stream.errors import InvalidInput, UnsupportedType

_TOLD_APART: Final = 4 << 20
"""Up to here it does not matter whether columns share their bytes, and to find out costs as much as receiving them."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a schema tells of the bytes of its batches.

    Attributes:
        columns: How many columns there are, those inside of others counted.
        is_plain: Whether their buffers hold every value once for each time that it is there.
    """

    columns: int
    is_plain: bool


@dataclass(frozen=True)
class Limits:
    """What one call may hold.

    Attributes:
        most_bytes: Bytes of one commit, or of one batch that is written; unpacked, where views and dictionaries
            say the same bytes many times.
        most_columns: Columns of a schema, those inside of lists and structs counted.
        deepest: How far columns may be nested.
        most_rows: Rows of one batch.
        most_streams: Calls that are under way at once.
        most_streams_of_user: Those of one user, so that others find a place.
        uploads: Commits that come in pieces and are read at once; others wait for their turn.
        in_flight_bytes: Bytes that were received and are not committed yet, of one stream.
    """

    most_bytes: int = 512 << 20
    most_columns: int = 4_096
    deepest: int = 16
    most_rows: int = 16 << 20
    most_streams: int = 1_024
    most_streams_of_user: int = 512
    uploads: int = 32
    in_flight_bytes: int = 32 << 20

    def check_schema(self, schema: pa.Schema, where: str) -> Form:
        """Refuses a schema that is too wide or nested too deeply; says what it tells of its batches."""
        count = 0
        waiting = [(field.type, 1) for field in schema]
        while waiting:
            kind, depth = waiting.pop()
            count += 1
            if count > self.most_columns:
                raise InvalidInput(f"{where}: more than {self.most_columns:,} columns")
            if depth > self.deepest:
                raise InvalidInput(f"{where}: columns nested deeper than {self.deepest}")
            waiting.extend((child, depth + 1) for child in _children(kind))
        return Form(count, _is_plain(schema))

    def check_batch(self, batch: pa.RecordBatch, where: str, form: Form | None = None) -> int:
        """Refuses a batch that is too large, or whose buffers do not say what they should.

        Args:
            batch: The batch, as it was decoded.
            where: What it is for, to be named.
            form: What its schema says of it, where that is known.

        Returns:
            Its bytes, once every value stands by itself.

        Raises:
            InvalidInput: It is; Arrow's own words say which buffer.
        """
        if batch.num_rows > self.most_rows:
            raise InvalidInput(
                f"{where}: a batch of {batch.num_rows:,} rows; send at most {self.most_rows:,} at once"
            )
        size: int = batch.get_total_buffer_size()
        if form is None or size * form.columns > _TOLD_APART:
            # That counts once what columns share.
            size = max(size, batch.nbytes)
        plain = form is not None and form.is_plain
        if size <= self.most_bytes and not plain:
            # To validate text is to read what every view points at, however many point at the same bytes.
            _validate(batch, where, full=False)
            size = max(size, sum(_viewed(column, where) for column in batch.columns))
        if size <= self.most_bytes:
            # Before anything else looks into the buffers.
            _validate(batch, where, full=True)
            if not plain:
                size = max(size, sum(_unpacked(column, where) for column in batch.columns))
        if size > self.most_bytes:
            raise InvalidInput(
                f"{where}: a batch of {size:,} bytes; send at most {self.most_bytes:,} at once"
            )
        return size


def _is_plain(schema: pa.Schema) -> bool:
    waiting = list(schema.types)
    while waiting:
        kind = waiting.pop()
        if not (pat.is_primitive(kind) or _is_text(kind) or _has_plain_parts(kind)):
            return False
        waiting.extend(_children(kind))
    return True


def _validate(batch: pa.RecordBatch, where: str, *, full: bool) -> None:
    try:
        batch.validate(full=full)
    except pa.ArrowException as error:
        raise InvalidInput(f"{where}: the buffers of a batch are not sound: {error!s:.200}") from error


def _viewed(column: pa.Array, where: str) -> int:
    """Bytes that all views of a column and of its parts point at together, whatever their parents make of them."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _viewed(column.storage, where)
    if _is_view(kind):
        # A negative length is for the validation to find, and hides no other one before it.
        return int(pc.sum(pc.abs(_lengths(column, where).cast(pa.int64()))).as_py() or 0)
    if pat.is_dictionary(kind):
        return _viewed(column.dictionary, where)
    if pat.is_struct(kind) or pat.is_union(kind):
        return sum(_viewed(column.field(number), where) for number in range(kind.num_fields))
    if pat.is_map(kind):
        return _viewed(column.keys, where) + _viewed(column.items, where)
    return _viewed(column.values, where) if pat.is_nested(kind) or pat.is_run_end_encoded(kind) else 0


def _unpacked(column: pa.Array, where: str) -> int:
    """Bytes that the column has once every value stands by itself; 0 for types whose buffers say so already."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _unpacked(column.storage, where)
    if pat.is_run_end_encoded(kind) or pat.is_list_view(kind) or pat.is_large_list_view(kind):
        raise UnsupportedType(f"{where}: {kind} is not taken over the network: send its values as they are")
    if pat.is_dictionary(kind):
        lengths = _lengths(column.dictionary, where)
        return int(pc.sum(pc.take(lengths, column.indices)).as_py() or 0)
    if _is_view(kind):
        return int(pc.sum(_lengths(column, where)).as_py() or 0)
    return sum(_unpacked(part, where) for part in _parts(column))


def _lengths(values: pa.Array, where: str) -> pa.Array:
    kind = values.type
    if _is_view(kind):
        # Each view begins with its length.
        views = pa.Array.from_buffers(
            pa.list_(pa.int32(), 4),
            len(values),
            [values.buffers()[0]],
            offset=values.offset,
            children=[
                pa.Array.from_buffers(
                    pa.int32(), 4 * (len(values) + values.offset), [None, values.buffers()[1]]
                )
            ],
        )
        return pc.list_element(views, 0)
    if _is_text(kind):
        return pc.binary_length(values)
    if _children(kind):
        raise UnsupportedType(
            f"{where}: a dictionary of {kind} is not taken over the network: send its values"
        )
    return pa.repeat(pa.scalar(16, pa.int64()), len(values))


def _is_view(kind: pa.DataType) -> bool:
    return bool(pat.is_string_view(kind) or pat.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _has_plain_parts(kind: pa.DataType) -> bool:
    return bool(pat.is_struct(kind) or pat.is_map(kind) or pat.is_list(kind) or pat.is_large_list(kind))


def _parts(column: pa.Array) -> Iterator[pa.Array]:
    kind = column.type
    if pat.is_struct(kind):
        yield from column.flatten()
    elif pat.is_map(kind):
        yield from (column.keys, column.items)
    elif pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind):
        yield column.flatten()


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if pat.is_dictionary(kind):
        return [kind.value_type]
    return [kind.field(i).type for i in range(kind.num_fields)] if pat.is_nested(kind) else []
