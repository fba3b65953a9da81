"""A topic that is to be created, checked before anything is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mamba_stream.core.alterations import refusals
from mamba_stream.core.changes import CreateTopic, TopicSettings
from mamba_stream.core.keys import hash_keys
from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.core.numbers import is_whole
from mamba_stream.core.schemas import (
    canonical_schema,
    describe_difference,
    schema_bytes,
    schema_from_bytes,
    time_type_of,
)
from mamba_stream.errors import AlreadyExists, InvalidInput, SchemaMismatch
from mamba_stream.log.altering import COMPRESSIONS, altered
from mamba_stream.log.evolving import fixed_columns, had

if TYPE_CHECKING:
    from mamba_stream.log.topic import Topic

_MOST_PARTITIONS = 65_536
_MOST_KEYED = 256


def checked_topic(
    name: str,
    schema: pa.Schema,
    *,
    partitions: int,
    key: str | Sequence[str] | None,
    time: str | None,
    compression: str,
    internal: bool,
    created: int,
    strict_key: bool = False,
    settings: TopicSettings = TopicSettings(),  # noqa: B008 - a plain value
    changes: Mapping[str, Any] | None = None,
) -> CreateTopic:
    """The change that creates the topic; raises what ``Log.create_topic`` says.

    The schema may be any Arrow schema of types that the log stores. Its settings are these, with changes as people
    write them.
    """
    check_name(name, "topic", internal=internal)
    arrow = canonical_schema(schema)
    columns = _key(key, arrow.names)
    if columns:
        # Refuses, before the first row does, what has no hash.
        hash_keys([pa.nulls(0, arrow.field(column).type) for column in columns])
    elif strict_key:
        raise InvalidInput(
            f"topic {name!r}: strict_key=True has rows lie where their key says, and there is none: give it key="
        )
    if time is not None:
        _known(name, "time", time, arrow.names)
        time_type_of(arrow, time)
    if compression not in COMPRESSIONS:
        raise InvalidInput(
            f"topic {name!r}: compression={compression!r}; choose one of {', '.join(COMPRESSIONS)}"
        )
    most = _MOST_KEYED if columns else _MOST_PARTITIONS
    if not is_whole(partitions, 1, most):
        raise InvalidInput(
            f"topic {name!r}: partitions={partitions!r}; choose 1 to {most}"
            f"{' (a topic with a key has at most 256)' if columns else ''}"
        )
    return CreateTopic(
        name=name,
        partitions=int(partitions),
        key=columns,
        time=time,
        compression=compression,
        schema=schema_bytes(arrow),
        internal=internal,
        created=created,
        strict_key=bool(strict_key),
        settings=altered(name, columns, settings, changes or {}),
    )


def check_same(topic: Topic, change: CreateTopic) -> None:
    """Raises what ``Log.create_topic`` says where the topic that is there is another than this one would be."""
    schema = schema_from_bytes(change.schema)
    if not topic.schema.equals(schema) and not had(topic, schema):
        possible = not refusals(topic.schema, schema, "none", fixed_columns(topic._row))
        raise SchemaMismatch(
            f"topic {topic.name!r} exists with another schema: {describe_difference(schema, topic.schema)}"
            + (f"; log.alter_topic({topic.name!r}, schema=...) gives it these columns" if possible else "")
        )
    for what in ("partitions", "key", "time"):
        have, want = getattr(topic, what), getattr(change, what)
        if have != want:
            raise AlreadyExists(f"topic {topic.name!r} exists with {what}={have!r}, not {want!r}")
    if change.strict_key and not topic.strict_key:
        raise AlreadyExists(
            f"topic {topic.name!r} exists without strict_key=True: its rows may lie where their key does not say"
        )


def _key(key: Any, names: list[str]) -> tuple[str, ...]:
    if key is None:
        return ()
    columns = tuple(key) if isinstance(key, Iterable) and not isinstance(key, str) else (key,)
    for column in columns:
        _known("", "key", column, names)
    if len(set(columns)) != len(columns):
        raise InvalidInput(f"key={list(columns)} names a column twice")
    return columns


def _known(topic: str, what: str, column: str, names: list[str]) -> None:
    if column not in names:
        raise SchemaMismatch(
            f"{f'topic {topic!r}: ' if topic else ''}{what}={column!r} is not a column"
            f"{did_you_mean(str(column), names)}; there are {', '.join(names)}"
        )
