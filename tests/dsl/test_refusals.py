"""What cannot be right is refused while the pipeline is being built, at the user's line, with what would be right."""

from __future__ import annotations

import copy
import inspect
import re
from datetime import datetime

import polars as pl
import pyarrow as pa
import pytest

import mamba_stream as mamba
from mamba_stream.dsl import elsewhere

FRAME = pl.DataFrame(
    {
        "ts": [datetime(2024, 1, 1)],
        "key": ["a"],
        "value": [1],
        "tags": [["x"]],
        "day": [datetime(2024, 1, 1).date()],
    }
)
COLUMN, REFUSED, EXPRESSION = mamba.ColumnNotFound, mamba.PipelineRefused, mamba.ExpressionRefused


def rows() -> mamba.Stream:
    return mamba.stream(FRAME, time="ts")


def hourly() -> mamba.Stream:
    return rows().window(mamba.tumbling("1h"), by="key").agg(n=pl.len(), total=pl.col("value").sum())


BUILD = {
    "a filter on a column that is not there": (
        lambda: rows().filter(pl.col("valeu") > 1),
        COLUMN,
        "no column 'valeu', did you mean 'value'",
    ),
    "a filter that is no condition": (
        lambda: rows().filter(pl.col("value") + 1),
        EXPRESSION,
        "must be Boolean",
    ),
    "a filter by a Python function": (
        lambda: rows().filter(lambda row: True),
        REFUSED,
        "filter takes expressions",
    ),
    "a filter by nothing": (lambda: rows().filter(), REFUSED, "at least one predicate"),
    "a filter that looks at all rows": (
        lambda: rows().filter(pl.col("value") > pl.col("value").mean()),
        EXPRESSION,
        r"use \.window\(\.\.\.\)\.agg\(\.\.\.\) \(filter at",
    ),
    "types that do not compare": (lambda: rows().filter(pl.col("key") > 1), REFUSED, "filter: "),
    "a shift": (lambda: rows().with_columns(pl.col("value").shift()), EXPRESSION, "shift"),
    "a Python function in an expression": (
        lambda: rows().with_columns(pl.col("value").map_elements(repr, return_dtype=pl.String)),
        EXPRESSION,
        "map_batches",
    ),
    "a selection of constants": (lambda: rows().select(pl.lit(1)), EXPRESSION, "use with_columns"),
    "two columns of one name": (
        lambda: rows().select("key", pl.col("value").alias("key")),
        REFUSED,
        "select",
    ),
    "a Series for a column": (lambda: rows().with_columns(x=pl.Series([1])), REFUSED, "Series"),
    "a name of the engine's": (lambda: rows().with_columns(__mamba_x=pl.lit(1)), REFUSED, "the engine's own"),
    "dropping what is not there": (lambda: rows().drop("kay"), COLUMN, "did you mean 'key'"),
    "dropping everything": (lambda: rows().drop(FRAME.columns), REFUSED, "no column would be left"),
    "renaming what is not there": (lambda: rows().rename({"kay": "k"}), COLUMN, "did you mean 'key'"),
    "casting what is not there": (lambda: rows().cast({"kay": pl.String}), COLUMN, "did you mean 'key'"),
    "casting to Categorical": (lambda: rows().cast({"key": pl.Categorical}), REFUSED, "String or Enum"),
    "streams that differ": (
        lambda: mamba.concat([rows(), rows().rename({"value": "valeu"})]),
        REFUSED,
        "stream 2 differs from the first",
    ),
    "a concat of one stream": (lambda: mamba.concat(rows()), REFUSED, "list of streams"),
    "a schema that is none": (
        lambda: rows().map_batches(lambda batch: batch, schema={"x": "text"}),
        REFUSED,
        "map_batches: schema=.* is no schema",
    ),
    "a concat of frames": (lambda: mamba.concat([FRAME]), REFUSED, "list of streams"),
    "a window by what is not there": (
        lambda: rows().window(mamba.tumbling("1h"), by="kay").agg(pl.len()),
        COLUMN,
        "did you mean 'key'",
    ),
    "a window by an expression": (
        lambda: rows().window(mamba.tumbling("1h"), by=pl.col("key").str.len_chars()),
        REFUSED,
        "with_columns",
    ),
    "a window by a list": (
        lambda: rows().window(mamba.tumbling("1h"), by="tags").agg(pl.len()),
        REFUSED,
        "cannot be a key",
    ),
    "a window without a spec": (lambda: rows().window("1h"), REFUSED, "mamba.tumbling"),
    "an aggregate of what is not there": (
        lambda: rows().window(mamba.tumbling("1h")).agg(pl.col("valeu").sum()),
        COLUMN,
        "valeu",
    ),
    "an aggregate of the wrong type": (
        lambda: rows().window(mamba.tumbling("1h")).agg(x=pl.col("key").str.len_chars().dt.hour()),
        EXPRESSION,
        "agg",
    ),
    "an aggregate that Polars refuses for a type only when it runs": (
        lambda: rows().window(mamba.tumbling("1h")).agg(x=pl.col("ts").str.len_chars().sum()),
        EXPRESSION,
        "expected `String`",
    ),
    "aggregates of one name": (
        lambda: rows().window(mamba.tumbling("1h")).agg(pl.col("value").sum(), value=pl.len()),
        REFUSED,
        "'value'",
    ),
    "no aggregates": (lambda: rows().window(mamba.tumbling("1h")).agg(), REFUSED, "at least one"),
    "several columns at once": (
        lambda: rows().window(mamba.tumbling("1h")).agg(pl.all().sum()),
        REFUSED,
        "no single name",
    ),
    "a result called as the window": (
        lambda: rows().window(mamba.tumbling("1h")).agg(window_start=pl.len()),
        REFUSED,
        "two columns 'window_start'",
    ),
    "hours of dates": (
        lambda: mamba.stream(FRAME, time="day").window(mamba.tumbling("1h")).agg(pl.len()),
        REFUSED,
        "of 1:00:00 does not fit .*whole days",
    ),
    "a window after the time was dropped": (
        lambda: rows().drop("ts").window(mamba.tumbling("1h")).agg(pl.len()),
        REFUSED,
        r"needs the stream's time, and drop at .* changed or dropped its time column 'ts'",
    ),
    "a window after the time was changed": (
        lambda: (
            rows().with_columns(pl.col("ts").dt.offset_by("1h")).window(mamba.tumbling("1h")).agg(pl.len())
        ),
        REFUSED,
        "with_columns at .* changed",
    ),
    "a window over streams of different times": (
        lambda: (
            mamba.concat([rows(), mamba.stream(FRAME, time="day")]).window(mamba.tumbling("1d")).agg(pl.len())
        ),
        REFUSED,
        "different time columns: ts, day",
    ),
    "a window without any time": (
        lambda: mamba.stream(FRAME).window(mamba.tumbling("1h")).agg(pl.len()),
        REFUSED,
        r"mamba.stream\(..., time=\)",
    ),
    "over, without a window": (
        lambda: rows().filter(pl.col("value") == pl.col("value").max().over("key")),
        EXPRESSION,
        "window_start",
    ),
    "over something else than the window": (
        lambda: hourly().filter(pl.col("n") == pl.col("n").max().over("key")),
        EXPRESSION,
        "window_start",
    ),
    "over the window of a concat": (
        lambda: mamba.concat([hourly(), hourly()]).filter(
            pl.col("n") == pl.col("n").max().over("window_start")
        ),
        EXPRESSION,
        "over",
    ),
    "a join with a stream of no length": (
        lambda: rows().join(rows(), on="key", ttl=""),
        mamba.InvalidInput,
        "ttl=",
    ),
    "a join on what is not there": (lambda: rows().join(FRAME, on="kay"), COLUMN, "did you mean 'key'"),
    "a join with a column of the table that is not there": (
        lambda: rows().join(FRAME, left_on="key", right_on="kay"),
        COLUMN,
        "the table on the right",
    ),
    "a join of different types": (
        lambda: rows().join(FRAME, left_on="key", right_on="value"),
        REFUSED,
        "cast one",
    ),
    "a full join": (lambda: rows().join(FRAME, on="key", how="full"), REFUSED, "choose 'inner', 'left'"),
    "a join on nothing": (lambda: rows().join(FRAME), REFUSED, "give on="),
    "late rows of no window": (lambda: rows().late, REFUSED, "late belongs to"),
    "rejected rows of two sources": (lambda: mamba.concat([rows(), rows()]).rejected, REFUSED, "one source"),
    "a topic keyed by what is not there": (lambda: rows().to("out", key="kay"), COLUMN, "did you mean 'key'"),
    "a topic without partitions": (lambda: rows().to("out", partitions=0), REFUSED, "from 1 on"),
    "a topic that is a frame": (lambda: rows().to(FRAME), REFUSED, "name of a topic"),
    "a schema that the function gives with engine names": (
        lambda: rows().map_batches(lambda f: f, schema={"__mamba_x": pl.Int8}),
        REFUSED,
        "the engine's own",
    ),
    "no function": (lambda: rows().map_batches(None), REFUSED, "takes a function"),
}


