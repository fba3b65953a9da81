"""A join that cannot be right is refused at the user's line, with what would be right."""

from __future__ import annotations

import warnings
from datetime import datetime

import polars as pl
import pytest

import mamba_stream as mamba

NOW = datetime(2024, 1, 1)
LEFT = pl.DataFrame({"ts": [NOW], "key": ["a"], "number": [1], "until": [NOW], "tags": [["x"]]})
RIGHT = pl.DataFrame({"ts": [NOW], "key": ["a"], "number": [1.0], "tags": [["x"]]})
COLUMN, REFUSED, EXPRESSION = mamba.ColumnNotFound, mamba.PipelineRefused, mamba.ExpressionRefused
INVALID = mamba.InvalidInput


def left() -> mamba.Stream:
    return mamba.stream(LEFT, time="ts", name="left")


def right(frame: pl.DataFrame = RIGHT, time: str | None = "ts") -> mamba.Stream:
    return mamba.stream(frame, time=time, name="right")


BUILD = {
    "a key that the left side does not have": (
        lambda: left().join(right(), on="kay", within="1m"),
        COLUMN,
        "no column 'kay', did you mean 'key'",
    ),
    "a key that the right side does not have": (
        lambda: left().join(right(), left_on="key", right_on="kay", within="1m"),
        COLUMN,
        "the other stream has no column 'kay', did you mean 'key'",
    ),
    "keys of different types": (
        lambda: left().join(right(), on="number", within="1m"),
        REFUSED,
        "'number' is Int64, and 'number' of the other stream is Float64: cast one",
    ),
    "a key that is a list": (
        lambda: left().join(right(), on="tags", within="1m"),
        REFUSED,
        r"List\(String\) cannot be a key",
    ),
    "no key": (lambda: left().join(right(), within="1m"), REFUSED, "give on="),
    "keys twice": (lambda: left().join(right(), "key", left_on="key", within="1m"), REFUSED, "give on="),
    "more keys on one side": (
        lambda: left().join(right(), left_on=["key", "number"], right_on="key", within="1m"),
        REFUSED,
        "2 columns on the left, 1 on the right",
    ),
    "a word for which keys are unique that there is not": (
        lambda: left().join(right(), on="key", ttl="forever", validate="n:1"),
        REFUSED,
        "validate='n:1'; choose one of 'm:m', 'm:1', '1:m', '1:1'",
    ),
    "unique keys where rows are let go of": (
        lambda: left().join(right(), on="key", within="1m", validate="m:1"),
        REFUSED,
        "validate='m:1' is about all rows of a side.*give ttl='forever'",
    ),
    "unique keys of a join that only looks": (
        lambda: left().join(right(), on="key", how="semi", ttl="forever", validate="m:1"),
        REFUSED,
        "validate='m:1' does not go with how='semi'",
    ),
    "unique keys of a changelog": (
        lambda: left().join(right().table("key"), on="key", ttl="forever", validate="m:1"),
        REFUSED,
        "those of the other stream are taken back later: leave validate= out",
    ),
    "unique keys of a table that stays as it is": (
        lambda: left().join(RIGHT, on="key", validate="m:1"),
        REFUSED,
        "validate= and name= are for two streams",
    ),
    "a how that there is not": (
        lambda: left().join(right(), on="key", how="outer", within="1m"),
        REFUSED,
        "how='outer'; choose one of 'inner'",
    ),
    "a right side without time": (
        lambda: left().join(right(time=None), on="key", within="1m"),
        REFUSED,
        "needs the stream's time, and the frame has no time column",
    ),
    "a left side that lost its time": (
        lambda: left().drop("ts").join(right(), on="key", within="1m"),
        REFUSED,
        "dropped its time column 'ts'",
    ),
    "times of different types": (
        lambda: left().join(right(RIGHT.cast({"ts": pl.Datetime("ms")})), on="key", within="1m"),
        REFUSED,
        r"'ts' is Datetime\(time_unit='us', time_zone=None\), and 'ts' of the other stream is",
    ),
    "bounds that are no length of time": (
        lambda: left().join(right(), on="key", within=5),
        REFUSED,
        "within=5 is not a length of time such as '10m'",
    ),
    "bounds without a unit": (
        lambda: left().join(right(), on="key", within="5"),
        INVALID,
        "within= is not a duration",
    ),
    "a negative distance": (
        lambda: left().join(right(), on="key", within="-5m"),
        INVALID,
        "within= must not be negative",
    ),
    "bounds and a time to live": (
        lambda: left().join(right(), on="key", within="5s", ttl="1d"),
        REFUSED,
        "give within= or ttl=, not both",
    ),
    "a time to live that is none": (
        lambda: left().join(right(), on="key", ttl=3),
        REFUSED,
        "ttl=3 is not a length of time such as '1d', or 'forever'",
    ),
    "a time to live of nothing": (
        lambda: left().join(right(), on="key", ttl="0s"),
        INVALID,
        "ttl= must be longer than nothing",
    ),
    "time after a join without bounds": (
        lambda: left().join(right(), on="key", ttl="forever").window(mamba.tumbling("1h")).agg(n=pl.len()),
        REFUSED,
        "brings together rows that are any time apart.*give it within=",
    ),
    "late rows of a join without bounds": (
        lambda: left().join(right(), on="key", ttl="forever").late,
        REFUSED,
        "late belongs to the result of a verb that goes by time",
    ),
    "bounds and a window": (
        lambda: left().join(right(), on="key", within="5s", window=mamba.tumbling("1m")),
        REFUSED,
        "give within= or window=, not both",
    ),
    "a window that is none": (
        lambda: left().join(right(), on="key", window="1m"),
        REFUSED,
        "window= takes mamba.tumbling",
    ),
    "a session of two streams": (
        lambda: left().join(right(), on="key", window=mamba.session("1m")),
        REFUSED,
        "tumbling or hopping ones",
    ),
    "a window where the columns go": (
        lambda: left().rename({"until": "window_end"}).join(right(), on="key", window=mamba.tumbling("1m")),
        REFUSED,
        "adds a column 'window_end'",
    ),
    "a window over what has no time": (
        lambda: left().join(right(time=None), on="key", window=mamba.tumbling("1m")),
        REFUSED,
        r"join\(\.\.\., window=\) needs the stream's time",
    ),
    "an as-of join with a frame": (
        lambda: left().join_asof(RIGHT, by="key"),
        REFUSED,
        "takes a stream, whose rows have a time: make one with",
    ),
    "an as-of join by what is not there": (
        lambda: left().join_asof(right(), by="kay"),
        COLUMN,
        "no column 'kay', did you mean 'key'",
    ),
    "an as-of join by columns given twice": (
        lambda: left().join_asof(right(), by="key", by_left="key"),
        REFUSED,
        "not both",
    ),
    "an as-of join by one column and two": (
        lambda: left().join_asof(right(), by_left="key"),
        REFUSED,
        "1 columns on the left, 0 on the right",
    ),
    "an as-of join by a strategy that there is not": (
        lambda: left().join_asof(right(), by="key", strategy="back"),
        REFUSED,
        "strategy='back'; choose 'backward'",
    ),
    "an as-of join forward without end": (
        lambda: left().join_asof(right(), by="key", strategy="forward"),
        REFUSED,
        "needs tolerance= to know how long a row waits",
    ),
    "an as-of join by times of different types": (
        lambda: left().join_asof(right(RIGHT.cast({"ts": pl.Datetime("ms")})), by="key"),
        REFUSED,
        "times of the two streams are of different types",
    ),
    "an as-of join with what has no time": (
        lambda: left().join_asof(right(time=None), by="key"),
        REFUSED,
        "join_asof needs the stream's time",
    ),
    "a tolerance finer than the time": (
        lambda: mamba.stream(LEFT.cast({"ts": pl.Date}), time="ts").join_asof(
            right(RIGHT.cast({"ts": pl.Date})), by="key", tolerance="1h"
        ),
        REFUSED,
        "tolerance= of .* does not fit",
    ),
    "a table by what is not its key": (
        lambda: left().join(right().table("key"), left_on="number", right_on="number"),
        REFUSED,
        "the table's key is key, and the join is on number of it",
    ),
    "a full join with a table": (
        lambda: left().join(right().table("key"), on="key", how="full"),
        REFUSED,
        "how='full'; with a table as it was at each row's time choose 'inner'",
    ),
    "a table with verbs behind it": (
        lambda: left().join(right().table("key").drop("tags"), on="key"),
        REFUSED,
        r"between \.table\(\) and the join stands drop",
    ),
    "a table without time": (
        lambda: left().join(right(time=None).table("key"), on="key"),
        REFUSED,
        "a join with a table as of a row's time needs the stream's time",
    ),
    "three bounds": (
        lambda: left().join(right(), on="key", within=("1s", "2s", "3s")),
        REFUSED,
        "or two",
    ),
    "bounds the wrong way round": (
        lambda: left().join(right(), on="key", within=("5s", "-5s")),
        REFUSED,
        "no time lies between these: swap them",
    ),
    "bounds finer than the time": (
        lambda: mamba.stream(LEFT.cast({"ts": pl.Date}), time="ts").join(
            right(RIGHT.cast({"ts": pl.Date})), on="key", within="1h"
        ),
        REFUSED,
        "within= of .* does not fit a time column of type Date",
    ),
    "an expression for the lower bound": (
        lambda: left().join(right(), on="key", within=(pl.col("until") - pl.col("ts"), "5s")),
        REFUSED,
        "only the upper bound may be an expression",
    ),
    "a bound by a column that is not there": (
        lambda: left().join(right(), on="key", within=("0s", pl.col("untill") - pl.col("ts"))),
        COLUMN,
        "no column 'untill', did you mean 'until'",
    ),
    "a bound that is no duration": (
        lambda: left().join(right(), on="key", within=("0s", pl.col("number"))),
        EXPRESSION,
        "is Int64, and must be one Duration",
    ),
    "a bound that looks at other rows": (
        lambda: left().join(right(), on="key", within=("0s", pl.col("until").max() - pl.col("ts"))),
        EXPRESSION,
        "max",
    ),
    "two columns of one name": (
        lambda: left().rename({"until": "number_right"}).join(right(), on="key", within="1m"),
        REFUSED,
        "two columns 'number_right'",
    ),
    "a column where the time would go": (
        lambda: left().rename({"until": "join_time"}).join(right(), on="key", within="1m"),
        REFUSED,
        "adds a column 'join_time'",
    ),
    "a table within a time": (
        lambda: left().join(RIGHT, on="key", within="1m"),
        REFUSED,
        "are for two streams, and this is a table",
    ),
    "late rows of another stream where there is none": (
        lambda: left().window(mamba.tumbling("1h")).agg(n=pl.len()).late_other,
        REFUSED,
        "late_other belongs to a join",
    ),
}


