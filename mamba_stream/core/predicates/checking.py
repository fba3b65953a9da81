"""Whether a predicate can be asked of rows of a schema, which is known before any row is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, cast

import polars as pl

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.predicates.forms import Column, Literal, Operator, Predicate, Type, Values
from mamba_stream.core.predicates.literals import dtype
from mamba_stream.core.predicates.operators import OPERATORS
from mamba_stream.core.predicates.writing import to_expr
from mamba_stream.errors import ColumnNotFound, InvalidInput

_TIMES: Final = ("date", "time of day", "datetime", "duration")
_PLAIN: Final = ("truth", "number", "text", "bytes", *_TIMES)
#: What kinds of things the inputs of an operator may be, by what its rule says; null may stand anywhere.
_TAKES: Final = {
    "alike": _PLAIN,
    "truths": ("truth",),
    "numbers": ("number", *_TIMES),
    "text": ("text",),
    "anything": (*_PLAIN, "nested"),
    "anything plain": _PLAIN,
}
#: What a kind may be cast to. Left out is what Polars refuses, and text as time, whose format it guesses from all rows.
_CASTS: Final = {
    "truth": ("truth", "number", "text"),
    "number": ("truth", "number", "text"),
    "text": ("text", "number", "bytes"),
    "bytes": ("bytes",),
    "date": ("date", "datetime", "number", "text"),
    "datetime": ("datetime", "date", "time of day", "number", "text"),
    "time of day": ("time of day", "number", "text"),
    "duration": ("duration", "number"),
    "null": _PLAIN,
}
_COUNTS: Final = ("len_bytes", "len_chars")
_CASES: Final = ("lower", "upper")


@dataclass(frozen=True, slots=True)
class Question:
    """A predicate that can be asked of rows.

    Attributes:
        expr: The expression.
        columns: The columns that it reads, sorted.
    """

    expr: pl.Expr
    columns: tuple[str, ...]

    def kept(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows for which it is true; not those for which it is null.

        Raises:
            InvalidInput: It cannot be asked of one of them: a strict cast fails, a decimal overflows.
        """
        # Polars computes some things otherwise over a single row than over many: 49 * (1 / 49) for 49 / 49. Which
        # rows are kept must not depend on how they were cut.
        if rows.height == 1:
            twice = pl.DataFrame([column.new_from_index(0, 2) for column in rows.get_columns()])
            return _evaluated(lambda: twice.filter(self.expr)).head(1)
        return _evaluated(lambda: rows.filter(self.expr))


def check(predicate: Predicate, schema: pl.Schema) -> Question:
    """Refuses a predicate that cannot be asked of rows of a schema, before any of them is read.

    Args:
        predicate: One that ``decode`` or ``from_expr`` gave.
        schema: The rows' columns.

    Returns:
        What can be asked of them.

    Raises:
        ColumnNotFound: It asks for a column that they do not have.
        InvalidInput: It compares what cannot be compared, is no question at all, or the like.
    """
    names = sorted(columns(predicate))
    for name in names:
        if name not in schema:
            raise ColumnNotFound(
                f"the predicate: there is no column {name[:60]!r}{did_you_mean(name[:60], schema)}; there are"
                f" {', '.join(schema)[:1000]}"
            )
    found = _dtype(predicate, schema)
    if found != pl.Boolean:
        raise InvalidInput(f"the predicate is {found}, not true or false: compare it with something")
    expr = to_expr(predicate)
    # Which types of a kind go together (a date and a time of day do not) Polars says, without rows.
    none = pl.DataFrame(schema={name: schema[name] for name in names})
    _evaluated(lambda: none.select(expr.alias("it")))
    return Question(expr, tuple(names))


def columns(predicate: Predicate) -> frozenset[str]:
    """The names of the columns that a predicate reads."""
    names: set[str] = set()
    waiting = [predicate]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Column):
            names.add(node.name)
        elif isinstance(node, Operator):
            waiting.extend(node.inputs)
    return frozenset(names)


def _evaluated(evaluate: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    try:
        return evaluate()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise InvalidInput(f"the predicate: {first[:500]}") from error


def _dtype(node: Predicate, schema: pl.Schema) -> pl.DataType:
    """The type that a part has, once it is known that its inputs have what it takes."""
    match node:
        case Column():
            return schema[node.name]
        case Literal(dtype=("Int",)):
            return pl.Int64()
        case Literal(dtype=("Float",)):
            return pl.Float64()
        case Literal() | Values():
            return dtype(node.dtype)
    found = [_dtype(part, schema) for part in node.inputs]
    kinds = [_kind(one) for one in found]
    takes = OPERATORS[node.name].takes
    for part, one, kind in zip(node.inputs, found, kinds, strict=True):
        if kind not in _TAKES[takes] and kind != "null":
            shown = f"column {part.name[:60]!r}" if isinstance(part, Column) else "an input"
            raise InvalidInput(f"the predicate: {node.name} takes {takes}, and {shown} is {one}")
    different = set(kinds) - {"null"}
    if takes == "alike" and len(different) > 1 and different != {"date", "datetime"}:
        raise InvalidInput(
            f"the predicate: {node.name} compares {' with '.join(map(str, found))}: cast one of them"
        )
    if node.name == "cast":
        return _cast_to(dtype(cast("Type", node.options["to"])), found[0])
    if takes == "numbers" and not node.name.startswith("is_"):
        return _computed(node.name, *found)
    return pl.UInt32() if node.name in _COUNTS else pl.String() if node.name in _CASES else pl.Boolean()


def _cast_to(target: pl.DataType, source: pl.DataType) -> pl.DataType:
    kind = _kind(source)
    if _kind(target) not in _CASTS[kind] or (
        isinstance(target, pl.Decimal) and kind not in ("number", "text", "null")
    ):
        raise InvalidInput(
            f"the predicate: {source} is not cast to {target}; {kind} may become {', '.join(_CASTS[kind])}"
        )
    return target


@lru_cache(maxsize=1024)
def _computed(operation: str, *inputs: pl.DataType) -> pl.DataType:
    names = [f"input {number}" for number in range(len(inputs))]
    expr = OPERATORS[operation].write(*map(pl.col, names))
    none = pl.DataFrame(schema=dict(zip(names, inputs, strict=True)))
    return _evaluated(lambda: none.select(it=expr)).schema["it"]


def _kind(made: pl.DataType) -> str:
    if made.is_numeric():
        return "number"
    kinds = {
        pl.Boolean: "truth",
        pl.String: "text",
        pl.Binary: "bytes",
        pl.Date: "date",
        pl.Time: "time of day",
        pl.Datetime: "datetime",
        pl.Duration: "duration",
        pl.Null: "null",
    }
    return kinds.get(type(made), "nested")
