"""Rows, windows and keys over which a step with state raises, at whatever moment: only they go, however rows are cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.messaging.redrive import redrive
from mamba_stream.operators.changes import table_of
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.run import Run
from tests.sizes import crossed, examples

START = datetime(2024, 1, 1)
SCHEMA = {"ts": pl.Datetime("us"), "key": pl.String, "value": pl.String, "extra": pl.Int64}
NUMBER = pl.col("value").cast(pl.Int64)


def rows(count: int = 300, seed: int = 7) -> pl.DataFrame:
    """Rows a few seconds apart, of some keys, with values that are numbers but for one in twelve."""
    chosen = random.Random(seed)
    at, found = START, []
    for number in range(count):
        at += timedelta(seconds=chosen.choice([1, 2, 5, 40]))
        value = "oops" if chosen.random() < 1 / 12 else str(chosen.randrange(100))
        found.append((at, chosen.choice("abc"), value, number))
    return pl.DataFrame(found, schema=SCHEMA, orient="row")


ROWS = rows()
BAD = ROWS.filter(pl.col("value") == "oops")
GOOD = ROWS.filter(pl.col("value") != "oops").with_columns(number=NUMBER)


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        opened.create_topic("rows", SCHEMA, time="ts")
        opened["rows"].append(ROWS)
        opened["rows"].end()
        yield opened


def once(log, stream, on_error="dead_letter", name="job"):
    return mamba.run(mamba.pipeline(name, stream.to(f"{name}.out"), on_error=on_error), log)


def torn(log, stream, seed: int, name="job", on_error="dead_letter") -> Run:
    """A job whose rows are read in pieces of any size, which commits now and then, and dies in between."""
    moments = random.Random(seed)
    pipeline = mamba.pipeline(name, stream.to(f"{name}.out"), on_error=on_error)
    options, clock = run_options(), SystemClock()
    run = Run(pipeline, log, options, clock)
    run.commit("running")
    while True:
        for _ in range(moments.randrange(1, 6)):
            if not run.step(moments.randrange(1, 90)) and run.over:
                run.commit("ended")
                return run
        if moments.random() < 0.6:
            run.commit("running")
        if moments.random() < 0.4:
            run = Run(pipeline, log, options, clock)


def table(log, name="job") -> pl.DataFrame:
    """What a job gave, a changelog as the table that it folds to."""
    found = log[f"{name}.out"].scan().collect()
    return table_of(found) if "_op" in found.columns else found


def dead(log, topic="job.dead") -> pl.DataFrame:
    return log[topic].scan().collect() if topic in log else pl.DataFrame(schema=SCHEMA)


def made(log, name="job") -> list[dict[str, object]]:
    topic = f"{name}.made.dead"
    return [json.loads(row) for row in dead(log, topic)["row"]] if topic in log else []


def causes(log, topic) -> list[str]:
    return dead(log, topic)["_dead"].struct.field("cause").to_list()


# -- rows over which an aggregate raises as they come ------------------------------------------------------------------


def hours(frame: pl.DataFrame, *by: str) -> pl.DataFrame:
    start = pl.col("ts").dt.truncate("10m").alias("window_start")
    found = frame.group_by(*by, start).agg(n=pl.len(), total=pl.col("number").sum())
    end = (pl.col("window_start") + pl.duration(minutes=10)).alias("window_end")
    return found.select(*by, "window_start", end, "n", "total")


def sessions(frame: pl.DataFrame) -> pl.DataFrame:
    found = []
    for (key,), of in frame.sort("ts").group_by("key", maintain_order=True):
        open_: list[tuple[datetime, int]] = []
        for at, number in [*of.select("ts", "number").rows(), (datetime.max, 0)]:
            if open_ and at - open_[-1][0] > timedelta(seconds=30):
                end = open_[-1][0] + timedelta(seconds=30)
                found.append((key, open_[0][0], end, len(open_), sum(value for _, value in open_)))
                open_ = []
            open_.append((at, number))
    types = {"key": pl.String, "window_start": SCHEMA["ts"], "window_end": SCHEMA["ts"]}
    return pl.DataFrame(found, {**types, "n": pl.UInt32, "total": pl.Int64}, orient="row")


def fives(frame: pl.DataFrame) -> pl.DataFrame:
    found = frame.sort("ts").with_columns(place=pl.int_range(pl.len()).over("key") // 5)
    windows = found.group_by("key", "place").agg(
        window_start=pl.col("ts").min(),
        window_end=pl.col("ts").max() + pl.duration(microseconds=1),
        n=pl.len(),
        total=pl.col("number").sum(),
    )
    return windows.drop("place")


AGGREGATES = {"n": pl.len(), "total": NUMBER.sum()}
ROW_BY_ROW: dict[str, tuple[Callable[..., mamba.Stream], Callable[[pl.DataFrame], pl.DataFrame]]] = {
    "tumbling": (
        lambda stream: stream.window(mamba.tumbling("10m"), by="key").agg(**AGGREGATES),
        lambda frame: hours(frame, "key"),
    ),
    "updated": (
        lambda stream: stream.window(mamba.tumbling("10m"), by="key", emit="update").agg(**AGGREGATES),
        lambda frame: hours(frame, "key"),
    ),
    "session": (
        lambda stream: stream.window(mamba.session("30s"), by="key").agg(**AGGREGATES),
        sessions,
    ),
    "session, updated": (
        lambda stream: stream.window(mamba.session("30s"), by="key", emit="update").agg(**AGGREGATES),
        sessions,
    ),
    "rows": (lambda stream: stream.window(mamba.rows(5), by="key").agg(**AGGREGATES), fives),
    "rolling": (
        lambda stream: stream.select("ts", "key", "value").rolling("1m", by="key").agg(**AGGREGATES),
        lambda frame: (
            frame.sort("ts")
            .rolling("ts", period="1m", group_by="key")
            .agg(n=pl.len(), total=pl.col("number").sum())
        ),
    ),
    "match": (
        lambda stream: stream.match(
            [mamba.step("low", NUMBER < 30), mamba.step("high", NUMBER > 70)],
            by="key",
            within="1h",
            overlapping=True,
        ).agg(first=pl.col("low.extra"), last=pl.col("high.extra")),
        lambda frame: pl.DataFrame(
            [
                (key, at, following[0][0], number, following[0][1])
                for (key,), of in frame.sort("ts").group_by("key", maintain_order=True)
                for at, number, value in of.select("ts", "extra", "number").rows()
                if value < 30
                and (
                    following := of.filter(pl.col("ts") > at, pl.col("number") > 70)
                    .select("ts", "extra")
                    .rows()
                )
                and following[0][0] - at <= timedelta(hours=1)
            ],
            {
                "key": pl.String,
                "match_start": SCHEMA["ts"],
                "match_end": SCHEMA["ts"],
                "first": pl.Int64,
                "last": pl.Int64,
            },
            orient="row",
        ),
    ),
}


@pytest.mark.parametrize(("case", "on_error"), crossed(ROW_BY_ROW, ["skip", "dead_letter"], every=2))
def test_rows_over_which_an_aggregate_raises_never_were(log, case, on_error):
    stream, expected = ROW_BY_ROW[case]
    summary = once(log, stream(mamba.stream("rows")), on_error)
    assert_frame_equal(
        table(log), expected(GOOD), check_row_order=False, check_column_order=False, check_dtypes=False
    )
    assert summary.failed == BAD.height > 0
    assert dead(log).drop("_dead", strict=False).rows() == (BAD.rows() if on_error == "dead_letter" else [])
    assert made(log) == []


@pytest.mark.parametrize("case", ROW_BY_ROW)
def test_however_rows_are_cut_and_the_job_dies_the_same_rows_go(log, case):
    stream, expected = ROW_BY_ROW[case]
    for seed in range(examples(4, least=2)):
        run = torn(log, stream(mamba.stream("rows")), seed, f"torn{seed}")
        found = table(log, f"torn{seed}")
        assert_frame_equal(
            found, expected(GOOD), check_row_order=False, check_column_order=False, check_dtypes=False
        )
        assert run.faults.rows == BAD.height
        assert_frame_equal(dead(log, f"torn{seed}.dead").drop("_dead").sort("ts"), BAD)


@pytest.mark.parametrize("case", ROW_BY_ROW)
def test_where_nothing_may_go_the_row_is_shown(log, case):
    stream, _ = ROW_BY_ROW[case]
    with pytest.raises(mamba.StepFailed, match=r"(?s)over a row:\n  .*'value': 'oops'") as caught:
        once(log, stream(mamba.stream("rows")), "fail")
    assert isinstance(caught.value.__cause__, pl.exceptions.PolarsError)


# -- windows over which an expression raises when they are over ----------------------------------------------------------

KEPT = {"n": pl.len(), "third": pl.col("value").filter(pl.col("value") != "oops").sort().get(2)}
"""Raises over windows with fewer than three good rows; it keeps the rows."""
READ_OFF = {"n": pl.len(), "few": ((pl.col("extra") % 7).sum() * 10).cast(pl.Int8)}
"""Raises over windows with a sum of more than twelve; it is read off a partial result."""
KINDS = {
    "tumbling": (mamba.tumbling("1m"), "final"),
    "hopping": (mamba.hopping("1m", "30s"), "final"),
    "session": (mamba.session("30s"), "final"),
    "rows": (mamba.rows(3), "final"),
    "tumbling, updated": (mamba.tumbling("1m"), "update"),
    "session, updated": (mamba.session("30s"), "update"),
}


def minutes() -> pl.DataFrame:
    start = pl.col("ts").dt.truncate("1m").alias("window_start")
    end = (pl.col("ts").dt.truncate("1m") + pl.duration(minutes=1)).alias("window_end")
    good = pl.col("value").filter(pl.col("value") != "oops").sort()
    total = (pl.col("extra") % 7).sum()
    return ROWS.group_by("key", start, end).agg(n=pl.len(), values=good, extra=pl.col("extra"), total=total)


def test_a_window_over_which_an_expression_raises_goes_with_its_rows_and_no_other(log):
    stream = mamba.stream("rows").window(mamba.tumbling("1m"), by="key").agg(**KEPT)
    summary = once(log, stream)
    there = pl.col("values").list.len() >= 3
    fine = minutes().filter(there).select(*table(log).columns[:4], third=pl.col("values").list.get(2))
    assert_frame_equal(table(log), fine, check_row_order=False, check_dtypes=False)
    gone = sorted(minutes().filter(~there)["extra"].explode())
    assert sorted(dead(log)["extra"]) == gone and summary.failed == len(gone) > 0
    assert made(log) == []
    [cause] = [
        cause
        for cause, extra in zip(causes(log, "job.dead"), dead(log)["extra"], strict=True)
        if extra == gone[0]
    ]
    at, key = ROWS.filter(pl.col("extra") == gone[0]).select("ts", "key").row(0)
    start = at.replace(second=0)
    assert f"over the window from {start} to {start + timedelta(minutes=1)}, key={key!r}: " in cause
    assert "window 'tumbling 1m by key" in cause and "test_failing_state.py:" in cause


def test_a_window_that_keeps_no_rows_is_a_dead_letter_that_says_which_it_is(log):
    stream = mamba.stream("rows").window(mamba.tumbling("1m"), by="key").agg(**READ_OFF)
    summary = once(log, stream)
    fine = minutes().filter(pl.col("total") <= 12).select(*table(log).columns[:4], few=pl.col("total") * 10)
    assert_frame_equal(table(log), fine, check_row_order=False, check_dtypes=False)
    gone = minutes().filter(pl.col("total") > 12)
    found = {(row["key"], datetime.fromisoformat(row["window_start"])) for row in made(log)}
    assert found == set(gone.select("key", "window_start").rows())
    assert summary.failed == gone.height == len(made(log)) > 0 and dead(log).height == 0
    assert all(" over the window from 2024-01-01 " in cause for cause in causes(log, "job.made.dead"))


@pytest.mark.parametrize(("kind", "aggregates"), crossed(KINDS, [KEPT, READ_OFF], every=2))
def test_which_windows_go_does_not_depend_on_batches_or_crashes(log, kind, aggregates):
    spec, emit = KINDS[kind]
    stream = mamba.stream("rows").window(spec, by="key", emit=emit).agg(**aggregates)
    summary = once(log, stream)
    first, gone = table(log), sorted(map(str, made(log)))
    assert first.height > 0 and summary.failed > 0 and not sum(first.null_count().row(0))
    for seed in range(examples(3, least=2)):
        run = torn(log, stream, seed, f"torn{seed}")
        assert_frame_equal(table(log, f"torn{seed}"), first, check_row_order=False)
        assert sorted(dead(log, f"torn{seed}.dead")["extra"]) == sorted(dead(log)["extra"])
        if emit == "final":
            # How often a window changes before it is over depends on batches.
            assert sorted(map(str, made(log, f"torn{seed}"))) == gone and run.faults.rows == summary.failed


@pytest.mark.parametrize("emit", ["final", "update"])
def test_the_run_ends_with_the_window_and_its_key_where_nothing_may_go(log, emit):
    stream = mamba.stream("rows").window(mamba.tumbling("1m"), by="key", emit=emit).agg(**KEPT)
    with pytest.raises(mamba.StepFailed) as caught:
        once(log, stream, "fail")
    assert "over the window from 2024-01-01 00:0" in str(caught.value)
    assert ", key='" in str(caught.value) and "get index is out of bounds" in str(caught.value)


def test_rows_of_a_window_that_went_are_put_back_once(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("rows", SCHEMA, time="ts")
        log["rows"].append(ROWS)
        stream = mamba.stream("rows").window(mamba.tumbling("1m"), by="key").agg(**KEPT)
        mamba.run(mamba.pipeline("job", stream.to("out"), on_error="dead_letter"), log, until="now")
        letters = dead(log)["extra"].to_list()
        assert letters and redrive(log, "job.dead").letters == len(letters)
        assert redrive(log, "job.dead").letters == 0
        assert sorted(log["rows"].scan().collect()["extra"][ROWS.height :]) == sorted(letters)


def test_a_window_whose_result_can_no_longer_be_computed_is_taken_back(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("rows", SCHEMA, time="ts")
        few = mamba.stream("rows").window(mamba.tumbling("1h"), by="key", emit="update").agg(**READ_OFF)
        pipeline = mamba.pipeline("job", few.to("job.out"), on_error="dead_letter")
        same = [(START, "a", "1", 4)] * 5
        for number, row in enumerate(same):
            log["rows"].append(pl.DataFrame([row], SCHEMA, orient="row"))
            summary = mamba.run(pipeline, log, until="now")
            assert table(log)["n"].to_list() == ([number + 1] if number < 3 else [])
            assert summary.failed == (number >= 3)
        changes = log["job.out"].scan().collect()
        assert changes["_op"].to_list() == ["+I", "-U", "+U", "-U", "+U", "-D"]
        assert changes["n"].to_list() == [1, 1, 2, 2, 3, 3]


def test_a_match_whose_result_raises_goes_alone(log):
    low, high = mamba.step("low", pl.col("extra") % 2 == 0), mamba.step("high", pl.col("extra") % 2 == 1)
    stream = mamba.stream("rows").match([low, high], by="key", within="1h", overlapping=True)
    results = stream.agg(first=pl.col("low.value").cast(pl.Int64), at=pl.col("low.extra"))
    everything = stream.agg(first=pl.col("low.value"), at=pl.col("low.extra")).collect(log)
    for seed in range(examples(3, least=2)):
        run = torn(log, results, seed, f"torn{seed}")
        good = everything.filter(pl.col("first") != "oops").cast({"first": pl.Int64})
        bad = everything.filter(pl.col("first") == "oops")
        assert_frame_equal(table(log, f"torn{seed}"), good, check_row_order=False)
        assert run.faults.rows == bad.height > 0
        assert sorted(row["low.extra"] for row in made(log, f"torn{seed}")) == sorted(bad["at"])
        assert all(" over the match from 2024" in cause for cause in causes(log, f"torn{seed}.made.dead"))
    with pytest.raises(
        mamba.StepFailed, match=r"over the match from 2024-01-01 .* to .*, a row:\n .*'low.value': 'oops'"
    ):
        once(log, results, "fail")


def test_state_can_be_looked_at_where_a_window_has_no_result(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("rows", SCHEMA, time="ts")
        log["rows"].append(ROWS)
        stream = mamba.stream("rows").window(mamba.tumbling("1d"), by="key", name="days").agg(**READ_OFF)
        job = mamba.start(mamba.pipeline("job", stream.to("out"), on_error="skip"), log, until="now")
        job.wait()
        assert job.state("days").columns == ["key", "window_start", "window_end", "n", "few"]


# -- keys whose totals cannot be computed --------------------------------------------------------------------------------


def totals(frame: pl.DataFrame, *by: str) -> pl.DataFrame:
    return frame.group_by(by).agg(n=pl.len(), total=pl.col("number").sum(), kinds=pl.col("number").n_unique())


DISTINCT = {**AGGREGATES, "kinds": NUMBER.n_unique()}


@pytest.mark.parametrize("on_error", ["skip", "dead_letter"])
def test_rows_over_which_a_total_raises_never_were(log, on_error):
    stream = mamba.stream("rows").group_by("key").agg(**DISTINCT)
    expected = totals(GOOD, "key")
    assert once(log, stream, on_error).failed == BAD.height
    assert_frame_equal(table(log), expected, check_row_order=False, check_dtypes=False)
    for seed in range(examples(4, least=2)):
        assert torn(log, stream, seed, f"torn{seed}", on_error).faults.rows == BAD.height
        assert_frame_equal(table(log, f"torn{seed}"), expected, check_row_order=False, check_dtypes=False)
        if on_error == "dead_letter":
            assert_frame_equal(dead(log, f"torn{seed}.dead").drop("_dead").sort("ts"), BAD)


@pytest.mark.parametrize("case", ["kept", "read off"])
@pytest.mark.parametrize("of", ["rows", "a table"])
def test_keys_whose_total_cannot_be_computed_are_not_in_the_table(log, case, of):
    """Keys that have no total for a while, or at the end, however the rows come; of rows, and of rows taken back."""
    stream, rows = mamba.stream("rows"), ROWS
    stream, rows = (one.with_columns(of=pl.col("extra") // 9) for one in (stream, rows))
    if of == "a table":
        stream, rows = stream.table("of"), rows.group_by("of").agg(pl.all().last())
        stream, rows = (one.with_columns(of=pl.col("of") % 20) for one in (stream, rows))
    good = pl.col("extra").filter(pl.col("value") != "oops").sort()
    aggregates = {
        "kept": {"n": pl.len(), "late": good.get(8 if of == "rows" else 1)},
        "read off": {"n": pl.len(), "few": ((pl.col("extra") % 7 - 3).sum() * 40).cast(pl.Int8)},
    }[case]
    expected = []
    for (key,), group in rows.group_by("of"):
        try:
            expected.append(group.group_by(of=pl.lit(key)).agg(**aggregates))
        except pl.exceptions.PolarsError:
            continue
    stream = stream.group_by("of").agg(**aggregates)
    for seed in range(5):
        run = torn(log, stream, seed, f"torn{seed}")
        assert_frame_equal(
            table(log, f"torn{seed}"), pl.concat(expected), check_row_order=False, check_dtypes=False
        )
        there = set(table(log, f"torn{seed}")["of"])
        gone = set(rows["of"]) - there
        assert there and gone and run.faults.rows == len(made(log, f"torn{seed}")) >= len(gone)
        # Each of those that have none in the end is a letter, which says why.
        assert {row["of"] for row in made(log, f"torn{seed}")} >= gone
        assert all(" over the rows of of=" in cause for cause in causes(log, f"torn{seed}.made.dead"))


def test_the_run_ends_with_the_key_whose_total_raises_where_nothing_may_go(log):
    stream = mamba.stream("rows").group_by("key").agg(few=(pl.len().cast(pl.Int64) * 2).cast(pl.Int8))
    with pytest.raises(mamba.StepFailed, match=r"over the rows of key='.', a row:"):
        once(log, stream, "fail")
    everything = mamba.stream("rows").group_by().agg(few=pl.len().cast(pl.Int8))
    with pytest.raises(mamba.StepFailed, match="over all rows, a row:"):
        once(log, everything, "fail", "other")
    assert once(log, everything, "dead_letter", "third").failed == 1 and table(log, "third").height == 0
    assert made(log, "third") == [{"key": "all rows"}]


def test_a_log_of_changes_with_other_words_has_only_its_rows_left_out(log):
    log.create_topic("changes", {"_op": pl.String, "key": pl.String, "n": pl.Int64})
    words = ["+I", "put", "-D", None, "+U", "+I"]
    log["changes"].append(pl.DataFrame({"_op": words, "key": list("aaabcb"), "n": range(6)}))
    log["changes"].end()
    stream = mamba.stream("changes").table("key")
    for seed in range(examples(3, least=2)):
        assert torn(log, stream, seed, f"torn{seed}").faults.rows == 2
        assert sorted(table(log, f"torn{seed}").rows()) == [("b", 5), ("c", 4)]
        assert dead(log, f"torn{seed}.dead")["n"].to_list() == [1, 3]
    with pytest.raises(mamba.StepFailed, match=r"column '_op' holds 'put', and should say \+I, -U, \+U, -D"):
        once(log, stream, "fail")


def test_a_log_of_changes_that_rows_are_joined_with_has_only_its_bad_rows_left_out(log):
    log.create_topic(
        "changes", {"at": pl.Datetime("us"), "_op": pl.String, "key": pl.String, "n": pl.Int64}, time="at"
    )
    words = pl.Series(["+I", "put", None, "+I"])
    log["changes"].append(
        pl.select(
            at=pl.lit(START).cast(pl.Datetime("us")),
            _op=words,
            key=pl.Series(list("aaab")),
            n=pl.Series(range(4)),
        )
    )
    log["changes"].end()
    stream = mamba.stream("rows").join(mamba.stream("changes").table("key"), on="key", how="inner")
    for seed in range(examples(3, least=2)):
        assert torn(log, stream, seed, f"torn{seed}").faults.rows == 2
        assert set(table(log, f"torn{seed}").select("key", "n").rows()) == {("a", 0), ("b", 3)}
        assert dead(log, f"torn{seed}.changes.dead")["n"].to_list() == [1, 2]


# -- joins, and what no row is to blame for ------------------------------------------------------------------------------


def test_a_row_whose_bound_cannot_be_computed_meets_nothing_and_goes(log):
    left, right = mamba.stream("rows"), mamba.stream("rows", name="again").select("ts", "key", "extra")
    joined = left.join(right, on="key", within=("0s", pl.duration(seconds=NUMBER)))
    result = joined.select("extra", "extra_right")
    pairs = GOOD.join(ROWS.select("ts", "key", "extra"), on="key")
    apart = (pl.col("ts_right") - pl.col("ts")).dt.total_seconds()
    expected = pairs.filter(apart >= 0, apart <= pl.col("number")).select("extra", "extra_right")
    for seed in range(examples(3, least=2)):
        run = torn(log, result, seed, f"torn{seed}")
        assert run.faults.rows == BAD.height
        assert_frame_equal(table(log, f"torn{seed}"), expected, check_row_order=False)
        assert_frame_equal(dead(log, f"torn{seed}.dead").drop("_dead").sort("ts"), BAD)
    with pytest.raises(mamba.StepFailed, match=r"(?s)over a row:\n  topic 'rows', .*'value': 'oops'"):
        once(log, result, "fail")


def test_running_out_of_memory_is_the_fault_of_no_row(log):
    def greedy(frame: pl.DataFrame) -> pl.DataFrame:
        if frame.height > 1:
            raise MemoryError("no room")
        return frame

    with pytest.raises(mamba.StepFailed, match="step map_batches at .*MemoryError: no room"):
        once(log, mamba.stream("rows").map_batches(greedy), "skip")


@pytest.mark.parametrize("case", ["a total", "a window that changes", "a session that changes"])
def test_what_goes_wrong_when_the_state_has_changed_is_the_end_whatever_is_said_of_rows(
    log, case, monkeypatch
):
    """Rows given again would count twice."""
    modules = {
        "a total": ("running", "differences", mamba.stream("rows").group_by("key").agg(n=pl.len())),
        "a window that changes": ("changing", "ordered", ROW_BY_ROW["updated"][0](mamba.stream("rows"))),
        "a session that changes": (
            "changing_session",
            "differences",
            ROW_BY_ROW["session, updated"][0](mamba.stream("rows")),
        ),
    }
    module, name, stream = modules[case]
    patched = f"mamba_stream.operators.{module}.{name}"
    monkeypatch.setattr(patched, lambda *_: (_ for _ in ()).throw(ValueError("by surprise")))
    with pytest.raises(mamba.StepFailed, match="by surprise"):
        once(log, stream, "skip")
    assert "job.out" not in log or log["job.out"].scan().collect().height == 0
