"""From what a user passes to rows of a topic, checked at the user's line: nothing that cannot be sent is taken."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mamba_stream.core.batches import to_batches
from mamba_stream.core.clock import Clock
from mamba_stream.core.durations import duration_us, to_time
from mamba_stream.core.names import did_you_mean
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import InvalidInput, SchemaMismatch
from mamba_stream.messaging.message import Block
from mamba_stream.messaging.parcel import Lane
from mamba_stream.messaging.routing import (
    MOST_KEYED,
    Outgoing,
    Partitions,
    check_keyed,
    check_partition,
    chosen,
)
from mamba_stream.messaging.schema import (
    BYTES,
    HIGHEST_PRIORITY,
    KEY_SHIFT,
    MESSAGES,
    PACKED,
    TEXT,
    Headers,
    check_text,
    encode_headers,
    encode_key,
    encode_value,
)

ROW_BYTES: Final = 64
"""What a message takes besides its own bytes, about."""
_OF = {field.name: field.type for field in MESSAGES}
_TIME = _OF["time"]
_LATEST: Final = (1 << 63) - 1
Moment = datetime | date | str


class Packer:
    """Makes rows of what is sent, and refuses what cannot be.

    Args:
        clock: The clock.
        most: The size of the largest message.
    """

    def __init__(self, clock: Clock, most: int) -> None:
        self._now = clock.now
        self.most = most

    def message(
        self,
        lane: Lane,
        value: Any,
        key: str | bytes | int | None,
        headers: Headers | None,
        event_type: str | None,
        partition: int | None,
        timestamp: Moment | None,
        delay: str | timedelta | None,
        at: Moment | None,
        priority: int,
    ) -> tuple[tuple[Any, ...], int]:
        """A message as a parcel takes it, and its size.

        Raises:
            InvalidInput: It cannot be sent.
        """
        data, kind = encode_value(value)
        size = 0 if data is None else len(data)
        key_data = None
        if key is not None:
            key_data, key_kind = encode_key(key)
            kind |= key_kind
            size += len(key_data or b"")
        pairs = None
        if headers is not None:
            pairs = encode_headers(headers) or None
            size += sum(len(name) + len(part) for name, part in pairs or ())
        if event_type is not None:
            size += len(_event_type(event_type))
        if size > self.most:
            raise _too_large(lane, size, self.most)
        if priority != 0 or type(priority) is not int:
            _priority(priority)
        if partition is not None:
            partition = check_partition(partition, lane.name, lane.partitions)
        elif lane.route is not None and lane.route.choose is not None:
            message = Outgoing(lane.name, value, key, headers or {}, event_type, priority)
            partition = chosen(lane.route, message, lane.partitions)
        elif lane.partitions > MOST_KEYED and key is not None:
            check_keyed(lane.route, lane.name, lane.partitions)
        now = self._now()
        time = now if timestamp is None else _moment(timestamp, "timestamp")
        deliver_at = None if delay is None and at is None else _deliver_at(delay, at, now)
        row = (data, kind, key_data, pairs, event_type, time, deliver_at, priority, partition)
        return row, size + ROW_BYTES

    def row(
        self,
        lane: Lane,
        value: Any,
        key: object,
        headers: object,
        event_type: object,
        partition: int | None,
        timestamp: object,
        delay: object,
        at: object,
        priority: object,
    ) -> tuple[pa.RecordBatch, int | None, int]:
        """One row of a typed topic, where it was told to go, and its size."""
        _only_messages(lane, key, headers, event_type, timestamp, delay, at, priority)
        if not isinstance(value, dict):
            raise InvalidInput(
                f"topic {lane.name!r} takes rows, as dicts with {', '.join(lane.topic.schema.names)}, not "
                f"{type(value).__name__} {value!r:.60}; send frames with send_many(...)"
            )
        (batch,) = to_batches([value], lane.topic.schema, to=f"topic {lane.name!r}")
        if batch.nbytes > self.most:
            raise _too_large(lane, batch.nbytes, self.most)
        if partition is not None:
            partition = check_partition(partition, lane.name, lane.partitions)
        elif lane.route is not None and lane.route.choose is not None:
            partition = chosen(lane.route, Outgoing(lane.name, value), lane.partitions)
        return batch, partition, batch.nbytes

    def many(
        self,
        lane: Lane,
        values: Any,
        keys: Any,
        headers: Headers | None,
        event_type: str | None,
        partition: int | None,
        timestamp: Moment | None,
        delay: str | timedelta | None,
        at: Moment | None,
        priority: int,
    ) -> tuple[pa.RecordBatch, Partitions | int | None, int]:
        """Many messages as one batch, where they were told to go, and their size.

        Raises:
            InvalidInput: They cannot be sent.
        """
        if not lane.messages:
            _only_messages(lane, keys, headers, event_type, timestamp, delay, at, priority)
            return self.rows(lane, values, partition)
        _priority(priority)
        now = self._now()
        time = now if timestamp is None else _moment(timestamp, "timestamp")
        deliver_at = None if delay is None and at is None else _deliver_at(delay, at, now)
        if _is_frame(values):
            if keys is not None:
                raise InvalidInput(
                    f"topic {lane.name!r}: a frame has its keys in a column 'key', not in keys="
                )
            batch = _from_frame(lane, values, headers, event_type, time, deliver_at, priority)
        else:
            data, kinds = _values(lane, values)
            key_data, key_kinds = _keys(lane, keys, len(data))
            batch = _batch(data, kinds + key_kinds, key_data, headers, event_type, time, deliver_at, priority)
        return self._placed(lane, batch, partition)

    def rows(
        self, lane: Lane, data: Any, partition: int | None
    ) -> tuple[pa.RecordBatch, Partitions | int | None, int]:
        """Rows of the topic's own columns, as :meth:`many`."""
        schema = lane.topic.schema
        batch = _joined(to_batches(data, schema, to=f"topic {lane.name!r}"), schema)
        return self._placed(lane, batch if isinstance(data, list) else _owned(batch), partition)

    def _placed(
        self, lane: Lane, batch: pa.RecordBatch, partition: int | None
    ) -> tuple[pa.RecordBatch, Partitions | int | None, int]:
        size = batch.nbytes
        if size > self.most:
            _check_sizes(lane, batch, self.most)
        given: Partitions | int | None = None
        if partition is not None:
            given = check_partition(partition, lane.name, lane.partitions)
        elif lane.route is not None and lane.route.choose is not None:
            given = _chosen_rows(lane, batch)
        elif lane.partitions > MOST_KEYED and lane.messages and batch.column("key").null_count < len(batch):
            check_keyed(lane.route, lane.name, lane.partitions)
        return batch, given, size


