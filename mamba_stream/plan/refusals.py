"""Why an expression is refused where rows are looked at one by one, and what to use instead.

The lists here make refusals helpful; they do not decide them: what is neither allowed nor listed is refused.
"""

from __future__ import annotations

from mamba_stream.core.trees import Node


def _reasons(**kinds: str) -> dict[str, str]:
    return {kind: reason for reason, names in kinds.items() for kind in names.split()}


#: Why a kind is refused: a key of the sentences in ``cure``.
REASONS: dict[str, str] = _reasons(
    aggregate=(
        "Len Quantile NullCount Product ArgMin ArgMax MinBy MaxBy ApproxNUnique ApproxQuantile Skew Kurtosis"
        " Entropy Correlation Hist UniqueCounts IndexOf SearchSorted LowerBound UpperBound"
        " Boolean.Any Boolean.All Boolean.HasNulls Boolean.IsEmpty Boolean.IsSorted"
        " Bitwise.And Bitwise.Or Bitwise.Xor StringExpr.ConcatVertical"
    ),
    ordered=(
        "Shift ShiftAndFill Diff PctChange CumSum CumProd CumMin CumMax CumCount EwmMean EwmMeanBy EwmStd"
        " EwmVar EwmSum EwmSumBy Interpolate InterpolateBy RLE RLEID PeakMin PeakMax RollingExpr"
        " RollingExprBy Rolling Eval Range.IntRange SetSortedFlag"
    ),
    compared="Rank QCut Sort SortBy ArgSort Reverse TopK TopKBy Gather GatherEvery Slice ArgUnique ArgWhere",
    distinct="Unique Boolean.IsUnique Boolean.IsDuplicated Boolean.IsFirstDistinct Boolean.IsLastDistinct",
    count=(
        "Filter DropNulls DropNans Explode ArrayExpr.Explode ListExpr.Explode Append ExtendConstant"
        " Repeat Reshape Range.DateRange Range.DatetimeRange Range.TimeRange Range.LinearSpace"
    ),
    unordered="Mode ValueCounts",
    random="Random ListExpr.Sample",
    python=(
        "AnonymousFunction AnonymousAgg FoldHorizontal ReduceHorizontal CumFoldHorizontal"
        " CumReduceHorizontal PipeWithDtype StructExpr.MapFieldNames"
    ),
    codes="ToPhysical Categorical.Physical Categorical.To",
)

_ALL_ROWS = "it looks at all rows, and those of a batch are chance: use .window(...).agg(...)"

_SENTENCES = {
    "unordered": _ALL_ROWS,
    "aggregate": _ALL_ROWS,
    "ordered": (
        "it looks at neighbouring rows, and where a batch ends is chance; not yet possible on a stream,"
        " as it needs ordered state: inside .window(...).agg(...) it sees the window's rows in order"
    ),
    "compared": (
        "it compares rows with each other, and which of them share a batch is chance: collect them with"
        " .window(...).agg(...) first"
    ),
    "distinct": (
        "whether a row is a duplicate depends on all the others: count them per key with"
        " .window(...).agg(...)"
    ),
    "count": "it gives more or fewer rows than it gets: use .filter(...) to drop rows",
    "random": (
        'it gives another result each time: pick rows by a hash, such as pl.col("key").hash() % 10 == 0'
    ),
    "python": (
        "it holds a Python function, which cannot be looked into: use the stream's .map_batches(fn,"
        " schema=...),"
        ' for a window on the lists that .agg(values=pl.col("...")) collects'
    ),
    "codes": (
        "the codes of categories depend on the order in which they came: cast to pl.String or pl.Int64 instead"
    ),
    "unknown": (
        "this is not on the list of expressions that look at nothing but their own row: use"
        " .map_batches(fn, schema=...) if it does, or .window(...).agg(...) if it looks at several rows"
    ),
}
_WINDOWED = ', or add .over("{over}"): the whole window is here'


def cure(node: Node, *, over: str | None) -> str:
    """Why a piece is refused, and what to do instead.

    Args:
        node: The piece.
        over: The column whose groups are whole, where there is one.
    """
    if node.kind == "Over":
        return (
            "the rows that it groups are not together in a batch: use .window(...).agg(...), whose result"
            " takes"
            ' .over("window_start")'
        )
    reason = "aggregate" if node.kind.startswith("Agg.") else REASONS.get(node.kind, "unknown")
    sentence = _SENTENCES[reason]
    if over is not None and reason in ("aggregate", "unordered", "ordered", "compared", "distinct"):
        sentence += _WINDOWED.format(over=over)
    return sentence


#: Why a Python function is refused.
PYTHON = cure(Node("AnonymousFunction", None, ()), over=None)
