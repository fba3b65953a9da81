"""Pipelines that read from sources and write to sinks: the same rows, once, whatever is cut and whoever dies."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from msgspec.structs import replace
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_connectors import discard, files, python, synthetic
from mamba_stream.connect import Rows
from mamba_stream.core.batches import batch_from_frame
from mamba_stream.errors import ConnectorFailed, PipelineRefused
from mamba_stream.runtime.deliveries import Deliveries
from mamba_stream.runtime.jobs import reset_job
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.run import Run
from mamba_stream.testing.clocks import Clock
from tests.sizes import crossed

MOMENT = datetime(2026, 1, 1)


def rows(first: int, count: int) -> pl.DataFrame:
    """A row a second, every tenth of them half a minute behind."""
    numbers = pl.int_range(first, first + count, dtype=pl.Int64, eager=True).alias("number")
    return numbers.to_frame().with_columns(
        at=pl.lit(MOMENT)
        + pl.duration(seconds=pl.col("number") - pl.when(pl.col("number") % 10 == 9).then(30).otherwise(0)),
        key=pl.format("k{}", pl.col("number") % 3),
    )


def put(place: Path, number: int, first: int, count: int) -> None:
    place.mkdir(exist_ok=True)
    rows(first, count).write_parquet(place / f"{number:03}.parquet", row_group_size=50)


def windows(stream: mamba.Stream) -> mamba.Stream:
    return stream.window(mamba.tumbling("1m"), by="key").agg(rows=pl.len(), total=pl.col("number").sum())


def expected(count: int) -> pl.DataFrame:
    return windows(mamba.stream(rows(0, count), time="at", lateness="1m")).collect()


def written(place: Path) -> pl.DataFrame:
    found = sorted(place.rglob("*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in found]) if found else pl.DataFrame()


def assert_same(left: pl.DataFrame, right: pl.DataFrame) -> None:
    assert_frame_equal(left, right, check_row_order=False, check_column_order=False)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[mamba.Log]:
    with mamba.open(tmp_path / "log") as opened:
        yield opened


def build(place: Path, name: str = "job", **options: Any) -> mamba.Pipeline:
    source = files.source(place / "in", format="parquet", schema=rows(0, 0).schema, **options)
    stream = mamba.stream(source, time="at", lateness="1m")
    counted = windows(stream)
    return mamba.pipeline(
        name,
        counted.to(files.sink(place / "out", roll_rows=40)),
        counted.to(f"{name}.windows"),
        stream.to(f"{name}.rows"),
    )


def test_files_come_in_and_go_out(tmp_path, log):
    for number in range(4):
        put(tmp_path / "in", number, number * 250, 250)
    summary = mamba.run(build(tmp_path), log=log)
    assert (summary.state, summary.rows_in) == ("finished", 1_000)
    assert_same(written(tmp_path / "out"), expected(1_000))
    assert_same(log["job.windows"].scan().collect(), expected(1_000))
    assert mamba.run(build(tmp_path), log=log).rows_in == 0
    assert_same(written(tmp_path / "out"), expected(1_000))


@pytest.mark.parametrize(("seed", "partitions"), crossed(range(6), ["all", "files"], every=2))
def test_a_run_that_dies_between_any_two_steps_goes_on_as_if_nothing_had_happened(
    tmp_path, log, seed, partitions
):
    moments = random.Random(seed)
    for number in range(4):
        put(tmp_path / "in", number, number * 250, 250)
    options = replace(run_options(commit="1s", memory=1 << 30), rows=moments.choice([7, 60, 1_000]))
    clock = Clock()

    def begin() -> Run:
        return Run(build(tmp_path, partitions=partitions), log, options, clock)

    run = begin()
    while True:
        read = run.step()
        if read == 0 and run.over:
            run.commit("finished")
            break
        what = moments.random()
        if what < 0.15:
            run.commit("running")
        elif what < 0.22:
            run = begin()
    run.close()
    assert_same(log["job.rows"].scan().collect(), rows(0, 1_000))
    if partitions == "all":
        assert_same(log["job.windows"].scan().collect(), expected(1_000))
    assert_same(written(tmp_path / "out"), log["job.windows"].scan().collect())
    assert not (tmp_path / ".out.staging").exists()


def test_until_now_reads_what_is_there_and_leaves_windows_open(tmp_path, log):
    put(tmp_path / "in", 0, 0, 300)
    watching = build(tmp_path, watch=True, settle="0s")
    assert mamba.run(watching, log=log, until="now").state == "stopped"
    before = log["job.windows"].scan().collect().height
    assert 0 < before < expected(300).height
    put(tmp_path / "in", 1, 300, 200)
    assert mamba.run(watching, log=log, until="now").rows_in == 200
    assert_same(mamba.run(build(tmp_path), log=log) and log["job.windows"].scan().collect(), expected(500))


def test_until_now_time_does_not_wait_for_files_that_are_over(tmp_path, log):
    for number in range(4):
        put(tmp_path / "in", number, number * 250, 250)
    watching = build(tmp_path, watch=True, settle="0s", partitions="files")
    for rows_in in (1_000, 0):
        done = mamba.run(watching, log=log, until="now")
        assert (done.state, done.rows_in) == ("stopped", rows_in)
    # Not to the end: more files may come, and go on where the furthest of these has come.
    before = log["job.windows"].scan().collect().height
    assert expected(750).height < before < expected(1_000).height
    put(tmp_path / "in", 4, 1_000, 250)
    assert mamba.run(watching, log=log, until="now").rows_in == 250
    assert mamba.run(build(tmp_path, partitions="files"), log=log).state == "finished"
    assert_same(log["job.windows"].scan().collect(), expected(1_250))


def test_a_run_that_stops_at_a_moment_goes_on_without_gap_or_repeat(tmp_path, log):
    for number in range(2):
        put(tmp_path / "in", number, number * 500, 500)
    for seconds in (1, 251, 252, 252, 700):
        mamba.run(build(tmp_path), log=log, until=MOMENT + timedelta(seconds=seconds))
        found = log["job.rows"].scan().collect()
        assert found["number"].to_list() == list(range(seconds))
    mamba.run(build(tmp_path), log=log)
    assert log["job.rows"].scan().collect()["number"].to_list() == list(range(1_000))


@pytest.mark.parametrize("partitions", ["all", "files"])
def test_files_that_come_while_a_job_runs_are_read(tmp_path, log, partitions):
    put(tmp_path / "in", 0, 0, 100)
    pipeline = build(tmp_path, watch=True, settle="0s", every="20ms", partitions=partitions)
    job = mamba.start(pipeline, log=log, commit="20ms")
    for number in range(1, 4):
        deadline = time.monotonic() + 30
        while job.status.rows_in < number * 100:
            assert time.monotonic() < deadline
            log.wait(log.lsn(), 0.02)
        put(tmp_path / "new", number, number * 100, 100)
        (tmp_path / "new" / f"{number:03}.parquet").rename(tmp_path / "in" / f"{number:03}.parquet")
    while job.status.rows_in < 400:
        log.wait(log.lsn(), 0.02)
    # That all files there were had been read to their ends was not the end of time.
    assert job.stop().late == 0
    assert sorted(log["job.rows"].scan().collect()["number"]) == list(range(400))


def test_only_the_columns_that_are_needed_are_asked_for(tmp_path):
    asked = []

    @dataclass(frozen=True)
    class Spying:
        inner: Any
        name: str = "spying"
        bounded: bool = True
        delivery: str = "exactly-once"

        @property
        def schema(self):
            return self.inner.schema

        def partitions(self):
            return self.inner.partitions()

        def open(self, partition, position):
            return self.inner.open(partition, position)

        def select(self, columns):
            asked.append(list(columns))
            return Spying(self.inner.select(columns))

    stream = mamba.stream(Spying(synthetic.replay(rows(0, 100))), time="at")
    assert stream.filter(pl.col("number") > 50).select("number").collect().height == 49
    assert asked == [["number", "at"]]


def test_a_source_without_the_power_to_select_is_read_whole():
    source = python.source(lambda: [rows(0, 100)], schema=rows(0, 0).schema)
    assert mamba.stream(source).select("key").collect().height == 100


# -- what is told outside, and when --------------------------------------------------------------------------------


@dataclass
class Diary:
    """Notes what happens, with the log's number then."""

    log: mamba.Log
    entries: list[tuple[Any, ...]] = field(default_factory=list)

    def note(self, *entry: Any) -> None:
        self.entries.append((*entry, self.log.lsn()))

    def lsn(self, *entry: Any) -> int:
        return next(lsn for *what, lsn in self.entries if tuple(what) == entry)


