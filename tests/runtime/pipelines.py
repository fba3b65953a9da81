"""Random pipelines: the same verbs are called on a stream and on a ``LazyFrame``, since they mean the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl

import mamba_stream as mamba

SCHEMA = pl.Schema(
    {
        "ts": pl.Datetime("us"),
        "key": pl.String,
        "num": pl.Int64,
        "small": pl.Int8,
        "flt": pl.Float64,
        "flag": pl.Boolean,
        "day": pl.Date,
    }
)
TABLE = pl.DataFrame({"key": ["a", "b", "b", "z"], "num": [1, 2, 3, 4], "label": ["A", "B1", "B2", "Z"]})
ONE = pl.DataFrame({"key": ["a", "b", "z"], "weight": [0.5, 2.0, 9.0]})
BEGIN = datetime(2023, 12, 30)


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    """Rows in no order of time; many rows come from a seed, as drawing each is slow and gives few."""
    height = draw(st.sampled_from([0, 1, 2, 5, 20, 100, 400]))
    chance = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    seconds = chance.integers(0, draw(st.sampled_from([7_200, 500_000])), height)

    def of(choices: list[Any]) -> list[Any]:
        return [choices[i] for i in chance.integers(0, len(choices), height)]

    return pl.DataFrame(
        {
            "ts": [BEGIN + timedelta(seconds=int(second)) for second in seconds],
            "key": of(["a", "b", "c", None]),
            "num": of([None, *range(-9, 10)]),
            "small": of([None, -128, -1, 0, 1, 100, 127]),
            "flt": of(
                [None, 0.0, 0.25, -1.5, 1e6, 3.0, draw(st.sampled_from([float("nan"), float("inf"), 2.0]))]
            ),
            "flag": of([None, True, False]),
            "day": of([None, *((BEGIN + timedelta(days=days)).date() for days in range(3))]),
        },
        schema=SCHEMA,
    )


@dataclass
class Pair:
    """A stream and the lazy frame of which it must give the rows."""

    stream: Any
    frame: pl.LazyFrame
    windowed: bool = False

    @property
    def schema(self) -> pl.Schema:
        return self.frame.collect_schema()

    def both(self, verb: Callable[[Any], Any]) -> None:
        self.stream, self.frame = verb(self.stream), verb(self.frame)

    def columns(self, *kinds: type[pl.DataType] | pl.DataType) -> list[str]:
        return [
            name
            for name, dtype in self.schema.items()
            if name != "ts" and any(dtype == kind for kind in kinds)
        ]


NUMBERS = (pl.Int64, pl.Int8, pl.Float64, pl.Int32, pl.UInt32)


def _filter(pair: Pair, draw: st.DrawFn) -> None:
    choices = [pl.col(c) > draw(st.integers(-3, 3)) for c in pair.columns(*NUMBERS)]
    choices += [pl.col(c).is_not_null() for c in pair.schema if c != "ts"]
    choices += [pl.col(c) for c in pair.columns(pl.Boolean)]
    if choices:
        chosen = draw(st.lists(st.sampled_from(range(len(choices))), min_size=1, max_size=2))
        pair.both(lambda rows: rows.filter(*[choices[i] for i in chosen]))


def _with_columns(pair: Pair, draw: st.DrawFn) -> None:
    if not pair.columns(*NUMBERS):
        return
    columns = draw(st.lists(st.sampled_from(pair.columns(*NUMBERS)), max_size=2, unique=True))
    forms: list[Callable[[str], pl.Expr]] = [
        lambda c: (pl.col(c) * 2 + 1).alias(f"{c}2"),
        lambda c: pl.col(c).fill_null(0),
        lambda c: pl.when(pl.col(c) > 0).then(pl.col(c)).alias(f"{c}p"),
        lambda c: pl.lit(3).alias("three"),
    ]
    made = [draw(st.sampled_from(forms))(column) for column in columns]
    if len({expr.meta.output_name() for expr in made}) == len(made) and made:
        pair.both(lambda rows: rows.with_columns(*made))


def _all_numbers(pair: Pair, draw: st.DrawFn) -> None:
    kinds = [pl.Int64, pl.Float64]
    if pair.columns(*kinds):
        pair.both(lambda rows: rows.with_columns(pl.col(*kinds) * 3))


def _select(pair: Pair, draw: st.DrawFn) -> None:
    others = [name for name in pair.schema if name not in ("ts", "window_start", "window_end")]
    kept = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
    kept = [name for name in ("ts", "window_start", "window_end") if name in pair.schema] + kept
    pair.both(lambda rows: rows.select(*kept))


def _drop(pair: Pair, draw: st.DrawFn) -> None:
    others = [name for name in pair.schema if name not in ("ts", "window_start", "window_end")]
    if others:
        name = draw(st.sampled_from(others))
        pair.both(lambda rows: rows.drop(name))


def _rename(pair: Pair, draw: st.DrawFn) -> None:
    others = [name for name in pair.schema if name not in ("ts", "window_start", "window_end")]
    if others:
        name = draw(st.sampled_from(others))
        pair.both(lambda rows: rows.rename({name: f"{name}_"}))


def _cast(pair: Pair, draw: st.DrawFn) -> None:
    if columns := pair.columns(pl.Int8, pl.Int32, pl.UInt32):
        pair.both(lambda rows: rows.cast({columns[0]: pl.Int64}))


def _map(pair: Pair, draw: st.DrawFn) -> None:
    if not pair.windowed:
        pair.both(
            lambda rows: rows.map_batches(
                lambda frame: frame.with_columns(mapped=pl.lit(1)), schema={**pair.schema, "mapped": pl.Int32}
            )
        )


def _join(pair: Pair, draw: st.DrawFn) -> None:
    if pair.schema.get("key") != pl.String:
        return
    how = draw(st.sampled_from(["inner", "left", "semi", "anti"]))
    table = draw(st.sampled_from([TABLE, ONE]))
    if {f"{name}_right" for name in table.columns} & set(pair.schema) or {"label", "weight"} & set(
        pair.schema
    ):
        return
    pair.stream = pair.stream.join(table, on="key", how=how)
    pair.frame = pair.frame.join(table.lazy(), on="key", how=how, maintain_order="left_right")


ROW_VERBS = [_filter, _with_columns, _all_numbers, _select, _drop, _rename, _cast, _map, _join]


def _over(pair: Pair, draw: st.DrawFn) -> None:
    if columns := pair.columns(*NUMBERS):
        best = pl.col(columns[0]).max().over("window_start")
        pair.both(lambda rows: rows.with_columns(best=best).filter(pl.col(columns[0]) == pl.col("best")))


AGGREGATES: list[Callable[[str], pl.Expr]] = [
    lambda c: pl.col(c).sum(),
    lambda c: pl.col(c).mean(),
    lambda c: pl.col(c).min(),
    lambda c: pl.col(c).max(),
    lambda c: pl.col(c).first(),
    lambda c: pl.col(c).last(),
    lambda c: pl.col(c).count(),
    lambda c: pl.col(c).n_unique(),
    lambda c: pl.col(c).median(),
    lambda c: pl.col(c).quantile(0.3),
    lambda c: pl.col(c).std(),
    lambda c: pl.col(c).filter(pl.col(c) > 0).sum(),
    lambda c: pl.col(c).sum() / pl.len(),
    lambda c: pl.col(c).drop_nulls().first(),
    lambda c: pl.col(c).cum_sum().last(),
    lambda c: pl.col(c).is_null().any(),
    pl.col,
]
SPECS = [("1h", "1h"), ("1d", "1d"), ("6h", "2h"), ("1w", "1w"), ("10h", "4h"), ("90m", "90m")]


def _seconds(text: str) -> int:
    return int(text[:-1]) * {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}[text[-1]]


def window(pair: Pair, draw: st.DrawFn, time: pl.Expr) -> None:
    size, every = draw(st.sampled_from(SPECS))
    schema = pair.schema
    keys = draw(
        st.lists(
            st.sampled_from([c for c in ("key", "flag", "day", "small") if c in schema] or [""]),
            unique=True,
            max_size=2,
        )
    )
    keys = [key for key in keys if key]
    columns = [c for c in pair.columns(pl.Int64, pl.Int8, pl.Float64) if c not in keys]
    chosen = [(c, draw(st.sampled_from(AGGREGATES))) for c in columns[:3]]
    aggregates = {f"r{i}": make(c) for i, (c, make) in enumerate(chosen)} | {"n": pl.len()}
    spec = mamba.tumbling(size) if size == every else mamba.hopping(size, every)
    pair.stream = pair.stream.window(spec, by=keys).agg(**aggregates)

    length = timedelta(seconds=_seconds(size))
    last = time.dt.truncate(every)
    starts = [
        last - timedelta(seconds=_seconds(every)) * k for k in range(-(-_seconds(size) // _seconds(every)))
    ]
    rows = pair.frame.with_columns(__time=time, window_start=pl.concat_list(starts)).explode("window_start")
    rows = rows.filter(pl.col("__time") < pl.col("window_start") + length).drop("__time")
    result = rows.group_by(*keys, "window_start", maintain_order=True).agg(**aggregates)
    ended = result.with_columns(window_end=pl.col("window_start") + length)
    pair.frame = ended.select(*keys, "window_start", "window_end", *aggregates).sort("window_start", *keys)
    pair.windowed = True


def grow(pair: Pair, draw: st.DrawFn) -> None:
    """A random pipeline on both sides."""
    for verb in draw(st.lists(st.sampled_from(ROW_VERBS), max_size=4)):
        verb(pair, draw)
    if not draw(st.sampled_from([True, True, True, False])):
        return
    window(pair, draw, pl.col("ts"))
    for verb in draw(st.lists(st.sampled_from([*ROW_VERBS, _over, _over]), max_size=3)):
        verb(pair, draw)
    if draw(st.booleans()) and "window_start" in pair.schema:
        pair.both(
            lambda rows: rows.rename(
                {"window_start": "began", "n": "n1"} if "n" in pair.schema else {"window_start": "began"}
            )
        )
        pair.stream = pair.stream.rename({"window_end": "ended"})
        pair.frame = pair.frame.rename({"window_end": "ended"})
        window(pair, draw, pl.col("ended") - timedelta(microseconds=1))
