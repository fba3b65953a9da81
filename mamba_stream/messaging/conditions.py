"""What a filter rule is made of: conditions that look at the columns of a batch, and say which rows hold.

Every condition has two answers: where a header is missing or a column null, it does not hold, and ``!=`` and
"not" are the complement of what they negate. Nothing here makes Python objects of rows, or decodes a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import reduce
from typing import Any, Final, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.names import did_you_mean
from mamba_stream.core.schemas import polars_schema
from mamba_stream.core.single import twice
from mamba_stream.core.trees import columns as columns_of, short
from mamba_stream.errors import ColumnNotFound, InvalidInput
from mamba_stream.messaging.schema import KEY_SHIFT, MESSAGES, encode_key
from mamba_stream.plan.expressions import check_row_wise

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

HEADERS: Final = "headers"
COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=")
OPERATORS: Final = (*COMPARISONS, "in", "matches", "exists")

_SCALARS = (str, bytes, int, float, bool, Decimal, datetime, date, time, timedelta)
_COMPARED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_ARROW: Final = {
    "==": pc.equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
# Arrow's regular expressions take binary columns as Latin-1, and Polars refuses a column for one bad row.
_UTF8: Final = (
    r"\A(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    r"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    r"|\xf4[\x80-\x8f][\x80-\xbf]{2})*\z"
)


class Condition(Protocol):
    """Decides row by row, on columns."""

    def mask(self, batch: pa.RecordBatch) -> Mask:
        """For every row, whether it holds."""
        ...

    def columns(self, schema: pa.Schema) -> set[str]:
        """The columns that it looks at."""
        ...

    def check(self, schema: pa.Schema) -> None:
        """Raises where rows of this schema cannot be judged."""
        ...


@dataclass(frozen=True, slots=True)
class OnHeader:
    """Compares the header of a name; of several of one name the last counts, as for ``message.headers``.

    Text compares as UTF-8 bytes. A number compares with what the header reads as a number.
    """

    name: str
    operator: str
    value: Any

    def mask(self, batch: pa.RecordBatch) -> Mask:
        present, values = header_values(batch.column(HEADERS), self.name)
        if self.operator == "exists":
            return present
        if self.operator == "!=":
            return ~_true(self._holds("==", values))
        return _true(self._holds(self.operator, values))

    def columns(self, schema: pa.Schema) -> set[str]:
        return {HEADERS}

    def check(self, schema: pa.Schema) -> None:
        if HEADERS not in schema.names or schema.field(HEADERS).type != MESSAGES.field(HEADERS).type:
            raise InvalidInput(
                f"{self}: rows of this topic have no headers; say on='column' for one of its columns: "
                f"{', '.join(schema.names)}"
            )

    def _holds(self, operator: str, values: pa.Array) -> pa.Array:
        if operator == "matches":
            return pc.match_substring_regex(_text(values), self.value)
        if operator == "in":
            return pc.is_in(values, pa.array(list(map(_bytes, self.value)), pa.large_binary()))
        if isinstance(self.value, (int, float)):
            numbers = pl.Series(_text(values)).cast(pl.Float64, strict=False).to_arrow()
            return _ARROW[operator](numbers, pa.scalar(float(self.value)))
        return _ARROW[operator](values, pa.scalar(_bytes(self.value), pa.large_binary()))

    def __str__(self) -> str:
        return f"header {self.name!r} {self.operator}{_shown(self)}"


@dataclass(frozen=True, slots=True)
class OnColumn:
    """Compares a column of the topic."""

    name: str
    operator: str
    value: Any

    def mask(self, batch: pa.RecordBatch) -> Mask:
        column = batch.column(self.name)
        if self.operator == "exists":
            return _true(column.is_valid())
        if self.operator == "matches":
            binary = pa.types.is_large_binary(column.type)
            return _true(pc.match_substring_regex(_text(column) if binary else column, self.value))
        if self._is_key(batch.schema):
            return self._key_mask(batch)
        return evaluate(self._expression(column.type), batch.select([self.name]))

    def columns(self, schema: pa.Schema) -> set[str]:
        return {self.name, "kind"} if self._is_key(schema) else {self.name}

    def check(self, schema: pa.Schema) -> None:
        if self.name not in schema.names:
            raise ColumnNotFound(
                f"{self}: no such column{did_you_mean(self.name, schema.names)}; there are {', '.join(schema.names)}"
            )
        dtype = schema.field(self.name).type
        if self.operator == "exists":
            return
        if self._is_key(schema):
            if self.operator not in ("==", "!=", "in", "matches"):
                raise InvalidInput(f"{self}: keys are compared with ==, !=, in or matches")
            if self.operator != "matches":
                self._keys()
            return
        if self.operator == "matches":
            if not (pa.types.is_large_string(dtype) or pa.types.is_large_binary(dtype)):
                raise InvalidInput(f"{self}: only text matches a pattern, and {self.name!r} is {dtype}")
            return
        values = self.value if self.operator == "in" else (self.value,)
        if any(isinstance(value, bool) != pa.types.is_boolean(dtype) for value in values):
            raise InvalidInput(f"{self}: {self.name!r} is {dtype}, which this value is not")
        check_predicate(self._expression(dtype), pa.schema([schema.field(self.name)]), str(self))

    def _is_key(self, schema: pa.Schema) -> bool:
        """Whether it is the key of messages; known by its columns, as only those that are needed may be there."""
        return (
            self.name == "key"
            and self.operator != "exists"
            and all(
                name in schema.names and schema.field(name).type == MESSAGES.field(name).type
                for name in ("key", "kind")
            )
        )

    def _keys(self) -> list[tuple[bytes | None, int]]:
        values = self.value if self.operator == "in" else (self.value,)
        return [encode_key(value) for value in values]

    def _key_mask(self, batch: pa.RecordBatch) -> Mask:
        """Text, bytes and numbers are different keys, though their bytes may be the same."""
        kinds = batch.column("kind").to_numpy(zero_copy_only=False) >> KEY_SHIFT
        found = np.zeros(batch.num_rows, np.bool_)
        for data, kind in self._keys():
            same = _true(pc.equal(batch.column("key"), pa.scalar(data, pa.large_binary())))
            found |= same & (kinds == kind >> KEY_SHIFT)
        return ~found if self.operator == "!=" else found

    def _expression(self, dtype: pa.DataType) -> pl.Expr:
        column = pl.col(self.name)
        if self.operator == "in":
            return reduce(lambda a, b: a | b, [column == pl.lit(_fitting(v, dtype)) for v in self.value])
        holds = _COMPARED["==" if self.operator == "!=" else self.operator]
        expression: pl.Expr = holds(column, pl.lit(_fitting(self.value, dtype)))
        return ~expression.fill_null(value=False) if self.operator == "!=" else expression

    def __str__(self) -> str:
        return f"column {self.name!r} {self.operator}{_shown(self)}"


@dataclass(frozen=True, eq=False, slots=True)
class OnExpression:
    """A Polars expression that looks at nothing but its row."""

    expression: pl.Expr

    def mask(self, batch: pa.RecordBatch) -> Mask:
        names = sorted(self.columns(batch.schema))
        return evaluate(self.expression, batch.select(names))

    def columns(self, schema: pa.Schema) -> set[str]:
        return set(columns_of(self.expression, polars_schema(schema)))

    def check(self, schema: pa.Schema) -> None:
        for name in sorted(self.columns(schema) - set(schema.names)):
            raise ColumnNotFound(
                f"{self}: no column {name!r}{did_you_mean(name, schema.names)}; there are {', '.join(schema.names)}"
            )
        check_row_wise(self.expression, verb="FilterRule", schema=polars_schema(schema))
        check_predicate(self.expression, schema, str(self))

    def __str__(self) -> str:
        return short(self.expression)


@dataclass(frozen=True, slots=True)
class Combined:
    """Conditions that must all hold, or any of them, or none."""

    how: str
    parts: tuple[Condition, ...]

    def mask(self, batch: pa.RecordBatch) -> Mask:
        wants_all = self.how == "all"
        found = np.full(batch.num_rows, wants_all)
        for part in self.parts:
            if wants_all:
                found &= part.mask(batch)
            else:
                found |= part.mask(batch)
        return ~found if self.how == "none" else found

    def columns(self, schema: pa.Schema) -> set[str]:
        return set().union(*(part.columns(schema) for part in self.parts))

    def check(self, schema: pa.Schema) -> None:
        for part in self.parts:
            part.check(schema)

    def __str__(self) -> str:
        return f"{self.how}({', '.join(map(str, self.parts))})"


def condition(name: object, operator: object, value: object, on: object) -> OnHeader | OnColumn:
    """The condition that these say, checked as far as that goes without the topic.

    Raises:
        InvalidInput: It cannot be right.
    """
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"a condition names a header or a column, which is text, not {name!r:.80}")
    if on not in ("header", "column"):
        raise InvalidInput(f"condition on {name!r}: on={on!r:.40}; choose 'header' or 'column'")
    if operator not in OPERATORS:
        hint = did_you_mean(operator, OPERATORS) if isinstance(operator, str) else ""
        raise InvalidInput(
            f"condition on {name!r}: op={operator!r:.40} is none{hint}; there are {', '.join(OPERATORS)}"
        )
    _bytes(name)
    where = f"condition {name!r} {operator}"
    value = _checked(where, str(operator), value, on == "header")
    return (OnHeader if on == "header" else OnColumn)(name, str(operator), value)


def evaluate(expression: pl.Expr, batch: pa.RecordBatch) -> Mask:
    """Which rows the expression is true for; null is not."""
    if not batch.num_rows:
        return np.zeros(0, np.bool_)
    if not batch.num_columns:
        found = pl.select(expression).to_series().new_from_index(0, batch.num_rows)
    else:
        frame = frame_from_batch(batch)
        try:
            found = (twice(frame) if frame.height == 1 else frame).select(expression).to_series()
        except pl.exceptions.PolarsError as error:
            raise InvalidInput(f"the rule {short(expression)} cannot be evaluated: {error}") from error
    return np.asarray(found.fill_null(value=False).to_numpy()[: batch.num_rows], np.bool_)


def check_predicate(expression: pl.Expr, schema: pa.Schema, shown: str) -> None:
    """Raises unless the expression gives one truth value for each row of this schema."""
    try:
        found = pl.DataFrame(schema=polars_schema(schema)).select(expression)
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"{shown}: {str(error).splitlines()[0]}") from error
    if found.width != 1 or found.dtypes[0] != pl.Boolean:
        kinds = ", ".join(map(str, found.dtypes))
        raise InvalidInput(f"{shown} is no condition: it gives {kinds}, not one Boolean")


def header_values(headers: pa.Array, name: str) -> tuple[Mask, pa.Array]:
    """Which rows have the header, and its bytes: null where it is missing, empty where it has no value."""
    rows = len(headers)
    offsets = headers.offsets.to_numpy()
    low = int(offsets[0]) if rows else 0
    names = headers.keys.slice(low, int(offsets[-1]) - low if rows else 0)
    at = np.flatnonzero(_true(pc.equal(names, pa.scalar(name, names.type)))) + low
    found = np.full(rows, -1, np.int64)
    # Of two of one row the later is written later.
    found[np.searchsorted(offsets, at, side="right") - 1] = at
    if headers.null_count:
        found[headers.is_null().to_numpy(zero_copy_only=False)] = -1
    present = found >= 0
    values = headers.items.take(pa.array(found, pa.int64(), mask=~present))
    if values.null_count > rows - int(present.sum()):
        values = pc.if_else(pa.array(present), values.fill_null(b""), values)
    return present, values


def _checked(where: str, operator: str, value: Any, header: bool) -> Any:
    if operator == "exists":
        if value is not None:
            raise InvalidInput(f"{where} takes no value, not {value!r:.60}")
        return None
    if operator == "matches":
        try:
            pc.match_substring_regex(pa.array([""], pa.large_string()), value)
        except (pa.ArrowException, TypeError, AttributeError, UnicodeError) as error:
            raise InvalidInput(f"{where}: {value!r:.80} is no regular expression: {error}") from error
        return value
    if operator == "in":
        if not isinstance(value, (list, tuple, set, frozenset)) or not value:
            raise InvalidInput(f"{where} takes a list of values, at least one, not {value!r:.60}")
        return tuple(_scalar(where, one, header, numbers=False) for one in value)
    return _scalar(where, value, header, numbers=True)


def _scalar(where: str, value: Any, header: bool, *, numbers: bool) -> Any:
    if value is None:
        raise InvalidInput(
            f"{where} compares with nothing: use op='exists', or negate that, for what is missing"
        )
    if header:
        number = numbers and isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number and not isinstance(value, (str, bytes)):
            also = " or a number" if numbers else ""
            raise InvalidInput(
                f"{where}: a header is text, and compares with str or bytes{also}, not with "
                f"{type(value).__name__} {value!r:.60}; for a column say on='column'"
            )
        if number:
            try:
                float(value)
            except OverflowError as error:
                raise InvalidInput(
                    f"{where}: {value!s:.40}… is larger than any number a header reads as"
                ) from error
    elif not isinstance(value, _SCALARS):
        raise InvalidInput(f"{where} compares with one value, not with {type(value).__name__} {value!r:.60}")
    if isinstance(value, str):
        _bytes(value)
    return value


def _fitting(value: Any, dtype: pa.DataType) -> Any:
    """The value as a column of this type has it: naive times are UTC, text of a binary column is UTF-8."""
    if isinstance(value, str) and pa.types.is_large_binary(dtype):
        return _bytes(value)
    if isinstance(value, datetime) and pa.types.is_timestamp(dtype):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        aware = aware.astimezone(UTC)
        return aware if dtype.tz else aware.replace(tzinfo=None)
    return value


def _bytes(value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{value!r:.60} is not Unicode text ({error.reason})") from error


def _text(values: pa.Array) -> pa.Array:
    """Bytes as text; null where they are none."""
    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid:
        sound = pc.match_substring_regex(values, _UTF8)
        return pc.if_else(sound, values, pa.scalar(None, values.type)).cast(pa.large_string())


def _true(found: pa.Array) -> Mask:
    return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def _shown(of: OnHeader | OnColumn) -> str:
    return "" if of.operator == "exists" else f" {of.value!r:.60}"


def combined(how: str, parts: Sequence[Condition]) -> Condition:
    """These as one; a single one that must hold is itself."""
    return parts[0] if len(parts) == 1 and how != "none" else Combined(how, tuple(parts))