class Upstream:
    """A source that is told what is done with."""

    name, bounded, delivery = "upstream", True, "exactly-once"
    schema = batch_from_frame(rows(0, 1)).schema

    def __init__(self, diary: Diary) -> None:
        self.diary = diary

    def partitions(self) -> Sequence[str]:
        return ["p"]

    def open(self, partition: str, position: Any) -> Upstream:
        self.at = position or 0
        return self

    @property
    def ended(self) -> bool:
        return self.at >= 40

    def read(self, max_rows: int) -> Rows | None:
        if self.ended:
            return None
        self.at += 10
        return Rows(batch_from_frame(rows(self.at - 10, 10)), self.at)

    def acknowledge(self, position: Any) -> None:
        self.diary.note("acknowledge", position)

    def close(self) -> None:
        self.diary.note("closed")


class Downstream:
    """A transactional sink that keeps a diary, and whose commit may fail."""

    name, delivery = "downstream", "exactly-once"

    def __init__(self, diary: Diary, fails: int = 0) -> None:
        self.diary = diary
        self.fails = fails
        self.pending = 0

    def begin(self, schema: pa.Schema, owner: str) -> Downstream:
        self.diary.note("begin", owner)
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        self.pending += batch.num_rows

    def prepare(self, epoch: int, *, last: bool) -> Any:
        self.diary.note("prepare", epoch, last)
        pending, self.pending = self.pending, 0
        return {"rows": pending, "epoch": epoch}

    def commit(self, epoch: int, prepared: Any) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("the line is dead")
        assert prepared["epoch"] == epoch
        self.diary.note("commit", epoch)

    def abort(self, epoch: int) -> None:
        self.diary.note("abort", epoch)

    def close(self) -> None: ...


