"""Change sets from outside, judged as strictly as `Transaction` judges its caller."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec
import pyarrow as pa

from mamba_stream.core.changes import (
    MAX_RECORD_BYTES,
    AlterTopic,
    ChangeSet,
    CreateTopic,
    GroupOffset,
    Record,
)
from mamba_stream.core.names import check_name
from mamba_stream.core.schemas import canonical_schema, schema_bytes, schema_from_bytes
from mamba_stream.errors import DataCorrupted, InvalidInput, PartitionNotFound, PreconditionFailed
from mamba_stream.log.altering import checked
from mamba_stream.log.asked import text_of
from mamba_stream.log.creating import checked_topic
from mamba_stream.log.evolving import checked_schema
from mamba_stream.server.catalog import Catalog
from mamba_stream.server.limits import Limits

_LONGEST_CALLER: Final = 80
"""Bytes of a caller's name that stands in a key of the index."""
_PRODUCER: Final = "a producer's name"
_ONCE: Final = "the name of what is done once"


def vetted(change: ChangeSet, catalog: Catalog, limits: Limits, now: int) -> ChangeSet:
    """The change set, if nothing in it is what a log would not have made itself.

    Raises:
        InvalidInput: Something is; nothing was changed.
        TopicNotFound: It names a topic that is not there.
    """
    if change.appends:
        raise InvalidInput("a change set from outside names no places in files: send rows beside it")
    for sequence in change.sequences:
        catalog.numbered(sequence.topic)
        text_of(sequence.producer, _PRODUCER)
        _check_whole(sequence.number, "a sequence")
    if change.once is not None:
        text_of(change.once.name, _ONCE)
        _check_whole(change.once.number, "the number of what is done once")
    for forget in change.forgets:
        # What was deleted has been forgotten already.
        _check_number(forget.topic, "a topic's number")
        text_of(forget.producer, _PRODUCER)
    for trim in change.trims:
        _check_place(catalog, trim.topic, trim.partition, trim.begin)
    for number in (*change.drops, *change.ends):
        catalog.numbered(number)
    alters = tuple(_altered(alter, catalog, limits) for alter in change.alters)
    for offset in change.offsets:
        _check_offset(catalog, offset)
    for record in (*change.records, *change.requires):
        _check_record(record)
    return msgspec.structs.replace(
        change, creates=tuple(_created(create, limits, now) for create in change.creates), alters=alters
    )


def of_caller(change: ChangeSet, caller: str) -> ChangeSet:
    """The change set with the caller's name before its own names of what is done once: nobody meets those of others.

    Raises:
        InvalidInput: One is too long for that.
    """
    # What a certificate calls somebody may have any length.
    owner = caller if len(caller.encode()) <= _LONGEST_CALLER else sha256(caller.encode()).hexdigest()

    def named(name: str) -> str:
        return text_of(f"{owner}/{name}", _ONCE)

    if change.once is not None:
        change = msgspec.structs.replace(
            change, once=msgspec.structs.replace(change.once, name=named(change.once.name))
        )
    if any(forget.topic == 0 for forget in change.forgets):
        change = msgspec.structs.replace(
            change,
            forgets=tuple(
                forget if forget.topic else msgspec.structs.replace(forget, producer=named(forget.producer))
                for forget in change.forgets
            ),
        )
    return change


def _created(create: CreateTopic, limits: Limits, now: int) -> CreateTopic:
    check_name(create.name, "topic", internal=create.internal)
    schema = _schema(create.schema, limits, f"topic {create.name!r}")
    if create.begins and len(create.begins) != create.partitions:
        raise InvalidInput(
            f"topic {create.name!r}: {len(create.begins)} begins for {create.partitions} partitions"
        )
    for begin in create.begins:
        _check_whole(begin, "where a partition begins")
    checked_change = checked_topic(
        create.name,
        schema,
        partitions=create.partitions,
        key=create.key,
        strict_key=create.strict_key,
        time=create.time,
        compression=create.compression,
        internal=create.internal,
        created=now,
        settings=create.settings,
    )
    return msgspec.structs.replace(checked_change, begins=create.begins)


def _altered(alter: AlterTopic, catalog: Catalog, limits: Limits) -> AlterTopic:
    known = catalog.known(alter.topic)
    row = known.row
    checked(row.name, row.key, alter.settings)
    if alter.schema is None:
        return alter
    if row.schema != alter.schema_seen:
        # What it becomes by then, nobody could have judged.
        raise PreconditionFailed(f"topic {row.name!r} has other columns by now: look at it again")
    wanted = canonical_schema(_schema(alter.schema, limits, f"topic {row.name!r}"))
    schema = checked_schema(row, known.schema, wanted, alter.settings.compatibility)
    if schema is known.schema:
        raise InvalidInput(f"topic {row.name!r} has these columns: there is nothing to alter")
    return msgspec.structs.replace(alter, schema=schema_bytes(schema))


def _schema(message: bytes, limits: Limits, where: str) -> pa.Schema:
    try:
        schema = schema_from_bytes(message)
    except (DataCorrupted, pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"{where}: its schema is not an Arrow IPC schema message") from error
    limits.check_schema(schema, where)
    return schema


def _check_offset(catalog: Catalog, offset: GroupOffset) -> None:
    check_name(offset.group, "group")
    if offset.offset is None:
        # Where the topic was deleted, the offset went with it, and there is nothing to be done.
        _check_number(offset.topic, "a topic's number")
        _check_number(offset.partition, "a partition's number", 1 << 16)
    else:
        _check_place(catalog, offset.topic, offset.partition, offset.offset)


def _check_place(catalog: Catalog, number: int, partition: int, offset: int) -> None:
    topic = catalog.numbered(number)
    if not 0 <= partition < topic.partitions:
        raise PartitionNotFound(
            f"topic {topic.name!r} has no partition {partition}: it has {topic.partitions}, counted from 0"
        )
    _check_whole(offset, f"topic {topic.name!r}, partition {partition}: an offset")


def _check_number(number: int, what: str, limit: int = 1 << 32) -> None:
    if not 0 <= number < limit:
        raise InvalidInput(f"{what} is a number from 0 on, below {limit}, not {number}")


def _check_whole(number: int, what: str) -> None:
    _check_number(number, what, 1 << 63)


def _check_record(record: Record) -> None:
    text_of(record.namespace)
    text_of(record.key)
    if record.value is not None and len(record.value) > MAX_RECORD_BYTES:
        raise InvalidInput(
            f"the record {record.namespace}/{record.key} has {len(record.value):,} bytes, more than {MAX_RECORD_BYTES}"
        )
