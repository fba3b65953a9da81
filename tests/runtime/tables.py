"""Changelogs in tests: runs that are cut anyhow and crash anywhere, and what a log of changes folds to, in plain Python."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from tests.runtime.test_same_rows import MEMORY

GREATEST = 1e6


def replayed(log: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The table that a log of changes amounts to, checked on the way: what is taken back has to be there."""
    columns = [name for name in log.columns if name != "_op"]
    table: dict[Any, tuple[Any, ...]] = {}
    for op, *row in log.select("_op", *columns).iter_rows():
        at = repr([row[columns.index(name)] for name in key])
        if op in ("-U", "-D"):
            assert repr(table.pop(at)) == repr(tuple(row)), f"{op} {row} was not there"
        else:
            assert at not in table, f"{op} {row} is there twice"
            table[at] = tuple(row)
    return pl.DataFrame(list(table.values()), schema=log.select(columns).schema, orient="row")


def same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert_frame_equal(
        found,
        expected,
        check_row_order=False,
        rel_tol=1e-9,
        abs_tol=1e-9 * GREATEST,
    )


@contextmanager
def memory_log() -> Iterator[mamba.Log]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        yield log


def one_run(log: mamba.Log, made: mamba.Pipeline, rows: int) -> Run:
    options = RunOptions(until="now", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False, rows=rows)
    return Run(made, log, options, SystemClock())


def crashed_and_resumed(
    log: mamba.Log, parts: Sequence[pl.DataFrame], made: mamba.Pipeline, chance: np.random.Generator
) -> None:
    """Fills the topic ``rows`` bit by bit while runs of the pipeline begin, commit, and die; then runs it to the end."""
    topic = log["rows"]
    left = {number: part for number, part in enumerate(parts) if part.height}
    while left:
        number = int(chance.choice(sorted(left)))
        size = int(chance.integers(1, 40))
        topic.append(left[number].head(size), partition=number)
        left[number] = left[number].slice(size)
        if not left[number].height:
            del left[number]
        if chance.random() < 0.5:
            continue
        run = one_run(log, made, int(chance.integers(1, 30)))
        for _ in range(int(chance.integers(0, 12))):
            run.step()
            if chance.random() < 0.4:
                run.commit("running")
            elif run.commit_done or chance.random() < 0.3:
                run.begin_commit()
        # The run is dropped here: what it did since its last commit never happened.
        run.close()
    topic.end()
    mamba.run(made, log)


def check_crashing(
    parts: Sequence[pl.DataFrame],
    build: Callable[[mamba.Stream], mamba.Stream],
    key: Sequence[str],
    expected: pl.DataFrame,
    seed: int,
    lateness: str = "10000d",
) -> None:
    """A changelog that is written to a topic by runs that crash amounts to the table, and so does what is collected."""
    with memory_log() as log:
        log.create_topic("rows", parts[0].schema, partitions=len(parts), time="ts")
        table = build(mamba.stream("rows", lateness=lateness))
        made = mamba.pipeline("job", table.to("out"))
        crashed_and_resumed(log, parts, made, np.random.default_rng(seed))
        same(replayed(log["out"].scan().collect(), key), expected)
        same(table.collect(log), expected)
        if key:
            same(mamba.stream("out").table(key).collect(log), expected)


def in_stream_order(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The rows of partitions by time, partition and offset."""
    rows = [part.with_row_index("o").with_columns(p=pl.lit(number)) for number, part in enumerate(parts)]
    return pl.concat(rows).sort("ts", "p", "o").drop("p", "o")