@pytest.mark.parametrize("case", BUILD)
def test_it_is_refused_with_what_would_be_right(case):
    build, kind, why = BUILD[case]
    with pytest.raises(kind, match=why) as caught:
        build()
    if " at /" in str(caught.value):
        assert __file__ in str(caught.value)


def test_state_that_nothing_frees_is_warned_of_at_the_line_that_asks_for_it():
    with pytest.warns(
        mamba.UnboundedState, match=r"step 'inner join on key' keeps all rows.*within=.*ttl=.*window="
    ) as caught:
        left().join(right(), on="key")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left().join(right(), on="key", ttl="forever")
        left().join(right(), on="key", ttl="1d")


def test_a_table_that_has_no_time_meets_a_stream_in_a_job(tmp_path):
    totals = left().group_by("key").agg(rows=pl.len())
    both = totals.join(right().select("key", "number", "ts"), on="key", ttl="forever")
    with mamba.open(tmp_path / "log") as log:
        mamba.run(mamba.pipeline("job", both.to("both")), log)
        assert log["both"].scan().select("_op", "key", "rows", "number").collect().rows() == [
            ("+I", "a", 1, 1.0)
        ]


def test_two_joins_alike_are_told_apart_by_name():
    one = left().join(right(), on="key", within="1m")
    other = left().join(right(), on="key", within="1m")
    united = mamba.concat([one, other])
    with pytest.raises(REFUSED, match=r"two steps are called 'inner join on key within 1m'.*name="):
        mamba.pipeline("job", united.to("out"))
    named = mamba.concat([one, left().join(right(), on="key", within="1m", name="again")])
    mamba.pipeline("job", named.to("out"))


