"""``--where``: SQL text as an expression over single rows, for the schema of a topic.

The text is looked at before Polars parses it, since parsing a subquery reads the files that it names. What Polars
makes of it is then held against the list of what looks at nothing but its own row (``plan/allowlist.py``), and
times that are written as text become times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

import click
import numpy as np
import polars as pl
import pyarrow as pa

from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.names import did_you_mean
from mamba_stream.core.trees import Node, NotUnderstood, inputs, nodes
from mamba_stream.errors import ColumnNotFound, ExpressionRefused, InvalidInput
from mamba_stream.log import Topic
from mamba_stream.plan import expressions
from mamba_stream.plan.rebuild import rebuild

GIVEN = (
    "It is asked of each row by itself. There are columns, literals, + - * / %, comparisons, AND, OR, NOT, BETWEEN,"
    " IN (values), IS NULL, LIKE, CASE, CAST, and functions of one row, such as ABS, ROUND, LOWER, UPPER, LENGTH,"
    " COALESCE, EXTRACT"
)
_MOST_WORDS = 4_000
"""Operators, names and brackets: a chain of many more is nested too deeply for Polars to walk."""

_TOKEN = re.compile(
    r"""(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*"|`[^`]*`)|(?P<word>[^\W\d]\w*)|(?P<number>\d[\w.]*)"""
    r"""|(?P<space>\s+)|(?P<other>.)""",
    re.DOTALL,
)
_READS = re.compile(r"(?i)(read|scan)_")
_MAY_READ = re.compile(r"(?i)select|exists|read_|scan_|\(\s*(with|values|table|from)\b")
_UNSURE = re.compile(r"[\\$#`]|--|/\*")
"""What parsers of SQL differ about, so that what is a string here may be none there."""
_QUERIES = frozenset({"SELECT", "EXISTS"})
_BEGIN_QUERIES = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "FROM"})
_COMPARED = frozenset({"Eq", "NotEq", "EqValidity", "NotEqValidity", "Lt", "LtEq", "Gt", "GtEq"})


def predicate(where: str, topic: Topic) -> tuple[pl.Expr, list[str]]:
    """The SQL text as an expression over single rows, and the columns it needs."""
    _look_at(where)
    try:
        typed, needed = _typed(_parsed(where), topic)
        kind = pl.DataFrame(schema=topic.polars_schema).select(typed.alias("where")).schema["where"]
    except ExpressionRefused as error:
        raise click.UsageError(_refusal(error)) from error
    except pl.exceptions.PolarsError as error:
        raise click.UsageError(f"--where: {_first_line(error)}") from error
    if kind != pl.Boolean:
        raise click.UsageError(f"--where: {where!r} is {kind}, not true or false")
    return typed, needed


def _typed(parsed: pl.Expr, topic: Topic) -> tuple[pl.Expr, list[str]]:
    if expressions.has_selector(parsed):
        raise click.UsageError(f"--where: COLUMNS(...) stands for several columns: name one. {GIVEN}")
    needed = sorted(expressions.columns(parsed))
    for name in needed:
        if name not in topic.schema.names:
            raise ColumnNotFound(
                f"--where: topic {topic.name!r} has no column {name!r}"
                f"{did_you_mean(name, topic.schema.names)}; it has {', '.join(topic.schema.names)}"
            )
    typed = _Typing(topic.polars_schema).typed(parsed)
    expressions.check_row_wise(typed, verb="--where", schema=topic.polars_schema)
    return typed, needed


def failure(error: Exception) -> str:
    """What to say when a row could not be asked."""
    advice = "; TRY_CAST gives NULL where a value cannot be converted" if "conversion" in str(error) else ""
    return f"--where: {_first_line(error)}{advice}"


def _look_at(where: str) -> None:
    """Refuses a query within the predicate before anybody parses it."""
    tokens = list(_tokens(where))
    words = sum(kind not in ("text", "prefixed") for kind, _ in tokens)
    if words > _MOST_WORDS:
        raise click.UsageError(
            f"--where: this is too long ({words} words): compare with many values as in n IN (1, 2, 3)"
        )
    texts = ["(", *(token for _, token in tokens), ""]
    for at, (kind, token) in enumerate(tokens, 1):
        word = token.upper() if kind == "word" else ""
        if word == "XOR":
            # Polars reads a = 1 XOR b = 2 as a = (1 ^ b) = 2.
            raise click.UsageError("--where: for XOR write (a) <> (b)")
        begins = word in _BEGIN_QUERIES and texts[at - 1] == "("
        reads = texts[at + 1] == "(" and _READS.match(token.strip('"')) is not None
        if word in _QUERIES or begins or reads:
            raise click.UsageError(f"--where: {token} asks for other rows than the one at hand. {GIVEN}")
    unsure = _UNSURE.search(where) is not None or any(kind == "prefixed" for kind, _ in tokens)
    if unsure and _MAY_READ.search(where):
        raise click.UsageError(
            "--where: comments, backslashes, backticks and prefixed strings cannot be told from a query beside"
            " this word: leave them out"
        )


