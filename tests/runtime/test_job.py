"""Jobs: begun, stopped, cancelled, resumed, refused; what they say about themselves."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.runtime.jobs import find_job, list_jobs, reset_job
from mamba_stream.runtime.journal import read_journal
from mamba_stream.runtime.options import RunOptions, run_options
from mamba_stream.runtime.run import Run
from tests import forking
from tests.runtime.desk import ManualClock, put
from tests.runtime.model import EPOCH, SCHEMA, Row, frame


def windowed(size: str = "10s", **more: pl.Expr) -> mamba.Stream:
    return mamba.stream("rows").window(mamba.tumbling(size), by="key", name="w").agg(count=pl.len(), **more)


@pytest.fixture
def pipeline() -> mamba.Pipeline:
    return mamba.pipeline("job", windowed().to("out"))


def counts(log: mamba.Log) -> list[tuple[str, int]]:
    return log["out"].scan().select("key", "count").collect().rows()


class Gate:
    """A function for ``inspect`` that tells when rows came, and lets them pass when told."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.open = threading.Event()

    def __call__(self, _frame: pl.DataFrame) -> None:
        self.came.set()
        assert self.open.wait(30)


def test_a_job_follows_its_topic_until_it_is_stopped_and_goes_on_there(log, topic, pipeline):
    put(topic, 0, (1, "a", 1), (2, "a", 1), (30, "a", 1))
    put(topic, 1, (30, "b", 1))
    job = mamba.start(pipeline, log, commit="10ms")
    assert job.status.state == "running"
    lsn = log.lsn()
    while "out" not in log or not counts(log):
        lsn = log.wait(lsn, 30)
    assert counts(log) == [("a", 2)]
    summary = job.stop()
    assert (summary.state, summary.rows_in, summary.rows_out, summary.late) == ("stopped", 4, 1, 0)
    assert job.status.state == "stopped"
    put(topic, 0, (50, "a", 1))
    put(topic, 1, (50, "b", 1))
    assert mamba.run(pipeline, log, until="now").rows_in == 2
    assert counts(log) == [("a", 2), ("a", 1), ("b", 1)]


def test_waiting_for_a_job_that_goes_on_runs_out_of_time(log, topic, pipeline):
    job = mamba.start(pipeline, log)
    with pytest.raises(TimeoutError, match="still running after 0 s"):
        job.wait(0)
    job.cancel()
    assert job.wait().state == "cancelled"
    assert job.status.state == "cancelled"


def test_what_was_not_committed_when_a_job_is_cancelled_is_done_again(log, topic):
    put(topic, 0, (1, "a", 1), (30, "a", 1))
    put(topic, 1, (30, "b", 1))
    gate = Gate()
    shut = mamba.pipeline("job", windowed().inspect(gate).to("out"))
    job = mamba.start(shut, log, commit="1h")
    assert gate.came.wait(30)
    canceller = threading.Thread(target=job.cancel)
    canceller.start()
    gate.open.set()
    canceller.join()
    assert job.wait().state == "cancelled"
    assert find_job(log, "job").state == "interrupted"
    assert counts(log) == []
    mamba.run(shut, log, until="now")
    assert counts(log) == [("a", 1)]


def test_a_checkpoint_commits_now(log, topic, pipeline):
    put(topic, 0, (1, "a", 1), (30, "a", 1))
    put(topic, 1, (30, "b", 1))
    seen = threading.Event()
    watched = mamba.pipeline("job", windowed().inspect(lambda _: seen.set()).to("out"))
    job = mamba.start(watched, log, commit="1h")
    assert seen.wait(30)
    lsn = job.checkpoint(30)
    assert counts(log) == [("a", 1)]
    assert job.status.lsn == lsn <= log.lsn()
    job.stop()
    with pytest.raises(mamba.JobFailed, match=r"is over \(stopped\)"):
        job.checkpoint()


def test_the_name_of_a_live_job_is_refused_and_where_it_runs_is_said(log, topic, pipeline):
    job = mamba.start(pipeline, log)
    with pytest.raises(mamba.JobRunning, match=r"job 'job' runs already \(process \d+ on "):
        mamba.start(pipeline, log)
    with pytest.raises(mamba.JobRunning):
        reset_job(log, "job")
    (facts,) = list_jobs(log)
    assert facts.state == "running" and "process" in facts.where
    job.stop()
    mamba.run(pipeline, log, until="now")


