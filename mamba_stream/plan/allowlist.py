"""The list of expressions that look at nothing but their own row, node by node.

Allowed by kind alone is what can only ever see its row. Some kinds depend on their parameters or inputs (a
date's format, the values to replace): those have a function in ``JUDGED`` that says what is wrong, or None.

What is not here is refused, whatever Polars says of it: ``Expr.meta.is_row_separable()`` answers True for
``x > x.mean()``. A function that is new in Polars is therefore refused until it is added, with a line in the
tests' table, which compares the whole frame's result with that of cuts of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mamba_stream.core.trees import Node
from mamba_stream.plan.refusals import PYTHON


def _family(name: str, members: str) -> frozenset[str]:
    return frozenset(f"{name}.{member}" for member in members.split())


ALLOWED: frozenset[str] = frozenset().union(
    # Leaves and structure. A selector names columns, a field one of the struct that is being evaluated.
    "Column Selector Field Alias KeepName Ternary StructEval".split(),
    _family(
        "Operator",
        "Eq EqValidity NotEq NotEqValidity Lt LtEq Gt GtEq Plus Minus Multiply TrueDivide"
        " FloorDivide TruncDivide Modulus And Or Xor",
    ),
    # Numbers and anything.
    "Abs Atan2 Ceil Clip Coalesce Cut Erf Erfc Exp FillNull Floor Hash Log Log1p Negate MaxHorizontal"
    " MinHorizontal SumHorizontal MeanHorizontal Reinterpret RepeatBy Round RoundSF Sign Truncate"
    " AsStruct".split(),
    _family("Pow", "Generic Sqrt Cbrt"),
    _family(
        "Trigonometry",
        "Cos Cot Sin Tan ArcCos ArcSin ArcTan Cosh Sinh Tanh ArcCosh ArcSinh ArcTanh Degrees Radians",
    ),
    _family("Bitwise", "CountOnes CountZeros LeadingOnes LeadingZeros TrailingOnes TrailingZeros"),
    _family(
        "Boolean",
        "IsNull IsNotNull IsFinite IsInfinite IsNan IsNotNan IsBetween IsClose AllHorizontal"
        " AnyHorizontal Not",
    ),
    _family(
        "StringExpr",
        "ConcatHorizontal Contains CountMatches EndsWith EscapeRegex Extract ExtractAll"
        " ExtractGroups ExtractMany Find FindMany Format Head HexEncode HexDecode Base64Encode"
        " Base64Decode JsonDecode JsonPathMatch LenBytes LenChars Lowercase Normalize PadEnd PadStart"
        " Reverse Slice Split SplitRegex SplitExact SplitN StartsWith StripChars"
        " StripCharsStart StripCharsEnd StripPrefix StripSuffix Tail Titlecase ToDecimal ToInteger"
        " Uppercase ZFill",
    ),
    _family(
        "BinaryExpr",
        "Contains EndsWith Get Head HexDecode HexEncode Base64Decode Base64Encode Reinterpret Size Slice"
        " StartsWith Tail",
    ),
    _family(
        "TemporalExpr",
        "BaseUtcOffset CastTimeUnit Century Combine ConvertTimeZone Date DatetimeFunction Day DaysInMonth"
        " DSTOffset Duration Hour IsLeapYear IsoYear Microsecond Millennium Millisecond Minute Month"
        " MonthEnd MonthStart Nanosecond OffsetBy OrdinalDay Quarter Replace ReplaceTimeZone Round Second"
        " Time TimeStamp ToString TotalDays TotalHours TotalMicroseconds TotalMilliseconds TotalMinutes"
        " TotalNanoseconds TotalSeconds Truncate Week WeekDay Year",
    ),
    # Within a row's own list one may look at neighbours.
    _family(
        "ListExpr",
        "ArgMax ArgMin Concat Contains Diff DropNulls Gather GatherEvery Get Join Length Max"
        " Mean Median Min SetOperation Shift Slice Sort Std Sum ToArray ToMap ToStruct Var",
    ),
    _family(
        "ArrayExpr",
        "ArgMax ArgMin Concat Contains Dot Get Join Length Max Mean Median Min Shift Sort"
        " Std Sum ToList ToStruct Var",
    ),
    _family("MapExpr", "Get Keys Values Length Entries ContainsKey"),
    _family("StructExpr", "Drop FieldByName JsonEncode PrefixFields RenameFields SelectFields SuffixFields"),
    _family("Categorical", "EndsWith LenBytes LenChars Slice StartsWith"),
    _family("Sql", "Binary Round ToFloat"),
    # One list per row.
    _family("Range", "IntRanges DateRanges DatetimeRanges TimeRanges LinearSpaces"),
)

#: Of the inputs of these, all but the first may be literal Series: values to look up, holidays.
HOLDS_VALUES = frozenset(
    "Boolean.IsIn Sql.IsIn Replace ReplaceStrict Business.AddBusinessDay Business.BusinessDayCount"
    " Business.IsBusinessDay".split()
)


_CATEGORICAL = (
    "Categorical numbers its categories as they come: keep String, or use pl.Enum([...]) with the categories"
    " written out"
)


def is_series(node: Node) -> bool:
    return node.kind == "Literal" and isinstance(node.params, dict) and "Series" in node.params


def is_written_out(node: Node) -> bool:
    """Whether the node is a literal, or one behind a cast or an alias."""
    while node.kind in ("Cast", "Alias"):
        node = node.children[0]
    return node.kind == "Literal"


def _literal(node: Node) -> str | None:
    if is_series(node):
        return (
            "a Series keeps its length whatever the batch: use a plain value, or a lookup join with a frame"
        )
    scalar = node.params.get("Scalar")
    return _CATEGORICAL if isinstance(scalar, dict) and "Categorical" in scalar else None


def _cast(node: Node) -> str | None:
    dtype = node.params["dtype"]
    if not (isinstance(dtype, dict) and "Literal" in dtype):
        return "the type must be written out: cast(pl.Int64)"
    return _CATEGORICAL if _has_categories(dtype["Literal"]) else None


def _has_categories(dtype: Any) -> bool:
    """Whether a serialised type is Categorical or holds one."""
    if isinstance(dtype, list):  # the fields of a struct, a fixed-size list with its size
        return any(_has_categories(part) for part in dtype)
    if not isinstance(dtype, dict):
        return False
    if "dtype" in dtype:
        return _has_categories(dtype["dtype"])
    return "Categorical" in dtype or any(_has_categories(part) for part in dtype.values())


def _rename(node: Node) -> str | None:
    function = node.params["function"]
    if isinstance(function, dict) and "Map" in function:
        return PYTHON
    return None


def _fill_strategy(node: Node) -> str | None:
    if node.params in ("Zero", "One"):
        return None
    return "it fills from other rows: use fill_null(value), or fill_null(pl.col(...)) from another column"


def _strptime(node: Node) -> str | None:
    if node.params[1]["format"] is None:
        return 'without a format Polars guesses it from the rows it sees: give one, such as format="%Y-%m-%d"'
    return None


def _bin(node: Node) -> str | None:
    intervals = node.params["method"].get("Intervals")
    if intervals is None or "Breaks" not in intervals["spec"]:
        return (
            "the bins would depend on the rows it sees: use bin_intervals([...]) with the breaks written out"
        )
    return None


SEARCHED = (
    "it must search a list of values or a column of lists: what is not a list is searched in all rows;"
    " compare with ==, or use a lookup join with a frame"
)


def _is_in(node: Node) -> str | None:
    """What can be said without types; ``_check_searches`` says the rest."""
    values = node.children[1]
    while values.kind == "Alias":
        values = values.children[0]
    if values.kind in ALLOWED or values.kind in JUDGED or values.kind == "Eval":
        return None
    return SEARCHED


def _replace(node: Node) -> str | None:
    if all(is_written_out(values) for values in node.children[1:3]):
        return None
    return (
        "what is replaced by what must be written out, since a column would be read over all rows: use a"
        " dict, or a lookup join with a frame"
    )


def _fixed_argument(node: Node) -> str | None:
    if all(is_written_out(argument) for argument in node.children[1:2]):
        return None
    return "what it looks for must be written out: Polars takes one for all rows"


def _business(node: Node) -> str | None:
    if is_written_out(node.children[-1]):
        return None
    return "holidays must be written out as a list of dates"


JUDGED: dict[str, Callable[[Node], str | None]] = {
    "Literal": _literal,
    "Cast": _cast,
    "RenameAlias": _rename,
    "FillNullWithStrategy": _fill_strategy,
    "StringExpr.Strptime": _strptime,
    "Bin": _bin,
    "Boolean.IsIn": _is_in,
    "Sql.IsIn": _is_in,
    "StringExpr.ContainsAny": _fixed_argument,
    "StringExpr.Replace": _fixed_argument,
    "StringExpr.ReplaceMany": _replace,
    "ListExpr.CountMatches": _fixed_argument,
    "ArrayExpr.CountMatches": _fixed_argument,
    "Replace": _replace,
    "ReplaceStrict": _replace,
    "Business.AddBusinessDay": _business,
    "Business.BusinessDayCount": _business,
    "Business.IsBusinessDay": _business,
}
