"""What other libraries call what a stream does otherwise: said where somebody looks for it."""

from __future__ import annotations

from typing import Final

_TOTAL = "use .group_by(...).agg(...) for totals so far, or .window(...).agg(...) for those of windows"
_ORDER = (
    "there is no last row: .top_k(...) keeps the best of a key or window; what .collect() gives can be sorted"
)
_PART = ".head(n) gives the first rows as a frame, and .filter(...) takes rows out"
_EACH = "use .with_columns(...), with expressions of Polars, or .map_batches(...)"
_PYTHON = (
    ".select(...) and .with_columns(...) take expressions of Polars, .map_batches(...) a function of frames"
)
_KEYED = "keys are named where they are used: .group_by(...), .window(..., by=...), .join(..., on=...)"
_INTO = "use .to(...), with a topic's name or a connector's sink, and mamba.run(...)"

_WORDS: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("count", "len", "max", "mean", "median", "min", "quantile", "std", "sum", "var"), _TOTAL
    ),
    **dict.fromkeys(("agg", "aggregate", "reduce", "fold"), _TOTAL),
    **dict.fromkeys(("bottom_k", "last", "order_by", "reverse", "sort", "tail"), _ORDER),
    **dict.fromkeys(("first", "limit", "slice", "take"), _PART),
    **dict.fromkeys(("fill_nan", "fill_null", "interpolate", "apply", "update"), _EACH),
    **dict.fromkeys(("drop_nans", "drop_nulls", "remove", "where"), "use .filter(...)"),
    **dict.fromkeys(("map", "flat_map", "map_values", "for_each"), _PYTHON),
    **dict.fromkeys(("key_by", "keyBy", "groupby", "repartition"), _KEYED),
    **dict.fromkeys(
        ("sink", "sink_csv", "sink_ipc", "sink_ndjson", "sink_parquet", "add_sink", "publish"), _INTO
    ),
    **dict.fromkeys(("concat", "merge", "merge_sorted", "union"), "use mamba.concat([one, other])"),
    **dict.fromkeys(
        ("group_by_dynamic", "tumbling_window", "hopping_window"), "use .window(mamba.tumbling(...)).agg(...)"
    ),
    **dict.fromkeys(("columns", "collect_schema", "dtypes", "width"), "use .schema"),
    "shift": "use .lag(...)",
    "join_where": "use .join(..., within=...)",
    "run": "use mamba.run(...)",
}


def words_for(name: str) -> str | None:
    """What to use instead of a method that a stream does not have; ``None`` where nobody looks for it.

    Example:
        >>> words_for("shift")
        'use .lag(...)'
    """
    return _WORDS.get(name)