def test_names_of_jobs_that_differ_only_in_case_are_refused(log, topic, pipeline):
    mamba.run(pipeline, log, until="now")
    with pytest.raises(
        mamba.PipelineRefused, match="a job 'job', whose name differs from 'Job' only in case"
    ):
        mamba.run(mamba.pipeline("Job", windowed().to("other")), log, until="now")
    assert "other" not in log


def test_a_runner_that_was_taken_for_dead_can_commit_nothing(log, topic, pipeline):
    put(topic, 0, (1, "a", 1), (30, "a", 1))
    put(topic, 1, (30, "a", 1))
    options = RunOptions(until="now", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False)
    first = Run(pipeline, log, options, SystemClock())
    first.step()
    second = Run(pipeline, log, options, SystemClock())
    second.step()
    second.commit("stopped")
    with pytest.raises(mamba.JobFailed, match="another runner has taken over job 'job'"):
        first.commit("running")
    assert counts(log) == [("a", 1)]


class Held:
    """The log's commits, held up until they are let through."""

    def __init__(self, log: mamba.Log, patched: pytest.MonkeyPatch) -> None:
        self.came = threading.Event()
        self.open = threading.Event()
        self.error: Exception | None = None
        commit = log._store.commit

        def held(*arguments: object) -> object:
            self.came.set()
            assert self.open.wait(30)
            if self.error is not None:
                raise self.error
            return commit(*arguments)

        patched.setattr(log._store, "commit", held)


def test_a_run_goes_on_while_a_commit_is_on_its_way(log, topic, pipeline, monkeypatch):
    put(topic, 0, (1, "a", 1), (30, "a", 1))
    put(topic, 1, (30, "a", 1))
    clock = ManualClock()
    run = Run(pipeline, log, run_options(until="stopped"), clock)
    run.step()
    put(topic, 0, (50, "a", 1))
    put(topic, 1, (50, "a", 1))
    held = Held(log, monkeypatch)
    commits = run.commits
    run.begin_commit()
    assert held.came.wait(30)
    assert run.step() == 2, "it reads and works meanwhile"
    clock.seconds += 10
    assert not run.commit_due, "one commit at a time"
    assert not run.commit_done
    assert counts(log) == []
    held.open.set()
    run.end_commit()
    assert (run.commits, counts(log)) == (commits + 1, [("a", 1)])
    assert run.commit_due, "what came meanwhile is for the next one"
    run.begin_commit()
    run.commit("stopped")
    assert counts(log) == [("a", 1), ("a", 2)]
    assert mamba.run(pipeline, log, until="now").rows_in == 0


def test_a_commit_that_fails_on_its_way_ends_the_job(log, topic, monkeypatch):
    put(topic, 0, (1, "a", 1), (30, "a", 1))
    put(topic, 1, (30, "a", 1))
    gate = Gate()
    job = mamba.start(mamba.pipeline("job", windowed().inspect(gate).to("out")), log, commit="10ms")
    assert gate.came.wait(30)
    with monkeypatch.context() as patched:
        held = Held(log, patched)
        held.error = OSError("the disk is on fire")
        held.open.set()
        gate.open.set()
        with pytest.raises(mamba.JobFailed, match="the disk is on fire"):
            job.wait(30)
    assert counts(log) == []
    assert mamba.run(mamba.pipeline("job", windowed().to("out")), log, until="now").rows_in == 3
    assert counts(log) == [("a", 1)]


def test_status_counts_what_all_runs_did(log, topic, pipeline):
    put(topic, 0, (1, "a", 1), (30, "a", 1), (2, "a", 1), (None, "a", 1))
    put(topic, 1, (31, "b", 1))
    mamba.run(pipeline, log, until="now")
    put(topic, 1, (45, "b", 1))
    job = mamba.start(pipeline, log, until="now")
    job.wait()
    status = job.status
    assert (status.rows_in, status.late, status.rejected, status.rows_out) == (6, 1, 1, 1)
    assert status.positions == {"rows": {0: 4, 1: 2}} and status.waiting == {}
    assert status.watermarks == {"rows": EPOCH.replace(tzinfo=UTC) + timedelta(seconds=30)}
    assert status.state_bytes["w"] > 0
    assert log.group_offsets("job.job") == {("rows", 0): 4, ("rows", 1): 2}


