"""A node of an expression written anew over other inputs.

Polars hands out a node's inputs (``Expr.meta.pop``) but not the node without them, so the node is written
anew from what its tree says. That it was understood is not assumed: over its own inputs the new node must
serialise to the very tree it was made from, or it counts as not rebuildable. A new version of Polars can
therefore cost speed here (more aggregates keep rows), never a wrong result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from mamba_stream.core.trees import Node, NotUnderstood, nodes
from mamba_stream.plan.allowlist import ALLOWED


def rebuild(node: Node, own: Sequence[pl.Expr], replaced: Sequence[pl.Expr]) -> pl.Expr:
    """The node over other inputs.

    Args:
        node: The node to write anew.
        own: Its inputs, to prove that it was understood.
        replaced: What to put in their places.

    Raises:
        NotUnderstood: The node is not known, or comes out differently.
    """
    write = _WRITERS.get(node.kind) or _same_name(node)
    try:
        again = write(node.params, *own)
        if nodes(again) == node:
            return write(node.params, *replaced)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, pl.exceptions.PolarsError) as error:
        raise NotUnderstood(node.kind) from error
    raise NotUnderstood(node.kind)


Writer = Callable[..., pl.Expr]

_NAMESPACES = {"TemporalExpr": "dt", "StringExpr": "str", "BinaryExpr": "bin", "ListExpr": "list"}


def _same_name(node: Node) -> Writer:
    """For functions without parameters whose method has the node's name: "TemporalExpr.Hour" is dt.hour()."""
    if node.kind not in ALLOWED or node.params is not None:
        raise NotUnderstood(node.kind)
    family, _, member = node.kind.rpartition(".")
    method = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in member).lstrip("_")

    def write(params: Any, first: pl.Expr, *rest: pl.Expr) -> pl.Expr:
        place = getattr(first, _NAMESPACES[family]) if family in _NAMESPACES else first
        written: pl.Expr = getattr(place, method)(*rest)
        return written

    return write


def _method(name: str) -> Writer:
    return lambda params, first, *rest: getattr(first, name)(*rest)


def _total(name: str) -> Writer:
    return lambda params, first: getattr(first.dt, name)(fractional=params["fractional"])


_STRICTNESS: dict[str, dict[str, Any]] = {
    "Strict": {},
    "NonStrict": {"strict": False},
    "Overflowing": {"wrap_numerical": True},
}


def _cast(params: dict[str, Any], value: pl.Expr) -> pl.Expr:
    return value.cast(_dtype(params["dtype"]["Literal"]), **_STRICTNESS[params["options"]])


def _dtype(written: Any) -> pl.DataType:
    """The type that a cast names. Types that hold others are left to kept rows."""
    if isinstance(written, str):
        named: type[pl.DataType] = getattr(pl, written)
        return named()
    ((name, params),) = written.items()
    if name == "Decimal":
        return pl.Decimal(*params)
    if name == "Duration":
        return pl.Duration(_UNITS[params])
    if name == "Datetime":
        unit, zone = params
        return pl.Datetime(_UNITS[unit], zone["inner"] if zone else None)
    raise NotUnderstood(name)


_UNITS: dict[str, Any] = {"Nanoseconds": "ns", "Microseconds": "us", "Milliseconds": "ms"}


def _clip(params: dict[str, Any], value: pl.Expr, *bounds: pl.Expr) -> pl.Expr:
    rest = list(bounds)
    low = rest.pop(0) if params["has_min"] else None
    high = rest.pop(0) if params["has_max"] else None
    return value.clip(low, high)


_WRITERS: dict[str, Writer] = {
    **{
        f"Operator.{node}": _method(name)
        for node, name in {
            "Plus": "add",
            "Minus": "sub",
            "Multiply": "mul",
            "TrueDivide": "truediv",
            "FloorDivide": "floordiv",
            "TruncDivide": "truncdiv",
            "Modulus": "mod",
            "Eq": "eq",
            "NotEq": "ne",
            "EqValidity": "eq_missing",
            "NotEqValidity": "ne_missing",
            "Lt": "lt",
            "LtEq": "le",
            "Gt": "gt",
            "GtEq": "ge",
            "And": "and_",
            "Or": "or_",
            "Xor": "xor",
        }.items()
    },
    "Ternary": lambda params, when, then, otherwise: pl.when(when).then(then).otherwise(otherwise),
    "Cast": _cast,
    "Pow.Generic": _method("pow"),
    "Pow.Sqrt": _method("sqrt"),
    "Pow.Cbrt": _method("cbrt"),
    "Negate": _method("neg"),
    "Boolean.Not": _method("not_"),
    "Boolean.IsBetween": lambda params, *parts: parts[0].is_between(
        *parts[1:], closed=params["closed"].lower()
    ),
    "Boolean.AllHorizontal": lambda params, *parts: pl.all_horizontal(parts),
    "Boolean.AnyHorizontal": lambda params, *parts: pl.any_horizontal(parts),
    "Clip": _clip,
    "Coalesce": lambda params, *parts: pl.coalesce(parts),
    "FillNull": _method("fill_null"),
    "Round": lambda params, value: value.round(params["decimals"], mode=_ROUNDING[params["mode"]]),
    "RoundSF": lambda params, value: value.round_sig_figs(params["digits"]),
    "Truncate": lambda params, value: value.truncate(params["decimals"]),
    "MaxHorizontal": lambda params, *parts: pl.max_horizontal(parts),
    "MinHorizontal": lambda params, *parts: pl.min_horizontal(parts),
    "SumHorizontal": lambda params, *parts: pl.sum_horizontal(parts, ignore_nulls=params["ignore_nulls"]),
    "MeanHorizontal": lambda params, *parts: pl.mean_horizontal(parts, ignore_nulls=params["ignore_nulls"]),
    "StringExpr.Lowercase": lambda params, value: value.str.to_lowercase(),
    "StringExpr.Uppercase": lambda params, value: value.str.to_uppercase(),
    "TemporalExpr.TotalDays": _total("total_days"),
    "TemporalExpr.TotalHours": _total("total_hours"),
    "TemporalExpr.TotalMinutes": _total("total_minutes"),
    "TemporalExpr.TotalSeconds": _total("total_seconds"),
    "TemporalExpr.TotalMilliseconds": _total("total_milliseconds"),
    "TemporalExpr.TotalMicroseconds": _total("total_microseconds"),
    "TemporalExpr.TotalNanoseconds": _total("total_nanoseconds"),
}
_ROUNDING: dict[str, Any] = {"HalfToEven": "half_to_even", "HalfAwayFromZero": "half_away_from_zero"}