@pytest.mark.parametrize("case", BUILD)
def test_it_is_refused_at_the_user_s_line(case):
    build, kind, why = BUILD[case]
    with pytest.raises(kind, match=why) as caught:
        build()
    if "(" in str(caught.value) and " at /" in str(caught.value):
        assert __file__ in str(caught.value)


def test_the_line_that_is_named_is_that_of_the_verb():
    with pytest.raises(mamba.ColumnNotFound) as caught:
        (rows().with_columns(x=pl.lit(1)).drop("kay"))
    line = inspect.currentframe().f_lineno  # type: ignore[union-attr]
    assert f"(drop at {__file__}:" in str(caught.value)
    named = int(str(caught.value).rpartition(":")[2].rstrip(")"))
    assert line - 8 < named < line


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("no such/name",), "only the letters"),
        ((42,), "takes a Polars or pandas frame"),
        ((pl.LazyFrame({"a": [1]}),), r"pass \.collect\(\)"),
        (([],), "an empty list has no columns"),
        ((pl.DataFrame({"o": [object()]}),), "Python objects"),
        ((rows(),), "is a stream already"),
        ((FRAME, "when"), "no column 'when' to take the time from"),
        ((FRAME, "value"), "a time column is a Datetime or a Date"),
        ((FRAME, "ts", "3"), "lateness is not a duration"),
        ((FRAME, "ts", "-3s"), "lateness must not be negative"),
        ((FRAME, "ts", "0s", "1x"), "idle"),
        ((FRAME, "ts", "0s", "30s", "1h"), "are for topics"),
        (("rows", None, "0s", "30s", None, "earliest", {"a": pl.Object}), "schema="),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value[0]).__name__,
)
def test_sources_that_cannot_be_are_refused(arguments, why):
    with pytest.raises(mamba.InvalidInput, match=why):
        mamba.stream(*arguments)