def test_a_summary_says_in_words_how_late_rows_were(log, topic, pipeline):
    put(topic, 0, *((second, "a", 1) for second in range(100)), (40, "a", 1), (None, "a", 1))
    topic.end()
    summary = mamba.run(pipeline, log)
    assert (summary.state, summary.late, summary.rejected) == ("finished", 1, 1)
    # Its window ended at 50, the watermark was 99.
    assert timedelta(seconds=49) < summary.lateness_for_999["w"] < timedelta(seconds=51)
    assert str(summary).startswith("job finished: 102 rows in, 10 out, 1 late, 1 rejected, ")
    assert "lateness='50s' would have kept 99.9%" in str(summary)
    assert (
        mamba.run(
            mamba.pipeline(
                "enough",
                mamba.stream("rows", lateness=summary.lateness_for_999["w"])
                .window(mamba.tumbling("10s"))
                .agg(pl.len())
                .to("other"),
            ),
            log,
        ).late
        == 0
    )


def test_until_a_moment_reads_to_where_each_partition_reaches_it(log, topic, pipeline):
    put(topic, 0, (1, "a", 1), (29, "a", 1), (61, "a", 1), (2, "a", 1))
    put(topic, 1, (59, "b", 1), (60, "b", 1))
    summary = mamba.run(pipeline, log, until=EPOCH + timedelta(seconds=60))
    assert (summary.state, summary.rows_in) == ("stopped", 3)
    assert counts(log) == [("a", 1)]
    assert mamba.run(pipeline, log, until="now").rows_in == 3


def test_until_a_moment_goes_by_the_time_of_the_stream_not_of_the_topic(log):
    topic = log.create_topic("two", {"ts": pl.Datetime("us"), "seen": pl.Datetime("us")}, time="ts")
    seconds = [5, None, 3, 9, 4, 12]
    rows = [
        {"ts": EPOCH + timedelta(days=1), "seen": second and EPOCH + timedelta(seconds=second)}
        for second in seconds
    ]
    topic.append(rows)
    pipeline = mamba.pipeline("job", mamba.stream("two", time="seen").to("out"))

    def until(second: int) -> int:
        return mamba.run(pipeline, log, until=EPOCH + timedelta(seconds=second)).rows_in

    # Once it has come to nine, it has come to eight, whatever follows.
    assert [until(second) for second in (6, 8, 9, 10, 8, 99)] == [3, 0, 0, 2, 0, 1]
    timeless = mamba.pipeline("timeless", mamba.stream(log.create_topic("none", {"n": pl.Int64})).to("all"))
    with pytest.raises(mamba.PipelineRefused, match=r"until=.* needs the stream's time.*test_job\.py"):
        mamba.run(timeless, log, until=EPOCH)


def test_until_a_moment_reads_a_frame_to_where_it_reaches_it(log):
    rows = frame([Row(1, "a", 1), Row(None, "a", 1), Row(61, "a", 1), Row(2, "a", 1)])
    pipeline = mamba.pipeline("job", mamba.stream(rows, time="ts").to("out"))
    assert mamba.run(pipeline, log, until=datetime(2024, 1, 1, 0, 1)).rows_in == 2
    summary = mamba.run(pipeline, log)
    assert (summary.rows_in, summary.state) == (2, "finished")
    assert log["out"].scan().collect().get_column("ts").to_list() == [r for r in rows["ts"] if r is not None]


def test_starting_over_empties_the_topics_that_the_job_made_and_no_others(log, topic):
    log.create_topic("shared", {"key": pl.String, "count": pl.UInt32}).append([{"key": "mine", "count": 1}])
    put(topic, 0, (1, "a", 1))
    topic.end()
    rows = windowed()
    pipeline = mamba.pipeline("job", rows.to("out"), rows.select("key", "count").to("shared"))
    mamba.run(pipeline, log)
    mamba.run(pipeline, log, state="new")
    assert counts(log) == [("a", 1)]
    assert log["shared"].scan().collect().rows() == [("mine", 1), ("a", 1), ("a", 1)]


def test_starting_over_with_other_columns_makes_the_job_s_own_topic_anew(log, topic, pipeline):
    put(topic, 0, (1, "a", 5))
    topic.end()
    mamba.run(pipeline, log)
    other = mamba.pipeline("job", windowed(total=pl.col("value").sum()).to("out"))
    with pytest.raises(mamba.MambaStreamError):
        mamba.run(other, log)
    mamba.run(other, log, state="new")
    assert log["out"].scan().select("key", "count", "total").collect().rows() == [("a", 1, 5)]


