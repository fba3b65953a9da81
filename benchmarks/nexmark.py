"""Measures the Nexmark queries, each beside batch Polars: ``python benchmarks/nexmark.py``, or ``make bench``.

Events are written once, into topics of a log and from there into Arrow files. A query then runs as a job over the
topics, again and again with offsets and state committed every second and at the end; in turns with it, in the same
process, Polars does the same over the memory-mapped files, with whichever of its engines is faster, and counts the rows
of the whole result. Events a second are those of all three streams, whichever a query reads.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.path and Path(sys.path[0]).name == "benchmarks":
    # A module of the standard library has the name of one beside this.
    sys.path[0] = str(Path(sys.path[0]).parent)

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl
import pyarrow as pa
from rich.console import Console
from rich.table import Table

import mamba_stream as mamba
from benchmarks import nexmark_beside, nexmark_polars
from mamba_connectors import discard
from mamba_pipelines.nexmark import QUERIES, generate, side_input
from mamba_stream.cli.bench.measuring import Figure, environment, middle, seconds, show

STREAMS = ("person", "auction", "bid")
BATCH = 65_536
_ROUND = 50 * BATCH
"""Events that make whole batches of persons, auctions and bids."""
_PASSES, _COMMITS = 2, 10
_BULK = {"q0", "q1", "q2"}


@dataclass(frozen=True)
class Measured:
    """What came of one query.

    Attributes:
        query: Its name.
        ours: Events a second of our passes.
        polars: Those of Polars' passes.
        engine: Which of Polars' engines it was.
        commits: How many commits of offsets and state all our passes made together.
        rows: How many rows a pass of ours gave.
        polars_rows: How many Polars counted.
    """

    query: str
    ours: list[float] = field(default_factory=list)
    polars: list[float] = field(default_factory=list)
    engine: str = ""
    commits: int = 0
    rows: int = 0
    polars_rows: int = 0

    @property
    def ratio(self) -> float:
        return middle([a / b for a, b in zip(self.ours, self.polars, strict=True)])


def write_events(where: Path, count: int, rate: int) -> None:
    """The streams as ended topics, and the same batches as Arrow files."""
    with mamba.open(where / "log") as log:
        for name, frame in generate(0, 50).items():
            log.create_topic(name, frame, time="dateTime")
        for first in range(0, count, _ROUND):
            for name, frame in generate(first, min(_ROUND, count - first), rate=rate).items():
                for rows in frame.iter_slices(BATCH):
                    log[name].append(rows)
        for name in STREAMS:
            log[name].end()
            with (where / f"{name}.arrow").open("wb") as file:
                batches = log[name].read()
                first_batch = next(batches).data
                with pa.ipc.new_file(file, first_batch.schema) as writer:
                    writer.write(first_batch)
                    for batch in batches:
                        writer.write(batch.data)


def part_query(place: str, query: str, events: str, lasts: str) -> dict[str, Any]:
    """Passes in turns, until ours have lasted long enough and committed often enough."""
    where, number, enough = Path(place), int(events), float(lasts)
    side = side_input()
    engine = _faster_engine(where, query, side)
    ours: list[float] = []
    polars: list[float] = []
    commits = rows = polars_rows = 0
    with mamba.open(where / "log") as log:
        while len(ours) < _PASSES or sum(ours) < enough or commits < _COMMITS:
            streams = {name: mamba.stream(name) for name in STREAMS}
            result = QUERIES[query](**streams, side_input=side)
            pipeline = mamba.pipeline(f"{query}-{len(ours)}", result.to(discard.sink()))
            job = None

            def run(pipeline: mamba.Pipeline = pipeline) -> None:
                nonlocal job
                job = mamba.start(pipeline, log=log)
                job.wait()

            ours.append(seconds(run))
            commits += job.status.commits
            rows = job.status.rows_out

            def count() -> None:
                nonlocal polars_rows
                polars_rows = _counted(where, query, side, engine)

            polars.append(seconds(count))
    return {
        "ours": [number / taken for taken in ours],
        "polars": [number / taken for taken in polars],
        "engine": engine,
        "commits": commits,
        "rows": rows,
        "polars_rows": polars_rows,
    }


def _faster_engine(where: Path, query: str, side: pl.DataFrame) -> Literal["in-memory", "streaming"]:
    """After one pass of each that warms up."""
    taken: dict[Literal["in-memory", "streaming"], float] = {}
    for _ in range(2):
        for engine in ("in-memory", "streaming"):
            taken[engine] = seconds(lambda engine=engine: _counted(where, query, side, engine))
    return min(taken, key=taken.__getitem__)


def _counted(where: Path, query: str, side: pl.DataFrame, engine: Literal["in-memory", "streaming"]) -> int:
    # The result is made, not only its length: that needs no column of it.
    tables = {name: pl.scan_ipc(where / f"{name}.arrow") for name in STREAMS}
    return nexmark_polars.QUERIES[query](**tables, side_input=side.lazy()).collect(engine=engine).height


def measure(where: Path, queries: list[str], events: int, lasts: float) -> Iterator[Measured]:
    for query in queries:
        yield Measured(query, **_child("query", where, query, events, lasts))


def table(measured: list[Measured]) -> Table:
    drawn = Table(
        "query", "ours, events/s", "Polars, events/s", "ratio", "commits", "rows out", "Polars' engine"
    )
    for column in drawn.columns[1:6]:
        column.justify = "right"
    for one in measured:
        drawn.add_row(
            one.query,
            f"{middle(one.ours):,.0f}",
            f"{middle(one.polars):,.0f}",
            f"{one.ratio:.2f}",
            str(one.commits),
            f"{one.rows:,}" + ("" if one.rows == one.polars_rows else f" ({one.polars_rows:,})"),
            one.engine,
        )
    return drawn


def markdown(measured: list[Measured], events: int) -> str:
    """The table and the machine, for the page on Nexmark."""
    rows = [
        f"| {one.query} | {middle(one.ours):,.0f} | {middle(one.polars):,.0f} | {one.ratio:.2f} |"
        for one in measured
    ]
    head = ["| query | events/s | batch Polars, events/s | ratio |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, "", f"{events:,} events. Machine: {machine()}.", ""])


def machine() -> str:
    """What it was measured on, in a line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {len(os.sched_getaffinity(0))} CPUs, {memory:.0f} GB, Linux {platform.release()}; "
        f"Python {platform.python_version()}, Polars {pl.__version__}, pyarrow {pa.__version__}, "
        f"mamba-stream {mamba.__version__}"
    )