def test_a_lateness_finer_than_the_time_column_is_refused_before_anything_runs():
    with pytest.raises(mamba.PipelineRefused, match=r"lateness.*whole days"):
        mamba.stream(FRAME, time="day", lateness="1h")


def test_a_declared_schema_has_mistakes_found_at_once_and_is_held_against_the_topic(tmp_path):
    stream = mamba.stream("rows", schema={"key": pl.String, "value": pl.Int64})
    with pytest.raises(mamba.ColumnNotFound, match="valeu"):
        stream.filter(pl.col("valeu") > 1)
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("rows", {"key": pl.String, "value": pl.String})
        with pytest.raises(mamba.PipelineRefused, match=r"is not as schema= says: .*value.*\(stream at "):
            stream.collect(log)


def test_a_declared_schema_leaves_the_time_to_the_topic(tmp_path):
    stream = mamba.stream("rows", schema={"ts": pl.Datetime("us"), "value": pl.Int64})
    daily = stream.window(mamba.tumbling("1d")).agg(total=pl.col("value").sum()).filter(pl.col("total") > 0)
    assert stream.schema is not None and daily.schema is None
    with mamba.open(tmp_path / "log") as log:
        topic = log.create_topic("rows", FRAME.select("ts", "value"), time="ts")
        topic.append(FRAME.select("ts", "value"))
        assert daily.collect(log).get_column("total").to_list() == [1]


