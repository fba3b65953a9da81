"""Running totals are, in the end, what ``group_by().agg()`` gives over all rows; totals of totals, too."""

from __future__ import annotations

import hypothesis.strategies as st
import polars as pl
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.operators.columns import ORIGIN, ORIGIN_TYPES
from mamba_stream.plan import nodes as n
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.run import Run
from mamba_stream.runtime.steps import step_of
from tests.runtime.model import SEEDS
from tests.runtime.pipelines import AGGREGATES, tables
from tests.runtime.tables import check_crashing, in_stream_order
from tests.sizes import examples

KEYS = st.lists(st.sampled_from(["key", "flag", "day", "small", "flt"]), unique=True, max_size=3)
COLUMNS = ["num", "flt", "small"]
MORE = [
    *AGGREGATES,
    lambda c: pl.col(c).filter(pl.col(c) > 0).n_unique(),
    lambda c: pl.col(c).drop_nulls().n_unique() + pl.len(),
    lambda c: pl.col(c).product(),
    lambda c: pl.col(c).null_count(),
    lambda c: pl.col(c).var(),
    lambda c: pl.col(c).sort().head(2),
    lambda c: (pl.col(c) / 49).floor().sum(),
    lambda c: pl.col(c).mode(maintain_order=True).min(),
]


@st.composite
def totals(draw: st.DrawFn) -> tuple[list[str], dict[str, pl.Expr]]:
    keys = draw(KEYS)
    columns = [column for column in COLUMNS if column not in keys]
    chosen = draw(
        st.lists(st.tuples(st.sampled_from(columns), st.sampled_from(MORE)), min_size=1, max_size=4)
    )
    return keys, {"n": pl.len()} | {f"r{i}": make(column) for i, (column, make) in enumerate(chosen)}


def batch(rows: pl.LazyFrame, keys: list[str], exprs: dict[str, pl.Expr]) -> pl.DataFrame:
    if keys:
        return rows.group_by(keys, maintain_order=True).agg(**exprs).collect(engine="in-memory")
    whole = rows.with_columns(__all=0).group_by("__all", maintain_order=True).agg(**exprs).drop("__all")
    return whole.collect(engine="in-memory")


@settings(max_examples=examples(35), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(tables(), min_size=1, max_size=3), made=totals(), seed=SEEDS)
def test_totals_are_those_of_a_batch_however_cut_and_wherever_crashed(parts, made, seed):
    keys, exprs = made
    rows = in_stream_order(parts)
    expected = batch(rows.lazy(), keys, exprs)
    check_crashing(parts, lambda stream: stream.group_by(keys).agg(**exprs), keys, expected, seed)


SECOND = {
    "i": pl.col("total").sum(),
    "j": pl.col("total").mean(),
    "k": pl.col("most").max(),
    "l": pl.col("most").min(),
    "m": pl.col("values").n_unique(),
    "n": pl.col("total").quantile(0.4),
    "o": pl.col("level").mean(),
    "p": pl.col("level").sum(),
    "q": pl.col("level").filter(pl.col("values") > 1).var(),
    "r": pl.col("most").first(),
    "s": pl.col("most").last(),
    "t": pl.len(),
    "u": pl.col("most").null_count() + pl.col("values").count(),
    "v": pl.col("total"),
    "w": pl.col("most").std(),
    "x": pl.col("seen").any(),
    "y": pl.col("seen").all(),
    "z": pl.col("level").median(),
}


@settings(max_examples=examples(35), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=st.lists(tables(), min_size=1, max_size=2),
    inner=st.sampled_from([["key", "num"], ["small", "day"], ["num", "flag", "key"]]),
    outer=st.sampled_from([["key"], [], ["small"], ["flag"]]),
    second=st.lists(st.sampled_from(sorted(SECOND)), min_size=1, max_size=5, unique=True),
    between=st.sampled_from(["nothing", "filter", "columns"]),
    seed=SEEDS,
)
def test_totals_of_totals_take_back_what_changed(parts, inner, outer, second, between, seed):
    outer = [key for key in outer if key in inner]
    first = {
        "total": pl.col("num" if "num" not in inner else "small").cast(pl.Int64).sum(),
        "most": pl.col("flt").max(),
        "values": pl.col("flt").n_unique(),
        "level": pl.col("flt").mean(),
        "seen": pl.col("day").is_null().any(),
    }
    exprs = {name: SECOND[name] for name in second}

    def both(rows, of_table):
        table = of_table(rows)
        if between == "filter":
            table = table.filter(pl.col("total") > 0)
        elif between == "columns":
            table = table.with_columns(total=pl.col("total") % 7 - 3)
        return table

    rows = in_stream_order(parts).lazy()
    # A table has the order of its key.
    table = both(rows, lambda rows: rows.group_by(inner, maintain_order=True).agg(**first).sort(inner))
    expected = batch(table, outer, exprs)
    check_crashing(
        parts,
        lambda stream: (
            both(stream, lambda rows: rows.group_by(inner).agg(**first)).group_by(outer).agg(**exprs)
        ),
        outer,
        expected,
        seed,
    )


def test_values_of_a_key_that_is_gone_are_not_those_of_another_behind_a_snapshot(mamba_log: mamba.Log):
    start = pl.DataFrame({"ts": [0, 1], "key": ["stays", "gone"], "v": [1, 7]})
    later = pl.DataFrame({"ts": [100, 101], "key": ["stays", "new"], "v": [1, 7]})
    first, second = (rows.cast({"ts": pl.Datetime("ms")}) for rows in (start, later))
    mamba_log.create_topic("in", first, time="ts")
    totals = mamba.stream("in").group_by("key", ttl="50ms").agg(values=pl.col("v").n_unique())
    made = mamba.pipeline("job", totals.to("out"))

    def worked() -> Run:
        run = Run(made, mamba_log, run_options(until="now"), SystemClock())
        while run.step():
            pass
        return run

    def append(rows: pl.DataFrame) -> None:
        for row in rows.iter_slices(1):
            mamba_log["in"].append(row)
            run = worked()
            run.commit("stopped")
            run.close()

    append(first)
    append(second.head(1))
    run = worked()
    [(node, before)] = run.engine.flow.steps.items()
    assert isinstance(node, n.Stateful)
    # The key that is gone had the greatest number, and what is left of it are values.
    after = step_of(node, run.analysis)
    for part, frame in before.snapshot().items():
        after.restore(part, frame)
    after.restored(before.closed)
    order = [pl.lit(5).cast(ORIGIN_TYPES[name]).alias(name) for name in ORIGIN]
    made_now = after.add(second.tail(1).with_columns(order), 0).rows
    assert made_now is not None
    assert made_now.select("key", "values").rows() == [("new", 1)]
    run.close()