def test_a_reset_job_starts_over(log, topic, pipeline):
    put(topic, 0, (1, "a", 1))
    topic.end()
    mamba.run(pipeline, log)
    assert find_job(log, "job").outputs == ("out",)
    assert find_job(log, "job").state == "finished"
    reset_job(log, "job")
    with pytest.raises(mamba.JobNotFound, match="it has none"):
        find_job(log, "job")
    assert counts(log) == []
    assert mamba.run(pipeline, log).rows_in == 1
    assert counts(log) == [("a", 1)]
    with pytest.raises(mamba.JobNotFound, match="did you mean 'job'"):
        reset_job(log, "jop")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda: windowed("20s"), "step 'w' has other keys, windows or aggregates"),
        (lambda: windowed(total=pl.col("value").sum()), "step 'w' has other keys, windows or aggregates"),
        (
            lambda: mamba.stream("rows").window(mamba.tumbling("10s"), name="v").agg(count=pl.len()),
            "step 'w' is gone; step 'v' is new",
        ),
    ],
    ids=["window", "aggregate", "name"],
)
def test_a_pipeline_that_does_not_fit_its_state_is_refused_before_it_starts(
    log, topic, pipeline, changed, why
):
    put(topic, 0, (1, "a", 1))
    mamba.run(pipeline, log, until="now")
    before = log.lsn()
    with pytest.raises(mamba.PipelineRefused, match=why):
        mamba.run(mamba.pipeline("job", changed().to("new")), log)
    assert log.lsn() == before
    assert find_job(log, "job").state == "stopped"


def test_row_verbs_may_change_between_runs(log, topic, pipeline):
    put(topic, 0, (1, "a", 1))
    mamba.run(pipeline, log, until="now")
    filtered = (
        mamba.stream("rows").filter(pl.col("value") > 5).window(mamba.tumbling("10s"), by="key", name="w")
    )
    put(topic, 0, (2, "a", 1), (3, "a", 9))
    topic.end()
    mamba.run(mamba.pipeline("job", filtered.agg(count=pl.len()).to("out")), log)
    assert counts(log) == [("a", 2)]


def test_rows_that_were_trimmed_away_before_they_were_read_are_a_gap(log, topic, pipeline):
    put(topic, 0, (1, "a", 1), (2, "a", 1))
    mamba.run(pipeline, log, until="now")
    put(topic, 0, (3, "a", 1), (4, "a", 1))
    topic.trim({0: 3})
    with pytest.raises(mamba.OffsetTrimmed, match="has to go on at 2, and rows before 3 were trimmed away"):
        mamba.run(pipeline, log, until="now")
    assert mamba.run(pipeline, log, until="now", on_gap="earliest").rows_in == 1


@pytest.mark.parametrize("rows", [0, 5])
def test_a_topic_that_was_made_anew_is_noticed(log, topic, pipeline, rows):
    put(topic, 0, (1, "a", 1), (2, "a", 1))
    mamba.run(pipeline, log, until="now")
    log.delete_topic("rows")
    again = log.create_topic("rows", SCHEMA, partitions=2, time="ts")
    put(again, 0, *((number, "a", 1) for number in range(rows)))
    with pytest.raises(mamba.PipelineRefused, match="it is another topic now"):
        mamba.run(pipeline, log, until="now")


def test_rows_that_were_trimmed_away_before_the_first_run_are_a_gap_too(log, topic):
    put(topic, 0, (1, "a", 1), (2, "a", 1), (3, "a", 1))
    topic.trim({0: 2})
    pipeline = mamba.pipeline("job", mamba.stream("rows", start={0: 1}).to("out"))
    with pytest.raises(mamba.OffsetTrimmed, match="has to begin at 1, and rows before 2 were trimmed away"):
        mamba.start(pipeline, log, until="now")
    assert mamba.run(pipeline, log, until="now", on_gap="earliest").rows_in == 1


def test_windows_that_are_open_by_one_time_are_not_closed_by_another(log):
    topic = log.create_topic("two", {"ts": pl.Datetime("us"), "seen": pl.Datetime("us")}, time="ts")
    topic.append([{"ts": EPOCH, "seen": EPOCH + timedelta(days=1)}])

    def by(time: str) -> mamba.Pipeline:
        counted = mamba.stream("two", time=time).window(mamba.tumbling("1h"), name="w").agg(pl.len())
        return mamba.pipeline("job", counted.to("out"))

    mamba.run(by("seen"), log, until="now")
    with pytest.raises(
        mamba.PipelineRefused, match="takes its time from 'ts', and windows are open by 'seen'"
    ):
        mamba.run(by("ts"), log, until="now")


