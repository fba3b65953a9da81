"""Altering a topic's columns: what may become of a schema so that the rows that are there can still be read.

Columns are added, and are null in earlier rows; types become wider. Every batch stays as it was written, and is
turned into the columns that are asked for as it is read (:mod:`mamba_stream.log.fitting`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import pyarrow as pa
from pyarrow import types as pat

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.schemas import MOST_COLUMNS
from mamba_stream.core.types import fits, type_name
from mamba_stream.errors import InvalidInput

Compatibility = Literal["backward", "forward", "full", "none"]
COMPATIBILITIES: Final[dict[str, str]] = {
    "backward": "columns may be added and types widened: whoever has the new columns reads every row",
    "forward": "columns may be added: whoever has the earlier columns reads what comes, too",
    "full": "columns may be added: both hold, for whoever has the new columns and whoever has earlier ones",
    "none": "also types may change that hold most values: a value that the new one does not hold is refused when read",
}
"""What each of them admits, in words."""

_SIMPLE: Final = (
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float32(), pa.float64(), pa.timestamp("ms")),
)
"""What a refusal names of the types that a column may have."""
_EXACT_BITS: Final = {16: 11, 32: 24, 64: 53}
"""Of a float of so many bits, how many of an integer it holds whatever they are."""
_SHOWN: Final = 12
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """What became of a column: its type before and after, in words; ``None`` where it is not there.

    Example:
        >>> print(ColumnChange("note", None, "String"))
        added 'note' (String)
        >>> print(ColumnChange("size", "Int32", "Int64"))
        'size' Int32 -> Int64
    """

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"added {self.name!r} ({self.after})"
        if self.after is None:
            return f"without {self.name!r} ({self.before})"
        return f"{self.name!r} {self.before} -> {self.after}"


def check_compatibility(mode: object, where: str = "") -> Compatibility:
    """The mode, if there is one of this name.

    Args:
        mode: Its name.
        where: What the message begins with.

    Raises:
        InvalidInput: There is none.
    """
    for name in COMPATIBILITIES:
        if mode == name:
            return name  # type: ignore[return-value]  # it is one of them
    raise InvalidInput(
        f"{where}compatibility={mode!r:.40}{did_you_mean(str(mode), list(COMPATIBILITIES))}: choose one of "
        + "; ".join(f"{name!r} ({words})" for name, words in COMPATIBILITIES.items())
    )


def column_changes(before: pa.Schema, after: pa.Schema) -> list[ColumnChange]:
    """What is different between two schemas, column by column; their order is none."""
    types = {field.name: field.type for field in after}
    there = {field.name for field in before}
    found = [
        ColumnChange(
            field.name, type_name(field.type), type_name(types[field.name]) if field.name in types else None
        )
        for field in before
        if types.get(field.name) != field.type
    ]
    found += [
        ColumnChange(field.name, None, type_name(field.type)) for field in after if field.name not in there
    ]
    return found


def altered(before: pa.Schema, wanted: pa.Schema) -> pa.Schema:
    """The columns that are there, in their order and with the wanted types, and behind them those that are new.

    Args:
        before: The topic's canonical schema.
        wanted: A canonical schema without a :func:`refusals`, in any order.
    """
    types = {field.name: field.type for field in wanted}
    kept = [(field.name, types[field.name]) for field in before]
    return pa.schema(
        [*kept, *((field.name, field.type) for field in wanted if field.name not in before.names)]
    )


def refusals(
    before: pa.Schema,
    wanted: pa.Schema,
    mode: Compatibility = "backward",
    fixed: Mapping[str, str] | None = None,
) -> str:
    """What keeps a topic from getting these columns, column by column; empty where nothing does.

    Args:
        before: The topic's canonical schema.
        wanted: The canonical schema that it is to have, in any order.
        mode: What alterations have to leave possible.
        fixed: Columns whose types stay, each with what it is, such as ``the time column``.

    Example:
        >>> refusals(pa.schema({"n": pa.int64()}), pa.schema({"n": pa.int32()}))
        "'n' is Int64 and not to become Int32, which does not hold all its values; it may become nothing else"
    """
    fixed = fixed or {}
    words = []
    added = [field.name for field in wanted if field.name not in before.names]
    for field in before:
        at = wanted.get_field_index(field.name)
        if at < 0:
            near = did_you_mean(field.name, added)
            words.append(
                f"column {field.name!r} ({type_name(field.type)}) is missing{near}: columns stay, and are not renamed"
            )
            continue
        words += _refused(field.name, field.type, wanted.field(at).type, mode, fixed.get(field.name))
    if len(before) + len(added) > MOST_COLUMNS:
        words.append(
            f"there would be {len(before) + len(added)} columns, and a schema has at most {MOST_COLUMNS}"
        )
    return "; ".join(words[:_SHOWN]) + (f"; and {len(words) - _SHOWN} more" if words[_SHOWN:] else "")


def _refused(
    name: str, have: pa.DataType, want: pa.DataType, mode: Compatibility, fixed: str | None
) -> list[str]:
    if have == want:
        return []
    which = f"{name!r} is {type_name(have)} and not to become {type_name(want)}"
    if fixed is not None:
        return [f"{which}: it is {fixed}, whose type stays"]
    if widens(have, want):
        if mode in ("backward", "none"):
            return []
        return [
            f"{which}: with compatibility={mode!r} readers of the earlier columns go on; 'backward' lets types widen"
        ]
    if fits(have, want):
        if mode == "none":
            return []
        return [
            f"{which}, which does not hold all its values; {_choices(have)}, or this with compatibility='none'"
        ]
    return [f"{which}, which does not hold all its values; {_choices(have)}"]


def _choices(have: pa.DataType) -> str:
    names = [type_name(other) for other in _SIMPLE if other != have and widens(have, other)]
    if pat.is_decimal(have):
        names.append(f"Decimal with more digits before its point, and {have.scale} or more behind it")
    return f"it may become {', '.join(names) if names else 'nothing else'}"


def widens(have: pa.DataType, want: Any) -> bool:
    """Whether a canonical type holds every value of another one, whatever they are.

    Stricter than :func:`mamba_stream.core.types.fits`, which leaves some to be judged value by value: a column's
    rows are there already, and none of them may turn out to be lost.

    Example:
        >>> widens(pa.int32(), pa.float64()), widens(pa.int64(), pa.float64())
        (True, False)
    """
    if have == want or pat.is_null(have):
        return True
    if pat.is_nested(want):
        return _nested_widens(have, want)
    if pat.is_timestamp(want):
        # A finer unit reaches less far. Of the units here, only milliseconds reach as far as dates do.
        return bool(pat.is_date(have) and want.unit == "ms" and want.tz is None)
    if pat.is_temporal(want) or pat.is_large_string(want) or pat.is_large_binary(want):
        return False
    if pat.is_floating(want) and pat.is_integer(have):
        bits = have.bit_width - bool(pat.is_signed_integer(have))
        return bool(bits <= _EXACT_BITS[want.bit_width])
    if pat.is_decimal(want) and not pat.is_decimal(have):
        return False
    return fits(have, want)


def _nested_widens(have: Any, want: Any) -> bool:
    if pat.is_struct(want):
        if not pat.is_struct(have):
            return False
        mine = {field.name: field.type for field in _fields(have)}
        theirs = {field.name: field.type for field in _fields(want)}
        return list(mine) == list(theirs) and all(widens(mine[name], theirs[name]) for name in mine)
    if pat.is_map(want):
        return bool(
            pat.is_map(have) and have.key_type == want.key_type and widens(have.item_type, want.item_type)
        )
    if pat.is_fixed_size_list(want):
        alike = pat.is_fixed_size_list(have) and have.list_size == want.list_size
        return bool(alike and widens(have.value_type, want.value_type))
    return bool(pat.is_large_list(have) and widens(have.value_type, want.value_type))


def _fields(dtype: Any) -> list[pa.Field]:
    return [dtype.field(number) for number in range(dtype.num_fields)]


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """One of the schemas that a topic had, or has.

    Attributes:
        number: 1 for that which it was created with, and so on.
        since: When it came.
        schema: The columns.
        changes: What became other than it was before.
    """

    number: int
    since: datetime
    schema: pa.Schema
    changes: tuple[ColumnChange, ...]


def history(versions: Iterable[tuple[int, pa.Schema]]) -> tuple[SchemaVersion, ...]:
    """The schemas of a topic with what changed, from when each came, in microseconds since the epoch.

    Example:
        >>> first, second = pa.schema({"n": pa.int32()}), pa.schema({"n": pa.int64(), "s": pa.large_string()})
        >>> [str(change) for change in history([(0, first), (1_000_000, second)])[-1].changes]
        ["'n' Int32 -> Int64", "added 's' (String)"]
    """
    found: list[SchemaVersion] = []
    for number, (since, schema) in enumerate(versions, 1):
        changes = tuple(column_changes(found[-1].schema, schema)) if found else ()
        found.append(SchemaVersion(number, _EPOCH + timedelta(microseconds=since), schema, changes))
    return tuple(found)
