"""State that can be seen, kept under a name, gone back to, and carried into a changed pipeline."""

from __future__ import annotations

import re

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.cli import invoke
from mamba_stream.core.clock import SystemClock
from mamba_stream.runtime import checkpoint, saved
from mamba_stream.runtime.held import savepoints
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.run import Run
from mamba_stream.runtime.saved import read_state
from mamba_stream.runtime.savepoints import delete_savepoint, list_savepoints, make_savepoint
from mamba_stream.runtime.steps import step_of
from tests.runtime.desk import put

MINUTES = "tumbling 1m by key: total"


def totals(**more: pl.Expr) -> mamba.Stream:
    return (
        mamba.stream("rows").window(mamba.tumbling("1m"), by="key").agg(total=pl.col("value").sum(), **more)
    )


def job_of(*outputs) -> mamba.Pipeline:
    return mamba.pipeline("job", *outputs)


def ran(log, pipeline, **options) -> mamba.Job:
    job = mamba.start(pipeline, log, until="now", **options)
    job.wait()
    return job


def rows_of(log, topic: str = "out") -> list:
    return log[topic].scan().select("key", "total").collect().rows()


def test_the_state_of_a_window_step_is_its_open_windows(log, topic):
    put(topic, 0, (5, "a", 1), (30, "b", 2), (59, "a", 3))
    put(topic, 1, (70, "a", 4))
    pipeline = job_of(totals().to("out"))
    job = ran(log, pipeline)
    state = job.state(MINUTES)
    assert state.columns == ["key", "window_start", "window_end", "total"]
    assert state.sort("window_start", "key").select("key", "total").rows() == [("a", 4), ("b", 2), ("a", 4)]
    assert rows_of(log) == []
    # Looking changed nothing.
    topic.end()
    mamba.run(pipeline, log)
    assert sorted(rows_of(log)) == [("a", 4), ("a", 4), ("b", 2)]
    empty = job.state(MINUTES)
    assert (empty.height, empty.schema) == (0, state.schema)


def test_state_can_be_seen_while_the_job_runs_and_is_that_of_the_last_commit(log, topic):
    job = mamba.start(job_of(totals().to("out")), log, until="stopped")
    put(topic, 0, (5, "a", 1))
    while job.status.rows_in < 1:
        job.checkpoint()
    job.checkpoint()
    assert job.state(MINUTES).get_column("total").to_list() == [1]
    with pytest.raises(mamba.NotFound, match=re.escape(f"no step 'totals'; there are '{MINUTES}'")):
        job.state("totals")
    job.stop()
    assert job.state(MINUTES).height == 1


def test_a_savepoint_is_gone_back_to_however_much_was_committed_since(log, topic):
    pipeline = job_of(totals().to("out"))
    put(topic, 0, (5, "a", 1))
    put(topic, 1, (100, "z", 0))
    ran(log, pipeline)
    make_savepoint(log, "job", "before")
    for second in range(10, 50, 10):
        put(topic, 0, (second, "a", 1))
        ran(log, pipeline)
    put(topic, 0, (61, "a", 100))
    ran(log, pipeline)
    assert rows_of(log) == [("a", 5)]
    # Back, and over the same rows again: what was put out stays and comes again.
    job = ran(log, pipeline, state="before")
    assert rows_of(log) == [("a", 5), ("a", 5)]
    assert sorted(job.state(MINUTES).get_column("total")) == [0, 100]
    # And from there on as ever.
    put(topic, 0, (130, "a", 7))
    put(topic, 1, (130, "z", 7))
    ran(log, pipeline)
    assert sorted(rows_of(log)) == [("a", 5), ("a", 5), ("a", 100), ("z", 0)]
    assert [facts.name for facts in list_savepoints(log, "job")] == ["before"]


