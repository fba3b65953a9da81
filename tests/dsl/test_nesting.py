"""``explode`` and ``unnest``: as Polars', whatever the batches, and in an order that later steps can rely on."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given, settings, strategies as st
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream import testing
from tests.sizes import examples

START = datetime(2024, 1, 1)
SCHEMA = {
    "ts": pl.Datetime("us"),
    "n": pl.Int64,
    "tags": pl.List(pl.String),
    "codes": pl.List(pl.Int64),
    "pair": pl.Array(pl.Int64, 2),
    "who": pl.Struct({"name": pl.String, "age": pl.Int64}),
}

ROWS = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.one_of(st.none(), st.lists(st.sampled_from(["a", "b", None]), max_size=3)),
        st.one_of(
            st.none(),
            st.fixed_dictionaries({"name": st.sampled_from(["ann", None]), "age": st.integers(0, 9)}),
        ),
    ),
    max_size=12,
)


def frame(found) -> pl.DataFrame:
    rows = [
        (
            START + timedelta(seconds=second),
            number,
            tags,
            None if tags is None else [number * 10 + place for place in range(len(tags))],
            [number, -number],
            who,
        )
        for number, (second, tags, who) in enumerate(found)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


FEW = frame([(3, ["a", "b"], {"name": "ann", "age": 3}), (1, [], None), (2, None, {"name": None, "age": 1})])


def stream(rows: pl.DataFrame = FEW) -> mamba.Stream:
    return mamba.stream(rows, time="ts")


@settings(deadline=None, max_examples=examples(40))
@given(ROWS, st.booleans(), st.booleans())
def test_they_give_what_polars_gives(found, empty_as_null, keep_nulls):
    rows, options = frame(found), {"empty_as_null": empty_as_null, "keep_nulls": keep_nulls}
    for verb in (
        lambda it: it.explode("tags", "codes", **options),
        lambda it: it.explode(cs.by_name("pair")),
        lambda it: it.explode("tags", **options).explode("codes", **options).unnest("who"),
        lambda it: it.unnest("who", separator="."),
        lambda it: it.filter(pl.col("n") > 0).explode(["tags"], **options).select("n", "tags"),
    ):
        assert_frame_equal(verb(stream(rows)).collect(), verb(rows.lazy()).collect())


@settings(deadline=None, max_examples=15)
@given(ROWS, st.integers(0, 99))
def test_a_step_that_depends_on_order_sees_elements_in_theirs_whatever_the_batches(found, seed):
    rows = frame(found)
    last = (
        mamba.stream("rows", lateness="1h")
        .explode("tags", "codes")
        .explode("pair")
        .unnest("who")
        .window(mamba.tumbling("5s"))
        .agg(
            first=pl.col("codes").first(),
            last=pl.col("codes").last(),
            pair=pl.col("pair").last(),
            tags=pl.col("tags"),
        )
    )
    same = testing.assert_equivalent(
        last, {"rows": rows}, time="ts", topics={"rows": {"schema": SCHEMA, "time": "ts"}}, runs=3, seed=seed
    )
    expected = (
        rows.with_columns(o=pl.int_range(pl.len()))
        .sort("ts", "o")
        .explode("tags", "codes")
        .explode("pair")
        .group_by(window_start=pl.col("ts").dt.truncate("5s"))
        .agg(
            first=pl.col("codes").first(),
            last=pl.col("codes").last(),
            pair=pl.col("pair").last(),
            tags=pl.col("tags"),
        )
    )
    assert_frame_equal(same.played["out"].drop("window_end"), expected, check_row_order=False)


def test_only_the_columns_that_are_needed_are_read():
    assert stream().explode("tags").select("n", "tags").collect().columns == ["n", "tags"]
    assert stream().unnest("who").select("age").collect()["age"].to_list() == [3, None, 1]


def test_a_window_is_whole_behind_it():
    counted = stream().window(mamba.tumbling("1h")).agg(codes=pl.col("codes").first(), n=pl.len())
    kept = counted.explode("codes").filter(pl.col("codes") == pl.col("codes").max().over("window_start"))
    assert kept.collect()["codes"].to_list() in ([], [1], [21])


def test_a_row_that_cannot_be_exploded_goes_by_itself(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        rows = FEW.with_columns(
            codes=pl.Series([[1], [], None], dtype=pl.List(pl.Int64)), tags=pl.Series([["x", "y"], [], None])
        )
        log.create_topic("rows", SCHEMA, time="ts").append(rows)
        exploded = mamba.stream("rows").explode("tags", "codes", empty_as_null=True)
        summary = mamba.run(
            mamba.pipeline("job", exploded.to("out"), on_error="dead_letter"), log, until="now"
        )
        assert summary.failed == 1 and log["out"].scan().collect()["n"].to_list() == [1, 2]
        assert log["job.dead"].scan().collect()["n"].to_list() == [0]


def test_lists_that_are_too_long_to_be_ordered_say_so():
    long = pl.DataFrame({"ts": [START], "l": [[0] * ((1 << 20) + 1)]})
    assert mamba.stream(long, time="ts").explode("l").collect().height == (1 << 20) + 1
    last = mamba.stream(long, time="ts").explode("l").window(mamba.tumbling("1h")).agg(pl.col("l").last())
    with pytest.raises(
        mamba.StepFailed, match="the order of rows, and that of elements is known for 1,048,576"
    ):
        last.collect()


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: stream().explode("tag"), "did you mean 'tags'"),
        (lambda: stream().explode("n"), "column 'n' is Int64, and neither a List nor an Array"),
        (lambda: stream().explode([]), "no column is named"),
        (lambda: stream().unnest("whom"), "did you mean 'who'"),
        (lambda: stream().unnest("n"), "column 'n' is Int64, and no Struct"),
        (lambda: stream().rename({"n": "age"}).unnest("who"), "age"),
        (
            lambda: stream().with_columns(s=pl.struct(ts="ts")).drop("ts").unnest("s").window(mamba.tumbling("1h")).agg(pl.len()),
            "changed or dropped its time column",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(build, why):
    with pytest.raises(mamba.InvalidInput, match=why):
        build()


def test_they_are_explained():
    words = stream().explode("tags").unnest("who").explain()
    assert "explode: tags" in words and "unnest: who" in words
