"""Whether an expression looks at nothing but its own row, and whether it can be repeated.

A frame of one row is not like others: Polars 2 divides a column by a literal through the literal's
reciprocal, but a column of one row exactly, so that ``(pl.col("x") / 49).floor()`` of 49 is 1.0 in a frame of
one row and 0.0 in any longer one, and ``//`` and ``%`` by a fraction differ likewise. An expression that
passes here gives the same for all batches only if a single row is evaluated as two equal ones:
``pl.DataFrame([column.new_from_index(0, 2) for column in frame.get_columns()])``, then ``head(1)``. (Not by
``pl.concat`` or by gathering: a column of equal values made that way stays what Polars calls a scalar, which
divides exactly.) The same goes for a group_by that finds a single group.
"""

from __future__ import annotations

from typing import Any

import msgspec
import polars as pl

from mamba_stream.core.trees import Node, NotUnderstood, inputs, nodes, short
from mamba_stream.errors import ExpressionRefused
from mamba_stream.plan.allowlist import ALLOWED, HOLDS_VALUES, JUDGED, SEARCHED, is_series, is_written_out
from mamba_stream.plan.refusals import PYTHON, REASONS, cure


class _Where(msgspec.Struct, frozen=True):
    """What a refusal says about the place, and what the place allows."""

    expr: pl.Expr
    verb: str
    over: str | None
    schema: pl.Schema | None

    def refuse(self, piece: str, why: str) -> ExpressionRefused:
        return ExpressionRefused(f"{self.verb}: {piece} in {short(self.expr)}: {why}")


def check_row_wise(
    expr: pl.Expr, *, verb: str, over: str | None = None, schema: pl.Schema | None = None
) -> None:
    """Refuses an expression whose result for a row depends on anything but that row.

    Args:
        expr: The expression.
        verb: The verb that it was given to, for the message.
        over: A column ("window_start") whose groups are always whole where the expression is evaluated.
            ``.over(...)`` is then allowed if this column is among its keys, and inside of it whatever can be
            repeated: aggregates, ranks, shifts; no Python functions, nothing random.
        schema: The columns that the expression will see. Only with it can ``is_in(pl.col(...))`` be judged,
            which looks at its own row if that column holds lists and at all rows if not. Without it, the
            case is let through: check again once the schema is known.

    Raises:
        ExpressionRefused: With the piece that is not allowed and what to use instead.
    """
    root = nodes(expr)
    where = _Where(expr, verb, over, schema)
    try:
        _check(root, where)
        if schema is not None and any(node.kind in _SEARCHES for node in root.walk()):
            _check_searches(expr, root, where)
    except RecursionError as error:
        raise ExpressionRefused(f"{verb}: {short(expr)}: nested too deeply") from error


def _check(node: Node, where: _Where) -> None:
    if node.kind == "Over":
        _check_over(node, where)
        return
    if node.kind == "Eval":
        _check_list_eval(node, where)
        return
    if node.kind in JUDGED:
        wrong = JUDGED[node.kind](node)
    else:
        wrong = None if node.kind in ALLOWED else cure(node, over=where.over)
    if wrong is not None:
        raise where.refuse(_piece(node), wrong)
    for position, child in enumerate(node.children):
        if position and node.kind in HOLDS_VALUES and is_series(child):
            continue
        _check(child, where)


def _check_over(node: Node, where: _Where) -> None:
    if where.over is None:
        raise where.refuse(_piece(node), cure(node, over=None))
    function, *rest = node.children
    keys = rest[: node.params["keys"]]
    if not any(key.kind == "Column" and key.params == where.over for key in keys):
        raise where.refuse(
            "over(...)", f'only the rows of one window are together here: add "{where.over}" to its keys'
        )
    if node.params["mapping"] == "Explode":
        raise where.refuse(
            "over(..., mapping_strategy='explode')", "it changes the order of rows: leave it out"
        )
    if node.params["mapping"] == "GroupsToRows" and (
        function.kind in _OTHER_LENGTH or REASONS.get(function.kind) == "count"
    ):
        raise where.refuse(
            f"{_piece(function)}.over(...)",
            "it gives another number of rows than the window has: reduce it to one value, or collect lists with"
            ' mapping_strategy="join"',
        )
    for key in rest:
        _check(key, where)
    check_repeatable(function, where.expr, verb=where.verb)


#: What gives more or fewer values than there are rows, beside what is refused for that everywhere.
_OTHER_LENGTH = frozenset("Slice Unique TopK TopKBy GatherEvery Mode ArgUnique ArgWhere".split())


def _check_list_eval(node: Node, where: _Where) -> None:
    if isinstance(node.params["variant"], dict) and "Cumulative" in node.params["variant"]:
        raise where.refuse("cumulative_eval()", cure(node, over=where.over))
    subject, evaluation = node.children
    _check(subject, where)
    # The inner expression sees the elements of one row's list, all of them: what is repeatable is fine.
    check_repeatable(evaluation, where.expr, verb=where.verb)