def _tokens(where: str) -> Iterator[tuple[str, str]]:
    """Kind and text of what the predicate is made of, without spaces, numbers and commas."""
    for found in _TOKEN.finditer(where):
        kind = found.lastgroup or ""
        if kind == "text" and re.match(r"\w", where[found.start() - 1 : found.start()]):
            kind = "prefixed"
        if kind not in ("space", "number") and found[0] != ",":
            yield kind, found[0]


def _parsed(where: str) -> pl.Expr:
    try:
        return pl.sql_expr(where)
    except pl.exceptions.PolarsError as error:
        raise click.UsageError(f"--where: {_first_line(error)}") from error
    except BaseException as error:
        # Polars' parser may panic, which is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise click.UsageError(f"--where: Polars cannot parse {where!r}") from error


def _refusal(error: ExpressionRefused) -> str:
    """The message without the advice, which is for those who build pipelines."""
    said = str(error).removeprefix("--where: ")
    piece = re.match(r"(.+?) in ", said)
    what = f"{piece[1]} looks beyond its row" if piece and ".window(" in said else said
    return f"--where: {what}. {GIVEN}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]


class _Typing:
    """Makes times of text that is compared with times, as SQL does, and nulls of ``IS NOT TRUE`` what they are."""

    def __init__(self, schema: pl.Schema) -> None:
        self._schema = schema

    def typed(self, expr: pl.Expr) -> pl.Expr:
        try:
            return self._typed(expr, nodes(expr))
        except RecursionError as error:
            raise ExpressionRefused(
                "--where: this is nested too deeply: use IN (...) for many values"
            ) from error

    def _typed(self, expr: pl.Expr, node: Node) -> pl.Expr:
        if not node.children:
            return expr
        try:
            own = inputs(expr, node)
            found = [self._typed(one, child) for one, child in zip(own, node.children, strict=True)]
            special = self._special(node, own, found)
            if special is not None:
                return special
            if all(new is old for new, old in zip(found, own, strict=True)):
                return expr
            return rebuild(node, own, found)
        except NotUnderstood:
            # As it is: Polars says what it thinks of a text beside a time.
            return expr

    def _special(self, node: Node, own: list[pl.Expr], parts: list[pl.Expr]) -> pl.Expr | None:
        family, _, name = node.kind.partition(".")
        if family == "Operator" and name in _COMPARED:
            return self._comparison(node, own, parts)
        if node.kind == "Sql.IsIn" and len(parts) == 2:
            return self._membership(node, parts)
        if node.kind == "Coalesce":
            return self._coalesced(node, parts)
        if node.kind == "Boolean.Not" and _is_truth(node.children[0]):
            # b IS NOT TRUE: NOT (b = TRUE) has a cast in between.
            return inputs(parts[0], nodes(parts[0]))[0].ne_missing(
                pl.lit(node.children[0].children[1].params["Scalar"]["Boolean"])
            )
        if node.kind == "StringExpr.Strptime" and _is_date(node):
            text = _text(node.children[0])
            if text is not None:
                return _literal(text, pl.Date())
            return parts[0].dt.date() if self._type(parts[0]) in (pl.Date, pl.Datetime) else None
        return None

    def _comparison(self, node: Node, own: list[pl.Expr], parts: list[pl.Expr]) -> pl.Expr | None:
        again = list(parts)
        for at in (0, 1):
            written = _written(node.children[at])
            if written is not None:
                target = self._type(parts[1 - at])
                if target is not None and _is_time(target) and _differs(written, target):
                    again[at] = _literal(written, target)
        return rebuild(node, own, again) if any(map(_changed, parts, again)) else None

    def _membership(self, node: Node, parts: list[pl.Expr]) -> pl.Expr | None:
        target = self._type(parts[0])
        if target is None or node.children[1].kind != "Literal":
            return None
        values = pl.select(parts[1]).to_series()
        if isinstance(values.dtype, pl.List):
            values = values.explode()
        if values.dtype == target and not values.has_nulls():
            # Of one type SQL's IN is Polars' own, which can travel to where the rows are.
            return parts[0].is_in(values.to_list())
        if not _is_time(target):
            return None
        if values.dtype not in (pl.String, pl.Datetime):
            return None
        return pl.any_horizontal(
            parts[0].eq(pl.lit(None, target) if value is None else _literal(value, target))
            for value in values
        )

    def _coalesced(self, node: Node, parts: list[pl.Expr]) -> pl.Expr | None:
        target = self._type(parts[0])
        if target is None or not _is_time(target):
            return None
        written = [_written(child) for child in node.children]
        again = [
            part if value is None or not _differs(value, target) else _literal(value, target)
            for part, value in zip(parts, written, strict=True)
        ]
        return pl.coalesce(again) if any(map(_changed, parts, again)) else None

    def _type(self, expr: pl.Expr) -> pl.DataType | None:
        try:
            return pl.LazyFrame(schema=self._schema).select(expr.alias("it")).collect_schema()["it"]
        except pl.exceptions.PolarsError:
            return None


