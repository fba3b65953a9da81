"""What is measured beside the Nexmark queries: small batches, latency, a million keys of state, results in a topic."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

import mamba_stream as mamba
from mamba_connectors import discard
from mamba_pipelines.nexmark import QUERIES, generate, side_input
from mamba_stream.cli.bench.measuring import Figure, environment, middle, quantile, seconds
from mamba_stream.core.clock import SystemClock
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.run import Run

Child = Callable[..., dict[str, Any]]

_SMALL, _SMALL_ROWS = 100, 2_000_000
_RATE = 100_000
_TICK = 0.01
_LASTS = 60.0
_KEYS = 1_000_000
_ROUNDS = 3


def figures(where: Path, child: Child) -> Iterator[Figure]:
    yield _small_batches(child("small_batches", where))
    yield _latency(child("latency", where))
    yield from _million_keys(child, where)
    yield _appended(child("appended", where))


# --- small batches


def _small_batches(found: dict[str, Any]) -> Figure:
    return Figure(
        f"keyed tumbling count over a topic of batches of {_SMALL} rows",
        f"{found['in_large']:.1f} million rows/s where batches are large",
        f"{_SMALL_ROWS:,} rows, 10,000 keys",
        found["rate"],
        2,
        unit=" million rows/s",
    )


def part_small_batches(place: str) -> dict[str, Any]:
    frame = pl.DataFrame(
        {
            "time": pl.Series(np.arange(_SMALL_ROWS) // 100).cast(pl.Datetime("ms")),
            "key": np.random.default_rng(1).integers(0, 10_000, _SMALL_ROWS),
        }
    )
    with mamba.open(Path(place) / "small") as log:
        for topic, rows in (("small", _SMALL), ("large", 65_536)):
            log.create_topic(topic, frame, time="time")
            for first in range(0, _SMALL_ROWS, 65_536):
                with log.transaction() as tx:
                    for batch in frame[first : first + 65_536].iter_slices(rows):
                        tx.append(topic, batch)
            log[topic].end()

        def rate(topic: str, number: int) -> float:
            counts = mamba.stream(topic).window(mamba.tumbling("10s"), by="key").agg(count=pl.len())
            pipeline = mamba.pipeline(f"{topic}-{number}", counts.to(discard.sink()))
            return _SMALL_ROWS / seconds(lambda: mamba.run(pipeline, log=log)) / 1e6

        rates = {
            topic: middle([rate(topic, number) for number in range(_ROUNDS)]) for topic in ("small", "large")
        }
    return {"rate": rates["small"], "in_large": rates["large"]}


# --- latency


def _latency(found: dict[str, Any]) -> Figure:
    taken = found["latencies"]
    return Figure(
        f"q5 at {_RATE:,} events/s, from the completing watermark to the result leaving: 99th percentile",
        f"median {middle(taken):.1f} ms of {len(taken)} windows",
        f"the sender was up to {found['behind']:.0f} ms behind its time",
        quantile(taken, 0.99),
        20,
        at_least=False,
        unit=" ms",
    )


def part_latency(place: str) -> dict[str, Any]:
    """Another process sends bids in real time; a window is complete when the first bid behind its end is durable."""
    where = Path(place) / "latency"
    with mamba.open(where) as log:
        log.create_topic("bid", generate(0, 50)["bid"], time="dateTime")
        left: dict[int, float] = {}

        def leaving(frame: pl.DataFrame) -> None:
            now = time.perf_counter()
            for end in frame.get_column("endtime").to_physical().unique():
                left.setdefault(end, now)

        bid = mamba.stream("bid")
        hottest = QUERIES["q5"](bid, bid, bid, side_input()).inspect(leaving)
        job = mamba.start(mamba.pipeline("latency", hottest.to(discard.sink())), log=log, until="stopped")
        sent = _python("send_bids", where)
        job.stop()
    # Processes of one machine share the clock.
    taken = [(left[end] - at) * 1e3 for end, at in sent["complete"] if end in left]
    return {"latencies": taken, "behind": sent["behind"]}


def part_send_bids(place: str) -> dict[str, Any]:
    """Sends bids at their rate, and notes when each window was complete."""
    bids = generate(0, int(_RATE * _LASTS), rate=_RATE)["bid"]
    portions = bids.iter_slices(round(bids.height * _TICK / _LASTS))
    complete, behind, reached = [], 0.0, None
    waiting = threading.Event()
    with mamba.open(place) as log:
        begun = time.perf_counter()
        for number, portion in enumerate(portions):
            due = begun + (number + 1) * _TICK
            waiting.wait(max(0.0, due - time.perf_counter()))
            behind = max(behind, time.perf_counter() - due)
            log["bid"].append(portion)
            last = int(portion.get_column("dateTime").dt.truncate("2s").to_physical()[-1])
            if reached is not None and last > reached:
                complete.append((last, time.perf_counter()))
            reached = last
    return {"complete": complete, "behind": behind * 1e3}


# --- a million keys of state


def _million_keys(child: Child, where: Path) -> Iterator[Figure]:
    found = child("million_keys", where)
    size = found["state"] / 2**20
    yield Figure(
        f"commits with {_KEYS:,} keys of state: 99th percentile of the time for which they hold up the run",
        f"median {middle(found['pauses']):.1f} ms of {len(found['pauses'])}",
        f"the state is {size:.0f} MB of Arrow",
        quantile(found["pauses"], 0.99),
        50,
        at_least=False,
        unit=" ms",
    )
    yield Figure(
        "memory that they take, as a share of the state",
        f"{found['grown'] / 2**20:.0f} MB",
        f"the state is {size:.0f} MB of Arrow",
        found["grown"] / found["state"],
        2.5,
        at_least=False,
    )
    yield Figure(
        "from starting the process again to its first output",
        f"{found['restart']:.2f} s",
        f"an empty Python that imports as much {found['imports']:.2f} s, included",
        found["restart"],
        3,
        at_least=False,
        unit=" s",
    )


def part_million_keys(place: str) -> dict[str, Any]:
    """Fills the state in a first process, which stops; in a second one, the next day's row closes the windows."""
    where = Path(place) / "keys"
    shutil.rmtree(where, ignore_errors=True)
    filled = _python("fill_keys", where)
    with mamba.open(where) as log:
        log["rows"].append(_keyed_rows(1, 1).with_columns(pl.col("time") + timedelta(days=2)))
    imports = seconds(lambda: subprocess.run([sys.executable, "-c", _IMPORTS], check=True, env=environment()))
    restart = seconds(lambda: _python("first_output", where))
    return {**filled, "restart": restart, "imports": imports}


