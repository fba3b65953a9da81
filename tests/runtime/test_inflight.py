"""Answers from outside that are on their way while the run goes on: in order, held together with time, and committed once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_connectors import python
from mamba_stream import testing
from mamba_stream.log import store
from mamba_stream.runtime import inflight, task
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.run import Run
from mamba_stream.testing.clocks import Clock

START = datetime(2024, 1, 1)
SCHEMA = {"ts": pl.Datetime("us"), "key": pl.String, "value": pl.Int64}
DOUBLED = {**SCHEMA, "double": pl.Int64}


def rows(first: int, count: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        [(START + timedelta(seconds=n), "abc"[n % 3], n) for n in range(first, first + count)],
        schema=SCHEMA,
        orient="row",
    )


async def told(event: threading.Event) -> None:
    """Returns when a thread has set it."""
    while not event.is_set():  # noqa: ASYNC110 - it is no event of the loop's
        await asyncio.sleep(0.001)


class Outside:
    """Doubles values, each when it is told to, and knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.ended: list[int] = []
        self.failing: set[int] = set()
        self._answers: dict[int, threading.Event] = {}
        self._heard = threading.Condition()

    async def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        value = frame["value"][0]
        with self._heard:
            self.asked += frame["value"].to_list()
            self._heard.notify_all()
        try:
            await told(self.due(value))
        finally:
            with self._heard:
                self.ended.append(value)
                self._heard.notify_all()
        if self.failing & set(frame["value"]):
            raise LookupError("unknown")
        return frame.with_columns(double=pl.col("value") * 2)

    def due(self, value: int) -> threading.Event:
        """What is set when the call about this is to be answered."""
        with self._heard:
            return self._answers.setdefault(value, threading.Event())

    def answer(self, *values: int) -> None:
        """Answers, and waits until that is over."""
        for value in values:
            self.due(value).set()
        with self._heard:
            assert self._heard.wait_for(lambda: set(values) <= set(self.ended), 60)

    def wait_for(self, *values: int) -> None:
        """Returns when it was asked about these."""
        with self._heard:
            assert self._heard.wait_for(lambda: set(values) <= set(self.asked), 60)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[mamba.Log]:
    with mamba.open(tmp_path / "log") as opened:
        opened.create_topic("rows", SCHEMA, time="ts")
        yield opened


def run_of(log: mamba.Log, *outputs: Any, clock: Clock | None = None, **pipeline: Any) -> Run:
    options = run_options(until="stopped", commit="1s", memory=1 << 30)
    return Run(mamba.pipeline("job", *outputs, **pipeline), log, options, clock or Clock())


def asking(outside: Outside, **more: Any) -> mamba.Stream:
    return mamba.stream("rows").map_async(outside, schema=DOUBLED, **more)


def out(log: mamba.Log, topic: str = "out", column: str = "value") -> list[int]:
    return log[topic].scan().collect()[column].to_list()


def test_rows_of_later_turns_are_asked_about_while_earlier_ones_wait(log):
    outside = Outside()
    run = run_of(log, asking(outside, concurrency=4).to("out"))
    for number in range(4):
        log["rows"].append(rows(number))
        assert run.step() == 1
    outside.wait_for(0, 1, 2, 3)
    outside.answer(1, 2)
    run.step()
    assert run.rows_out == 0, "they come in their order"
    outside.answer(0)
    while run.rows_out < 3:
        run.step()
    assert outside.ended in ([1, 2, 0], [2, 1, 0])
    log["rows"].append(rows(4))
    run.step()
    outside.answer(3, 4)
    run.commit("running")
    assert out(log) == [0, 1, 2, 3, 4]
    run.close()


def test_no_more_calls_are_made_than_allowed_over_all_turns(log):
    at_work, most = 0, 0
    three, go = threading.Event(), threading.Event()

    async def ask(frame):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        if at_work == 3:
            three.set()
        await told(go)
        at_work -= 1
        return frame

    run = run_of(log, mamba.stream("rows").map_async(ask, rows=2, concurrency=3).to("out"))
    for number in (0, 4):
        log["rows"].append(rows(number, 4))
        run.step()
    assert three.wait(60)
    go.set()
    for number in range(8, 40, 4):
        log["rows"].append(rows(number, 4))
        run.step()
    run.commit("running")
    assert most == 3
    assert out(log) == list(range(40))
    run.close()