def test_a_frame_that_holds_other_rows_than_the_first_run_s_is_refused(log):
    def over(*rows: Row) -> mamba.Pipeline:
        return mamba.pipeline("job", mamba.stream(frame(list(rows)), name="rows").to("out"))

    mamba.run(over(Row(1, "a", 1)), log)
    assert mamba.run(over(Row(1, "a", 1)), log).rows_in == 0
    with pytest.raises(mamba.PipelineRefused, match="'rows' holds other rows"):
        mamba.run(over(Row(2, "a", 1)), log)


def test_a_step_that_raises_names_itself_the_line_and_the_rows_and_commits_nothing(log, topic):
    put(topic, 0, (1, "a", 1), (2, "oops", 1))

    def strict(rows: pl.DataFrame) -> pl.DataFrame:
        if "oops" in rows["key"]:
            raise LookupError("no oops here")
        return rows

    pipeline = mamba.pipeline("job", mamba.stream("rows").map_batches(strict).to("out"))
    with pytest.raises(mamba.StepFailed) as caught:
        mamba.run(pipeline, log, until="now")
    message = str(caught.value)
    assert "step map_batches at " in message and "test_job.py:" in message
    assert "topic 'rows', partition 0, offsets 0 to 1" in message
    assert "LookupError: no oops here" in message
    assert isinstance(caught.value.__cause__, LookupError)
    assert log["out"].offsets()[0] == (0, 0)
    assert find_job(log, "job").state == "interrupted"


def test_a_panic_inside_polars_is_a_step_that_raises():
    def panics(_rows: pl.DataFrame) -> pl.DataFrame:
        raise pl.exceptions.PanicException("assertion failed")

    rows = mamba.stream(frame([Row(1, "a", 1)])).map_batches(panics)
    with pytest.raises(mamba.StepFailed, match=r"step map_batches at .*PanicException: assertion failed"):
        rows.collect()


def test_the_verb_that_fails_is_found_among_those_that_run_together(log, topic):
    put(topic, 0, (1, "17", 1), (2, "x", 1))
    rows = (
        mamba.stream("rows").filter(pl.col("value") > 0).cast({"key": pl.Int64}).with_columns(two=pl.lit(2))
    )
    with pytest.raises(mamba.StepFailed, match=r"step cast at .*test_job\.py"):
        rows.collect(log)


def test_state_that_outgrows_the_memory_is_refused_with_the_step_its_size_and_a_remedy(log):
    rows = pl.DataFrame({"ts": [EPOCH] * 200_000, "key": range(200_000)})
    wide = mamba.stream(rows, time="ts").window(mamba.tumbling("1d"), by="key", name="wide").agg(pl.len())
    with pytest.raises(mamba.StateTooLarge, match=r"step 'wide' .* is \d+ MB in 200,000 rows.*fewer keys"):
        mamba.run(mamba.pipeline("job", wide.to("out")), log, memory="2MB")
    assert mamba.run(mamba.pipeline("job", wide.to("out")), log, memory="1GB").rows_out == 200_000


def test_an_output_topic_of_other_columns_is_refused_at_the_user_s_line(log, topic, pipeline):
    log.create_topic("out", {"key": pl.String, "count": pl.String})
    with pytest.raises(
        mamba.SchemaMismatch, match=r"topic 'out' exists and has other columns: .*test_job\.py"
    ):
        mamba.run(pipeline, log)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (lambda rows: rows.select("key", "count").to("taken"), "topic 'taken' exists and has other columns"),
        (lambda rows: rows.drop("count").to("out"), "gives topic 'out' other columns"),
        (lambda rows: rows.to("out", partitions=3), "makes topic 'out' with partitions=1, not 3"),
        (lambda rows: rows.to("out", key="key"), r"makes topic 'out' with key=None, not \('key',\)"),
    ],
    ids=["taken", "columns", "partitions", "key"],
)
def test_no_topic_is_made_unless_all_can_be(log, topic, second, why):
    log.create_topic("taken", {"key": pl.String})
    rows = windowed()
    with pytest.raises(mamba.MambaStreamError, match=rf"{why}.*test_job\.py"):
        mamba.run(mamba.pipeline("job", rows.to("out"), second(rows)), log, until="now")
    assert log.topics() == ["rows", "taken"]


def test_an_ended_output_topic_is_refused(log, topic, pipeline):
    mamba.run(pipeline, log, until="now")
    log["out"].end()
    with pytest.raises(mamba.PipelineRefused, match="was ended and takes no more rows"):
        mamba.run(pipeline, log, until="now")