def _deliver_at(delay: str | timedelta | None, at: Moment | None, now: int) -> int | None:
    if delay is None:
        return None if at is None else _moment(at, "at")
    if at is not None:
        raise InvalidInput(f"delay={delay!r} and at={at!s:.40}: give one of them")
    return min(now + duration_us(delay, what="delay"), _LATEST)


def _moment(value: Moment, what: str) -> int:
    """A time in microseconds since the epoch; naive is UTC."""
    return to_time(value, _TIME, what=what)


def _only_messages(
    lane: Lane,
    key: object,
    headers: object,
    event_type: object,
    timestamp: object,
    delay: object,
    at: object,
    priority: object,
) -> None:
    """Refuses, for a typed topic, what only messages have."""
    given = {
        "key": key,
        "headers": headers,
        "event type": event_type,
        "timestamp": timestamp,
        "delay": delay,
        "time of delivery": at,
        "priority": priority or None,
    }
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise InvalidInput(
            f"topic {lane.name!r} has columns of its own ({', '.join(lane.topic.schema.names)}), and a row has no "
            f"{' or '.join(names)}: give it a column for that"
        )


def _batch(
    values: pa.Array,
    kinds: np.ndarray[Any, Any],
    keys: pa.Array,
    headers: Headers | None,
    event_type: str | None,
    time: int,
    deliver_at: int | None,
    priority: int,
) -> pa.RecordBatch:
    count = len(values)
    columns = [
        keys,
        values,
        pa.array(kinds, pa.uint8()),
        _headers(headers, count),
        _constant(None if event_type is None else _event_type(event_type), "event_type", count),
        _ticks(time, "time", count),
        _ticks(deliver_at, "deliver_at", count),
        pa.array(np.full(count, priority, np.uint8)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=MESSAGES)


def _values(lane: Lane, values: Any) -> tuple[pa.Array, np.ndarray[Any, Any]]:
    """Values as bytes, and their kinds."""
    if isinstance(values, (pl.Series, pa.Array, pa.ChunkedArray)):
        return _texts(lane, values, "values")
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__iter__"):
        raise InvalidInput(
            f"topic {lane.name!r}: send_many(...) takes a list of values, not {type(values).__name__} {values!r:.60}; "
            "send(...) takes one"
        )
    if isinstance(values, np.ndarray):
        values = values.tolist()
    values = values if isinstance(values, list) else list(values)
    found = set(map(type, values))
    if found == {bytes}:
        return pa.array(values, pa.large_binary()), np.full(len(values), BYTES, np.uint8)
    if found == {str}:
        try:
            return pa.array(values, pa.large_string()).cast(pa.large_binary()), np.full(
                len(values), TEXT, np.uint8
            )
        except UnicodeEncodeError:
            # The encoder says which one, and what to do.
            pass
    encoded = list(map(encode_value, values))
    data = pa.array([data for data, _ in encoded], pa.large_binary())
    return data, np.array([kind for _, kind in encoded], np.uint8)


def _keys(lane: Lane, keys: Any, count: int) -> tuple[pa.Array, np.ndarray[Any, Any]]:
    if keys is None:
        return pa.nulls(count, pa.large_binary()), np.zeros(count, np.uint8)
    if isinstance(keys, (str, bytes)) or not hasattr(keys, "__len__"):
        raise InvalidInput(
            f"topic {lane.name!r}: keys= is a list with a key for each value, not {keys!r:.60}"
        )
    if len(keys) != count:
        raise InvalidInput(
            f"topic {lane.name!r}: {len(keys)} keys for {count} values: give one for each, or None"
        )
    if isinstance(keys, (pl.Series, pa.Array, pa.ChunkedArray)):
        data, kinds = _texts(lane, keys, "keys")
        kinds[data.is_null().to_numpy(zero_copy_only=False)] = 0
        return data, kinds << KEY_SHIFT
    if isinstance(keys, np.ndarray):
        keys = keys.tolist()
    if set(map(type, keys)) == {str}:
        try:
            data = pa.array(keys, pa.large_string()).cast(pa.large_binary())
        except UnicodeEncodeError:
            pass
        else:
            return data, np.full(count, TEXT << KEY_SHIFT, np.uint8)
    encoded = [encode_key(key) for key in keys]
    data = pa.array([data for data, _ in encoded], pa.large_binary())
    return data, np.array([kind for _, kind in encoded], np.uint8)


def _texts(lane: Lane, values: Any, what: str) -> tuple[pa.Array, np.ndarray[Any, Any]]:
    """A column of text or bytes as bytes, and their kinds."""
    frame = values.to_frame("x") if isinstance(values, pl.Series) else pa.table({"x": values})
    kind = frame.to_arrow().schema.field("x").type if isinstance(values, pl.Series) else values.type
    types = pa.types
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    if not text and not binary:
        raise InvalidInput(
            f"topic {lane.name!r}: a column of {what} is text or bytes, not {kind}; pass .to_list() for others"
        )
    schema = pa.schema([("x", pa.large_string() if text else pa.large_binary())])
    column = _joined(to_batches(frame, schema), schema).column(0)
    return column.cast(pa.large_binary()), np.full(len(column), TEXT if text else BYTES, np.uint8)


def _from_frame(
    lane: Lane,
    values: Any,
    headers: Headers | None,
    event_type: str | None,
    time: int,
    deliver_at: int | None,
    priority: int,
) -> pa.RecordBatch:
    """A frame whose columns are those of messages; what it lacks is as for a message by itself."""
    frame = values if isinstance(values, pl.DataFrame) else pl.DataFrame(values)
    for name in frame.columns:
        if name not in MESSAGES.names:
            raise SchemaMismatch(
                f"topic {lane.name!r} takes messages, which have no column {name!r}"
                f"{did_you_mean(name, MESSAGES.names)}; they have {', '.join(MESSAGES.names)}. Send rows as "
                "values with .to_dicts(), or create a topic with schema="
            )
    if "value" not in frame.columns:
        raise SchemaMismatch(f"topic {lane.name!r}: the frame has no column 'value'")
    count = frame.height
    data, kinds = _texts(lane, frame["value"], "values")
    keys, key_kinds = _keys(lane, frame["key"] if "key" in frame.columns else None, count)
    batch = _batch(data, kinds + key_kinds, keys, headers, event_type, time, deliver_at, priority)
    own = [name for name in frame.columns if name not in ("value", "key")]
    if own:
        schema = pa.schema([MESSAGES.field(name) for name in own])
        columns = _owned(_joined(to_batches(frame.select(own), schema, to=f"topic {lane.name!r}"), schema))
        for name in own:
            batch = batch.set_column(
                MESSAGES.get_field_index(name), MESSAGES.field(name), columns.column(name)
            )
    if "kind" in own:
        kinds = batch.column("kind")
        low = pc.bit_wise_and(kinds, pa.scalar(15, pa.uint8()))
        high = pc.shift_right(kinds, pa.scalar(KEY_SHIFT, pa.uint8()))
        if kinds.null_count or (count and max(pc.max(low).as_py(), pc.max(high).as_py()) > PACKED):
            raise InvalidInput(
                f"topic {lane.name!r}: a kind is 0 (bytes), 1 (text) or 2 (MessagePack), 16 times as much for the key"
            )
    if "priority" in own:
        most = pc.max(batch.column("priority")).as_py()
        if batch.column("priority").null_count or (most is not None and most > HIGHEST_PRIORITY):
            raise InvalidInput(f"topic {lane.name!r}: a priority is 0 to {HIGHEST_PRIORITY}, and not null")
    return batch


def _check_sizes(lane: Lane, batch: pa.RecordBatch, most: int) -> None:
    """Raises where a row is too large; looks only into halves that are."""
    if batch.num_rows == 1:
        size = _size(batch) if lane.messages else batch.nbytes
        if size > most:
            raise _too_large(lane, size, most)
    elif batch.nbytes > most:
        half = batch.num_rows // 2
        _check_sizes(lane, batch.slice(0, half), most)
        _check_sizes(lane, batch.slice(half), most)


def _size(batch: pa.RecordBatch) -> int:
    """What one message takes, counted as where it is sent by itself."""
    value, key, headers, event_type = (
        batch.column(name)[0].as_py() for name in ("value", "key", "headers", "event_type")
    )
    size = len(value or b"") + len(key or b"") + len(event_type or "")
    return size + sum(len(name) + len(part or b"") for name, part in headers or ())


def _chosen_rows(lane: Lane, batch: pa.RecordBatch) -> Partitions:
    assert lane.route is not None
    block = Block(lane.name, -1, batch, range(batch.num_rows), 0)
    rows = zip(block.values, block.keys, block.headers, block.event_types, block.priorities, strict=True)
    return np.array(
        [chosen(lane.route, Outgoing(lane.name, *row), lane.partitions) for row in rows], np.int64
    )


def _headers(headers: Headers | None, count: int) -> pa.Array:
    pairs = None if headers is None else encode_headers(headers)
    return _constant(pairs or None, "headers", count)


def _constant(value: Any, column: str, count: int) -> pa.Array:
    if value is None:
        return pa.nulls(count, _OF[column])
    one = pa.array([value], _OF[column])
    return one.take(pa.array(np.zeros(count, np.int64)))


def _ticks(value: int | None, column: str, count: int) -> pa.Array:
    if value is None:
        return pa.nulls(count, _OF[column])
    return pa.array(np.full(count, value, np.int64)).view(_OF[column])


def _joined(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=schema)
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _owned(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same in memory of its own: a frame may share that of a NumPy array, which its owner writes to again."""
    return pa.ipc.read_record_batch(batch.serialize(), batch.schema)


def _is_frame(values: Any) -> bool:
    return isinstance(values, (pl.DataFrame, pa.Table, pa.RecordBatch)) or (
        type(values).__name__ == "DataFrame" and hasattr(values, "columns")
    )


def _event_type(value: object) -> str:
    if type(value) is not str:
        raise InvalidInput(f"event_type={value!r:.60}: an event type is text, such as 'order.created'")
    check_text(value)
    return value


def _priority(value: object) -> None:
    if not is_whole(value, 0, HIGHEST_PRIORITY):
        raise InvalidInput(
            f"priority={value!r:.40}: choose 0 to {HIGHEST_PRIORITY}; higher ones are delivered first"
        )


def _too_large(lane: Lane, size: int, most: int) -> InvalidInput:
    return InvalidInput(
        f"topic {lane.name!r}: a message of {size} bytes is larger than {most} (max_message_bytes): store it "
        "elsewhere and send its address; nothing was sent"
    )