def figures(measured: list[Measured]) -> Iterator[Figure]:
    """The targets of the queries together."""
    ratios = {one.query: one.ratio for one in measured}
    worst = min(ratios, key=ratios.__getitem__)
    yield Figure(
        f"geometric mean of {len(ratios)} queries, as a share of batch Polars",
        f"from {min(ratios.values()):.2f} to {max(ratios.values()):.2f}",
        "the same queries in the same run",
        math.exp(sum(map(math.log, ratios.values())) / len(ratios)),
        0.5,
    )
    yield Figure("the slowest query, as a share of batch Polars", worst, "the same query", ratios[worst], 0.2)
    for one in measured:
        if one.query in _BULK:
            yield Figure(
                one.query,
                f"{one.ratio:.2f} of Polars",
                f"Polars {middle(one.polars) / 1e6:.1f} million events/s",
                middle(one.ours) / 1e6,
                20,
                unit=" million events/s",
            )


PARTS = {"query": part_query, **nexmark_beside.PARTS}


def _child(part: str, *arguments: object) -> dict[str, Any]:
    """What a part found out, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--part", part, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(),
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(PARTS[sys.argv[2]](*sys.argv[3:])), flush=True)
        return 0
    parser = argparse.ArgumentParser(description="Measures the Nexmark queries.")
    parser.add_argument(
        "--directory", type=Path, help="where to; a temporary directory unless told otherwise"
    )
    parser.add_argument("--events", type=int, default=3 * _ROUND, help="how many are read in a pass")
    parser.add_argument(
        "--rate", type=int, default=100_000, help="how many of them make a second of event time"
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="how long our passes of a query last together, at least"
    )
    parser.add_argument("--queries", type=lambda text: text.split(","), default=list(QUERIES), help="q3,q5,…")
    parser.add_argument("--markdown", type=Path, help="a file for the table, as docs/nexmark.md has it")
    parser.add_argument("--only", choices=["queries", "beside"], help="leave the other half out")
    options = parser.parse_args()
    where = Path(tempfile.mkdtemp(prefix="mamba-stream-nexmark-", dir=options.directory))
    held = True
    try:
        if options.only != "beside":
            write_events(where, options.events, options.rate)
            measured = list(measure(where, options.queries, options.events, options.seconds))
            Console(highlight=False, width=110).print(table(measured))
            if options.markdown is not None:
                options.markdown.write_text(markdown(measured, options.events))
            held = show(f"Nexmark, {options.events:,} events, on {where.parent}", figures(measured))
        if options.only != "queries":
            held &= show("Beside the queries", nexmark_beside.figures(where, _child))
        return 0 if held else 1
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    sys.exit(main())
