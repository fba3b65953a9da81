"""Calls of a user's function beside the loop: in order, several at a time, with an end to waiting, remembered."""

from __future__ import annotations

import asyncio
import inspect
import threading
from datetime import datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream import testing
from mamba_stream.runtime.calling import Calls, CallSettings

START = datetime(2024, 1, 1)
SCHEMA = {"ts": pl.Datetime("us"), "key": pl.String, "value": pl.Int64}
DOUBLED = {**SCHEMA, "double": pl.Int64}
ROWS = pl.DataFrame(
    [(START + timedelta(seconds=n), "abc"[n % 3], n) for n in range(40)], schema=SCHEMA, orient="row"
)


def rows() -> mamba.Stream:
    return mamba.stream(ROWS, time="ts")


async def doubled(frame: pl.DataFrame) -> pl.DataFrame:
    # Those that come first take longest.
    await asyncio.sleep(0.02 / (1 + frame["value"][0]))
    return frame.with_columns(double=pl.col("value") * 2)


EXPECTED = ROWS.with_columns(double=pl.col("value") * 2)


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_rows_keep_their_order_whichever_call_is_over_first(size):
    assert_frame_equal(rows().map_async(doubled, schema=DOUBLED, rows=size).collect(), EXPECTED)


def test_a_row_at_a_time_gives_what_it_adds_or_changes():
    async def one(row):
        await asyncio.sleep(0.01 if row["value"] == 0 else 0)
        return {"double": row["value"] * 2}

    assert_frame_equal(rows().map_async(one, unit="row", schema=DOUBLED).collect(), EXPECTED)


def test_a_function_that_is_no_coroutine_is_run_in_threads():
    seen = set()
    together = threading.Barrier(4)

    def one(row):
        together.wait(20)  # passes only where four are at work at a time
        seen.add(threading.current_thread().name)
        return {"double": row["value"] * 2}

    found = rows().map_async(one, unit="row", schema=DOUBLED, concurrency=4).collect()
    assert_frame_equal(found, EXPECTED)
    assert "mamba-stream function" in seen


def test_an_object_whose_call_is_a_coroutine_is_one():
    class Client:
        async def __call__(self, frame):
            return await doubled(frame)

    assert_frame_equal(rows().map_async(Client(), schema=DOUBLED).collect(), EXPECTED)


def test_no_more_calls_than_allowed_are_made_at_a_time():
    at_work, most = 0, 0

    async def one(row):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.001)
        at_work -= 1
        return {}

    rows().map_async(one, unit="row", concurrency=3).collect()
    assert most == 3


def test_all_coroutines_are_in_one_loop_so_that_a_client_is_good_for_all_calls():
    loops = set()

    async def one(frame):
        loops.add(asyncio.get_running_loop())
        return frame

    rows().map_async(one).collect()
    rows().map_async(one).collect()
    assert len(loops) == 1


def test_it_runs_where_a_loop_runs_already():
    async def notebook():
        return rows().map_async(doubled, schema=DOUBLED).collect()

    assert_frame_equal(asyncio.run(notebook()), EXPECTED)


def test_what_fails_is_tried_again_so_often_and_no_oftener():
    tries = 0

    async def flaky(frame):
        nonlocal tries
        tries += 1
        if tries < 4:
            raise ConnectionError("not now")
        return frame

    rows().map_async(flaky, retries=3, backoff=("1ms", "2ms")).collect()
    assert tries == 4
    tries = -100
    with pytest.raises(mamba.StepFailed, match="ConnectionError: not now") as caught:
        one = rows().filter(pl.col("value") == 0)
        one.map_async(flaky, retries=2, backoff=("1ms", "2ms")).collect()
    assert tries == -97 and isinstance(caught.value.__cause__, ConnectionError)


def test_waits_double_up_to_the_longest():
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    async def never(frame):
        raise ConnectionError("not now")

    settings = settings_of(function=never, retries=5, backoff=(0.1, 0.5))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio, "sleep", sleep)
        with pytest.raises(ConnectionError):
            Calls(settings)(ROWS)
    assert waited == [0.1, 0.2, 0.4, 0.5, 0.5]