def told(diary: Diary, fails: int = 0) -> mamba.Pipeline:
    stream = mamba.stream(Upstream(diary), time="at")
    return mamba.pipeline("told", stream.to(Downstream(diary, fails)))


def test_the_sink_prepares_before_the_log_commits_and_commits_behind_it_and_upstream_hears_last(log):
    diary = Diary(log)
    mamba.run(told(diary), log=log)
    words = [entry[0] for entry in diary.entries]
    assert words == ["begin", "abort", "prepare", "commit", "acknowledge", "closed"]
    (epoch,) = (entry[1] for entry in diary.entries if entry[0] == "prepare")
    assert diary.lsn("prepare", epoch, True) < diary.lsn("commit", epoch) <= diary.lsn("acknowledge", 40)


def test_what_was_prepared_and_logged_is_committed_by_the_next_run_and_what_was_not_is_aborted(log):
    diary = Diary(log)
    with pytest.raises(
        ConnectorFailed, match=r"sink 'downstream' failed: OSError: the line is dead \(to at .*test_conn"
    ):
        mamba.run(told(diary, fails=1), log=log)
    assert "acknowledge" not in [entry[0] for entry in diary.entries]
    (epoch,) = (entry[1] for entry in diary.entries if entry[0] == "prepare")
    again = Diary(log)
    assert mamba.run(told(again), log=log).rows_in == 0
    assert [entry[:2] for entry in again.entries][1:3] == [("commit", epoch), ("abort", epoch)]
    (later,) = (entry[1] for entry in again.entries if entry[0] == "prepare")
    assert later > epoch


def test_a_plain_sink_is_flushed_before_the_log_commits_and_has_every_row_at_least_once(tmp_path, log):
    seen: list[int] = []

    def build() -> mamba.Pipeline:
        source = synthetic.replay(rows(0, 1_000))
        return mamba.pipeline(
            "plain", mamba.stream(source, time="at").to(python.sink(lambda f: seen.extend(f["number"])))
        )

    options = replace(run_options(commit="1s", memory=1 << 30), rows=100)
    run = Run(build(), log, options, Clock())
    for step in range(5):
        run.step()
        if step == 2:
            run.commit("running")
    mamba.run(build(), log=log)
    assert set(seen) == set(range(1_000))
    assert len(seen) == 1_200  # those of the two steps that were not committed came again