def test_a_commit_waits_for_all_that_was_read(log):
    outside = Outside()
    log["rows"].append(rows(0, 3))
    run = run_of(log, asking(outside, rows=1).to("out"))
    run.step()
    outside.wait_for(0, 1, 2)
    committed = threading.Event()
    thread = threading.Thread(target=lambda: (run.begin_commit(), run.end_commit(), committed.set()))
    thread.start()
    outside.answer(2, 0)
    assert not committed.is_set()
    outside.answer(1)
    assert committed.wait(60)
    assert out(log) == [0, 1, 2]
    run.close()


def test_what_was_not_committed_is_asked_again_and_comes_once(log):
    outside = Outside()
    log["rows"].append(rows(0, 2))
    run = run_of(log, asking(outside, rows=1).to("out"))
    run.step()
    outside.answer(0, 1)
    run.commit("running")
    log["rows"].append(rows(2, 2))
    run.step()
    outside.wait_for(2, 3)
    outside.answer(2)
    run.step()
    run.close()  # and no commit
    again = run_of(log, asking(outside, rows=1).to("out"))
    again.step()
    outside.answer(3)
    again.commit("stopped")
    assert outside.asked == [0, 1, 2, 3, 2, 3]
    assert out(log) == [0, 1, 2, 3]
    again.close()


def test_time_waits_with_the_rows_that_it_is_the_time_of(log):
    outside = Outside()
    counted = asking(outside, rows=1).window(mamba.tumbling("10s")).agg(total=pl.col("double").sum())
    run = run_of(log, counted.to("out"), counted.late.to("late"))
    log["rows"].append(rows(1))
    run.step()
    log["rows"].append(rows(5))
    run.step()
    log["rows"].append(rows(60))
    run.step()
    outside.wait_for(1, 5, 60)
    [step] = run.engine.flow.steps.values()
    outside.answer(60)
    run.step()
    assert step.closed < 0, "no row has come back, and so no time"
    outside.answer(1)
    while step.rows == 0:
        run.step()
    assert run.rows_out == 0, "the window waits for the other one"
    outside.answer(5)
    while run.rows_out == 0:
        run.step()
    run.commit("running")
    assert (out(log, column="total"), run.late) == ([12], 0)
    run.close()


def test_a_stream_with_rows_on_their_way_is_not_idle(log):
    log.create_topic("other", SCHEMA, time="ts")
    outside, clock = Outside(), Clock()
    both = mamba.concat([asking(outside).select(*SCHEMA), mamba.stream("other", idle="5s").select(*SCHEMA)])
    counted = both.window(mamba.tumbling("10s")).agg(rows=pl.len())
    run = run_of(log, counted.to("out"), counted.late.to("late"), clock=clock)
    log["other"].append(rows(0))
    run.step()
    clock.advance("1m")
    run.step()
    clock.advance("1m")
    run.step()  # the one that is asked about is idle now
    log["rows"].append(rows(3))
    run.step()
    log["other"].append(rows(100))
    run.step()
    outside.answer(3)
    run.commit("running")
    assert (out(log, column="rows"), run.late) == ([], 0), "it holds back time again"
    log["rows"].append(rows(90))
    run.step()
    outside.answer(90)
    run.commit("running")
    assert (out(log, column="rows"), run.late) == ([2], 0)
    run.close()