def settings_of(**more):
    given = {
        "function": doubled,
        "schema": DOUBLED,
        "unit": "batch",
        "rows": 1_000,
        "concurrency": 2,
        "seconds": None,
        "retries": 0,
        "backoff": (0.1, 1.0),
        "cache": (),
        "cache_seconds": 60.0,
        "cache_size": 100,
    }
    return CallSettings(**(given | more))


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
def test_a_call_that_does_not_end_fails_in_time(kind):
    released = threading.Event()

    async def hangs(frame):
        await asyncio.Event().wait()

    def blocks(frame):
        released.wait(60)
        return frame

    with pytest.raises(
        mamba.StepFailed, match=r"TimeoutError: the function did not end within 50ms \(timeout=\)"
    ):
        rows().map_async(hangs if kind == "coroutine" else blocks, timeout="50ms").collect()
    released.set()


def test_a_function_over_batches_that_hangs_fails_in_time_and_the_job_goes_on_without_its_rows(tmp_path):
    released = threading.Event()

    def hangs(frame):
        if 7 in frame["value"]:
            released.wait(60)
        return frame

    with pytest.raises(mamba.StepFailed, match=r"step map_batches at .*TimeoutError: .* within 50ms"):
        rows().map_batches(hangs, timeout="50ms").collect()
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("rows", SCHEMA, time="ts").append(ROWS)
        stream = mamba.stream("rows").map_batches(hangs, timeout="250ms")
        pipeline = mamba.pipeline("job", stream.to("out"), on_error="dead_letter")
        assert mamba.run(pipeline, log, until="now").failed == 1
        assert log["out"].scan().collect().height == ROWS.height - 1
        assert log["job.dead"].scan().collect()["value"].to_list() == [7]
    released.set()


def test_a_function_with_a_timeout_that_raises_raises_its_own_error_at_its_own_line():
    def raises(frame):
        raise LookupError("here")

    line = inspect.getsourcelines(raises)[1] + 1
    with pytest.raises(
        mamba.StepFailed, match=rf"LookupError: here\nraised at .*test_calling\.py:{line} in raises"
    ):
        rows().map_batches(raises, timeout="10s").collect()
    assert_frame_equal(rows().map_batches(lambda frame: frame, timeout="10s").collect(), ROWS)


class Counting:
    """A function that is asked about keys, and notes which."""

    def __init__(self):
        self.asked = []

    async def __call__(self, frame):
        assert frame.columns == ["key"]
        self.asked += frame["key"].to_list()
        return frame.with_columns(size=pl.col("key").str.len_chars().cast(pl.Int64))


SIZED = {**SCHEMA, "size": pl.Int64}


def test_what_depends_on_a_key_alone_is_asked_for_once_for_each():
    counting = Counting()
    nulls = pl.concat([ROWS, ROWS.head(2).with_columns(key=pl.lit(None, dtype=pl.String))])
    stream = mamba.stream(nulls, time="ts").map_async(counting, schema=SIZED, cache="key", rows=2)
    found = stream.collect()
    assert_frame_equal(found, nulls.with_columns(size=pl.col("key").str.len_chars().cast(pl.Int64)))
    assert set(counting.asked) == {"a", "b", "c", None} and len(counting.asked) == 4


def test_rows_as_dicts_are_remembered_too():
    asked = []

    async def one(row):
        asked.append(row)
        return {"size": len(row["key"])}

    found = rows().map_async(one, unit="row", schema=SIZED, cache="key").collect()
    assert found["size"].to_list() == [1] * ROWS.height
    assert asked == [{"key": "a"}, {"key": "b"}, {"key": "c"}]


def test_what_is_remembered_is_forgotten_by_time_and_where_there_is_too_much():
    counting, clock = Counting(), testing.Clock()
    calls = Calls(
        settings_of(function=counting, schema=SIZED, cache=("key",), cache_seconds=10.0, cache_size=2), clock
    )
    a, b, c = (ROWS.filter(key=key) for key in "abc")
    for frame in (a, a, b, a):
        calls(frame)
    assert counting.asked == ["a", "b"]
    clock.advance("11s")
    calls(a)
    assert counting.asked == ["a", "b", "a"]
    calls(c)  # now b, which nobody asked for since, has to go
    calls(b)
    calls(c)
    assert counting.asked == ["a", "b", "a", "c", "b"]