def test_a_failing_source_names_itself_its_partition_and_the_line(tmp_path, log):
    put(tmp_path / "in", 0, 0, 100)
    pipeline = build(tmp_path)
    put(tmp_path / "in", 1, 100, 100)
    (tmp_path / "in" / "001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(
        ConnectorFailed,
        match=r"source 'files .*in', partition 'all' failed: .*001\.parquet.*\(stream at .*test_conn",
    ):
        mamba.run(pipeline, log=log)


def test_a_function_that_raises_names_the_sink(log):
    def refuse(frame: pl.DataFrame) -> None:
        raise ValueError("not today")

    pipeline = mamba.pipeline(
        "refusing", mamba.stream(rows(0, 10), time="at").to(python.sink(refuse, name="mine"))
    )
    with pytest.raises(ConnectorFailed, match=r"sink 'mine' failed: ValueError: not today \(to at"):
        mamba.run(pipeline, log=log)


def test_starting_over_removes_what_the_job_wrote(tmp_path, log):
    put(tmp_path / "in", 0, 0, 300)
    mamba.run(build(tmp_path), log=log)
    mamba.run(build(tmp_path, "other"), log=log)
    mamba.run(build(tmp_path), log=log, state="new")
    assert written(tmp_path / "out").height == 2 * expected(300).height