def test_a_savepoint_holds_state_that_would_be_trimmed_and_lets_go_when_deleted(log, topic, monkeypatch):
    # State is written whole at nearly every commit.
    monkeypatch.setattr(checkpoint, "_SLACK", 0)
    pipeline = job_of(totals().to("out"))

    def more(first: int, times: int) -> None:
        for number in range(first, first + times):
            put(topic, 0, (6, f"key {number % 2}", 1))
            ran(log, pipeline)

    put(topic, 0, (5, "a", 1))
    ran(log, pipeline)
    make_savepoint(log, "job", "kept")
    begin = log["_state.job"].offsets()[0][0]
    more(0, 12)
    assert log["_state.job"].offsets()[0][0] == begin
    job = ran(log, pipeline, state="kept")
    assert job.state(MINUTES).height == 3, "all rows were read again"
    delete_savepoint(log, "job", "kept")
    more(12, 12)
    assert log["_state.job"].offsets()[0][0] > begin


def test_state_that_is_written_whole_in_pieces_counts_with_the_last_of_them(log, topic, monkeypatch):
    """What a reader finds is what the last commit left, before, between and after the pieces; so are savepoints."""
    for module in (saved, checkpoint):
        monkeypatch.setattr(module, "PIECE_BYTES", 4_000)
    monkeypatch.setattr(checkpoint, "_SLACK", 0)
    made, sums, found, kept, crashes = job_of(totals().to("out")), {}, [], {}, 0

    def seen(base: int, end: int | None = None) -> dict[str, int]:
        step = step_of(run.analysis.steps[0], run.analysis)
        for _, part, piece in read_state(log, "job", base, end).state:
            step.restore(part, piece)
        return dict(step.view().select("key", "total").iter_rows())

    for number in range(60):
        if not found or (found[-1][1] and crashes <= number // 20):
            # The one before is dropped, as in a crash, with pieces left to write.
            crashes += 1
            run = Run(made, log, run_options(until="stopped"), SystemClock())
        put(topic, 0, *((5, f"key {key}", number) for key in range(number, number + 300)))
        for key in range(number, number + 300):
            sums[f"key {key}"] = sums.get(f"key {key}", 0) + number
        while run.step():
            pass
        run.commit("running")
        record = run._checkpoints.record
        found.append((record.base, run._checkpoints._whole is not None))
        assert seen(record.base) == sums
        if number % 7 == 0:
            run.keep(f"at-{number}")
            kept[f"at-{number}"] = dict(sums)
    assert len({base for base, _ in found}) > 3
    assert sum(pending for _, pending in found) > 10
    assert crashes == 3
    for name, savepoint in savepoints(log, "job").items():
        assert seen(savepoint.base, savepoint.end) == kept[name]


def test_savepoints_of_a_running_job_are_made_by_the_job(log, topic):
    job = mamba.start(job_of(totals().to("out")), log, until="stopped")
    put(topic, 0, (5, "a", 1))
    assert job.savepoint("one") > 0
    with pytest.raises(mamba.AlreadyExists, match="has a savepoint 'one'"):
        job.savepoint("one")
    with pytest.raises(mamba.JobRunning):
        make_savepoint(log, "job", "two")
    with pytest.raises(mamba.InvalidName, match="state='new' means something else"):
        job.savepoint("new")
    job.stop()
    with pytest.raises(mamba.JobFailed, match="is over"):
        job.savepoint("three")
    with pytest.raises(mamba.NotFound, match="no savepoint 'on', did you mean 'one'"):
        ran(log, job_of(totals().to("out")), state="on")


def test_a_reset_job_has_no_savepoints(log, topic):
    from mamba_stream.runtime.jobs import reset_job

    pipeline = job_of(totals().to("out"))
    put(topic, 0, (5, "a", 1))
    ran(log, pipeline)
    make_savepoint(log, "job", "kept")
    reset_job(log, "job")
    ran(log, pipeline)
    assert list_savepoints(log, "job") == []


def test_a_changed_pipeline_says_what_it_can_keep_and_keeps_it_when_told_to(log, topic):
    put(topic, 0, (5, "a", 1))
    put(topic, 1, (5, "b", 2))
    counts = mamba.stream("rows").window(mamba.tumbling("1m"), by="key", name="counts").agg(total=pl.len())
    other = mamba.stream("rows").window(mamba.tumbling("2m"), by="key", name="counts").agg(total=pl.len())
    # One stream for both steps, so that it is one source.
    rows = mamba.stream("rows")
    minutes = rows.window(mamba.tumbling("1m"), by="key").agg(total=pl.col("value").sum())
    counts = rows.window(mamba.tumbling("1m"), by="key", name="counts").agg(total=pl.len())
    ran(log, job_of(minutes.to("out"), counts.to("counts")))
    other = rows.window(mamba.tumbling("2m"), by="key", name="counts").agg(total=pl.len())
    new = rows.window(mamba.tumbling("1m"), name="all").agg(
        key=pl.lit("all").first(), total=pl.col("value").sum()
    )
    changed = job_of(minutes.to("out"), other.to("counts"), new.to("all"))
    upgrade = changed.check_upgrade(log)
    assert (upgrade.kept, upgrade.changed, upgrade.new, upgrade.gone) == (
        (MINUTES,),
        ("counts",),
        ("all",),
        (),
    )
    assert not upgrade.fits
    assert upgrade.possible
    assert str(upgrade).splitlines()[0] == "job 'job': does not fit as it is"
    with pytest.raises(
        mamba.PipelineRefused,
        match=r"step 'counts' has other keys.*state='upgrade' to keep the state of 'tumbling",
    ):
        mamba.run(changed, log)
    put(topic, 0, (50, "a", 10), (200, "a", 0))
    put(topic, 1, (200, "b", 0))
    ran(log, changed, state="upgrade")
    assert rows_of(log) == [("a", 11), ("b", 2)]
    assert rows_of(log, "counts") == [("a", 1)], "what was there before the change is not counted"
    assert rows_of(log, "all") == [("all", 10)]
    assert changed.check_upgrade(log).fits
    # And when a step is gone, its state is dropped for good.
    smaller = job_of(minutes.to("out"))
    assert smaller.check_upgrade(log).gone == ("counts", "all")
    ran(log, smaller, state="upgrade")
    ran(log, smaller)
    assert smaller.check_upgrade(log).fits


def test_of_a_job_that_never_ran_everything_is_new(log, topic):
    upgrade = job_of(totals().to("out")).check_upgrade(log)
    assert (upgrade.new, upgrade.kept) == ((MINUTES,), ())


def test_a_topic_made_anew_cannot_be_upgraded_to(log, topic):
    from tests.runtime.model import SCHEMA

    pipeline = job_of(totals().to("out"))
    put(topic, 0, (5, "a", 1))
    ran(log, pipeline)
    log.delete_topic("rows")
    log.create_topic("rows", SCHEMA, partitions=2, time="ts")
    upgrade = pipeline.check_upgrade(log)
    assert not upgrade.possible
    with pytest.raises(mamba.PipelineRefused, match="made anew"):
        mamba.run(pipeline, log, state="upgrade")


def test_the_command_shows_checks_and_keeps(log, topic, tmp_path, capsys):
    put(topic, 0, (5, "a", 1))
    file = tmp_path / "totals.py"
    file.write_text(
        "import polars as pl\nimport mamba_stream as mamba\n"
        "totals = mamba.stream('rows').window(mamba.tumbling('1m'), by='key', name='minutes').agg(total=pl.col('value').sum())\n"
        "pipeline = mamba.pipeline('job', totals.to('out'))\n"
    )
    place = ["--log", log.place]
    assert invoke(["job", "check", str(file), *place]) == 1
    assert invoke(["run", str(file), "--until", "now", *place]) == 0
    assert invoke(["job", "check", str(file), *place]) == 0
    assert invoke(["job", "state", str(file), "minutes", "-o", "json", *place]) == 0
    assert '"total":1' in capsys.readouterr().out.replace(" ", "")
    assert invoke(["job", "savepoint", "job", "monday", *place]) == 0
    assert invoke(["job", "savepoints", "job", *place]) == 0
    assert "monday" in capsys.readouterr().out
    assert invoke(["run", str(file), "--until", "now", "--state", "monday", *place]) == 0
    assert invoke(["job", "savepoints", "job", "--delete", "monday", *place]) == 0
    assert invoke(["run", str(file), "--until", "now", "--state", "monday", *place]) == 3
