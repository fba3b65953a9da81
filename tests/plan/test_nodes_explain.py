"""A plan in words: what each step does, where its rows come from, how aggregates are kept."""

from __future__ import annotations

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.plan.analysis import analyse
from mamba_stream.plan.shapes import TopicFacts

ROWS = pl.DataFrame(
    {"ts": [], "key": [], "value": []}, schema={"ts": pl.Datetime("us"), "key": pl.String, "value": pl.Int64}
)


def build() -> mamba.Pipeline:
    rows = mamba.stream(ROWS, time="ts", lateness="3h")
    hourly = (
        rows.filter(pl.col("value") > 0)
        .window(mamba.tumbling("1h"), by="key")
        .agg(n=pl.len(), p95=pl.col("value").quantile(0.95), odd=pl.col("value").sort().first())
    )
    named = hourly.join(pl.DataFrame({"key": ["a"], "name": ["A"]}), on="key", how="left")
    return mamba.pipeline("job", named.to("out"), hourly.late.to("late"))


def test_words_name_every_step_and_how_aggregates_are_kept():
    assert (
        build().explain()
        == """\
  1  stream: a frame of 0 rows, time ts, lateness 3h
  2  filter: [(col("value")) > (dyn int: 0)]
  3  window: tumbling 1h by key
       n    partial
       p95  partial holding values
       odd  keeps rows
       named 'tumbling 1h by key: n, p95, odd'
  4  join: left, with a table of 1 rows on key
  5  to: topic 'out'
  6  late of 3: the rows that came too late for it
  7  to: topic 'late'"""
    )


def test_a_picture_has_a_box_for_every_step_and_an_arrow_for_every_way():
    picture = build().explain(format="mermaid").splitlines()
    assert picture[0] == "flowchart LR"
    assert sum("-->" in line for line in picture) == 6
    assert "  n3 --> n4" in picture and "  n3 --> n6" in picture
    assert all(line.count('"') in (0, 2) for line in picture)


def test_what_depends_on_the_clock_or_on_functions_is_said():
    words = (
        mamba.stream("rows", idle="5s").map_batches(len).window(mamba.tumbling("1h")).agg(pl.len()).explain()
    )
    assert "silent for 5 s" in words
    assert "only if the function is row-wise" in words
    assert "once the topic is known" in words


def test_another_format_is_refused():
    with pytest.raises(mamba.InvalidInput, match="choose 'text', 'mermaid' or 'stages'"):
        build().explain(format="svg")  # type: ignore[arg-type]


def test_only_the_columns_that_some_step_needs_are_read():
    rows = mamba.stream("rows", time="ts")
    schema = pl.Schema(
        {"ts": pl.Datetime("us"), "a": pl.Int64, "b": pl.Int64, "c": pl.Int64, "d": pl.String, "e": pl.Int8}
    )
    counted = (
        rows.filter(pl.col("a") > 0)
        .drop("e")
        .rename({"b": "bee"})
        .with_columns(c=pl.col("c") + 1)
        .window(mamba.tumbling("1h"))
        .agg(pl.col("bee").sum())
    )
    pipeline = mamba.pipeline("job", counted.to("out"))
    analysis = analyse(pipeline.outputs, {"rows": TopicFacts(schema, None)})
    (source,) = analysis.sources
    assert analysis.needed[source] == ("ts", "a", "b", "c")
    with_late = mamba.pipeline("job", counted.to("out"), counted.late.to("late"))
    analysis = analyse(with_late.outputs, {"rows": TopicFacts(schema, None)})
    assert analysis.needed[analysis.sources[0]] == ("ts", "a", "b", "c", "d")


def test_order_and_lateness_are_carried_only_where_a_later_step_depends_on_them():
    schema = {"rows": TopicFacts(ROWS.schema, "ts")}

    def analysed(stream: mamba.Stream) -> tuple[int, int]:
        found = analyse(mamba.pipeline("job", stream.to("out")).outputs, schema)
        (source,) = found.sources
        return source in found.timed, source in found.ordered

    rows = mamba.stream("rows")
    sums = rows.window(mamba.tumbling("1h")).agg(value=pl.col("value").sum())
    assert analysed(rows.filter(pl.col("value") > 0)) == (False, False)
    assert analysed(sums) == (True, False)
    assert analysed(rows.window(mamba.tumbling("1h")).agg(pl.col("value").first())) == (True, True)
    assert analysed(sums.window(mamba.tumbling("1d")).agg(pl.col("value").first())) == (True, False)