def test_the_plan_says_what_meets_what():
    joined = left().join(right(), left_on="key", right_on="key", how="left", within=("-5s", "1m"))
    assert "join of 1 and 2: left join on key within -5s to 1m" in joined.explain()


@pytest.mark.parametrize(
    ("how", "within", "time"),
    [
        ("inner", ("0s", "1m"), "ts_right"),
        ("inner", ("-1m", "0s"), "ts"),
        ("inner", "1m", "join_time"),
        ("left", ("-1m", "0s"), "ts"),
        ("left", ("0s", "1m"), "join_time"),
        ("right", ("0s", "1m"), "ts_right"),
        ("full", ("0s", "1m"), "join_time"),
        ("semi", "1m", "ts"),
        ("anti", "1m", "ts"),
    ],
)
def test_the_time_of_a_pair_is_the_column_that_always_is_the_later(how, within, time):
    joined = left().join(right(), on="key", how=how, within=within)
    assert joined._shapes[joined._node].time == time
    assert ("join_time" in joined.schema) == (time == "join_time")


@pytest.mark.parametrize(
    ("how", "validate", "said"),
    [
        ("inner", "m:m", "rows of both sides are kept for ever"),
        (
            "inner",
            "m:1",
            "rows of the other are kept for ever, those of this stream until they have met theirs",
        ),
        (
            "left",
            "m:1",
            "rows of the other are kept for ever, those of this stream until they have met theirs",
        ),
        (
            "inner",
            "1:m",
            "rows of this stream are kept for ever, those of the other until they have met theirs",
        ),
        ("left", "1:m", "rows of both sides are kept for ever"),
        ("inner", "1:1", "rows of both sides are kept for ever"),
    ],
)
def test_the_plan_says_which_rows_leave_once_they_have_met_theirs(how, validate, said):
    joined = mamba.stream("a").join(mamba.stream("b"), on="k", how=how, validate=validate, ttl="forever")
    assert f"{said}:" in joined.explain()


