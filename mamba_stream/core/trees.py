"""What a Polars expression is made of: its serialised tree, read and never turned back into an expression.

Polars gives the tree as JSON (``Expr.meta.serialize(format="json")``). The shapes of its nodes vary, so
``nodes`` brings them into one: a kind ("Column", "Agg.Sum", "Boolean.IsIn"), parameters, children. A shape
that is not known here keeps its name as kind and has no children, so whoever allows by kind refuses it.

The JSON writes the literals NaN, inf and -inf all as null. Two expressions with the same JSON may therefore
differ in such a literal; ``fingerprint`` tells them apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from mamba_stream.errors import ExpressionRefused

#: Function families of Polars: ``{"Function": {"function": {"Boolean": "Not"}}}`` has the kind "Boolean.Not".
_FAMILIES = frozenset(
    "ArrayExpr BinaryExpr Bitwise Boolean Business Categorical Extension ListExpr MapExpr Pow Range Sql"
    " StringExpr StructExpr TemporalExpr Trigonometry".split()
)
_TOO_DEEP = "the expression is nested too deeply: compute a part of it in a with_columns before"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of an expression's tree.

    Attributes:
        kind: Its name, with its family where it has one: "Column", "Operator.Plus", "Agg.Sum", "Round".
        params: What Polars serialised beside the inputs, as parsed JSON.
        children: Its inputs, in the order in which they are written.
    """

    kind: str
    params: Any
    children: tuple[Node, ...]

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