def test_a_bound_topic_has_mistakes_found_at_once(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        topic = log.create_topic("rows", FRAME, time="ts")
        with pytest.raises(mamba.ColumnNotFound, match="did you mean 'value'"):
            topic.stream().filter(pl.col("valeu") > 1)


def test_pipelines_that_cannot_be_are_refused():
    out = rows().to("out")
    with pytest.raises(mamba.InvalidName):
        mamba.pipeline("no/name", out)
    with pytest.raises(mamba.PipelineRefused, match="characters"):
        mamba.pipeline("x" * 190, out)
    with pytest.raises(mamba.PipelineRefused, match="has no outputs"):
        mamba.pipeline("job")
    with pytest.raises(mamba.PipelineRefused, match=r"end the stream with \.to"):
        mamba.pipeline("job", rows())
    with pytest.raises(mamba.InvalidInput, match="on_error"):
        mamba.pipeline("job", out, on_error="shrug")
    with pytest.raises(mamba.PipelineRefused, match="reads topic 'rows' and writes it"):
        mamba.pipeline("job", mamba.stream("rows").to("rows"))
    with pytest.raises(mamba.PipelineRefused, match="is no pipeline"):
        mamba.run(out)  # type: ignore[arg-type]


def test_two_windows_of_one_name_are_refused_with_both_places():
    with pytest.raises(mamba.PipelineRefused, match="two steps are called 'tumbling 1h by key: n, total'"):
        mamba.pipeline("job", hourly().to("one"), hourly().to("two"))
    same = hourly()
    mamba.pipeline("job", same.to("one"), same.late.to("two"))


def test_a_bound_topic_and_another_log_are_refused(tmp_path):
    with mamba.open(tmp_path / "one") as one, mamba.open(tmp_path / "two") as two:
        topic = one.create_topic("rows", FRAME, time="ts")
        with pytest.raises(mamba.PipelineRefused, match="belongs to the log in"):
            topic.stream().collect(two)


def test_a_table_of_arrow_is_checked_too():
    table = pa.table({"ts": pa.array([0], pa.timestamp("us")), "value": [1]})
    with pytest.raises(mamba.ColumnNotFound):
        mamba.stream(table, time="ts").select("valeu")


def test_a_frame_that_a_job_cannot_know_again_is_refused_at_its_line(mamba_log: mamba.Log):
    frame = pl.DataFrame({"n": [1], "wide": pl.Series([1], dtype=pl.Int128)})
    made = mamba.pipeline("job", mamba.stream(frame, name="frame").select("n").to("out"))
    with pytest.raises(
        mamba.UnsupportedType, match=r"'wide' has type Int128.*\(stream at .*test_refusals.py:\d+\)"
    ):
        mamba.run(made, log=mamba_log)


def test_what_other_libraries_have_leads_to_what_does_it_here():
    stream = mamba.stream(pl.DataFrame({"n": [1]}))
    for name, words in (
        ("sort", "top_k"),
        ("limit", r"\.head"),
        ("sum", r"\.agg"),
        ("drop_nulls", r"\.filter"),
        ("key_by", "group_by"),
        ("group_by_dynamic", r"mamba\.tumbling"),
        ("sink_parquet", r"\.to\("),
        ("union", r"mamba\.concat"),
    ):
        with pytest.raises(AttributeError, match=f"a stream has no '{name}': .*{words}"):
            getattr(stream, name)
    with pytest.raises(AttributeError, match="a stream has no 'filtre'$") as caught:
        stream.filtre  # noqa: B018
    # By which Python itself says what is meant, where nobody catches it.
    assert (caught.value.name, caught.value.obj) == ("filtre", stream)
    assert not hasattr(stream, "__array__")
    assert copy.copy(stream) is not None


def test_no_words_are_about_what_a_stream_has():
    have = {name for name in dir(mamba.Stream) if not name.startswith("_")}
    assert have.isdisjoint(elsewhere._WORDS)
    # And what they name is there.
    named = {
        name for words in elsewhere._WORDS.values() for name in re.findall(r"(?<![)\w])\.(\w+)\(", words)
    }
    assert named <= have