@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
def test_only_the_rows_that_cannot_be_asked_about_go_whichever_turn_they_came_in(log, policy):
    outside = Outside()
    outside.failing = {1, 5}
    stream = asking(outside).with_columns(pl.col("double").cast(pl.Int8))
    run = run_of(log, stream.to("out"), on_error=policy)
    for first in (0, 3, 6, 60):
        log["rows"].append(rows(first, 3))
        run.step()
    for value in (*range(9), *range(60, 63)):
        outside.due(value).set()
    run.commit("stopped")
    # 64 and more, doubled, is too much for the step behind it, which hears of its rows later than they were read.
    assert out(log) == [0, 2, 3, 4, 6, 7, 8, 60, 61, 62]
    log["rows"].append(rows(63, 2))
    for value in (63, 64):
        outside.due(value).set()
    run.step()
    run.commit("stopped")
    assert out(log)[-1] == 63
    assert run.faults.rows == 3
    if policy == "dead_letter":
        dead = log["job.dead"].scan().collect()
        assert dead["value"].to_list() == [1, 5, 64]
        assert dead["_dead"].struct.field("offset").to_list() == [1, 5, 13]
    run.close()


def test_what_fails_later_says_where_its_rows_came_from(log):
    outside = Outside()
    outside.failing = {4}
    run = run_of(log, asking(outside, rows=1).to("out"))
    for number in range(6):
        log["rows"].append(rows(number))
        run.step()
    outside.wait_for(*range(6))
    outside.answer(0, 1, 2, 3, 4)
    with pytest.raises(mamba.StepFailed, match="topic 'rows', partition 0, offset 4: ") as caught:
        run.commit("running")
    assert "failed on topic 'rows', partition 0, offsets 4 to 4: LookupError: unknown" in str(caught.value)
    run.close()
    # What is left of the calls is ended.
    with outside._heard:
        assert outside._heard.wait_for(lambda: 5 in outside.ended, 60)


def test_a_key_is_asked_about_once_though_rows_of_several_turns_wait_for_it(log):
    asked: list[str] = []
    go = threading.Event()

    async def sized(frame):
        asked.extend(frame["key"])
        await told(go)
        return frame.with_columns(size=pl.col("key").str.len_chars().cast(pl.Int64))

    stream = mamba.stream("rows").map_async(sized, schema={**SCHEMA, "size": pl.Int64}, cache="key")
    run = run_of(log, stream.to("out"))
    for number in (0, 1, 3, 2, 4, 0):
        log["rows"].append(rows(number))
        run.step()
    go.set()
    run.commit("running")
    assert asked == ["a", "b", "c"]
    assert out(log) == [0, 1, 3, 2, 4, 0] and out(log, column="size") == [1] * 6
    run.close()


def test_a_key_that_failed_for_earlier_rows_is_asked_about_again_for_later_ones(log):
    tries = []
    go = threading.Event()

    async def sized(frame):
        tries.append(1)
        await told(go)
        if len(tries) <= 3:
            raise ConnectionError("not now")
        return frame.with_columns(size=pl.lit(1, pl.Int64))

    stream = mamba.stream("rows").map_async(sized, schema={**SCHEMA, "size": pl.Int64}, cache="key")
    run = run_of(log, stream.to("out"), on_error="skip")
    log["rows"].append(rows(0))
    run.step()
    while not tries:
        threading.Event().wait(0.001)
    log["rows"].append(rows(3))
    run.step()
    assert len(tries) == 1
    tries += [1, 1]
    go.set()
    run.commit("running")
    assert out(log) == [3]
    run.close()


def test_no_more_bytes_wait_than_allowed(log, monkeypatch):
    monkeypatch.setattr(inflight, "_BYTES", 5_000)
    outside = Outside()
    run = run_of(log, asking(outside).to("out"))
    log["rows"].append(rows(0))
    run.step()
    outside.wait_for(0)
    log["rows"].append(rows(1))
    stepped = threading.Event()
    thread = threading.Thread(target=lambda: (run.step(), stepped.set()))
    thread.start()
    outside.answer(0)
    assert stepped.wait(60)
    assert run.rows_out == 1, "the first had to come back before"
    outside.answer(1)
    run.commit("running")
    assert out(log) == [0, 1]
    run.close()


def test_what_has_an_end_comes_before_what_follows_it(log):
    log["rows"].append(rows(10, 5))
    log["rows"].end()

    async def slow(frame):
        await asyncio.sleep(0.005)
        return frame

    both = mamba.sequence(mamba.stream(rows(0, 10), time="ts").map_async(slow, rows=3), mamba.stream("rows"))
    assert both.collect(log)["value"].to_list() == list(range(15))