def test_a_job_that_was_reset_has_its_files_removed_by_its_next_run(tmp_path, log):
    put(tmp_path / "in", 0, 0, 300)
    mamba.run(build(tmp_path), log=log)
    mamba.run(build(tmp_path, "other"), log=log)
    before = {path.name for path in (tmp_path / "out").rglob("*.parquet")}
    [name] = {node.name for node in build(tmp_path).sinks}
    reset = reset_job(log, build(tmp_path).name)
    assert reset.sinks == (name,) and reset.savepoints == ()
    assert {path.name for path in (tmp_path / "out").rglob("*.parquet")} == before
    # A run that dies before its first commit leaves it to the next.
    Run(build(tmp_path), log, run_options(), Clock()).step()
    mamba.run(build(tmp_path), log=log)
    assert written(tmp_path / "out").height == 2 * expected(300).height
    # No name comes again.
    after = {path.name for path in (tmp_path / "out").rglob("*.parquet")}
    other = {name for name in before if name.startswith("other.")}
    assert other and after & before == other
    mamba.run(build(tmp_path), log=log)
    assert {path.name for path in (tmp_path / "out").rglob("*.parquet")} == after


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_starting_over_removes_what_the_job_wrote_though_it_dies_before_it_commits(tmp_path, log):
    put(tmp_path / "in", 0, 0, 300)
    mamba.run(build(tmp_path), log=log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Deliveries, "recover", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Run(build(tmp_path), log, run_options(state="new"), Clock())
    mamba.run(build(tmp_path), log=log)
    assert written(tmp_path / "out").height == expected(300).height


def test_rows_come_out_when_they_have_waited_long_enough_though_nothing_follows(tmp_path, log):
    put(tmp_path / "in", 0, 0, 30)
    clock = Clock()
    source = files.source(
        tmp_path / "in", format="parquet", schema=rows(0, 0).schema, watch=True, settle="0s"
    )
    sink = files.sink(tmp_path / "out", roll_after="1m", clock=clock)
    pipeline = mamba.pipeline("rolling", mamba.stream(source).to(sink))
    run = Run(pipeline, log, run_options(until="stopped", memory=1 << 30), clock)
    while run.step():
        pass
    run.commit("running")
    assert not run.commit_due
    clock.advance("61s")
    assert run.commit_due
    run.commit("running")
    assert written(tmp_path / "out").height == 30
    run.close()


# -- a history, and what goes on behind it -------------------------------------------------------------------------


def test_sequence_reads_the_files_and_then_the_topic(tmp_path, log):
    put(tmp_path / "in", 0, 0, 400)
    topic = log.create_topic("live", rows(0, 0).schema, partitions=2, time="at")
    for first in range(400, 1_000, 50):
        topic.append(rows(first, 50), partition=first // 50 % 2)
    topic.end()
    history = mamba.stream(files.source(tmp_path / "in" / "*.parquet"), time="at", lateness="1m")
    both = mamba.sequence(history, mamba.stream("live", lateness="2m"))
    assert "sequence" in both.explain()
    assert_same(windows(both).collect(log=log), expected(1_000))
    assert both.collect(log=log)["number"].head(400).to_list() == list(range(400))
    mamba.run(mamba.pipeline("both", windows(both).to("windows"), both.to("rows")), log=log)
    assert_same(log["windows"].scan().collect(), expected(1_000))
    assert log["rows"].scan().collect()["number"].head(400).to_list() == list(range(400))


@pytest.mark.parametrize("seed", range(6))
def test_a_sequence_that_dies_anywhere_has_neither_gap_nor_repeat(tmp_path, log, seed):
    moments = random.Random(seed)
    put(tmp_path / "in", 0, 0, 200)
    topic = log.create_topic("live", rows(0, 0).schema, time="at")
    topic.append(rows(150, 250))
    clock = Clock()
    options = replace(run_options(until="now", memory=1 << 30), rows=17)

    def begin() -> Run:
        history = mamba.stream(files.source(tmp_path / "in" / "*.parquet"), time="at", lateness="1m")
        both = mamba.sequence(history, mamba.stream("live", lateness="1m", start=50))
        return Run(mamba.pipeline("both", both.to("rows")), log, options, clock)

    run = begin()
    while run.step() or not run.over:
        what = moments.random()
        if what < 0.3:
            run.commit("running")
        elif what < 0.45:
            run = begin()
    run.commit("stopped")
    assert log["rows"].scan().collect()["number"].to_list() == list(range(400))


def test_windows_of_the_history_close_before_the_topic_says_anything(tmp_path, log):
    put(tmp_path / "in", 0, 0, 400)
    log.create_topic("live", rows(0, 0).schema, time="at")
    history = mamba.stream(files.source(tmp_path / "in" / "*.parquet"), time="at", lateness="1m")
    counted = windows(mamba.sequence(history, mamba.stream("live", lateness="1m")))
    mamba.run(mamba.pipeline("both", counted.to("windows")), log=log, until="now")
    closed = log["windows"].scan().collect()
    # Those stay open for which rows may come from the topic.
    assert 0 < closed.height < expected(400).height
    log["live"].append(rows(400, 100))
    log["live"].end()
    mamba.run(mamba.pipeline("both", counted.to("windows")), log=log)
    assert_same(log["windows"].scan().collect(), expected(500))


def test_a_history_does_not_wait_for_what_comes_behind_it(tmp_path, log):
    put(tmp_path / "in", 0, 0, 400)
    log.create_topic("live", rows(0, 0).schema, time="at")
    history = mamba.stream(files.source(tmp_path / "in" / "*.parquet"), time="at", lateness="1m")
    pipeline = mamba.pipeline("both", windows(mamba.sequence(history, "live")).to("windows"))
    run = Run(pipeline, log, replace(run_options(until="stopped", memory=1 << 30), rows=10), Clock())
    run.engine._budget = replace(run.engine._budget, ahead=0)
    assert run.engine.waiting == {"live": (0,)}
    for _ in range(41):
        run.step()
    assert run.rows_in == 400 and run.engine.waiting == {}


def test_a_history_has_an_end(tmp_path, log):
    log.create_topic("past", rows(0, 0).schema, time="at")
    log.create_topic("live", rows(0, 0).schema, time="at")
    with pytest.raises(
        PipelineRefused, match=r"topic 'past' to its end, and the topic was not ended.*test_connectors"
    ):
        mamba.run(mamba.pipeline("both", mamba.sequence("past", "live").to("rows")), log=log)
    endless = mamba.stream(synthetic.source(), time="at")
    with pytest.raises(PipelineRefused, match="has none"):
        mamba.sequence(endless, endless)
    stream = mamba.stream(rows(0, 10))
    with pytest.raises(PipelineRefused, match="both streams read the same source"):
        mamba.sequence(stream, stream)
    with pytest.raises(PipelineRefused, match="column"):
        mamba.sequence(mamba.stream(rows(0, 10)), mamba.stream(rows(0, 10).drop("key")))


# -- what is refused -----------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_at_the_line(tmp_path, log):
    stream = mamba.stream(synthetic.source(rows=10), time="at")
    sink = discard.sink()
    with pytest.raises(PipelineRefused, match="two sinks are called 'discard'"):
        mamba.pipeline("twice", stream.to(sink), stream.to(sink))
    mamba.pipeline("once", stream.to(sink), stream.to(sink, name="other"))
    with pytest.raises(PipelineRefused, match=r"end a stream with \.to\(sink\)"):
        mamba.stream(sink)
    with pytest.raises(PipelineRefused, match="a connector's sink, not"):
        stream.to(synthetic.source())
    with pytest.raises(PipelineRefused, match="for topics"):
        stream.to(sink, key="key")
    with pytest.raises(PipelineRefused, match="for sinks"):
        stream.to("topic", name="x")
    with pytest.raises(PipelineRefused, match="are for topics"):
        mamba.stream(synthetic.source(), start="latest")
    with pytest.raises(PipelineRefused, match="did you mean 'at'"):
        mamba.stream(synthetic.source(), time="att")
    with pytest.raises(
        PipelineRefused, match=r"partition_by names column 'kee'.*did you mean 'key'.*\(to at .*test_conn"
    ):
        mamba.run(mamba.pipeline("p", stream.to(files.sink(tmp_path / "out", partition_by="kee"))), log=log)


def test_a_changelog_goes_to_sinks_that_accept_changes_and_to_no_others(tmp_path, log):
    names = pl.DataFrame(
        {"key": ["k0", "k1"], "name": ["zero", "one"], "since": [MOMENT + timedelta(days=1)] * 2}
    )
    joined = mamba.stream(rows(0, 100), time="at").join(
        mamba.stream(names, time="since"), on="key", how="left", ttl="forever"
    )
    with pytest.raises(PipelineRefused, match=r"'files out' takes rows that stay.*\(to at .*test_connectors"):
        joined.to(files.sink(tmp_path / "out"))
    seen: list[pl.DataFrame] = []
    mamba.run(mamba.pipeline("changes", joined.to(python.sink(seen.append, accepts_changes=True))), log=log)
    assert set(pl.concat(seen)["_op"]) == {"+I", "-D"}
    mamba.run(mamba.pipeline("as-rows", joined.changes().to(files.sink(tmp_path / "out"))), log=log)
    assert "_op" in written(tmp_path / "out").columns


def test_all_of_what_has_no_end_cannot_be_had_and_some_can(log):
    endless = mamba.stream(synthetic.source(), time="at")
    with pytest.raises(PipelineRefused, match=r"'synthetic 0' is endless.*head\(\).*test_connectors"):
        endless.collect()
    assert endless.head(7).height == 7
    with pytest.raises(PipelineRefused, match="is endless"):
        mamba.run(mamba.pipeline("endless", endless.to("rows")), log=log, until="now")


def test_a_sink_does_not_go_back_to_a_savepoint(tmp_path, log):
    put(tmp_path / "in", 0, 0, 100)
    job = mamba.start(build(tmp_path, watch=True, settle="0s"), log=log)
    job.savepoint("before")
    job.stop()
    with pytest.raises(
        PipelineRefused, match=r"cannot go back to savepoint 'before': sink 'files out' \(to at"
    ):
        mamba.run(build(tmp_path), log=log, state="before")


def test_explain_says_what_a_row_can_rely_on(tmp_path):
    stream = mamba.stream(synthetic.machine(), time="at")
    words = mamba.pipeline(
        "words", stream.to(python.stdout("ndjson")), stream.to(files.sink(tmp_path / "out"))
    ).explain()
    for line in (
        "reads at-most-once",
        "machine, time at",
        "sink 'stdout'",
        "writes at-least-once",
        "writes exactly-once",
    ):
        assert line in words
