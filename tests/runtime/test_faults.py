"""Rows over which a step raises: shown, or left out and counted, or kept as dead letters that can be put back."""

from __future__ import annotations

import inspect
import json
from datetime import datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream import testing
from mamba_stream.messaging.letterbook import count_letters
from mamba_stream.messaging.letters import letters
from mamba_stream.messaging.redrive import redrive

START = datetime(2024, 1, 1)
SCHEMA = {"ts": pl.Datetime("us"), "key": pl.String, "value": pl.Int64, "extra": pl.String}


def rows(*values: tuple[str, int]) -> pl.DataFrame:
    found = [(START + timedelta(seconds=n), key, value, f"x{n}") for n, (key, value) in enumerate(values)]
    return pl.DataFrame(found, schema=SCHEMA, orient="row")


MANY = rows(*((str(n) if n % 100 else "oops", n % 7) for n in range(1, 500)))
BAD = MANY.filter(pl.col("key") == "oops")


def divide(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(value=pl.Series([60 // value for value in frame["value"]], dtype=pl.Int64))


def run(log, stream, on_error, *more, name="job"):
    return mamba.run(mamba.pipeline(name, stream.to("out"), *more, on_error=on_error), log, until="now")


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        opened.create_topic("rows", SCHEMA, time="ts")
        yield opened


def out(log) -> pl.DataFrame:
    return log["out"].scan().collect()


def test_what_fails_names_the_step_the_line_in_the_function_the_row_and_where_it_is_from(log):
    log["rows"].append(rows(("a", 1), ("b", 0), ("c", 2)))
    line = inspect.getsourcelines(divide)[1] + 1
    with pytest.raises(mamba.StepFailed) as caught:
        run(log, mamba.stream("rows").filter(pl.col("key") != "a").map_batches(divide), "fail")
    message = str(caught.value)
    assert "step map_batches at " in message and "offsets 0 to 2: ZeroDivisionError" in message
    assert f"raised at {__file__}:{line} in " in message
    assert "over a row:\n  topic 'rows', partition 0, offset 1: {" in message
    assert "'key': 'b', 'value': 0" in message and "'key': 'c'" not in message
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_of_many_rows_that_only_fail_together_a_few_are_shown():
    def three(frame):
        if frame.height > 1:
            raise ValueError("too many")
        return frame

    with pytest.raises(mamba.StepFailed, match=r"(?s)over 2 rows:.*'key': 'a'"):
        mamba.stream(rows(("a", 1), ("b", 1)), time="ts").map_batches(three).collect()

    def ten(frame):
        if frame.height > 9:
            raise ValueError("too many")
        return frame

    with pytest.raises(mamba.StepFailed, match=r"(?s)over 10 rows:.*and 7 more"):
        mamba.stream(rows(*[("a", 1)] * 10), time="ts").map_batches(ten).collect()


def test_a_row_that_is_long_is_cut():
    def never(frame):
        raise ValueError("no")

    with pytest.raises(mamba.StepFailed) as caught:
        mamba.stream(rows(("a" * 5_000, 1)), time="ts").map_batches(never).collect()
    assert len(str(caught.value)) < 1_500 and "…" in str(caught.value)


FAILING = {
    "a strict cast": lambda stream: stream.cast({"key": pl.Int64}),
    "a cast within an expression": lambda stream: stream.with_columns(pl.col("key").cast(pl.Int64)),
    "a cast behind others": lambda stream: (
        stream.with_columns(two=pl.lit(2)).filter(pl.col("two") == 2).drop("two").cast({"key": pl.Int64})
    ),
    "a function that raises": lambda stream: stream.map_batches(
        lambda frame: frame.with_columns(key=pl.Series([int(key) for key in frame["key"]], dtype=pl.Int64)),
        schema={**SCHEMA, "key": pl.Int64},
    ),
    "a function that looks": lambda stream: stream.inspect(
        lambda frame: [int(key) for key in frame["key"]]
    ).cast({"key": pl.Int64}),
    "a function with state": lambda stream: stream.process(
        lambda rows, state, timers: rows.cast({"key": pl.Int64}),
        by="value",
        output={**SCHEMA, "key": pl.Int64},
    ),
    "a function that gives other columns": lambda stream: stream.map_batches(
        lambda frame: frame.drop("extra") if "oops" in frame["key"] else frame.cast({"key": pl.Int64}),
        schema={**SCHEMA, "key": pl.Int64},
    ),
}


@pytest.mark.parametrize("case", FAILING)
@pytest.mark.parametrize("on_error", ["skip", "dead_letter"])
def test_only_the_bad_rows_go(log, case, on_error):
    log["rows"].append(MANY)
    summary = run(log, FAILING[case](mamba.stream("rows")), on_error)
    good = MANY.filter(pl.col("key") != "oops").cast({"key": pl.Int64})
    assert_frame_equal(out(log).sort("ts"), good.filter(pl.col("ts") <= out(log)["ts"].max()))
    assert summary.failed == BAD.height and f"{BAD.height} failed" in repr(summary)
    if on_error == "skip":
        assert "job.dead" not in log
        return
    dead = log["job.dead"].scan().collect()
    assert_frame_equal(dead.drop("_dead"), BAD)
    facts = dead["_dead"].struct.unnest()
    assert facts["topic"].unique().to_list() == ["rows"] and facts["group"].unique().to_list() == ["job.job"]
    assert facts["offset"].to_list() == [99, 199, 299, 399]
    assert all(" at " in cause and "test_faults.py:" in cause for cause in facts["cause"])


def test_all_rows_of_a_batch_may_be_bad(log):
    log["rows"].append(BAD)
    assert run(log, mamba.stream("rows").cast({"key": pl.Int64}), "dead_letter").failed == BAD.height
    assert out(log).height == 0 and log["job.dead"].scan().collect().height == BAD.height


def test_dead_letters_go_back_once_and_are_done_when_the_cause_is_gone(log):
    log["rows"].append(MANY)
    fixed = False

    def parse(frame):
        keys = [0 if fixed and key == "oops" else int(key) for key in frame["key"]]
        return frame.with_columns(key=pl.Series(keys, dtype=pl.Int64))

    stream = mamba.stream("rows", lateness="1h").map_batches(parse, schema={**SCHEMA, "key": pl.Int64})
    run(log, stream, "dead_letter")
    [counts] = count_letters(log)
    assert (counts.topic, counts.left) == ("job.dead", BAD.height)
    first = next(iter(letters(log, "job.dead")))
    assert first.origin == (0, 99) and "ValueError: invalid literal" in first.cause and first.attempts == 1
    fixed = True
    assert redrive(log, "job.dead").letters == BAD.height
    assert redrive(log, "job.dead").letters == 0
    run(log, stream, "dead_letter")
    assert out(log).height == MANY.height and sorted(out(log)["extra"]) == sorted(MANY["extra"])


def test_rows_that_nobody_reads_all_columns_of_come_back_whole(log):
    log["rows"].append(MANY)
    run(log, mamba.stream("rows").select("ts", "key").cast({"key": pl.Int64}), "dead_letter")
    assert log["job.dead"].scan().collect()["extra"].to_list() == BAD["extra"].to_list()


def test_a_row_that_two_steps_raise_over_is_one_letter_and_counted_for_both(log):
    log["rows"].append(MANY)
    stream = mamba.stream("rows")
    twice = mamba.concat(
        [stream.cast({"key": pl.Int64}), stream.cast({"key": pl.Int32}).cast({"key": pl.Int64})]
    )
    assert run(log, twice, "dead_letter").failed == 2 * BAD.height
    assert log["job.dead"].scan().collect()["extra"].to_list() == BAD["extra"].to_list()


def test_two_topics_have_dead_letters_of_their_own(log):
    log.create_topic("others", {**SCHEMA, "more": pl.Int8}, time="ts")
    log["rows"].append(MANY)
    log["others"].append(MANY.with_columns(more=pl.lit(1, dtype=pl.Int8)))
    both = mamba.concat([mamba.stream("rows"), mamba.stream("others").drop("more")]).cast({"key": pl.Int64})
    run(log, both, "dead_letter")
    assert log["job.rows.dead"].scan().collect().height == BAD.height
    assert "more" in log["job.others.dead"].scan().collect().columns
    assert log["job.others.dead"].scan().collect().height == BAD.height


def test_rows_that_a_step_made_are_kept_as_json(log):
    log["rows"].append(MANY)
    counted = (
        mamba.stream("rows").window(mamba.tumbling("1m"), by="key").agg(n=pl.len(), s=pl.col("value").sum())
    )
    run(log, counted.cast({"key": pl.Int64}), "dead_letter")
    dead = log["job.made.dead"].scan().collect()
    assert [json.loads(row)["key"] for row in dead["row"]] == ["oops"] * dead.height and dead.height > 1
    assert redrive(log, "job.made.dead").letters == 0


def test_rows_that_an_aggregate_raises_over_do_not_go_in(log):
    log["rows"].append(MANY)
    summed = (
        mamba.stream("rows")
        .window(mamba.tumbling("1h"))
        .agg(total=pl.col("key").cast(pl.Int64).sum(), n=pl.len())
    )
    log["rows"].append(
        rows(("1", 1)).with_columns(ts=pl.lit(START + timedelta(hours=2)).cast(pl.Datetime("us")))
    )
    summary = run(log, summed, "dead_letter")
    assert out(log)["n"].to_list() == [MANY.height - BAD.height]
    assert out(log)["total"].to_list() == [sum(int(key) for key in MANY["key"] if key != "oops")]
    assert summary.failed == BAD.height == log["job.dead"].scan().collect().height


def test_a_window_over_which_an_expression_raises_goes_as_a_whole(log):
    frame = pl.concat(
        [rows(("7", 1), ("oops", 2)), rows(("8", 3)).with_columns(ts=START + timedelta(hours=1))]
    )
    log["rows"].append(frame.cast(SCHEMA))
    log["rows"].append(
        rows(("9", 9)).with_columns(ts=pl.lit(START + timedelta(hours=9)).cast(pl.Datetime("us")))
    )
    best = mamba.stream("rows").window(mamba.tumbling("1h"), by="key").agg(n=pl.len())
    best = best.filter(pl.col("n") == pl.col("key").cast(pl.Int64).max().over("window_start") // 8)
    assert run(log, best, "skip").failed == 2
    assert out(log)["key"].to_list() == ["8"]


def test_a_function_with_state_remembers_nothing_of_the_rows_it_raised_over(log):
    def count(rows, state, timers):
        seen = state.get(rows)["seen"].fill_null(0) + 1
        state.put(rows.with_columns(seen=seen))
        if (rows["value"] == 3).any():
            raise ValueError("a three")
        return rows.with_columns(seen=seen)

    frame = rows(*[("a" if n % 2 else "b", n % 4) for n in range(20)])
    stream = mamba.stream("rows").process(
        count, by="key", state={"seen": pl.Int64}, output={**SCHEMA, "seen": pl.Int64}
    )
    pipeline = mamba.pipeline("job", stream.to("out"), on_error="dead_letter")
    same = testing.assert_equivalent(pipeline, {"rows": frame}, time="ts", repartition=False)
    good = frame.filter(pl.col("value") != 3)
    expected = good.with_columns(seen=pl.int_range(1, pl.len() + 1).over("key"))
    assert_frame_equal(same.played["out"].sort("ts"), expected)


@pytest.mark.parametrize("case", ["a strict cast", "a function that raises", "a function with state"])
def test_what_is_left_out_does_not_depend_on_batches_or_crashes(case):
    stream = FAILING[case](mamba.stream("rows"))
    pipeline = mamba.pipeline("job", stream.to("out"), on_error="dead_letter")
    frame = pl.concat([MANY.gather_every(7, offset=1), BAD]).unique().sort("ts")
    same = testing.assert_equivalent(pipeline, {"rows": frame}, time="ts", runs=8)
    assert same.played["out"].height == frame.height - BAD.height


def test_a_crash_leaves_each_dead_letter_once(log):
    from mamba_stream.core.clock import SystemClock
    from mamba_stream.runtime.options import run_options
    from mamba_stream.runtime.run import Run

    for part in MANY.iter_slices(50):
        log["rows"].append(part)
    pipeline = mamba.pipeline(
        "job", mamba.stream("rows").cast({"key": pl.Int64}).to("out"), on_error="dead_letter"
    )
    options, clock = run_options(until="now"), SystemClock()
    died = Run(pipeline, log, options, clock)
    died.step(150)
    died.commit("running")
    died.step(150)
    assert died.faults.rows == 3  # of 300 rows
    again = Run(pipeline, log, options, clock)
    assert again.faults.rows == 1
    while again.step(70):
        pass
    again.commit("stopped")
    assert again.faults.rows == BAD.height and log["job.dead"].scan().collect().height == BAD.height


def test_starting_anew_empties_the_dead_letters(log):
    log["rows"].append(MANY)
    pipeline = mamba.pipeline(
        "job", mamba.stream("rows").cast({"key": pl.Int64}).to("out"), on_error="dead_letter"
    )
    mamba.run(pipeline, log, until="now")
    mamba.run(pipeline, log, until="now", state="new")
    assert log["job.dead"].scan().collect().height == BAD.height


def test_status_counts_what_was_left_out(log):
    log["rows"].append(MANY)
    pipeline = mamba.pipeline("job", mamba.stream("rows").cast({"key": pl.Int64}).to("out"), on_error="skip")
    job = mamba.start(pipeline, log, until="now")
    job.wait()
    assert job.status.failed == BAD.height
    assert mamba.run(pipeline, log, until="now").failed == 0


def test_a_topic_of_another_shape_in_the_place_of_dead_letters_is_refused(log):
    log.create_topic("job.dead", {"x": pl.Int64})
    with pytest.raises(mamba.MambaStreamError, match="job.dead"):
        run(log, mamba.stream("rows"), "dead_letter")


def test_an_order_that_is_needed_is_kept_where_rows_are_left_out(log):
    log["rows"].append(MANY)
    end = rows(("1", 1)).with_columns(ts=pl.lit(START + timedelta(hours=2)).cast(pl.Datetime("us")))
    log["rows"].append(end)
    last = mamba.stream("rows").cast({"key": pl.Int64}).window(mamba.tumbling("1h")).agg(pl.col("key").last())
    assert run(log, last, "dead_letter").failed == BAD.height
    assert out(log)["key"].to_list() == [499] and log["job.dead"].scan().collect().height == BAD.height


def test_a_function_that_cannot_stand_where_it_does_ends_the_run_whatever_is_said_of_rows(log):
    log["rows"].append(MANY)
    fewer = mamba.stream("rows").map_batches(lambda frame: frame.filter(pl.col("value") > 3))
    last = fewer.window(mamba.tumbling("1h")).agg(pl.col("key").last())
    with pytest.raises(mamba.StepFailed, match="depends on the order of single rows"):
        run(log, last, "skip")


def test_rows_that_were_rejected_and_rows_that_are_late_do_not_move_where_bad_ones_are_from(log):
    log.create_topic("mixed", SCHEMA, time="ts")
    mixed = MANY.with_columns(
        ts=pl.when(pl.col("value") == 1).then(None).when(pl.col("value") == 2).then(START).otherwise("ts")
    )
    bad = mixed.filter((pl.col("key") == "oops") & pl.col("ts").is_not_null())
    assert 0 < bad.height < BAD.height
    log["mixed"].append(mixed)
    stream = mamba.stream("mixed").with_columns(at=pl.col("ts").dt.hour()).cast({"key": pl.Int64}).drop("at")
    counted = stream.window(mamba.tumbling("1m"), by="value").agg(n=pl.len())
    pipeline = mamba.pipeline(
        "job", counted.to("out"), stream.to("rows-out"), counted.late.to("late"), on_error="dead_letter"
    )
    assert mamba.run(pipeline, log, until="now").failed == bad.height
    assert log["job.dead"].scan().collect()["extra"].to_list() == bad["extra"].to_list()


def test_bad_rows_are_found_behind_a_time_that_is_set_later(log):
    log["rows"].append(MANY)
    stream = mamba.stream("rows").with_columns(when="ts").with_time("when").cast({"key": pl.Int64})
    assert run(log, stream, "dead_letter").failed == BAD.height
    assert log["job.dead"].scan().collect()["extra"].to_list() == BAD["extra"].to_list()