BAD = {
    "no frame": ({}, lambda frame: 3, "the function gave int: it must give a pl.DataFrame"),
    "no dict": ({"unit": "row"}, lambda row: 3, "the function gave int: for a row it must give a dict"),
    "a column too many": ({"unit": "row"}, lambda row: {"x": 1}, "gave 'x', which schema= does not have"),
    "a value of another type": (
        {"unit": "row"},
        lambda row: {"value": "x"},
        "values that schema= does not have",
    ),
    "a column too few": ({"schema": DOUBLED}, lambda frame: frame, "lacks column 'double'"),
    "a column too few of a row": (
        {"schema": DOUBLED, "unit": "row"},
        lambda row: {},
        "lacks column 'double'",
    ),
    "other rows than keys": (
        {"schema": SIZED, "cache": "key"},
        lambda frame: pl.concat([frame, frame]).with_columns(size=pl.lit(1, dtype=pl.Int64)),
        "gave 2 rows for 1: with cache= it gives one for each",
    ),
    "nothing about keys": ({"schema": SIZED, "cache": "key"}, lambda frame: frame, "lacks column 'size'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_function_does_wrong_is_said(case):
    options, function, why = BAD[case]
    with pytest.raises(mamba.StepFailed, match=why):
        rows().filter(pl.col("value") == 0).map_async(function, **options).collect()


def test_an_empty_batch_calls_nobody():
    assert Calls(settings_of())(ROWS.clear()).schema == DOUBLED


def test_only_the_rows_that_cannot_be_asked_about_go(tmp_path):
    async def one(row):
        if row["value"] % 10 == 3:
            raise LookupError("unknown")
        return {"double": row["value"] * 2}

    with mamba.open(tmp_path / "log") as log:
        log.create_topic("rows", SCHEMA, time="ts").append(ROWS)
        stream = mamba.stream("rows").map_async(one, unit="row", schema=DOUBLED)
        summary = mamba.run(mamba.pipeline("job", stream.to("out"), on_error="dead_letter"), log, until="now")
        assert summary.failed == 4
        assert log["job.dead"].scan().collect()["value"].to_list() == [3, 13, 23, 33]
        assert_frame_equal(log["out"].scan().collect(), EXPECTED.filter(pl.col("value") % 10 != 3))


def test_a_window_behind_it_and_crashes_change_nothing():
    stream = (
        mamba.stream("rows", lateness="5s")
        .map_async(doubled, schema=DOUBLED, rows=3)
        .window(mamba.tumbling("10s"), by="key")
        .agg(total=pl.col("double").sum(), last=pl.col("double").last())
    )
    testing.assert_equivalent(stream, {"rows": ROWS}, time="ts", runs=6)


def test_the_plan_says_what_is_outside_the_guarantees():
    words = rows().map_async(doubled, schema=DOUBLED, timeout="2s", cache="key").explain()
    assert "8 calls of 1,000 rows at a time, 2s each, remembered by key" in words
    assert "outside guarantee 3 unless" in words and "a commit waits for the calls" in words


REFUSED = {
    "no function": (lambda s: s.map_async(3), "takes a function or a coroutine function"),
    "a unit": (lambda s: s.map_async(doubled, unit="all"), "choose 'batch' .* or 'row'"),
    "no calls": (
        lambda s: s.map_async(doubled, concurrency=0),
        "concurrency=0: give a whole number from 1 on",
    ),
    "half a retry": (lambda s: s.map_async(doubled, retries=0.5), "retries=0.5"),
    "no rows": (lambda s: s.map_async(doubled, rows=0), "rows=0"),
    "a cache of nothing": (lambda s: s.map_async(doubled, cache="key", cache_size=0), "cache_size=0"),
    "one wait": (lambda s: s.map_async(doubled, backoff="1s"), "the first and the longest wait"),
    "waits the wrong way round": (
        lambda s: s.map_async(doubled, backoff=("2s", "1s")),
        "longer than the longest",
    ),
    "a timeout that is none": (lambda s: s.map_async(doubled, timeout="soon"), "map_async: timeout"),
    "a timeout of nothing": (lambda s: s.map_batches(doubled, timeout="0s"), "map_batches: timeout"),
    "a cache by what is not there": (lambda s: s.map_async(doubled, cache="kay"), "did you mean 'key'"),
    "a cache that would change a column": (
        lambda s: s.map_async(doubled, cache="key", schema={**SCHEMA, "value": pl.String}),
        "give the result another name",
    ),
    "a name of the engine's": (
        lambda s: s.map_async(doubled, schema={"__mamba_x": pl.Int8}),
        "the engine's own",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(case):
    build, why = REFUSED[case]
    with pytest.raises(mamba.InvalidInput, match=why):
        build(rows())