@pytest.mark.parametrize("bounds", [{"within": "1m"}, {"ttl": "1h"}, {"window": mamba.tumbling("1h")}])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_a_changelog_only_in_a_log_is_refused_there_before_anything_starts(tmp_path, bounds, side):
    streams = [mamba.stream("rows").top_k(2, by="value", per="start"), mamba.stream("others")]
    one, other = streams if side == 0 else streams[::-1]
    pipeline = mamba.pipeline("job", one.join(other, on="key", **bounds).to("out"))
    schema = {"ts": pl.Datetime("us"), "start": pl.Datetime("us"), "key": pl.String, "value": pl.Int64}
    with mamba.open(tmp_path / "log") as log:
        for name in ("rows", "others"):
            log.create_topic(name, schema, time="ts")
        with pytest.raises(REFUSED, match="join takes rows that stay, and these are a changelog") as caught:
            mamba.start(pipeline, log=log)
        assert __file__ in str(caught.value)
        assert log.topics() == ["others", "rows"]
        mamba.run(mamba.pipeline("job", mamba.stream("rows").to("out")), log=log, until="now")


def test_two_changelogs_of_unknown_topics_are_known_to_be_kept_as_large_as_they_are(recwarn):
    best, updated = (
        mamba.stream("rows").top_k(2, by="value", per="key"),
        mamba.stream("others").window(mamba.tumbling("1h"), by="key", emit="update").agg(n=pl.len()),
    )
    best.join(updated, on="key")
    assert not [warning for warning in recwarn if warning.category is mamba.UnboundedState]
    whole = mamba.stream("others").window(mamba.tumbling("1h"), by="key").agg(n=pl.len())
    with pytest.warns(mamba.UnboundedState):
        whole.top_k(1, by="n", per="window_start").join(updated, on="key")


def test_late_rows_are_those_of_the_last_step_that_goes_by_time():
    windows = mamba.stream("rows", time="ts").window(mamba.tumbling("1h"), by="key").agg(n=pl.len())
    best = windows.top_k(1, by="n", per="window_start")
    assert best.late._node.parent is windows._node
    joined = windows.join(mamba.stream("others", time="ts").table("key"), on="key").select("key", "n")
    assert joined.late._node.parent is joined._node.parent
