"""``mamba-stream bench log``: appends, scans, scale and waking, each against its limit in the same run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mamba_stream.cli.bench import starting
from mamba_stream.cli.bench.measuring import (
    Figure,
    environment,
    in_turns,
    middle,
    per_second,
    quantile,
    seconds,
    show,
)
from mamba_stream.log import Log, open_log
from mamba_stream.log.store import Store

_ROWS = 65_536
_YEAR_US = 365 * 86_400 * 1_000_000


def main(directory: Path | None, scale: int = 1_000_000) -> bool:
    """Runs everything in a directory of its own, removed afterwards; whether all targets are met."""
    where = Path(tempfile.mkdtemp(prefix="mamba-stream-bench-", dir=directory))
    try:
        return show(f"The log, on {where.parent}", _figures(where, scale))
    finally:
        shutil.rmtree(where)


def _figures(where: Path, scale: int) -> Iterator[Figure]:
    with open_log(where / "log") as log:
        yield from _appends(log, where)
        yield _threads(log)
        yield _partitions(log)
        yield from _waking(log)
    yield from _scans(where)
    yield from _scale(where, scale)
    yield from starting.figures(where)


def _rows(start: int = 0, rows: int = _ROWS, step: int = 1) -> pa.RecordBatch:
    random = np.random.default_rng(start)
    return pa.record_batch(
        {
            "time": pa.array((np.arange(rows) + start) * step, pa.timestamp("us")),
            "key": pa.array(random.integers(0, 10_000, rows)),
            "price": pa.array(random.random(rows)),
            "amount": pa.array(random.random(rows)),
        }
    )


def _appends(log: Log, where: Path) -> Iterator[Figure]:
    for name, rows, times, target in (("64k-row batches", _ROWS, 24, 0.5), ("10-row batches", 10, 400, 0.25)):
        batch = _rows(rows=rows)
        raw = bytes(batch.serialize())
        topic = log.create_topic(f"append-{rows}", batch.schema, time="time")
        with (where / f"plain-{rows}").open("wb", buffering=0) as file:

            def plain(file: object = file, raw: bytes = raw, times: int = times) -> float:
                def call() -> None:
                    os.write(file.fileno(), raw)  # type: ignore[attr-defined]
                    os.fdatasync(file.fileno())  # type: ignore[attr-defined]

                return per_second(call, times)

            pair = in_turns(lambda t=topic, b=batch, n=times: per_second(lambda: t.append(b), n), plain)  # type: ignore[misc]
        rate, most = middle(pair.ours), middle(pair.limit)
        size = len(raw)
        yield Figure(
            f"append of {name} ({size:,} bytes each), durable",
            f"{rate:,.0f} appends/s, {rate * size / 1e6:,.0f} MB/s",
            f"write + fdatasync of the same bytes {most:,.0f}/s, {most * size / 1e6:,.0f} MB/s",
            pair.ratio,
            target,
            spread=pair.spread,
        )


def _threads(log: Log) -> Figure:
    batch = _rows(rows=10)
    topic = log.create_topic("threads", batch.schema)

    def together(threads: int) -> float:
        counts = [0] * threads
        stop = threading.Event()

        def work(number: int) -> None:
            while not stop.is_set():
                topic.append(batch)
                counts[number] += 1

        running = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        start = time.perf_counter()
        for thread in running:
            thread.start()
        stop.wait(1.0)
        stop.set()
        for thread in running:
            thread.join()
        return sum(counts) / (time.perf_counter() - start)

    pair = in_turns(lambda: together(8), lambda: together(1))
    return Figure(
        "8 threads appending together",
        f"{middle(pair.ours):,.0f} appends/s",
        f"one thread {middle(pair.limit):,.0f}/s",
        pair.ratio,
        4.0,
        spread=pair.spread,
    )


def _partitions(log: Log) -> Figure:
    batch = _rows()
    many = log.create_topic("partitions-128", batch.schema, partitions=128, key="key")
    one = log.create_topic("partitions-1", batch.schema, partitions=1, key="key")
    pair = in_turns(
        lambda: seconds(lambda: [many.append(batch) for _ in range(10)]) / 10,
        lambda: seconds(lambda: [one.append(batch) for _ in range(10)]) / 10,
    )
    return Figure(
        "65,536 rows to 128 partitions in one commit",
        f"{middle(pair.ours) * 1e3:.2f} ms",
        f"to one partition {middle(pair.limit) * 1e3:.2f} ms",
        pair.ratio,
        3.0,
        at_least=False,
        spread=pair.spread,
    )


_FOLLOWER = """
import sys, time, resource
from mamba_stream.log import open_log
topic = open_log(sys.argv[1])["waking"]
print("ready", flush=True)
sys.stdin.readline()
before = resource.getrusage(resource.RUSAGE_SELF)
sys.stdin.readline()
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, flush=True)
for batch in topic.read(start="latest", follow=True):
    print(time.monotonic_ns(), batch.offset, flush=True)