def short(expr: pl.Expr) -> str:
    """The expression as Polars prints it, shortened to fit into an error."""
    text = " ".join(str(expr).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _serialised(expr: pl.Expr) -> str:
    if not isinstance(expr, pl.Expr):
        raise ExpressionRefused(
            f"expected a Polars expression, got {type(expr).__name__}: {str(expr)[:60]!r}"
        )
    try:
        return expr.meta.serialize(format="json")
    except pl.exceptions.PolarsError as error:
        # Polars serialises Python functions by cloudpickle: without it they fail here, with it they become
        # AnonymousFunction nodes, which no allow-list has.
        raise ExpressionRefused(
            f"{short(expr)}: Polars cannot say what this is made of, most likely because it holds a Python"
            " function (map_elements, map_batches, fold, rolling_map, name.map ...): use expressions,"
            " or the stream's .map_batches(fn, schema=...)"
        ) from error


def tree(expr: pl.Expr) -> dict[str, Any] | str:
    """The parsed JSON of the expression, as Polars serialises it.

    Raises:
        ExpressionRefused: It cannot be serialised, as a Python function in it cannot.
    """
    try:
        parsed: dict[str, Any] | str = json.loads(_serialised(expr))
    except RecursionError as error:
        raise ExpressionRefused(f"{short(expr)}: {_TOO_DEEP}") from error
    return parsed


def nodes(expr: pl.Expr) -> Node:
    """The expression's tree in one shape.

    Raises:
        ExpressionRefused: As for ``tree``.
    """
    try:
        return _node(tree(expr))
    except RecursionError as error:
        raise ExpressionRefused(f"{short(expr)}: {_TOO_DEEP}") from error


class NotUnderstood(Exception):
    """A node whose inputs, or whose way of being written, is not known here."""


def inputs(expr: pl.Expr, node: Node) -> list[pl.Expr]:
    """The inputs of an expression's outermost node, as expressions, in the order of the node's children.

    Raises:
        NotUnderstood: Polars' order of this node's inputs is not known.
    """
    # From the last to the first; of when/then/otherwise it gives the condition first.
    found = expr.meta.pop()
    if node.kind == "Ternary" and len(found) == 3:
        found = [found[1], found[2], found[0]]
    found.reverse()
    if [nodes(one) for one in found] != list(node.children):
        raise NotUnderstood(node.kind)
    return found


def fingerprint(expr: pl.Expr) -> str:
    """32 hex digits that are equal for equal expressions, in every process with the same Polars."""
    text = _serialised(expr)
    if "null" in text:
        # A float literal that JSON cannot write (see the module's note). Polars' own text says which.
        text += str(expr)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def columns(expr: pl.Expr, schema: pl.Schema | None = None) -> frozenset[str]:
    """Names of the columns that the expression reads.

    Args:
        expr: Any expression.
        schema: The columns it will see. Needed for selectors other than by name (``pl.all()``,
            ``cs.numeric()``), which give nothing without it.
    """
    names: set[str] = set()
    for node in nodes(expr).walk():
        if node.kind == "Column":
            names.add(node.params)
        elif node.kind == "Selector":
            names.update(_selected(node.params, schema))
        elif node.kind not in ("Literal", "Field"):
            # Expressions that a node holds in a place that is not known here.
            names.update(_columns_within(node.params))
    # list.filter writes the element of the list as a column without a name.
    return frozenset(names - {""})


def _columns_within(params: Any) -> Iterator[str]:
    if isinstance(params, dict):
        if isinstance(params.get("Column"), str):
            yield params["Column"]
        for part in params.values():
            yield from _columns_within(part)
    elif isinstance(params, list):
        for part in params:
            yield from _columns_within(part)


def has_selector(expr: pl.Expr) -> bool:
    """Whether the expression names columns by a selector: which ones depends on the frame it is put to."""
    return any(node.kind == "Selector" for node in nodes(expr).walk())


def _selected(selector: Any, schema: pl.Schema | None) -> frozenset[str]:
    """The names a serialised selector picks from a schema."""
    if isinstance(selector, dict) and len(selector) == 1:
        ((kind, body),) = selector.items()
        if kind == "ByName":
            return frozenset(body["names"])
        if kind in _SELECTOR_SETS:
            return _SELECTOR_SETS[kind](*(_selected(part, schema) for part in body))
    if selector == "Empty":
        return frozenset()
    # By type, pattern or position: whatever it picks, it is among these.
    return frozenset(schema.names() if schema is not None else ())


_SELECTOR_SETS: dict[str, Callable[[frozenset[str], frozenset[str]], frozenset[str]]] = {
    "Union": lambda left, right: left | right,
    # What is taken away or met may be known only roughly, so nothing is: a superset is what is promised.
    "Difference": lambda left, right: left,
    "Intersect": lambda left, right: left & right,
    "ExclusiveOr": lambda left, right: left | right,
}


def _node(value: Any) -> Node:
    if isinstance(value, str):
        return Node(value, None, ())
    if not isinstance(value, dict) or len(value) != 1:
        return Node("unknown", value, ())
    ((kind, body),) = value.items()
    shape = _SHAPES.get(kind)
    if shape is None:
        return Node(kind, body, ())
    try:
        return shape(body)
    except (KeyError, TypeError, ValueError, IndexError):
        # Another version of Polars writes it differently: not known, so not allowed.
        return Node(f"unknown.{kind}", body, ())


def _leaf(kind: str) -> Callable[[Any], Node]:
    return lambda body: Node(kind, body, ())


def _parts(kind: str, *inputs: str) -> Callable[[Any], Node]:
    """A node whose inputs are fields: each one expression, a list of them, or null."""

    def shape(body: dict[str, Any]) -> Node:
        children: list[Node] = []
        for name in inputs:
            part = body[name]
            children.extend(
                _node(one) for one in (part if isinstance(part, list) else [part] if part else [])
            )
        return Node(kind, {name: part for name, part in body.items() if name not in inputs}, tuple(children))

    return shape


def _operator(body: dict[str, Any]) -> Node:
    return Node(f"Operator.{body['op']}", None, (_node(body["left"]), _node(body["right"])))


def _aggregate(body: dict[str, Any]) -> Node:
    ((name, inner),) = body.items()
    kind = f"Agg.{name}"
    if isinstance(inner, list):  # [input, parameter]
        return Node(kind, inner[1:], (_node(inner[0]),))
    if isinstance(inner, dict) and "input" in inner:
        params = {key: value for key, value in inner.items() if key != "input"}
        return Node(kind, params, (_node(inner["input"]),))
    return Node(kind, None, (_node(inner),))


def _function(body: dict[str, Any]) -> Node:
    inputs = tuple(_node(one) for one in body["input"])
    function = body["function"]
    if isinstance(function, dict):
        ((name, params),) = function.items()
        if name in _FAMILIES:
            if isinstance(params, dict):
                ((inner, params),) = params.items()
            else:
                inner, params = params, None
            name = f"{name}.{inner}"
        return Node(name, params, inputs)
    return Node(str(function), None, inputs)


def _over(body: dict[str, Any]) -> Node:
    order = body["order_by"]
    inputs = [body["function"], *body["partition_by"], *([order[0]] if order else [])]
    params = {"keys": len(body["partition_by"]), "mapping": body["mapping"]}
    return Node("Over", params, tuple(_node(one) for one in inputs))


_SHAPES: dict[str, Callable[[Any], Node]] = {
    "Column": _leaf("Column"),
    "Literal": _leaf("Literal"),
    "Selector": _leaf("Selector"),
    "Field": _leaf("Field"),
    "BinaryExpr": _operator,
    "Agg": _aggregate,
    "Function": _function,
    "Over": _over,
    "Alias": lambda body: Node("Alias", body[1], (_node(body[0]),)),
    "KeepName": lambda body: Node("KeepName", None, (_node(body),)),
    "RenameAlias": _parts("RenameAlias", "expr"),
    "Ternary": _parts("Ternary", "predicate", "truthy", "falsy"),
    "Cast": _parts("Cast", "expr"),
    "Filter": _parts("Filter", "input", "by"),
    "Sort": _parts("Sort", "expr"),
    "SortBy": _parts("SortBy", "expr", "by"),
    "Slice": _parts("Slice", "input", "offset", "length"),
    "Gather": _parts("Gather", "expr", "idx"),
    "Explode": _parts("Explode", "input"),
    "Rolling": _parts("Rolling", "function", "index_column"),
    "Eval": _parts("Eval", "expr", "evaluation"),
    "StructEval": _parts("StructEval", "expr", "evaluation"),
    "AnonymousFunction": _parts("AnonymousFunction", "input"),
}