def test_outputs_have_the_key_and_partitions_that_were_asked_for_and_the_time_of_their_windows(log, topic):
    put(topic, 0, *((second, key, 1) for second in range(30) for key in "abcd"))
    topic.end()
    mamba.run(mamba.pipeline("job", windowed().to("out", key="key", partitions=4)), log)
    out = log["out"]
    assert (out.key, out.partitions, out.time) == (("key",), 4, "window_start")
    whole = mamba.stream("out").window(mamba.tumbling("1m"), by="key").agg(pl.col("count").sum())
    assert whole.select("key", "count").collect(log).sort("key").rows() == [(key, 30) for key in "abcd"]
    with pytest.raises(mamba.PipelineRefused, match="exists with partitions=4, not 2"):
        mamba.run(mamba.pipeline("job2", windowed().to("out", key="key", partitions=2)), log)


def test_one_topic_can_take_several_outputs(log, topic):
    put(topic, 0, (1, "a", 1), (2, "b", -1))
    rows = mamba.stream("rows")
    low, high = rows.filter(pl.col("value") < 0), rows.filter(pl.col("value") > 0)
    mamba.run(mamba.pipeline("job", low.to("out"), high.to("out")), log, until="now")
    assert sorted(log["out"].scan().collect().get_column("key")) == ["a", "b"]


def test_a_missing_topic_is_named_with_the_user_s_line_before_anything_starts(log, topic):
    pipeline = mamba.pipeline("job", mamba.stream("rowz").to("out"))
    with pytest.raises(mamba.TopicNotFound, match=r"did you mean 'rows'\?.*\(stream at .*test_job\.py:\d+\)"):
        mamba.run(pipeline, log)
    assert list_jobs(log) == [] and "out" not in log


def test_a_mistake_over_a_bare_topic_name_is_found_when_the_log_is_given_at_the_user_s_line(log, topic):
    pipeline = mamba.pipeline("job", mamba.stream("rows").filter(pl.col("valeu") > 3).to("out"))
    with pytest.raises(
        mamba.ColumnNotFound, match=r"'valeu', did you mean 'value'\?.*\(filter at .*test_job\.py:"
    ):
        mamba.run(pipeline, log)
    assert list_jobs(log) == [] and "out" not in log


def test_two_sources_of_one_topic_need_names(log, topic):
    put(topic, 0, (1, "a", 1), (30, "b", 1))
    one, other = mamba.stream("rows"), mamba.stream("rows", lateness="5s")
    with pytest.raises(mamba.PipelineRefused, match="two sources are called 'rows'"):
        mamba.run(mamba.pipeline("job", one.to("out"), other.to("out2")), log)
    other = mamba.stream("rows", lateness="5s", name="patient")
    mamba.run(mamba.pipeline("job", one.to("out"), other.to("out2")), log, until="now")
    assert log.groups() == ["job.job", "job.job.patient"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"until": "then"}, "choose 'stopped', 'now' or a datetime"),
        ({"state": ""}, "choose 'resume', 'new', 'upgrade' or the name of a savepoint"),
        ({"workers": 0}, "from 1 to 256"),
        ({"commit": "1"}, "commit"),
        ({"memory": "lots"}, "'2GB'"),
        ({"memory": -5}, "'2GB'"),
        ({"on_gap": "jump"}, "choose 'fail' or 'earliest'"),
    ],
)
def test_options_that_cannot_be_are_refused_with_those_that_can(given, why):
    with pytest.raises(mamba.InvalidInput, match=why):
        run_options(**given)


def test_memory_is_given_in_bytes_in_words_or_as_a_share():
    assert run_options(memory="2GB").memory == 2 << 30
    assert run_options(memory=12_345).memory == 12_345
    assert run_options(memory=0.5).memory * 1.1 < run_options().memory


_LEFT = """
import sys
import polars as pl
import mamba_stream as mamba

log = mamba.open(sys.argv[1])
rows = mamba.stream("rows").map_batches(lambda frame: (print("at work", flush=True), frame)[1])
job = mamba.start(mamba.pipeline("left", rows.select("key").to("out")), log)
while not job.status.rows_in:
    log.wait(log.lsn(), 0.1)
raise SystemExit(3)
"""


def test_a_job_that_a_program_leaves_behind_is_cancelled_when_that_ends(log, topic, environment):
    put(topic, 0, (1, "a", 1))
    put(topic, 1, (1, "b", 1))
    done = forking.run(
        [sys.executable, "-c", _LEFT, log.place],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert read_journal(log, "left")[-1].what == "cancelled"
