"""The Nexmark demo: an auction's events in a log, and some of its queries at work on them, each a job of its own.

:func:`feed` appends the events to three topics, and :func:`build` makes the pipeline of a query over them.
``mamba-stream demo nexmark`` shows them at work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import polars as pl
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import mamba_stream as mamba
from mamba_pipelines.nexmark.generator import generate, side_input
from mamba_pipelines.nexmark.queries import QUERIES

EVENTS: Final = 1_000_000
RATE: Final = 10_000
"""Events a second of event time: the auction lasts a hundred seconds."""
PREFIX: Final = "nexmark"
STREAMS: Final = ("person", "auction", "bid")

_BATCH, _ROUND = 50_000, 50
_SHARES: Final = {"person": 1, "auction": 3, "bid": 46}
"""How many of every round are of a kind."""
_ROWS = 3


@dataclass(frozen=True)
class Shown:
    """How a few rows of a query's result are shown.

    Attributes:
        columns: Which of its columns.
        best: The column whose greatest values come first.
        key: What tells the rows of a table apart, where the result is a changelog.
    """

    columns: tuple[str, ...]
    best: str | None = None
    key: tuple[str, ...] = ()


SHOWN: Final = {
    "q0": Shown(("auction", "bidder", "price", "dateTime")),
    "q3": Shown(("name", "city", "state", "id")),
    "q5": Shown(("auction", "num", "starttime", "endtime"), best="num"),
    "q8": Shown(("id", "name", "stime")),
    "q9": Shown(("id", "itemName", "category", "bidder", "price"), best="price", key=("id",)),
    "q12": Shown(("bidder", "bid_count", "starttime", "endtime"), best="bid_count"),
    "q19": Shown(("auction", "rank_number", "bidder", "price"), best="price", key=("auction", "rank_number")),
}


def build(query: str = "q5") -> mamba.Pipeline:
    """A query over the topics of the demo; its result goes to ``nexmark.q5``."""
    person, auction, bid = (mamba.stream(f"{PREFIX}.{name}") for name in STREAMS)
    result = QUERIES[query](person, auction, bid, side_input())
    return mamba.pipeline(f"{PREFIX}-{query}", result.to(f"{PREFIX}.{query}"))


def feed(log: mamba.Log, events: int, progress: Callable[[int], None]) -> int:
    """Append the events to their topics and end these. However often it is repeated, each lands once.

    Args:
        log: Where to.
        events: How many.
        progress: Told how many of them are there, after every batch.

    Returns:
        How many events this call appended.
    """
    topics = _topics(log)
    appended = 0
    for number, first in enumerate(range(0, events, _BATCH)):
        count = min(_BATCH, events - first)
        missing = [name for name, topic in topics.items() if not _has(topic, name, first + count)]
        if missing:
            some = generate(first, count, rate=RATE)
            for name in missing:
                topics[name].append(some[name], producer=PREFIX, sequence=number)
                appended += some[name].height
        progress(first + count)
    for topic in topics.values():
        if not topic.ended:
            topic.end()
    return appended


def forget(log: mamba.Log) -> None:
    """Start over: delete the events, and have the jobs forget what they did and empty the topics that they made.

    Raises:
        mamba.AlreadyExists: A topic of such a name is not the demo's.
    """
    for name, frame in generate(0, _ROUND).items():
        topic = f"{PREFIX}.{name}"
        if topic in log and log[topic].polars_schema != frame.schema:
            raise mamba.AlreadyExists(
                f"topic {topic!r} in {log.place} is not the demo's: choose another place with --log"
            )
        if topic in log:
            log.delete_topic(topic)
    _topics(log)
    for query in SHOWN:
        mamba.run(build(query), log=log, until="now", state="new")


def rows(log: mamba.Log, query: str) -> pl.DataFrame:
    """What came of a query: of a changelog the table that it amounts to."""
    topic, key = f"{PREFIX}.{query}", SHOWN[query].key
    if key:
        return mamba.stream(topic).table(list(key)).collect(log=log)
    return log[topic].scan().collect()


def show(
    place: str | None, *, fresh: bool, kills: int | None, seed: int | None, events: int | None = None
) -> int:
    """What ``mamba-stream demo nexmark`` does.

    Args:
        place: Where the log is, as every ``log=`` takes it.
        fresh: Start over.
        kills: Refused: this demo is not killed.
        seed: Of no use without kills.
        events: How many; a million if left out.

    Returns:
        The exit code.

    Raises:
        mamba.InvalidInput: It is to be killed.
    """
    if kills is not None:
        raise mamba.InvalidInput(
            "the demo nexmark has no --kill: `mamba-stream demo --kill 5` kills the other one"
        )
    events = EVENTS if events is None else events
    console = Console(highlight=False)
    console.width = max(console.width, 110)
    with mamba.open(place) as log:
        console.print(f"The log is {log.place}")
        if fresh:
            forget(log)
        _append(console, log, events)
        for query in SHOWN:
            _work(console, log, query, events)
        topic = f"{PREFIX}.q5"
        console.print(
            "\nThe results are topics. Open one:\n\n"
            "    import mamba_stream as mamba\n"
            f"    log = mamba.open({log.place!r})\n"
            f"    print(log[{topic!r}].scan().collect())\n"
        )
    return 0


def _topics(log: mamba.Log) -> dict[str, mamba.Topic]:
    return {
        name: log.create_topic(f"{PREFIX}.{name}", frame, time="dateTime", exist_ok=True)
        for name, frame in generate(0, _ROUND).items()
    }


def _has(topic: mamba.Topic, name: str, events: int) -> bool:
    """Whether all of the first so many events that are of this kind are there."""
    return topic.ended or topic.offsets()[0][1] >= events // _ROUND * _SHARES[name]


def _append(console: Console, log: mamba.Log, events: int) -> None:
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("events into the log", total=events)
        begun = time.perf_counter()
        appended = feed(log, events, lambda done: progress.update(task, completed=done))
        seconds = time.perf_counter() - begun
    if appended:
        console.print(
            f"appended {appended:,} events in {seconds:.2f} s: {appended / seconds:,.0f} events/s, made up and durable "
            "batch by batch"
        )
    else:
        console.print("appended nothing: the events are all there")


def _work(console: Console, log: mamba.Log, query: str, events: int) -> None:
    with console.status(f"{query} at work"):
        summary = mamba.start(build(query), log=log).wait()
    found = rows(log, query)
    console.print(f"\n[bold]{query}[/bold]  {QUERIES[query].__doc__}")
    if summary.rows_in:
        console.print(
            f"{events / summary.seconds:,.0f} events/s: {summary.rows_in:,} rows read of {events:,} events in "
            f"{summary.seconds:.2f} s; the result has {found.height:,} rows, such as"
        )
    else:
        console.print(f"nothing new: it resumed where it was; the result has {found.height:,} rows, such as")
    shown = SHOWN[query]
    if shown.best is not None:
        found = found.sort(shown.best, *shown.columns, descending=[True, *(False for _ in shown.columns)])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown.columns:
        table.add_column(name, no_wrap=True, justify="right" if found.schema[name].is_integer() else "left")
    for row in found.select(shown.columns).head(_ROWS).iter_rows():
        table.add_row(*map(str, row))
    console.print(table)
