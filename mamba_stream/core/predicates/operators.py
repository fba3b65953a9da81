"""The operators that a predicate may have: how many inputs and which options each takes, and what Polars calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from mamba_stream.core.predicates.literals import dtype

Write = Callable[..., pl.Expr]


@dataclass(frozen=True, slots=True)
class Rule:
    """One operator.

    Attributes:
        kind: The node of Polars that it is, as ``core/trees.py`` names it.
        takes: What its inputs must be, as ``check`` says it.
        least: How many inputs it has at least.
        most: And at most; None: any number.
        choices: For each option the values it may have, the first being the default; none for a type.
        write: Makes the expression of inputs and options.
    """

    kind: str
    takes: str
    least: int
    most: int | None
    write: Write
    choices: dict[str, tuple[bool | str, ...]] = field(default_factory=dict)


def _method(name: str) -> Write:
    return lambda first, *rest, **options: getattr(first, name)(*rest, **options)


def _text(name: str) -> Write:
    return lambda first, *rest, **options: getattr(first.str, name)(*rest, **options)


def _balanced(join: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Write:
    """Many inputs joined two by two, so that however many they are the expression is not deep."""

    def write(*inputs: pl.Expr) -> pl.Expr:
        parts: Sequence[pl.Expr] = inputs
        while len(parts) > 1:
            pairs = [join(parts[at], parts[at + 1]) for at in range(0, len(parts) - 1, 2)]
            parts = [*pairs, *parts[len(pairs) * 2 :]]
        return parts[0]

    return write


def _cast(value: pl.Expr, *, to: Any, strict: bool = True, wrap: bool = False) -> pl.Expr:
    return value.cast(dtype(to), strict=strict, wrap_numerical=wrap)


def _comparison(kind: str, name: str) -> Rule:
    return Rule(f"Operator.{kind}", "alike", 2, 2, _method(name))


def _arithmetic(kind: str, name: str) -> Rule:
    return Rule(f"Operator.{kind}", "numbers", 2, 2, _method(name))


def _test(kind: str, takes: str, name: str) -> Rule:
    return Rule(f"Boolean.{kind}", takes, 1, 1, _method(name))


OPERATORS: Final[dict[str, Rule]] = {
    "eq": _comparison("Eq", "eq"),
    "ne": _comparison("NotEq", "ne"),
    "eq_missing": _comparison("EqValidity", "eq_missing"),
    "ne_missing": _comparison("NotEqValidity", "ne_missing"),
    "lt": _comparison("Lt", "lt"),
    "le": _comparison("LtEq", "le"),
    "gt": _comparison("Gt", "gt"),
    "ge": _comparison("GtEq", "ge"),
    "and": Rule("Operator.And", "truths", 2, None, _balanced(lambda one, other: one.and_(other))),
    "or": Rule("Operator.Or", "truths", 2, None, _balanced(lambda one, other: one.or_(other))),
    "xor": Rule("Operator.Xor", "truths", 2, 2, _method("xor")),
    "not": Rule("Boolean.Not", "truths", 1, 1, _method("not_")),
    "is_null": _test("IsNull", "anything", "is_null"),
    "is_not_null": _test("IsNotNull", "anything", "is_not_null"),
    "is_nan": _test("IsNan", "numbers", "is_nan"),
    "is_not_nan": _test("IsNotNan", "numbers", "is_not_nan"),
    "is_finite": _test("IsFinite", "numbers", "is_finite"),
    "is_infinite": _test("IsInfinite", "numbers", "is_infinite"),
    "is_in": Rule("Boolean.IsIn", "alike", 2, 2, _method("is_in"), {"nulls_equal": (False, True)}),
    "is_between": Rule(
        "Boolean.IsBetween",
        "alike",
        3,
        3,
        _method("is_between"),
        {"closed": ("both", "left", "right", "none")},
    ),
    "add": _arithmetic("Plus", "add"),
    "sub": _arithmetic("Minus", "sub"),
    "mul": _arithmetic("Multiply", "mul"),
    "truediv": _arithmetic("TrueDivide", "truediv"),
    "floordiv": _arithmetic("FloorDivide", "floordiv"),
    "mod": _arithmetic("Modulus", "mod"),
    "neg": Rule("Negate", "numbers", 1, 1, _method("neg")),
    "starts_with": Rule("StringExpr.StartsWith", "text", 2, 2, _text("starts_with")),
    "ends_with": Rule("StringExpr.EndsWith", "text", 2, 2, _text("ends_with")),
    "contains": Rule(
        "StringExpr.Contains",
        "text",
        2,
        2,
        _text("contains"),
        {"literal": (False, True), "strict": (True, False)},
    ),
    "len_bytes": Rule("StringExpr.LenBytes", "text", 1, 1, _text("len_bytes")),
    "len_chars": Rule("StringExpr.LenChars", "text", 1, 1, _text("len_chars")),
    "lower": Rule("StringExpr.Lowercase", "text", 1, 1, _text("to_lowercase")),
    "upper": Rule("StringExpr.Uppercase", "text", 1, 1, _text("to_uppercase")),
    "cast": Rule(
        "Cast", "anything plain", 1, 1, _cast, {"to": (), "strict": (True, False), "wrap": (False, True)}
    ),
}