def check_aggregate(expr: pl.Expr, *, verb: str) -> None:
    """Refuses an expression that cannot be evaluated over the rows of a window, or not the same way twice.

    Whatever Polars allows in ``group_by().agg()`` is allowed, except Python functions and randomness. What
    does not reduce its rows to one value (``pl.col("x")``, ``.unique()``) gives a list, as in Polars.

    Args:
        expr: The expression.
        verb: The verb that it was given to, for the message.

    Raises:
        ExpressionRefused: With the piece that is not allowed and what to use instead.
    """
    root = nodes(expr)
    check_repeatable(root, expr, verb=verb)
    for part in root.walk():
        if part.kind == "Selector" and "ByIndex" in str(part.params):
            raise ExpressionRefused(
                f"{verb}: {short(expr)} picks a column by its position, which depends on what else is kept:"
                " name the column"
            )


def check_repeatable(node: Node, expr: pl.Expr, *, verb: str) -> None:
    """Refuses what may give another result for the same rows: randomness and Python functions.

    Raises:
        ExpressionRefused: With the piece and what to use instead.
    """
    for part in node.walk():
        if part.kind == "Rank" and part.params["options"]["method"] == "Random":
            raise ExpressionRefused(f'{verb}: rank("random") in {short(expr)}: {_SEEDLESS}')
        if part.kind in _UNORDERED and not part.params[_UNORDERED[part.kind]]:
            option = _UNORDERED[part.kind]
            raise ExpressionRefused(
                f"{verb}: {_piece(part)} in {short(expr)}: the order of its values is another one each time:"
                f" add {option}=True"
            )
        if REASONS.get(part.kind) in ("python", "random"):
            raise ExpressionRefused(f"{verb}: {_piece(part)} in {short(expr)}: {cure(part, over=None)}")
        if part.kind not in ALLOWED and part.kind not in _HOLDS_BYTES and _holds_pickle(part.params):
            raise ExpressionRefused(f"{verb}: {_piece(part)} in {short(expr)}: {PYTHON}")


_SEEDLESS = 'it gives another result each time: use another method, such as "ordinal"'

#: What makes the order of their values the same each time.
_UNORDERED = {"Mode": "maintain_order", "ValueCounts": "sort"}

#: Literals and the categories of an Enum are written as bytes too.
_HOLDS_BYTES = frozenset({"Literal", "Cast", "Bin"})


def _holds_pickle(params: Any) -> bool:
    """Whether parameters hold a serialised function: a long list of bytes."""
    if isinstance(params, list):
        return (len(params) > 32 and all(isinstance(part, int) for part in params)) or any(
            _holds_pickle(part) for part in params
        )
    return isinstance(params, dict) and any(_holds_pickle(part) for part in params.values())


def _piece(node: Node) -> str:
    """The node in the words of the user, as far as they can be told."""
    if node.kind == "Len":
        return "len()"
    if node.kind in ("Literal", "Cast", "RenameAlias", "Column", "Selector"):
        return {"Literal": "a literal", "Cast": "cast(...)", "RenameAlias": "name.*"}.get(
            node.kind, "a column"
        )
    family, _, member = node.kind.rpartition(".")
    word = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in member).strip("_")
    prefix = {"StringExpr": "str.", "ListExpr": "list.", "ArrayExpr": "arr.", "TemporalExpr": "dt."}.get(
        family, ""
    )
    return f"{prefix}{word}()"


_SEARCHES = frozenset({"Boolean.IsIn", "Sql.IsIn"})


def _check_searches(expr: pl.Expr, node: Node, where: _Where) -> None:
    """Refuses ``is_in`` of what is not one list per row, which types alone can tell."""
    if node.kind in _SEARCHES and not is_written_out(node.children[1]):
        try:
            needle, haystack = inputs(expr, node)
            lists = _nesting(haystack, where.schema) - _nesting(needle, where.schema)
        except (NotUnderstood, pl.exceptions.PolarsError):
            lists = 0
        if lists != 1:
            raise where.refuse("is_in()", SEARCHED)
    if node.kind in ("Over", "Eval"):
        # Inside of these, whatever can be repeated is allowed.
        return
    if any(part.kind in _SEARCHES for child in node.children for part in child.walk()):
        try:
            parts = inputs(expr, node)
        except NotUnderstood:
            raise where.refuse("is_in()", "it stands where its types cannot be told") from None
        for part, child in zip(parts, node.children, strict=True):
            _check_searches(part, child, where)


def _nesting(expr: pl.Expr, schema: pl.Schema | None) -> int:
    """How many lists lie around the values of an expression."""
    dtype: Any = pl.LazyFrame(schema=schema).select(expr.alias("value")).collect_schema()["value"]
    depth = 0
    while isinstance(dtype, (pl.List, pl.Array)):
        dtype = dtype.inner
        depth += 1
    return depth
