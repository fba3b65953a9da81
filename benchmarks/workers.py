"""Measures jobs over workers: ``python benchmarks/workers.py``, each number beside what it is held against.

A job with one worker and the same job with two take turns, over the same topic. Its log lies in memory where there is
such a directory: what is measured is the work, and how it is shared out. Where ``bytewax`` is installed in the Python
that ``BYTEWAX_PYTHON`` names, it counts the same rows by key on one and on two workers.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.path and Path(sys.path[0]).name == "benchmarks":
    # A module of the standard library has the name of one beside this.
    sys.path[0] = str(Path(sys.path[0]).parent)

import argparse
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import polars as pl

import mamba_stream as mamba
from mamba_stream.cli.bench.measuring import Figure, Pair, middle, show
from mamba_stream.runtime.feeds import TopicFeed
from mamba_stream.runtime.workers.pooledjob import PooledJob

_BATCH = 65_536
_TOGETHER = 16 << 20
_TICKS = os.sysconf("SC_CLK_TCK")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
BYTEWAX = Path(__file__).with_name("bytewax_count.py")


def main() -> int:
    """Measures all, or the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(_PARTS)}; all if none is named")
    parser.add_argument("--feed", help=argparse.SUPPRESS)
    parser.add_argument("--cross", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if asked.feed:
        _feed(asked.feed)
    if asked.cross:
        number, place = asked.cross.split(" ", 1)
        _cross(int(number), place)
        return 0
    chosen = asked.parts or list(_PARTS)
    good = show("jobs over workers", (figure for part in chosen for figure in _PARTS[part](asked)))
    return 0 if good else 1


# -- one worker and two ------------------------------------------------------------------------------------------------


def _cpu_bound(asked: argparse.Namespace) -> Iterator[Figure]:
    """A Python function that holds the interpreter, over a topic of four partitions; the start of workers included."""

    def build(topic: str) -> mamba.Pipeline:
        def slow(frame: pl.DataFrame) -> pl.DataFrame:
            total = 0
            for value in frame["value"].to_list():
                for step in range(200):
                    total = (total * 31 + value + step) % 1_000_003
            return frame

        return mamba.pipeline("cpu", mamba.stream(topic).map_batches(slow).select("key", "value").to("out"))

    with _log() as log:
        rows = _fill(log, 2_097_152)
        yield _two_to_one("a Python function over rows", log, build, asked, 1.85, rows)


def _native(asked: argparse.Namespace) -> Iterator[Figure]:
    """Steps of Polars, which one worker spreads over both processors, too; what it takes to start left out.

    Where one is as fast as two the planner has one, and there is nothing to compare.
    """
    lengths = pl.col("text").str.to_uppercase().str.replace("TEXT", "string").str.len_chars() + pl.col(
        "value"
    )
    windows = mamba.tumbling("1m")
    aggregates = {"rows": pl.len(), "total": pl.col("value").sum(), "mean": pl.col("value").mean()}

    def filtered(topic: str) -> mamba.Stream:
        return mamba.stream(topic).filter(pl.col("value") % 3 == 0).select("key", lengths.alias("n"))

    def windowed(topic: str) -> mamba.Stream:
        return mamba.stream(topic).window(windows, by="key").agg(**aggregates)

    def totals(topic: str) -> mamba.Stream:
        return mamba.stream(topic).group_by("key").agg(**aggregates)

    for name, chain, least, kept in (
        ("a filter and expressions of text", filtered, 20_000_000, {"text": True}),
        ("windows by 10,000 keys", windowed, 40_000_000, {}),
        ("the same, of rows that lie by the key", windowed, 40_000_000, {"key": "key"}),
        ("totals by 10,000 keys", totals, 40_000_000, {}),
    ):
        with _log() as log:
            rows = _fill(log, least, **kept)
            few = _fill(log, 1, name="few", **kept)
            yield _two_to_one(
                name, log, partial(_native_pipeline, chain), asked, 1.3, rows - few, start="few"
            )


def _native_pipeline(chain: Callable[[str], mamba.Stream], topic: str) -> mamba.Pipeline:
    return mamba.pipeline("native", chain(topic).to("out"))


def _two_to_one(
    name: str, log: mamba.Log, build, asked: argparse.Namespace, target: float, rows: int, start: str = ""
) -> Figure:
    """The rates of two workers and of one, in turns; without what the same takes over the topic ``start``."""

    def rate(workers: int) -> float:
        spent = _run(log, build("in"), workers)
        return rows / (spent - (_run(log, build(start), workers) if start else 0.0))

    ours, limit = [], []
    for _ in range(asked.rounds):
        limit.append(rate(1))
        ours.append(rate(2))
    job = mamba.start(build("in"), log=log, workers=2, state="new")
    job.wait()
    divided = isinstance(job, PooledJob)
    pair = Pair(ours, limit)
    return Figure(
        f"{name}, two workers to one{'' if divided else ', where the planner has one'}",
        f"{middle(ours):,.0f} rows/s",
        f"{middle(limit):,.0f} rows/s of one worker",
        pair.ratio,
        target if divided else None,
        spread=(min(pair.ratios), max(pair.ratios)),
    )


def _run(log: mamba.Log, pipeline: mamba.Pipeline, workers: int) -> float:
    begun = time.perf_counter()
    mamba.run(pipeline, log=log, workers=workers, state="new")
    return time.perf_counter() - begun


# -- the shuffle -------------------------------------------------------------------------------------------------------


def _shuffle(asked: argparse.Namespace) -> Iterator[Figure]:
    """Bytes that go to the process of their key, from where they are read to where they are read again.

    Two processes each read half of a topic, commit its rows to an exchange of two partitions at durability ``os``, and
    read their own partition of that, as tasks do; then the same inside a job, with a step that keeps state by key.
    """
    ours = []
    for _ in range(asked.rounds):
        with _log() as log:
            rows = _fill(log, 8_000_000, text=True)
            log.create_topic("exchange", _rows(0, 1, text=True), partitions=2, key="key", internal=True)
            size = sum(log["in"].sizes().values())
            ours.append(size / _crossed(log))
    block = np.ones(64 << 20, np.uint8)
    copies = [block.nbytes / min(_timed(block.copy) for _ in range(5)) for _ in range(asked.rounds)]
    pair = Pair(ours, [min(1e9, 0.5 * copy) for copy in copies])
    yield Figure(
        f"{rows:,} rows that cross by key between two processes",
        f"{middle(ours) / 1e6:,.0f} MB/s",
        "1 GB/s, or half of a copy of memory",
        pair.ratio,
        1.0,
        spread=(min(pair.ratios), max(pair.ratios)),
    )
    with _log() as log:
        _fill(log, 8_000_000, text=True)
        _fill(log, 8_000_000, text=True, name="lies", key="key")
        crossing, lying = [], []
        for _ in range(asked.rounds):
            crossing.append(_run(log, _by_key("in"), 2))
            lying.append(_run(log, _by_key("lies"), 2))
    yield Figure(
        f"process of {rows:,} rows by key, in order, that cross to it",
        f"{middle(crossing):.2f} s, start of workers included",
        f"{middle(lying):.2f} s where they lie by their key already",
        middle(crossing) / middle(lying),
        None,
    )


def _crossed(log: mamba.Log) -> float:
    """Seconds from a word to two processes until both have read what is theirs."""
    pair = [
        subprocess.Popen(
            [sys.executable, __file__, "--cross", f"{number} {log.path}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for one in pair:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        begun = time.perf_counter()
        for one in pair:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        got = [int(one.stdout.readline()) for one in pair if one.stdout is not None]
        seconds = time.perf_counter() - begun
    finally:
        for one in pair:
            one.kill()
            one.communicate()
    assert sum(got) == log["exchange"].heads()[0].end + log["exchange"].heads()[1].end
    assert sum(got) == sum(end for _, end in log["in"].offsets().values())
    return seconds


def _cross(number: int, place: str) -> None:
    """One of the two processes."""
    with mamba.open(place, durability="os") as log:
        source, exchange = log["in"], log["exchange"]
        columns = list(_rows(0, 1, text=True).columns)
        ends = source.offsets()
        feeds = [TopicFeed(source, at, 0, columns, stop=ends[at][1]) for at in (number, number + 2)]
        arriving, got = TopicFeed(exchange, number, 0, columns), 0
        print("ready", flush=True)
        sys.stdin.readline()
        done = False
        # In this order: what the other one committed is there once it has said that it was all.
        while not (
            done
            and log.record("crossed", str(1 - number))
            and arriving.position == exchange.offsets()[number][1]
        ):
            leaving, size = [], 0
            for feed in feeds:
                while size < _TOGETHER and (portion := feed.read(_BATCH, _TOGETHER)) is not None:
                    leaving.append(portion.frame)
                    size += int(portion.frame.estimated_size())
            if leaving:
                with log.transaction() as tx:
                    tx.append("exchange", pl.concat(leaving))
            elif not done:
                with log.transaction() as tx:
                    tx.put_record("crossed", str(number), b"all of it")
                done = True
            while (portion := arriving.read(_BATCH, _TOGETHER)) is not None:
                got += portion.frame.height
        print(got, flush=True)


def _by_key(topic: str) -> mamba.Pipeline:
    kept = mamba.stream(topic).process(_nothing, by="key", state={"seen": pl.Int64}, output={"key": pl.Int64})
    return mamba.pipeline(f"shuffle-{topic}", kept.to(f"out-{topic}"))


def _nothing(rows: pl.DataFrame, state: object, timers: object) -> pl.DataFrame:
    return pl.DataFrame(schema={"key": pl.Int64})


# -- idle, and commits -------------------------------------------------------------------------------------------------


def _idle(asked: argparse.Namespace) -> Iterator[Figure]:
    """A thousand tasks with nothing to do."""
    with _log() as log:
        log.create_topic("in", _rows(0, 1), partitions=1_000, time="ts")
        pipeline = mamba.pipeline("idle", mamba.stream("in").select("key").to("out"))
        with _started(log, pipeline) as job:
            while len(job.status.positions.get("in", {})) < 1_000:
                time.sleep(0.5)
            time.sleep(5)
            yield Figure(
                "1,000 tasks with nothing to do", "", "of a processor", 100 * _share(job, 20), 5.0, False, "%"
            )


def _commits(asked: argparse.Namespace) -> Iterator[Figure]:
    """A hundred tasks that commit once a second: what that costs beyond the same rows with commits an hour apart."""
    often, rare, rates = [], [], []
    for _ in range(asked.rounds):
        share, rows, rate = _committing("1s")
        alone, rows_alone, _ = _committing("1h")
        often.append(share)
        rates.append(rate)
        rare.append(alone * rows / rows_alone)
    yield Figure(
        "100 tasks that commit once a second, all commits",
        f"{middle(rates):,.0f} commits/s",
        f"of a processor; rows and all {100 * middle(often):.1f} %, rows alone {100 * middle(rare):.1f} %",
        100 * (middle(often) - middle(rare)),
        10.0,
        False,
        "%",
    )


def _committing(interval: str) -> tuple[float, float, float]:
    """Two rows a second for each of a hundred tasks: processors used, rows in a second, and commits."""
    with _log() as log:
        log.create_topic("in", _rows(0, 1), partitions=100, time="ts")
        pipeline = mamba.pipeline("commits", mamba.stream("in").select("key").to("out"))
        with _started(log, pipeline, commit=interval) as job:
            while len(job.status.positions.get("in", {})) < 100:
                time.sleep(0.1)
            # In a process of its own, which is not counted.
            feeder = subprocess.Popen([sys.executable, __file__, "--feed", str(log.path)])
            try:
                while job.status.rows_in < 200:
                    time.sleep(0.1)
                time.sleep(3)
                begun, first = time.perf_counter(), job.status
                share = _share(job, 15)
                last, seconds = job.status, time.perf_counter() - begun
                return (
                    share,
                    (last.rows_in - first.rows_in) / seconds,
                    (last.commits - first.commits) / seconds,
                )
            finally:
                feeder.terminate()
                feeder.wait()


def _feed(place: str) -> None:
    """A row for each of a hundred partitions, twice a second, until it is ended."""
    with mamba.open(place) as log:
        due = time.monotonic()
        while True:
            with log.transaction() as tx:
                for partition in range(100):
                    tx.append("in", _rows(partition, 1), partition=partition)
            due += 0.5
            time.sleep(max(0.0, due - time.monotonic()))


def _killed(asked: argparse.Namespace) -> Iterator[Figure]:
    """From the death of a worker to the next commit of its tasks."""
    with _log() as log:
        log.create_topic("in", _rows(0, 1), partitions=4, time="ts")
        pipeline = mamba.pipeline("killed", mamba.stream("in").select("key").to("out"))
        took = []
        with _started(log, pipeline) as job:
            for _ in range(5):
                log["in"].append(_rows(0, 4), partition=0)
                while len(job.workers) < 2:
                    time.sleep(0.01)
                job.checkpoint(60)
                place = log.record("jobs.tasks/killed", "0/0")
                worker = next(
                    number for number in job.workers if any(t.number == 0 for t in job.tasks_of(number))
                )
                os.kill(job.workers[worker], signal.SIGKILL)
                begun = time.perf_counter()
                log["in"].append(_rows(0, 4), partition=0)
                rows = log["out"].offsets()[0][1]
                while log["out"].offsets()[0][1] == rows:
                    time.sleep(0.005)
                took.append(time.perf_counter() - begun)
                assert log.record("jobs.tasks/killed", "0/0") != place
        yield Figure(
            "from kill -9 of a worker to its tasks' next commit",
            "",
            "5 deaths, the slowest",
            max(took),
            3.0,
            False,
            "s",
        )


def _share(job: PooledJob, seconds: float) -> float:
    """Processors that the workers and this process use."""
    processes = [os.getpid(), *job.workers.values()]
    before = sum(map(_ticks, processes))
    begun = time.perf_counter()
    time.sleep(seconds)
    return (sum(map(_ticks, processes)) - before) / _TICKS / (time.perf_counter() - begun)


def _ticks(process: int) -> int:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# -- beside it ---------------------------------------------------------------------------------------------------------


def _bytewax(asked: argparse.Namespace) -> Iterator[Figure]:
    """Counts by key of one stream, beside Bytewax on as many workers; it keeps nothing on disk, and we do."""
    python = os.environ.get("BYTEWAX_PYTHON")
    if python is None:
        return
    with _log() as log:
        rows = _fill(log, 20_000_000)
        counted = mamba.stream("in").group_by("key").agg(rows=pl.len())
        pipeline = mamba.pipeline("counts", counted.to("out"))
        for workers in (1, 2):
            ours = rows / middle([_run(log, pipeline, workers) for _ in range(asked.rounds)])
            theirs = []
            for _ in range(asked.rounds):
                told = subprocess.run(
                    [python, "-P", str(BYTEWAX), str(workers), "1000000"],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                theirs.append(float(told.stdout.split()[-1]))
            yield Figure(
                f"counts by key, {workers} worker{'s' * (workers > 1)}",
                f"{ours:,.0f} rows/s",
                f"{middle(theirs):,.0f} rows/s of Bytewax",
                ours / middle(theirs),
                None,
            )


# -- what they run over ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _log() -> Iterator[mamba.Log]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        yield log


@contextlib.contextmanager
def _started(log: mamba.Log, pipeline: mamba.Pipeline, commit: str = "1s") -> Iterator[PooledJob]:
    job = mamba.start(pipeline, log=log, workers=2, until="stopped", commit=commit)
    assert isinstance(job, PooledJob)
    try:
        yield job
    finally:
        job.stop(120)


def _fill(log: mamba.Log, rows: int, *, text: bool = False, name: str = "in", key: str | None = None) -> int:
    batches = -(-rows // _BATCH // 4) * 4
    log.create_topic(
        name, _rows(0, 1, text=text), partitions=4, time="ts", key=key, strict_key=key is not None
    )
    for number in range(batches):
        partition = None if key else number % 4
        log[name].append(_rows(number * _BATCH, _BATCH, text=text), partition=partition)
    log[name].end()
    return batches * _BATCH


def _rows(first: int, count: int, *, text: bool = False) -> pl.DataFrame:
    number = np.arange(first, first + count)
    frame = pl.DataFrame(
        {
            "ts": pl.Series(number * 100).cast(pl.Datetime("us")),
            "key": number * 7_919 % 10_000,
            "value": number % 1_000,
        }
    )
    return (
        frame.with_columns(pl.format("row {} of a text of some length", "value").alias("text"))
        if text
        else frame
    )


def _timed(call) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


_PARTS = {
    "cpu": _cpu_bound,
    "native": _native,
    "shuffle": _shuffle,
    "idle": _idle,
    "commits": _commits,
    "killed": _killed,
    "bytewax": _bytewax,
}

if __name__ == "__main__":
    sys.exit(main())