def test_functions_that_give_other_rows_give_the_same_whatever_is_late():
    async def twice(frame):
        await asyncio.sleep(0.001)
        return pl.concat([frame, frame]).filter(pl.col("value") % 5 != 0)

    disordered = rows(0, 60).with_columns(
        pl.when(pl.col("value") % 7 == 6)
        .then(pl.col("ts") - timedelta(seconds=25))
        .otherwise("ts")
        .alias("ts")
    )
    counted = (
        mamba.stream("rows", lateness="3s")
        .map_async(twice, rows=4)
        .window(mamba.tumbling("10s"), by="key")
        .agg(rows=pl.len(), total=pl.col("value").sum())
    )
    found = testing.assert_equivalent(counted, {"rows": disordered}, time="ts", runs=12)
    assert found.played.late > 0 and found.crashes > 0


def test_one_behind_the_other_and_joined_with_the_stream_itself_change_nothing():
    async def doubled(frame):
        await asyncio.sleep(0.001 * (frame["value"][0] % 3))
        return frame.with_columns(double=pl.col("value") * 2)

    async def added(frame):
        await asyncio.sleep(0.001)
        return frame.with_columns(double=pl.col("double") + 1)

    source = mamba.stream("rows", lateness="2s")
    asked = source.map_async(doubled, schema=DOUBLED, rows=3).map_async(added, rows=2)
    joined = source.join(asked.select("ts", "key", "double"), on="key", within="4s")
    testing.assert_equivalent(joined, {"rows": rows(0, 40)}, time="ts", runs=8)


def test_commits_leave_most_of_the_time_for_asking(log):
    outside, clock = Outside(), Clock()
    run = run_of(log, asking(outside).to("out"), clock=clock)
    log["rows"].append(rows(0))
    run.step()
    outside.wait_for(0)
    clock.advance("1s")
    assert run.commit_due
    settle = run.engine.settle
    run.engine.settle = lambda: (clock.advance("10s"), outside.answer(0), settle())  # type: ignore[method-assign]
    run.commit("running")
    log["rows"].append(rows(1))
    run.step()
    outside.wait_for(1)
    clock.advance("39s")
    assert not run.commit_due
    clock.advance("1s")
    assert run.commit_due
    run.engine.settle = settle  # type: ignore[method-assign]
    outside.answer(1)
    while run.engine.flow.in_flight:
        run.step()
    run.commit("running")
    log["rows"].append(rows(2))
    run.step()
    clock.advance("1s")
    assert run.commit_due, "the last one did not wait"
    outside.answer(2)
    run.close()


def test_answers_wake_the_job_that_waits_for_them(log, monkeypatch):
    for module, name in ((store, "_SLOW_POLL"), (task, "_LONG")):
        monkeypatch.setattr(module, name, 3_600.0)
    outside = Outside()
    stream = mamba.stream("rows", idle="2h").map_async(outside, schema=DOUBLED)
    # No commit is due and nobody goes idle: nothing but the answer ends the wait.
    job = mamba.start(mamba.pipeline("job", stream.to("out")), log, commit="1h")
    log["rows"].append(rows(0))
    outside.wait_for(0)
    outside.answer(0)
    while job.status.rows_out < 1:
        threading.Event().wait(0.001)
    job.stop(60)
    assert out(log) == [0]


def test_small_batches_share_the_calls_that_there_may_be(log):
    together = threading.Barrier(40)

    def ask(frame):
        together.wait(60)  # passes only where the rows of forty turns are asked about at a time
        return frame

    def one_by_one():
        for number in range(80):
            yield rows(number)

    source = python.source(one_by_one, schema=SCHEMA)
    stream = mamba.stream(source, time="ts").map_async(ask, concurrency=40)
    mamba.run(mamba.pipeline("job", stream.to("out")), log)
    assert_frame_equal(log["out"].scan().collect(), rows(0, 80))
