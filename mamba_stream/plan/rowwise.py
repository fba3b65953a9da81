"""Whether an expression looks at nothing but its own row, decided node by node by an allow-list.

What is not on the list is refused, whatever Polars says of it: ``Expr.meta.is_row_separable()`` answers True
for ``x > x.mean()``. A function that is new in Polars is therefore refused until it is added here, with a
line in the tests' table, which compares the whole frame's result with that of random cuts of it.

Allowed by kind alone is what can only ever see its row. Some kinds depend on their parameters or inputs (a
date's format, the values to replace); those have a function in ``_JUDGED`` that says what is wrong, or None.

A frame of one row is not like others: Polars 2 divides a column by a literal through the literal's
reciprocal, but a column of one row exactly, so that ``(pl.col("x") / 49).floor()`` of 49 is 1.0 in a frame of
one row and 0.0 in any longer one, and ``//`` and ``%`` by a fraction differ likewise. An expression that
passes here gives the same for all batches only if a single row is evaluated as two equal ones:
``pl.DataFrame([column.new_from_index(0, 2) for column in frame.get_columns()])``, then ``head(1)``. (Not by
``pl.concat`` or by gathering: a column of equal values made that way stays what Polars calls a scalar, which
divides exactly.) The same goes for a group_by that finds a single group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from mamba_stream.errors import ExpressionRefused
from mamba_stream.plan.refusals import REASONS, cure
from mamba_stream.plan.trees import Node, NotUnderstood, inputs, nodes, short


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
_HOLDS_VALUES = frozenset(
    "Boolean.IsIn Sql.IsIn Replace ReplaceStrict Business.AddBusinessDay Business.BusinessDayCount"
    " Business.IsBusinessDay".split()
)


@dataclass(frozen=True, slots=True)
class _Where:
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
    if node.kind in _JUDGED:
        wrong = _JUDGED[node.kind](node)
    else:
        wrong = None if node.kind in ALLOWED else cure(node, over=where.over)
    if wrong is not None:
        raise where.refuse(_piece(node), wrong)
    for position, child in enumerate(node.children):
        if position and node.kind in _HOLDS_VALUES and _is_series(child):
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
            raise ExpressionRefused(f"{verb}: {_piece(part)} in {short(expr)}: {_PYTHON}")


_PYTHON = cure(Node("AnonymousFunction", None, ()), over=None)
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


_CATEGORICAL = (
    "Categorical numbers its categories as they come: keep String, or use pl.Enum([...]) with the categories"
    " written out"
)


def _is_series(node: Node) -> bool:
    return node.kind == "Literal" and isinstance(node.params, dict) and "Series" in node.params


def _is_fixed_values(node: Node) -> bool:
    """Whether the node is a literal, or one behind a cast or an alias."""
    while node.kind in ("Cast", "Alias"):
        node = node.children[0]
    return node.kind == "Literal"


def _literal(node: Node) -> str | None:
    if _is_series(node):
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
        return _PYTHON
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


def _is_in(node: Node) -> str | None:
    """What can be said without types; ``_check_searches`` says the rest."""
    values = node.children[1]
    while values.kind == "Alias":
        values = values.children[0]
    if values.kind in ALLOWED or values.kind in _JUDGED or values.kind == "Eval":
        return None
    return _SEARCHED


_SEARCHED = (
    "it must search a list of values or a column of lists: what is not a list is searched in all rows;"
    " compare with ==, or use a lookup join with a frame"
)
_SEARCHES = frozenset({"Boolean.IsIn", "Sql.IsIn"})


def _check_searches(expr: pl.Expr, node: Node, where: _Where) -> None:
    """Refuses ``is_in`` of what is not one list per row, which types alone can tell."""
    if node.kind in _SEARCHES and not _is_fixed_values(node.children[1]):
        try:
            needle, haystack = inputs(expr, node)
            lists = _nesting(haystack, where.schema) - _nesting(needle, where.schema)
        except (NotUnderstood, pl.exceptions.PolarsError):
            lists = 0
        if lists != 1:
            raise where.refuse("is_in()", _SEARCHED)
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


def _replace(node: Node) -> str | None:
    if all(_is_fixed_values(values) for values in node.children[1:3]):
        return None
    return (
        "what is replaced by what must be written out, since a column would be read over all rows: use a"
        " dict, or a lookup join with a frame"
    )


def _fixed_argument(node: Node) -> str | None:
    if all(_is_fixed_values(argument) for argument in node.children[1:2]):
        return None
    return "what it looks for must be written out: Polars takes one for all rows"


def _business(node: Node) -> str | None:
    if _is_fixed_values(node.children[-1]):
        return None
    return "holidays must be written out as a list of dates"


_JUDGED: dict[str, Callable[[Node], str | None]] = {
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
