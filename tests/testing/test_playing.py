"""Scripts are played as they say: rows, silence, commits, crashes and ends, on a clock that is moved."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream import testing
from mamba_stream.testing import Commit, Crash, End, Rows, Silence

CLICKS = """
    ts                  | user | amount
    --------------------+------+-------
    2024-01-01 10:00:00 | ann  | 3
    2024-01-01 10:00:05 | bob  | 4
    2024-01-01 10:00:59 | ann  | 5
"""


def totals(lateness: str = "0s") -> mamba.Stream:
    return (
        mamba.stream("clicks", lateness=lateness)
        .window(mamba.tumbling("1m"), by="user")
        .agg(total=pl.col("amount").sum())
    )


def test_a_topic_that_ends_closes_all_windows():
    played = testing.play(totals(), [Rows("clicks", CLICKS), End("clicks")], time="ts")
    assert played["out"].select("user", "total").rows() == [("ann", 8), ("bob", 4)]
    assert (played.rows_in, played.late, played.rejected) == (3, 0, 0)


def test_nothing_comes_out_before_time_has_come():
    assert testing.play(totals(), [Rows("clicks", CLICKS)], time="ts")["out"].is_empty()


def test_a_crash_undoes_what_was_not_committed_and_the_rows_come_again():
    later = Rows("clicks", [{"ts": datetime(2024, 1, 1, 10, 1), "user": "ann", "amount": 1}])
    script = [Rows("clicks", CLICKS), Commit(), Crash(), later, Crash(), Crash(), End("clicks")]
    assert testing.play(totals(), script, time="ts")["out"].select("user", "total").rows() == [
        ("ann", 8),
        ("bob", 4),
        ("ann", 1),
    ]


def test_silence_lets_time_go_on_without_a_partition():
    script = [
        Rows("clicks", CLICKS, partition=0),
        Rows("clicks", "ts | user | amount \n 2024-01-01 10:05:00 | eve | 1", partition=1),
    ]
    # Partition 0 has said 10:00:59 only: nothing closes before it counts as idle.
    assert testing.play(totals(), script, time="ts")["out"].is_empty()
    silence = [*script, Silence("29s"), Rows("clicks", script[1].data, partition=1), Silence("29s")]
    silent = testing.play(totals(), silence, time="ts")
    assert silent["out"].get_column("user").to_list() == ["ann", "bob"]


def test_nothing_sleeps():
    script = [Rows("clicks", CLICKS), Silence("300d"), End("clicks")]
    assert testing.play(totals(), script, time="ts")["out"].height == 2


def test_late_rows_of_a_stream_are_a_topic_too():
    late = "ts | user | amount \n 2024-01-01 10:02:00 | ann | 1 \n 2024-01-01 10:00:30 | bob | 9"
    played = testing.play(totals(), [Rows("clicks", CLICKS), Rows("clicks", late), End("clicks")], time="ts")
    assert played.late == 1
    assert played["late"].select("user", "amount", "late_reason").rows() == [("bob", 9, "watermark")]


def test_a_pipeline_and_keyed_topics_can_be_played_too():
    pipeline = mamba.pipeline("job", totals().to("totals"))
    topics = {
        "clicks": {
            "schema": {"ts": pl.Datetime("us"), "user": pl.String, "amount": pl.Int64},
            "key": "user",
            "partitions": 3,
            "time": "ts",
        }
    }
    played = testing.play(pipeline, [Rows("clicks", CLICKS), End("clicks")], topics=topics)
    assert sorted(played["totals"].select("user", "total").rows()) == [("ann", 8), ("bob", 4)]
    with pytest.raises(KeyError, match="did you mean 'totals'"):
        played["total"]


def test_rows_may_be_cut_into_single_ones():
    whole = testing.play(totals(), [Rows("clicks", CLICKS), End("clicks")], time="ts")
    single = testing.play(totals(), [Rows("clicks", CLICKS), End("clicks")], time="ts", rows=1)
    assert single["out"].equals(whole["out"])


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([Rows("click", CLICKS)], "'click'.*did you mean 'clicks'"),
        ([End("clicks")], "no rows arrive in 'clicks'"),
        ([Rows("clicks", "a | b \n 1")], "1 columns in '1', and 2 in the header"),
        ([Rows("clicks", "")], "there is no header"),
        ([Rows("clicks", 7)], "the rows of 'clicks' takes a Polars"),
        ([Rows("clicks", CLICKS), Silence("-1s")], "-1s"),
    ],
)
def test_a_script_that_cannot_be_played_says_why(script, says):
    with pytest.raises(mamba.MambaStreamError, match=says):
        testing.play(totals(), script, time="ts")


def test_a_log_and_a_clock_come_as_fixtures(mamba_log, mamba_clock):
    topic = mamba_log.create_topic("rows", {"x": pl.Int64})
    topic.append([{"x": 1}])
    mamba_clock.advance("1h")
    topic.append([{"x": 2}])
    assert topic.offset_at(datetime(2024, 1, 1, 0, 30), by="append") == {0: 1}


def test_tables_are_read_as_they_are_drawn():
    frame = testing.table(
        """
        | ts                     | n  | x   | ok    | word |
        |------------------------|----|-----|-------|------|
        | 2024-01-01 10:00:00.25 | 1  | 1.5 | true  | a b  |
        |                        | -2 |     | false | null |
        """
    )
    assert frame.schema == {
        "ts": pl.Datetime("us"),
        "n": pl.Int64,
        "x": pl.Float64,
        "ok": pl.Boolean,
        "word": pl.String,
    }
    assert frame.rows() == [
        (datetime(2024, 1, 1, 10, 0, 0, 250_000), 1, 1.5, True, "a b"),
        (None, -2, None, False, None),
    ]
    typed = testing.table("a | b \n 1 | 2", {"a": pl.Int8, "b": pl.String})
    assert typed.schema == {"a": pl.Int8, "b": pl.String}
    with pytest.raises(mamba.InvalidInput, match="column 'a' is not Int8"):
        testing.table("a \n 300", {"a": pl.Int8})
