"""Measures the upkeep of a log: ``python benchmarks/log.py``, each number beside what it is held against.

What ``mamba-stream bench log`` measures of appends, scans and waking at durability ``commit`` is not repeated here.
"""

from __future__ import annotations

import sys
from pathlib import Path

if sys.path and Path(sys.path[0]).name == "benchmarks":
    # A module of the standard library has the name of one beside this.
    sys.path[0] = str(Path(sys.path[0]).parent)

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

import mamba_stream as mamba
from mamba_stream.cli.bench.measuring import (
    Figure,
    environment,
    in_turns,
    middle,
    per_second,
    show,
)

_ROWS = 65_536
_TIMES = 48
_SMALL_TIMES = 4_000
_TOPICS = 10_000


def main() -> int:
    """Measures all, or the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(_PARTS)}; all if none is named")
    parser.add_argument(
        "--directory", type=Path, help="where to measure; the system's place for temporary files"
    )
    asked = parser.parse_args()
    where = Path(tempfile.mkdtemp(prefix="mamba-stream-bench-", dir=asked.directory))
    try:
        figures = (figure for part in asked.parts or list(_PARTS) for figure in _PARTS[part](where / part))
        return 0 if show(f"upkeep of a log, on {where.parent}", figures) else 1
    finally:
        shutil.rmtree(where)


def _rows(rows: int, seed: int = 0) -> pa.RecordBatch:
    random = np.random.default_rng(seed)
    return pa.record_batch(
        {
            "time": pa.array(np.arange(rows) * 1_000, pa.timestamp("us")),
            "key": pa.array(random.integers(0, 10_000, rows)),
            "price": pa.array(random.random(rows)),
            "amount": pa.array(random.random(rows)),
        }
    )


# -- levels of durability ----------------------------------------------------------------------------------------------


def _levels(where: Path) -> Iterator[Figure]:
    """Large batches at the levels that do not wait for the disk; what is written is synced between rounds."""
    batch = _rows(_ROWS)
    raw = bytes(batch.serialize())
    where.mkdir()
    with mamba.open(where / "log") as log, (where / "plain").open("wb", buffering=0) as file:
        topic = log.create_topic("t", batch.schema, time="time")

        def ours(durability: str) -> float:
            rate = per_second(lambda: topic.append(batch, durability=durability), _TIMES)  # type: ignore[arg-type]
            log.flush()
            return rate

        def plain() -> float:
            # The file grows, as a log does: pages that were just let go of are quickly had again.
            rate = per_second(lambda: os.write(file.fileno(), raw), _TIMES)
            os.fdatasync(file.fileno())
            return rate

        pair = in_turns(lambda: ours("os"), plain)
        yield Figure(
            f"append of 64k-row batches ({len(raw):,} bytes each) at durability os",
            _rate(pair.ours, len(raw)),
            f"os.write of the same bytes {_rate(pair.limit, len(raw))}",
            pair.ratio,
            0.5,
            spread=pair.spread,
        )
        pair = in_turns(lambda: ours("interval"), lambda: ours("os"))
        yield Figure(
            "the same at durability interval",
            _rate(pair.ours, len(raw)),
            f"at os {_rate(pair.limit, len(raw))}",
            pair.ratio,
            0.9,
            spread=pair.spread,
        )


def _small(where: Path) -> Iterator[Figure]:
    """Appends of a hundred rows by one thread, which wait for no disk."""
    batch = _rows(100)
    raw = bytes(batch.serialize())
    where.mkdir()
    with mamba.open(where / "log", durability="os") as log, (where / "plain").open("wb", buffering=0) as file:
        topic = log.create_topic("t", batch.schema, time="time")

        def ours() -> float:
            rate = per_second(lambda: topic.append(batch), _SMALL_TIMES)
            log.flush()
            return rate

        pair = in_turns(ours, lambda: per_second(lambda: os.write(file.fileno(), raw), _SMALL_TIMES))
        yield Figure(
            "appends of 100 rows at durability os",
            f"{middle(pair.ours):,.0f}/s, each a commit of its own that survives the death of the process",
            f"os.write of the same bytes {middle(pair.limit):,.0f}/s",
            middle(pair.ours),
            20_000,
            unit="/s",
        )


def _rate(rates: list[float], size: int) -> str:
    return f"{middle(rates):,.0f}/s, {middle(rates) * size / 1e6:,.0f} MB/s"


# -- size --------------------------------------------------------------------------------------------------------------


_OPEN = """
import sys, time
import mamba_stream as mamba
start = time.perf_counter()
log = mamba.open(sys.argv[1])
names = log.topics()
log[names[-1]].offsets()
print(len(names), time.perf_counter() - start)
"""


def _topics(where: Path) -> Iterator[Figure]:
    """A log of ten thousand topics, opened by a process that has just begun."""
    batch = _rows(1)
    with mamba.open(where) as log:
        for number in range(_TOPICS):
            log.create_topic(f"topic-{number:05}", batch.schema)
    found = []
    for _ in range(5):
        said = subprocess.run(
            [sys.executable, "-c", _OPEN, str(where)],
            check=True,
            capture_output=True,
            text=True,
            env=environment(),
        ).stdout.split()
        assert said[0] == str(_TOPICS)
        found.append(float(said[1]))
    yield Figure(
        f"opening a log of {_TOPICS:,} topics, and listing them",
        f"{middle(found):.3f} s",
        f"{min(found):.3f} to {max(found):.3f} s",
        middle(found),
        2.0,
        at_least=False,
        unit=" s",
    )


_PARTS = {"levels": _levels, "small": _small, "topics": _topics}


if __name__ == "__main__":
    sys.exit(main())
