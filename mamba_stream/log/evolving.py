"""A topic that gets other columns: what it is to have, checked before anything is altered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from mamba_stream.core.alterations import altered, check_compatibility, column_changes, refusals
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.core.types import type_name
from mamba_stream.errors import InvalidInput, SchemaMismatch
from mamba_stream.log.rows import TopicRow

if TYPE_CHECKING:
    from mamba_stream.log.log import Log
    from mamba_stream.log.topic import Topic

MOST_VERSIONS: Final = 256
"""Whoever opens a topic reads the numbers of all its schemas."""


def wanted_schema(row: TopicRow, have: pa.Schema, schema: Any, add: Any, mode: str) -> pa.Schema:
    """The columns that a topic is to have; those that it has where nothing is to change.

    Args:
        row: The topic.
        have: Its columns.
        schema: All columns, in any order and in any form of a schema; ``None`` for those that it has.
        add: More columns, in the same forms; ``None`` for none.
        mode: Its compatibility.

    Raises:
        SchemaMismatch: It cannot get them; all that is in the way is named.
        InvalidInput: They are no schema, or both were given.
        UnsupportedType: A column cannot be stored.
    """
    if schema is not None and add is not None:
        raise InvalidInput(
            f"topic {row.name!r}: give schema=, all columns, or add=, those to be added; not both"
        )
    if schema is not None:
        wanted = canonical_schema(schema)
    elif add is not None:
        wanted = _with(row, have, canonical_schema(add))
    else:
        return have
    return checked_schema(row, have, wanted, mode)


def checked_schema(row: TopicRow, have: pa.Schema, wanted: pa.Schema, mode: str) -> pa.Schema:
    """The canonical columns as the topic is to have them: those that it has first, in their order.

    Raises:
        SchemaMismatch: It cannot get them; all that is in the way is named.
        InvalidInput: It is the engine's, or was altered too often.
    """
    if not column_changes(have, wanted):
        return have
    if row.internal:
        raise InvalidInput(f"topic {row.name!r} is the engine's own, and has the columns that it needs")
    if words := refusals(have, wanted, check_compatibility(mode), fixed_columns(row)):
        raise SchemaMismatch(f"topic {row.name!r} cannot be altered: {words}")
    if len(row.versions) >= MOST_VERSIONS:
        raise InvalidInput(
            f"topic {row.name!r} has had {MOST_VERSIONS} schemas, as many as a topic can have: add columns together, "
            "or make another topic"
        )
    return altered(have, wanted)


def fixed_columns(row: TopicRow) -> dict[str, str]:
    """The columns whose types stay, each with what it is: what lies in the index was taken from their values."""
    fixed = dict.fromkeys(row.key, "a column of the topic's key")
    return fixed if row.time is None else {**fixed, row.time: "the topic's time column"}


def had(topic: Topic, schema: pa.Schema) -> bool:
    """Whether a topic that was altered has these columns, or had them before, in whichever order."""
    versions = topic.schemas()
    return len(versions) > 1 and any(not column_changes(version.schema, schema) for version in versions)


def grown(log: Log, name: str, schema: pa.Schema, time: str | None = None) -> Topic:
    """The topic of this name, made if it is missing, and with these columns added if it has others.

    Raises:
        SchemaMismatch: It has columns that these do not go into.
    """
    try:
        return log.create_topic(name, schema, time=time, exist_ok=True)
    except SchemaMismatch:
        return log.alter_topic(name, schema=schema)


def _with(row: TopicRow, have: pa.Schema, more: pa.Schema) -> pa.Schema:
    fields = []
    for field in more:
        at = have.get_field_index(field.name)
        if at < 0:
            fields.append(field)
        elif have.field(at).type != field.type:
            raise SchemaMismatch(
                f"topic {row.name!r} has a column {field.name!r} of {type_name(have.field(at).type)}, and add= says "
                f"{type_name(field.type)}: its type is widened with schema=, where that is possible"
            )
    return pa.schema([*have, *fields])
