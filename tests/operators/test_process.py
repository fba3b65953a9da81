"""A user's function with state and timers: against a model that goes through every key's rows and timers one by one."""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream import testing
from mamba_stream.testing.operators import StepContract
from tests.sizes import examples

START = datetime(2024, 1, 1)
SCHEMA = {"ts": pl.Datetime("us"), "user": pl.String, "amount": pl.Int64}
TS = {"ts": pl.Datetime("us")}


def at(second: int) -> datetime:
    return START + timedelta(seconds=second)


def rows(*found: tuple[int, str | None, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [(at(second), user, amount) for second, user, amount in found], schema=SCHEMA, orient="row"
    )


def totals(rows, state, timers):
    """The running total that somebody would write who thinks of one row."""
    out = rows.with_columns(total=state.get(rows)["total"].fill_null(0) + rows["amount"])
    state.put(out)
    return out


def totals_of_several(rows, state, timers):
    before = state.get(rows)["total"].fill_null(0)
    out = rows.with_columns(total=pl.col("amount").cum_sum().over("user") + before)
    state.put(out.group_by("user", maintain_order=True).last())
    return out


TOTALS = {"by": "user", "state": {"total": pl.Int64}, "output": {**SCHEMA, "total": pl.Int64}}
CASES = [
    {
        "rows": [
            rows(
                (5, "a", 1),
                (3, "a", 2),
                (5, None, 3),
                (5, "a", 4),
                (9, "b", 5),
                (6, "a", 6),
                (2, "a", 7),
                (20, "a", 8),
            ),
            rows((4, "a", 10), (5, "a", 20), (12, None, 30), (13, "b", 40)),
        ]
    },
    {"rows": [rows(*((second // 3, "a", second) for second in range(60)))]},
    {"rows": [rows((1, "a", 1)), rows((1, "a", 2)), rows((1, "a", 3))]},
]


def ordered(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """The rows of partitions in the order of the stream, without those that come too late."""
    found = []
    for partition, frame in enumerate(parts):
        on_time = frame["ts"] >= frame["ts"].cum_max().shift().dt.offset_by("-3s").fill_null(START)
        found.append(
            frame.with_columns(p=pl.lit(partition), o=pl.int_range(pl.len())).filter(on_time.fill_null(True))
        )
    return pl.concat(found).sort("ts", "p", "o").drop("p", "o")


class TestRunningTotals(StepContract):
    data = CASES
    runs = examples(12, least=4)

    def stream(self):
        return mamba.stream("rows", lateness="3s").process(totals, **TOTALS)

    def expected(self, data):
        return ordered(data["rows"]).with_columns(total=pl.col("amount").cum_sum().over("user"))


class TestRunningTotalsOfSeveral(TestRunningTotals):
    def stream(self):
        return mamba.stream("rows", lateness="3s").process(totals_of_several, per_key="several", **TOTALS)


def sessions(rows, state, timers):
    """Sessions that end five seconds after their last row, by a timer that every row moves."""
    if rows.height:
        state.put(rows.with_columns(total=state.get(rows)["total"].fill_null(0) + rows["amount"]))
        timers.at(rows, pl.col("ts") + timedelta(seconds=5))
    ended = timers.fired
    out = ended.select("user", ts="time", total=state.get(ended)["total"])
    state.delete(ended)
    return out


SESSIONS = {
    "by": "user",
    "state": {"total": pl.Int64},
    "output": {"user": pl.String, **TS, "total": pl.Int64},
}


class TestSessionsByTimers(StepContract):
    data = CASES
    runs = examples(12, least=4)

    def stream(self):
        return mamba.stream("rows", lateness="3s").process(sessions, **SESSIONS)

    def expected(self, data):
        """A row that comes exactly as the timer is due still belongs to the session."""
        gap = pl.col("ts").diff().over("user") > timedelta(seconds=5)
        numbered = ordered(data["rows"]).with_columns(session=gap.fill_null(False).cum_sum().over("user"))
        found = numbered.group_by("user", "session").agg(
            ts=pl.col("ts").max() + timedelta(seconds=5), total=pl.col("amount").sum()
        )
        return found.select("user", "ts", "total")


def every_four_seconds(rows, state, timers):
    """A timer that sets itself again, beside one that is moved, and one that is taken back."""
    if rows.height:
        fresh = rows.filter(state.get(rows)["seen"].is_null())
        if fresh.height:
            timers.at(fresh, pl.col("ts") + timedelta(seconds=4), "tick")
        state.put(rows.with_columns(seen=state.get(rows)["seen"].fill_null(0) + 1))
        timers.at(rows, pl.col("ts") + timedelta(seconds=6), "quiet")
        if (odd := rows.filter(pl.col("amount") % 2 == 1)).height:
            timers.cancel(odd, "quiet")
    ticks = timers.fired.filter(timer="tick")
    if ticks.height:
        timers.at(ticks, pl.col("time") + timedelta(seconds=4), "tick")
    return timers.fired.select("user", "timer", ts="time", seen=state.get(timers.fired)["seen"])


EVERY = {
    "by": "user",
    "state": {"seen": pl.Int64},
    "output": {"user": pl.String, "timer": pl.String, **TS, "seen": pl.Int64},
}


def model_of_every_four(frame: pl.DataFrame) -> list[tuple]:
    """The same, key by key, an event at a time."""
    out, end = [], frame["ts"].max()
    by_key = defaultdict(list)
    for ts, user, amount in frame.rows():
        by_key[user].append((ts, amount))
    for user, events in by_key.items():
        timers, seen = {}, 0
        while events or timers:
            due = min(((t, name) for name, t in timers.items()), default=None)
            if events and (due is None or events[0][0] <= due[0]):
                ts, amount = events.pop(0)
                if not seen:
                    timers["tick"] = ts + timedelta(seconds=4)
                seen += 1
                timers["quiet"] = ts + timedelta(seconds=6)
                if amount % 2 == 1:
                    del timers["quiet"]
                continue
            assert due is not None
            ts, name = due
            del timers[name]
            out.append((user, name, ts, seen))
            if name == "tick" and ts <= end:
                timers["tick"] = ts + timedelta(seconds=4)
    return out


class TestTimersThatSetThemselvesAgain(StepContract):
    data = CASES
    runs = examples(12, least=4)

    def stream(self):
        return mamba.stream("rows", lateness="3s").process(every_four_seconds, **EVERY)

    def expected(self, data):
        # Up to the greatest time of any row, a late one included, time passes by itself.
        found = model_of_every_four(ordered(data["rows"]))
        return pl.DataFrame(found, schema=EVERY["output"], orient="row")


FRAMES = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["a", "b", None]), st.integers(0, 3)),
    min_size=1,
    max_size=30,
).map(lambda found: rows(*found))


@settings(deadline=None, max_examples=examples(30))
@given(st.lists(FRAMES, min_size=1, max_size=3), st.integers(0, 1_000))
def test_every_key_goes_through_its_rows_and_timers_in_order(parts, seed):
    stream = mamba.stream("rows", lateness="1h").process(every_four_seconds, **EVERY)
    same = testing.assert_equivalent(stream, {"rows": parts}, time="ts", runs=3, seed=seed)
    whole = pl.concat(parts)
    order = pl.concat(
        frame.with_columns(p=pl.lit(number), o=pl.int_range(pl.len())) for number, frame in enumerate(parts)
    ).sort("ts", "p", "o")
    expected = pl.DataFrame(
        model_of_every_four(order.select(whole.columns)), schema=EVERY["output"], orient="row"
    )
    assert_frame_equal(same.played.table(), expected, check_row_order=False)


@settings(deadline=None, max_examples=examples(30))
@given(FRAMES, st.integers(1, 9), st.integers(0, 1_000))
def test_what_was_not_written_for_the_time_to_live_is_forgotten_to_the_second(frame, ttl, seed):
    stream = mamba.stream("rows", lateness="1h").process(totals, ttl=f"{ttl}s", **TOTALS)
    same = testing.assert_equivalent(stream, {"rows": frame}, time="ts", runs=3, seed=seed)
    expected, known = [], {}
    for ts, user, amount in frame.with_columns(o=pl.int_range(pl.len())).sort("ts", "o").drop("o").rows():
        written, total = known.get(user, (ts, 0))
        total = amount + (total if written + timedelta(seconds=ttl) >= ts else 0)
        known[user] = ts, total
        expected.append((ts, user, amount, total))
    assert_frame_equal(
        same.played.table(),
        pl.DataFrame(expected, schema=TOTALS["output"], orient="row"),
        check_row_order=False,
    )


def test_a_window_behind_it_sees_its_rows_in_order_whatever_the_batches():
    last = (
        mamba.stream("rows", lateness="3s")
        .process(totals, **TOTALS)
        .window(mamba.tumbling("10s"))
        .agg(last=pl.col("total").last(), rows=pl.len())
    )
    for data in CASES:
        same = testing.assert_equivalent(last, data, time="ts")
        assert same.played["out"].height


def test_rows_of_side_outputs_are_streams_of_their_own():
    def split(rows, state, timers):
        return rows.filter(pl.col("amount") < 5), {
            "large": rows.filter(pl.col("amount") >= 5).select("ts", "user")
        }

    small = mamba.stream("rows", lateness="3s").process(
        split, by="user", sides={"large": {**TS, "user": pl.String}}
    )
    large = small.filter(pl.col("amount") > 0).side("large")
    counted = large.window(mamba.tumbling("10s")).agg(rows=pl.len())
    pipeline = mamba.pipeline("split", small.to("small"), large.to("large"), counted.to("counted"))
    same = testing.assert_equivalent(pipeline, CASES[0], time="ts")
    rows_ = ordered(CASES[0]["rows"])
    assert_frame_equal(
        same.played["large"], rows_.filter(pl.col("amount") >= 5).select("ts", "user"), check_row_order=False
    )
    assert same.played["small"].height == rows_.filter(pl.col("amount") < 5).height
    assert same.played["counted"]["rows"].sum() == same.played["large"].height


def test_rows_in_the_order_of_arrival_come_at_once():
    stream = mamba.stream("rows").process(totals, order="arrival", **TOTALS)
    played = testing.play(
        stream, [testing.Rows("rows", rows((9, "a", 1), (1, "a", 2), (5, "a", 3)))], time="ts"
    )
    assert played["out"]["total"].to_list() == [1, 3, 6] and played.late == 0


def test_a_stream_without_time_can_be_taken_as_it_arrives():
    frame = pl.DataFrame({"user": ["a", "b", "a"], "amount": [1, 2, 3]})
    stream = mamba.stream(frame).process(
        totals,
        by="user",
        state={"total": pl.Int64},
        order="arrival",
        output={**frame.schema, "total": pl.Int64},
    )
    assert stream.collect()["total"].to_list() == [1, 2, 4]


def reminding(rows, state, timers):
    if rows.height:
        timers.after(rows, "30s")
    return timers.fired.select("user", ts="time")


def test_timers_of_the_wall_clock_fire_when_it_has_come_so_far_also_after_a_crash():
    stream = mamba.stream("rows").process(reminding, by="user", output={"user": pl.String, **TS})
    arriving = testing.Rows("rows", rows((1, "a", 1), (2, "b", 1), (5, "c", 1)))
    played = testing.play(stream, [arriving, testing.Silence("29s")], time="ts")
    assert played["out"].height == 0
    played = testing.play(stream, [arriving, testing.Silence("29s"), testing.Silence("2s")], time="ts")
    # The row that time has not passed yet did not set one; time stands at its time.
    assert sorted(played["out"].rows()) == [("a", at(5)), ("b", at(5))]
    script = [arriving, testing.Commit(), testing.Crash(), testing.Silence("31s")]
    assert sorted(testing.play(stream, script, time="ts")["out"].rows()) == [("a", at(5)), ("b", at(5))]


def test_a_time_that_has_passed_fires_next_at_the_time_of_its_row():
    def echo(rows, state, timers):
        if rows.height:
            timers.at(rows, START)
        return timers.fired.select("user", ts="time")

    stream = mamba.stream("rows").process(echo, by="user", output={"user": pl.String, **TS})
    same = testing.assert_equivalent(stream, {"rows": rows((3, "a", 1), (7, "a", 1), (7, "b", 1))}, time="ts")
    assert sorted(same.played["out"].rows()) == [("a", at(3)), ("a", at(7)), ("b", at(7))]


def test_a_call_reads_what_it_wrote_and_forgot():
    def checking(rows, state, timers):
        state.put(rows.select("user", n=pl.col("amount"), m=pl.lit(1.5)))
        state.put(rows.head(1).select("user", n=pl.lit(100)))
        found = state.get(rows)
        state.delete(rows.tail(1))
        assert state.get(rows.tail(1)).rows() == [(None, None)]
        return rows.select("ts", "user", n=found["n"], m=found["m"])

    frame = rows((1, "a", 1), (1, "b", 2), (1, "c", 3), (2, "a", 4))
    stream = mamba.stream(frame, time="ts").process(
        checking,
        by="user",
        state={"n": pl.Int64, "m": pl.Float64},
        output={**TS, "user": pl.String, "n": pl.Int64, "m": pl.Float64},
    )
    assert stream.collect().rows() == [
        (at(1), "a", 100, 1.5),
        (at(1), "b", 2, 1.5),
        (at(1), "c", 3, 1.5),
        (at(2), "a", 100, 1.5),
    ]


def run(function, **more):
    options = {"by": "user", "state": {"total": pl.Int64}} | more
    return mamba.stream(rows((1, "a", 1), (2, "b", 1)), time="ts").process(function, **options).collect()


BAD = {
    "a frame without the key": (
        lambda rows, state, timers: state.get(rows.drop("user")),
        "state.get: the frame lacks key column 'user'",
    ),
    "a key of another type": (
        lambda rows, state, timers: state.get(rows.with_columns(user=pl.lit(1))),
        "key column 'user' is Int32, and has to be String",
    ),
    "no frame": (lambda rows, state, timers: state.get("a"), "takes a pl.DataFrame"),
    "a key of elsewhere": (
        lambda rows, state, timers: state.put(rows.with_columns(user=pl.lit("z"), total=pl.lit(1)).head(1)),
        r"the key \{'user': 'z'\} is neither among the rows",
    ),
    "a key twice": (
        lambda rows, state, timers: state.put(pl.concat([rows, rows]).with_columns(total=pl.lit(1))),
        "comes several times",
    ),
    "no column of the state": (lambda rows, state, timers: state.put(rows), "none of the columns total"),
    "a column of another type": (
        lambda rows, state, timers: state.put(rows.with_columns(total=pl.lit("x"))),
        "column 'total' is String, and state= says Int64",
    ),
    "a float where whole numbers are": (
        lambda rows, state, timers: state.put(rows.with_columns(total=pl.lit(1.5))),
        "column 'total' is Float64",
    ),
    "a timer without a time": (
        lambda rows, state, timers: timers.at(rows, pl.lit(None, dtype=pl.Datetime("us"))),
        "a time is null",
    ),
    "a timer at a number": (lambda rows, state, timers: timers.at(rows, "amount"), r"time= is Int64"),
    "a delay that is none": (lambda rows, state, timers: timers.after(rows, "soon"), "timers.after: delay"),
    "a timer's name that cannot be": (lambda rows, state, timers: timers.at(rows, "ts", "a b"), "timer name"),
    "a number for a frame": (lambda rows, state, timers: 3, "gave int: it must give a pl.DataFrame"),
    "a triple": (lambda rows, state, timers: (rows, {}, {}), "the function gave a tuple"),
    "a column that is not declared": (
        lambda rows, state, timers: rows.with_columns(x=pl.lit(1)),
        "gave column 'x', which output= does not have",
    ),
    "a side output that is not declared": (
        lambda rows, state, timers: (rows, {"x": rows}),
        "gave a side output 'x': sides= has none",
    ),
    "other times": (
        lambda rows, state, timers: rows.with_columns(pl.col("ts").dt.offset_by("1s")),
        "times in 'ts' that no row or timer of the call has",
    ),
    "an error of its own": (lambda rows, state, timers: rows["nope"], "nope"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_function_does_wrong_is_said(case):
    function, why = BAD[case]
    with pytest.raises(mamba.StepFailed, match=why):
        run(function)


def test_a_function_without_state_or_time_is_told_so():
    with pytest.raises(mamba.StepFailed, match="process was given no state="):
        run(lambda rows, state, timers: state.get(rows), state=None)
    frame = pl.DataFrame({"user": ["a"]})
    stream = mamba.stream(frame).process(
        lambda rows, state, timers: timers.at(rows, START), by="user", order="arrival"
    )
    with pytest.raises(mamba.StepFailed, match=r"this stream has none: use timers\.after"):
        stream.collect()


class Hanging:
    """Totals, which hang over an amount of 7 when they have written, until they are let go; and write again."""

    def __init__(self):
        self.go, self.over = threading.Event(), threading.Event()
        self.calls, self.fired, self.refused = [], [], []

    def __call__(self, rows, state, timers):
        self.calls.append(rows["amount"].to_list())
        self.fired += timers.fired["user"].to_list()
        out = totals(rows, state, timers)
        if 7 in rows["amount"]:
            timers.at(rows, at(3_000))
            self.go.wait(120)
            for late in (
                lambda: state.put(rows.with_columns(total=999)),
                lambda: state.get(rows),
                lambda: state.delete(rows),
                lambda: timers.at(rows, "ts"),
                lambda: timers.after(rows, "1s"),
                lambda: timers.cancel(rows),
            ):
                try:
                    late()
                except mamba.InvalidInput as error:
                    self.refused.append(str(error))
            if rows.height == 1:
                self.over.set()
        return out


def test_a_call_that_hangs_fails_in_time_and_names_its_step():
    hanging = Hanging()
    stream = mamba.stream(rows((1, "a", 1), (2, "b", 7), (3, "c", 1)), time="ts")
    with pytest.raises(
        mamba.StepFailed,
        match=r"(?s)step process 'slow' at .*TimeoutError: the function did not end within 250ms \(timeout=\).*"
        "over 3 rows",
    ) as caught:
        stream.process(hanging, name="slow", timeout="250ms", **TOTALS).collect()
    hanging.go.set()
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert hanging.calls == [[1, 7, 1]], "each half would have been waited for as long again"


def test_what_a_call_did_that_took_too_long_counts_for_nothing_whenever_it_does_it(tmp_path):
    hanging = Hanging()
    with mamba.open(tmp_path / "log") as log:
        topic = log.create_topic("rows", SCHEMA, time="ts")
        topic.append(rows((1, "a", 1), (2, "b", 2), (9, "a", 7), (9, "c", 3), (10, "b", 4), (11, "d", 5)))
        stream = mamba.stream("rows").process(hanging, name="slow", timeout="500ms", **TOTALS)
        job = mamba.start(mamba.pipeline("job", stream.to("out"), on_error="dead_letter"), log, commit="20ms")
        while job.status.failed < 1:
            log.wait(log.lsn(), 0.05)
        hanging.go.set()
        assert hanging.over.wait(60)
        topic.append(rows((20, "a", 10), (21, "b", 20)))
        topic.end()
        assert job.wait().failed == 1
        found = log["out"].scan().collect().sort("ts", "user")
        assert found.select("user", "amount", "total").rows() == [
            ("a", 1, 1),
            ("b", 2, 2),
            ("c", 3, 3),
            ("b", 4, 6),
            ("d", 5, 5),
            ("a", 10, 11),
            ("b", 20, 26),
        ]
        assert log["job.dead"].scan().collect()["amount"].to_list() == [7]
        assert sorted(job.state("slow").rows()) == [("a", 11), ("b", 26), ("c", 3), ("d", 5)]
    assert len(hanging.refused) % 6 == 0 and len(hanging.refused) >= 6
    assert all("this call failed or took longer than timeout=" in refused for refused in hanging.refused)
    assert hanging.fired == []


def test_functions_with_a_timeout_give_what_they_give_without():
    stream = mamba.stream(rows(*[(n, "abc"[n % 3], n) for n in range(40)]), time="ts")
    found = stream.process(totals, timeout="1m", **TOTALS).collect()
    assert_frame_equal(found, stream.process(totals, **TOTALS).collect())
    with pytest.raises(mamba.StepFailed, match=r"LookupError: here\nraised at .*test_process\.py"):
        stream.process(raising, timeout="1m", by="user").collect()


def raising(rows, state, timers):
    raise LookupError("here")


def test_what_it_remembers_can_be_looked_at(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("rows", SCHEMA, time="ts").append(rows((1, "a", 1), (2, "b", 2), (9, "a", 3)))
        pipeline = mamba.pipeline("job", mamba.stream("rows").process(totals, name="t", **TOTALS).to("out"))
        job = mamba.start(pipeline, log, until="now")
        job.wait()
        assert job.state("t").rows() == [("a", 1), ("b", 2)]