def _changed(before: pl.Expr, after: pl.Expr) -> bool:
    return before is not after


def _is_time(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Date | pl.Datetime | pl.Time)


def _is_date(node: Node) -> bool:
    return bool(node.params[0] == {"Literal": "Date"} and node.params[1]["format"] is None)


def _is_truth(node: Node) -> bool:
    if node.kind != "Operator.Eq" or node.children[1].kind != "Literal":
        return False
    scalar = node.children[1].params.get("Scalar")
    return isinstance(scalar, dict) and "Boolean" in scalar


def _text(node: Node) -> str | None:
    value = _written(node)
    return value if isinstance(value, str) else None


def _written(node: Node) -> str | datetime | None:
    """A literal that is text, or a time without a zone."""
    scalar = node.params.get("Scalar") if node.kind == "Literal" else None
    if not isinstance(scalar, dict):
        return None
    if "String" in scalar:
        return str(scalar["String"])
    ticks, unit, zone = scalar.get("Datetime", (0, "", ""))
    if unit == "Microseconds" and zone is None:
        return datetime.fromtimestamp(ticks // 1_000_000, UTC).replace(
            microsecond=ticks % 1_000_000, tzinfo=None
        )
    return None


def _differs(value: str | datetime, target: pl.DataType) -> bool:
    """Whether the literal must be written anew to be compared with this type."""
    return isinstance(value, str) or (isinstance(target, pl.Datetime) and target.time_zone is not None)


def _literal(value: Any, target: pl.DataType) -> pl.Expr:
    """The literal as a time. A time without a zone is UTC, as everywhere in a log."""
    if isinstance(target, pl.Time):
        return pl.lit(_read(str(value), time.fromisoformat, "'12:30:00'"))
    moment = (
        value
        if isinstance(value, datetime)
        else _read(value, datetime.fromisoformat, "'2026-01-31T12:30:00Z'")
    )
    if isinstance(target, pl.Date) and isinstance(value, str) and len(value.strip()) <= 10:
        return pl.lit(date(moment.year, moment.month, moment.day))
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    zone = target.time_zone if isinstance(target, pl.Datetime) else None
    if zone is None:
        return pl.lit(aware.astimezone(UTC).replace(tzinfo=None), dtype=pl.Datetime("us"))
    return pl.lit(aware.astimezone(ZoneInfo(zone)), dtype=pl.Datetime("us", zone))


def _read(text: str, parse: Any, example: str) -> Any:
    if re.search(r"\.\d{7}", text):
        raise click.UsageError(f"--where: {text!r}: write a time to the microsecond at most")
    try:
        return parse(text.strip())
    except ValueError as error:
        raise click.UsageError(f"--where: {text!r} is no time: write it as in {example}") from error


class Where:
    """Rows for which a predicate holds, as rules of messages are.

    Args:
        where: SQL.
        topic: The topic whose rows are asked.
    """

    def __init__(self, where: str, topic: Topic) -> None:
        self._asked, _ = predicate(where, topic)

    def mask(self, batch: pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """For every row whether it holds; where it is null, it does not."""
        rows = frame_from_batch(batch)
        try:
            holds = rows.with_columns(self._asked.fill_null(value=False).alias("where"))["where"]
        except pl.exceptions.PolarsError as error:
            raise InvalidInput(failure(error)) from error
        return holds.to_numpy()
