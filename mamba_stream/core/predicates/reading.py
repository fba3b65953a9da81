"""A Polars expression as a predicate, as far as it consists of what a predicate may have.

An expression is read off its serialised tree (``core/trees.py``). What was read is written as an expression
again, and its tree must be the first one's: so a predicate means what the expression meant, or it is none.
Values that the tree does not say (NaN and inf, which JSON cannot; lists, which are bytes there) are taken from
the expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import polars as pl

from mamba_stream.core.predicates.examining import examine
from mamba_stream.core.predicates.forms import Column, Literal, Operator, Predicate, Scalar, Type, Values
from mamba_stream.core.predicates.literals import FLOAT, INT, NULL, written
from mamba_stream.core.predicates.operators import OPERATORS
from mamba_stream.core.predicates.writing import to_expr
from mamba_stream.core.trees import Node, NotUnderstood, inputs, nodes
from mamba_stream.errors import ExpressionRefused, InvalidInput

#: Other nodes that are a chain of "and" or of "or" over truths; the logical ones Polars' optimiser writes.
_CHAINS: Final = {
    "Operator.And": "Operator.And",
    "Operator.LogicalAnd": "Operator.And",
    "Boolean.AllHorizontal": "Operator.And",
    "Operator.Or": "Operator.Or",
    "Operator.LogicalOr": "Operator.Or",
    "Boolean.AnyHorizontal": "Operator.Or",
}
_ALL: Final = tuple(kind for kind, plain in _CHAINS.items() if plain == "Operator.And")
_NAMES: Final = {rule.kind: name for name, rule in OPERATORS.items()}
_UNITS: Final = {"Milliseconds": "ms", "Microseconds": "us", "Nanoseconds": "ns"}


def from_expr(expr: pl.Expr) -> Predicate | None:
    """The predicate that an expression is, or None where it has anything that a predicate has not.

    It means the same wherever ``check`` accepts it.

    >>> from_expr((pl.col("price") > 3) & pl.col("symbol").is_in(["A", "B"])).name
    'and'
    >>> from_expr(pl.col("price") > pl.col("price").mean()) is None
    True
    """
    try:
        root = nodes(expr)
        silent = any(_is_silent(node) for node in root.walk())
        found = _read(root, expr if silent else None)
        examine(found)
        if _plain(nodes(to_expr(found))) != _plain(root):
            return None
    except (ExpressionRefused, NotUnderstood, InvalidInput, RecursionError):
        return None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, pl.exceptions.PolarsError):
        # Another version of Polars writes it differently.
        return None
    return found


def conjuncts(expr: pl.Expr) -> Iterator[pl.Expr]:
    """What must all be true for a row where the expression is, from the first to the last."""
    waiting = [expr]
    while waiting:
        one = waiting.pop()
        node = nodes(one)
        if node.kind in (*_ALL, "Alias"):
            try:
                waiting.extend(reversed(inputs(one, node)))
                continue
            except NotUnderstood:
                pass
        yield one


def _read(node: Node, expr: pl.Expr | None) -> Predicate:
    """What a node is; ``expr`` is the expression of it where a value must be taken from it."""
    if node.kind in ("Column", "Selector"):
        return Column(_column(node))
    if node.kind == "Literal":
        return _literal(node.params, expr)
    if node.kind == "Alias":
        return _read(node.children[0], None if expr is None else inputs(expr, node)[0])
    name = _NAMES.get(_CHAINS.get(node.kind, node.kind))
    if name is None:
        raise NotUnderstood(node.kind)
    own: list[pl.Expr | None] = [None] * len(node.children) if expr is None else list(inputs(expr, node))
    if name == "is_in":
        subject = _read(node.children[0], own[0])
        return Operator(name, (subject, _values(own[1])), _options(name, node.params))
    parts: list[Predicate] = []
    for child, its in zip(node.children, own, strict=True):
        part = _read(child, its)
        if isinstance(part, Operator) and part.name == name in ("and", "or"):
            parts.extend(part.inputs)
        else:
            parts.append(part)
    if name in ("and", "or") and len(parts) == 1:
        return parts[0]
    return Operator(name, tuple(parts), _options(name, node.params))


def _column(node: Node) -> str:
    if node.kind == "Column":
        return str(node.params)
    names = node.params["ByName"]["names"]
    if len(names) != 1 or not node.params["ByName"]["strict"]:
        raise NotUnderstood(node.kind)
    return str(names[0])


def _options(name: str, params: Any) -> dict[str, bool | str | Type]:
    """Options other than the defaults; what Polars says that is none of ours shows when the trees are compared."""
    if name == "cast":
        strict = {"Strict": {}, "NonStrict": {"strict": False}, "Overflowing": {"wrap": True}}[
            params["options"]
        ]
        return {"to": _type(params["dtype"]["Literal"]), **strict}
    found: dict[str, bool | str] = {}
    for option, choices in OPERATORS[name].choices.items():
        value = params[option].lower() if isinstance(params[option], str) else params[option]
        if value != choices[0]:
            found[option] = value
    return dict(found)


def _is_silent(node: Node) -> bool:
    """Whether this is a literal whose value the tree does not say."""
    if node.kind != "Literal":
        return False
    ((form, body),) = node.params.items()
    ((kind, value),) = body.items() if isinstance(body, dict) else [(form, None)]
    return form == "Series" or kind in ("List", "Float16") or (kind.startswith("Float") and value is None)


def _literal(params: Any, expr: pl.Expr | None) -> Literal:
    ((form, body),) = params.items()
    ((kind, value),) = body.items()
    if form == "Dyn":
        written_as = {"Int": INT, "Float": FLOAT}[kind]
        return Literal(written_as, _value(expr) if expr is not None and kind == "Float" else value)
    if form != "Scalar":
        raise NotUnderstood(form)
    if kind == "Null":
        return Literal(_type(value), None)
    if kind.startswith("Float") and expr is not None:
        return Literal((kind,), _value(expr))
    scalar = _SCALARS.get(kind)
    return Literal((kind,), value) if scalar is None else scalar(kind, value)


def _value(expr: pl.Expr) -> Any:
    return pl.select(expr).item()


_SCALARS: Final[dict[str, Callable[[str, Any], Literal]]] = {
    "Binary": lambda kind, value: Literal((kind,), bytes(value)),
    "Datetime": lambda kind, value: Literal(_type({kind: value[1:]}), value[0]),
    "Duration": lambda kind, value: Literal(_type({kind: value[1]}), value[0]),
    "Decimal": lambda kind, value: Literal((kind, *value[1:]), _decimal(value[0], value[2])),
}


def _decimal(unscaled: int, scale: int) -> str:
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    whole, fraction = (digits[:-scale], digits[-scale:]) if scale else (digits, "")
    return f"{'-' if unscaled < 0 else ''}{whole}{'.' if fraction else ''}{fraction}"


def _type(body: Any) -> Type:
    if isinstance(body, str):
        return NULL if body == "Null" else (body,)
    ((name, params),) = body.items()
    if name == "Datetime":
        unit, zone = params
        return (name, _UNITS[unit], zone["inner"] if zone else None)
    if name == "Duration":
        return (name, _UNITS[params])
    if name == "Decimal":
        return (name, *params)
    raise NotUnderstood(name)


def _values(expr: pl.Expr | None) -> Values:
    """A list that is written out; a column of lists is none."""
    if expr is None or nodes(expr).kind != "Literal":
        raise NotUnderstood("is_in")
    series = pl.select(expr).to_series()
    if not isinstance(series.dtype, pl.List) or len(series) != 1:
        raise NotUnderstood("is_in")
    among = series.explode(empty_as_null=False)
    kind = written(among.dtype)
    if kind is None:
        raise NotUnderstood("is_in")
    return Values(kind, tuple(_scalars(among)))


def _scalars(series: pl.Series) -> list[Scalar]:
    match series.dtype:
        case pl.Decimal() as dtype:
            return [None if one is None else f"{one:f}" for one in series]
        case dtype if dtype.is_temporal():
            return series.to_physical().to_list()
    return series.to_list()


def _plain(node: Node) -> Node:
    """A tree without what makes no difference: names given, how a chain of and, or of or, is put in brackets.

    Lists are left out, as their bytes differ for equal ones: they were taken from the expression itself.
    """
    if node.kind == "Alias":
        return _plain(node.children[0])
    if node.kind in ("Column", "Selector"):
        return Node("Column", _column(node), ())
    if node.kind == "Literal":
        lists = "Series" in node.params or "List" in (node.params.get("Scalar") or {})
        return Node("Literal", None, ()) if lists else node
    kind = _CHAINS.get(node.kind, node.kind)
    children: list[Node] = []
    for child in map(_plain, node.children):
        children.extend(child.children if child.kind == kind in _CHAINS else (child,))
    if kind in _CHAINS and len(children) == 1:
        return children[0]
    return Node(kind, None if kind in _CHAINS else node.params, tuple(children))