def part_fill_keys(place: str) -> dict[str, Any]:
    with mamba.open(place) as log:
        topic = log.create_topic("rows", _keyed_rows(0, 1), time="time")
        for number in range(40):
            topic.append(_keyed_rows(number, _KEYS // 10))
        before = _held()
        run = Run(_per_key(), log, run_options(until="now"), SystemClock())
        pauses, waiting = [], threading.Event()
        while not run.over:
            run.engine.step(_KEYS // 20)
            pause = seconds(run.begin_commit)
            # A job goes on meanwhile, and does not begin the next commit before this one has come through.
            while not run.commit_done:
                waiting.wait(0.001)
            pauses.append((pause + seconds(run.end_commit)) * 1e3)
        grown = _held() - before
        state = sum(step.bytes for step in run.engine.flow.steps.values())
    return {"pauses": pauses, "grown": grown, "state": state}


def _held() -> int:
    """Resident memory without the pages of mapped files, which are the system's to take back."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def part_first_output(place: str) -> dict[str, Any]:
    """Runs until there is a row of the result; how it ends is not what is measured."""
    with mamba.open(place) as log:
        there = threading.Event()
        job = mamba.start(_per_key(lambda frame: there.set()), log=log, until="now")
        there.wait()
        job.cancel()
    return {}


def _per_key(seen: Callable[[pl.DataFrame], object] = lambda frame: None) -> mamba.Pipeline:
    totals = (
        mamba.stream("rows", lateness="1d")
        .window(mamba.tumbling("1d"), by="key", name="totals")
        .agg(count=pl.len(), total=pl.col("value").sum(), most=pl.col("value").max())
    )
    return mamba.pipeline("keys", totals.inspect(seen).to(discard.sink()))


def _keyed_rows(number: int, count: int) -> pl.DataFrame:
    """A tenth of the keys after the other, four times over."""
    keys = (number * count + np.arange(count)) % _KEYS
    return pl.DataFrame(
        {
            "time": pl.Series(np.full(count, number)).cast(pl.Datetime("ms")),
            "key": keys,
            "value": keys % 1_000,
        }
    )


_IMPORTS = "import mamba_stream.dsl, polars, pyarrow, numpy"


def _python(part: str, place: Path) -> dict[str, Any]:
    """A part in a process of its own, started by one."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("nexmark.py")), "--part", part, str(place)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(),
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- results in a topic


def _appended(found: dict[str, Any]) -> Figure:
    return Figure(
        "q0 with its results in a topic, as a share of discarding them and appending the same rows",
        f"{found['ours']:.2f} s",
        f"discarding {found['discarding']:.2f} s, appending {found['appending']:.2f} s",
        found["ours"] / (found["discarding"] + found["appending"]),
        1.3,
        at_least=False,
    )


def part_appended(place: str) -> dict[str, Any]:
    bids = generate(0, 2_000_000, rate=_RATE)["bid"]
    times: dict[str, list[float]] = {"ours": [], "discarding": [], "appending": []}
    with mamba.open(Path(place) / "appended") as log:
        topic = log.create_topic("bid", bids, time="dateTime")
        for rows in bids.iter_slices(65_536):
            topic.append(rows)
        topic.end()
        bid = mamba.stream("bid")
        result = QUERIES["q0"](bid, bid, bid, side_input())
        rows = result.collect(log=log)
        for number in range(_ROUNDS):
            ours = mamba.pipeline(f"ours-{number}", result.to(f"ours-{number}"))
            times["ours"].append(seconds(lambda ours=ours: mamba.run(ours, log=log)))
            less = mamba.pipeline(f"less-{number}", result.to(discard.sink()))
            times["discarding"].append(seconds(lambda less=less: mamba.run(less, log=log)))
            plain = log.create_topic(f"plain-{number}", rows)
            times["appending"].append(seconds(lambda plain=plain: plain.append(rows)))
    return {name: middle(taken) for name, taken in times.items()}


PARTS = {
    part.__name__.removeprefix("part_"): part
    for part in (
        part_small_batches,
        part_latency,
        part_send_bids,
        part_million_keys,
        part_fill_keys,
        part_first_output,
        part_appended,
    )
}