"""
_IDLER = _FOLLOWER.replace(
    'print("ready", flush=True)',
    """import threading
threading.Thread(target=lambda: [None for _ in topic.read(start="latest", follow=True)], daemon=True).start()
time.sleep(0.5)
print("ready", flush=True)""",
)


def _waking(log: Log, messages: int = 400) -> Iterator[Figure]:
    batch = _rows(rows=10)
    topic = log.create_topic("waking", batch.schema)
    with _process(_IDLER, str(log.path)) as idler:
        assert idler.stdin is not None and idler.stdout is not None
        idler.stdout.readline()
        idler.stdin.write("\n")
        idler.stdin.flush()
        time.sleep(5)
        idler.stdin.write("\n")
        idler.stdin.flush()
        used = float(idler.stdout.readline()) / 5
        idler.kill()
    with _process(_FOLLOWER, str(log.path)) as follower:
        assert follower.stdin is not None and follower.stdout is not None
        follower.stdout.readline()
        follower.stdin.write("\n\n")
        follower.stdin.flush()
        follower.stdout.readline()
        time.sleep(0.5)
        delays, commits = [], []
        for _ in range(messages):
            start = time.monotonic_ns()
            topic.append(batch)
            done = time.monotonic_ns()
            seen = int(follower.stdout.readline().split()[0])
            delays.append(max(seen - done, 0) / 1e6)
            commits.append((done - start) / 1e6)
            time.sleep(0.005)
        follower.kill()
    for name, value, target in (
        ("median", middle(delays), 1.0),
        ("99th percentile", quantile(delays, 0.99), 5.0),
    ):
        yield Figure(
            f"append to follower in another process, beyond the commit, {name}",
            f"{value:.2f} ms after the append returned",
            f"the commit itself took {middle(commits):.2f} ms",
            value,
            target,
            at_least=False,
            unit=" ms",
        )
    yield Figure(
        "CPU of a follower while nothing comes",
        f"{used * 1e3:.2f} ms of CPU a second",
        "a core is 1000",
        used * 100,
        0.5,
        at_least=False,
        unit=" %",
    )


_BATCHES = 400


def _scans(where: Path) -> Iterator[Figure]:
    peer = where / "peer.arrow"
    step = _YEAR_US // (_BATCHES * _ROWS)
    with open_log(where / "scan") as log:
        topic = None
        writer = None
        for number in range(_BATCHES):
            batch = _rows(number * _ROWS, step=step)
            if topic is None or writer is None:
                topic = log.create_topic("year", batch.schema, time="time")
                writer = pa.ipc.new_file(str(peer), batch.schema)
            topic.append(batch)
            writer.write_batch(batch)
        assert topic is not None and writer is not None
        writer.close()

        def sum_ours() -> float:
            return seconds(lambda: topic.scan().select(pl.col("price").sum()).collect())

        def sum_peer() -> float:
            return seconds(lambda: pl.scan_ipc(peer).select(pl.col("price").sum()).collect())

        def sum_arrow() -> float:
            def total() -> float:
                with pa.memory_map(str(peer)) as source:
                    reader = pa.ipc.open_file(source)
                    batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
                    return float(sum(pc.sum(batch.column("price")).as_py() for batch in batches))

            return seconds(total)

        def sum_batches() -> float:
            def total() -> float:
                return float(sum(pc.sum(b.data.column(0)).as_py() for b in topic.read(columns=["price"])))

            return seconds(total)

        for name, ours, limit in (
            ("Polars over the topic against Polars over the file", sum_ours, sum_peer),
            ("batches of the topic against batches of the file, by Arrow", sum_batches, sum_arrow),
        ):
            pair = in_turns(limit, ours)
            yield Figure(
                f"sum of one column of {_BATCHES * _ROWS:,} rows, warm: {name}",
                f"{middle(pair.limit) * 1e3:.1f} ms",
                f"memory-mapped file {middle(pair.ours) * 1e3:.1f} ms",
                pair.ratio,
                0.9,
                spread=pair.spread,
            )
        pair = in_turns(lambda: _first(_FIRST_PEER, str(peer)), lambda: _first(_FIRST_OURS, str(log.path)), 5)
        yield Figure(
            "the same, first read of a process",
            f"{middle(pair.limit) * 1e3:.1f} ms",
            f"memory-mapped file {middle(pair.ours) * 1e3:.1f} ms",
            pair.ratio,
            0.5,
            spread=pair.spread,
        )
        yield _one_day(log)


_FIRST_OURS = """
import sys, time
import polars as pl
from mamba_stream.log import open_log
topic = open_log(sys.argv[1])["year"]
pl.LazyFrame({"a": [1]}).select(pl.col("a").sum()).collect()
start = time.perf_counter()
topic.scan().select(pl.col("price").sum()).collect()
print(time.perf_counter() - start)
"""
_FIRST_PEER = """
import sys, time
import polars as pl
pl.LazyFrame({"a": [1]}).select(pl.col("a").sum()).collect()
start = time.perf_counter()
pl.scan_ipc(sys.argv[1]).select(pl.col("price").sum()).collect()
print(time.perf_counter() - start)
"""


def _one_day(log: Log) -> Figure:
    topic = log["year"]
    store = log._store
    assert isinstance(store, Store)
    shelf = store.shelf
    read: list[object] = []
    batch = shelf.batch

    def counted(*arguments: object) -> pa.RecordBatch:
        read.append(arguments[2])
        return batch(*arguments)  # type: ignore[arg-type]

    shelf.batch = counted  # type: ignore[method-assign,assignment]
    try:
        day = datetime(1970, 6, 1)
        rows = topic.scan().filter(pl.col("time").is_between(day, day + timedelta(days=1))).collect()
    finally:
        shelf.batch = batch  # type: ignore[method-assign]
    return Figure(
        "one day of a year by a filter on time: batches read",
        f"{len(read)} of {_BATCHES} batches for {rows.height:,} rows",
        "a day is 0.27% of the year",
        len(read) / _BATCHES * 100,
        2.0,
        at_least=False,
        unit=" %",
    )


def _scale(where: Path, scale: int) -> Iterator[Figure]:
    """The same appends and reads in a topic of a thousand batches and in one of ``scale``."""
    batch = _rows(rows=10)
    logs = {}
    for size in (1_000, scale):
        log = logs[size] = open_log(where / f"scale-{size}")
        log.create_topic("batches", batch.schema, time="time")
        left = size
        while left:
            many = min(left, 5_000)
            with log.transaction() as tx:
                for _ in range(many):
                    tx.append("batches", batch)
            left -= many
    few, lots = logs[1_000], logs[scale]
    random = np.random.default_rng(7)

    def append(log: Log) -> float:
        topic = log["batches"]
        return seconds(lambda: [topic.append(batch) for _ in range(200)]) / 200

    def read(log: Log) -> float:
        topic = log["batches"]
        wanted = random.integers(0, 10 * (1_000 if log is few else scale), 500).tolist()
        return seconds(lambda: [next(topic.read(start=int(o), max_rows=1)) for o in wanted]) / 500

    for name, call in (("append", append), ("random read", read)):
        pair = in_turns(lambda c=call: c(lots), lambda c=call: c(few))  # type: ignore[misc]
        yield Figure(
            f"{name} in a topic of {scale:,} batches",
            f"{middle(pair.ours) * 1e6:,.0f} µs",
            f"of 1,000 batches {middle(pair.limit) * 1e6:,.0f} µs",
            pair.ratio,
            1.5,
            at_least=False,
            spread=pair.spread,
        )
    index = lots.statistics().index_bytes
    for log in logs.values():
        log.close()
    opening = sorted(_first(_OPEN, str(where / f"scale-{scale}")) for _ in range(5))
    yield Figure(
        f"opening a log of {scale:,} batches",
        f"{opening[2] * 1e3:.1f} ms",
        f"index of {index / scale:.0f} bytes a batch",
        opening[2] * 1e3,
        100,
        at_least=False,
        unit=" ms",
    )
    memory = [_first(_MEMORY, str(where / f"scale-{size}")) for size in (1_000, scale)]
    yield Figure(
        "private memory of a process that opened it, appended and read at random",
        f"{memory[1]:.0f} MB",
        f"with 1,000 batches {memory[0]:.0f} MB",
        memory[1] - memory[0],
        8,
        at_least=False,
        unit=" MB",
    )


_OPEN = """
import sys, time
from mamba_stream.log import open_log
start = time.perf_counter()
open_log(sys.argv[1])["batches"].offsets()
print(time.perf_counter() - start)
"""
_MEMORY = """
import random, sys
from mamba_stream.log import open_log
topic = open_log(sys.argv[1])["batches"]
end = topic.offsets()[0][1]
draw = random.Random(1)
for _ in range(2000):
    next(topic.read(start=draw.randrange(end), max_rows=1))
for batch in topic.read(start=max(0, end - 5000)):
    pass
for _ in range(50):
    topic.append(batch.data)
fields = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
print(float(fields["Private_Dirty"].split()[0]) / 1024)
"""


def _first(script: str, *arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    return float(done.stdout)


def _process(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
