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
import contextlib
import math
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

import mamba_stream as mamba
from mamba_stream.cli.bench.measuring import (
    Figure,
    Pair,
    environment,
    in_turns,
    middle,
    per_second,
    seconds,
    show,
)
from mamba_stream.log import rows
from mamba_stream.log.ledger import Ledger
from mamba_stream.log.store import Store
from mamba_stream.log.views import Draft

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
_ROWS = 65_536
_TIMES = 48
_SMALL_TIMES = 4_000
_THREADS = 16
_TOPICS = 10_000
_APPENDS = 5_000
_BACKLOG = 2_000


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


def _rows(count: int, seed: int = 0) -> pa.RecordBatch:
    random = np.random.default_rng(seed)
    return pa.record_batch(
        {
            "time": pa.array(np.arange(count) * 1_000, pa.timestamp("us")),
            "key": pa.array(random.integers(0, 10_000, count)),
            "price": pa.array(random.random(count)),
            "amount": pa.array(random.random(count)),
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
    """Appends of a hundred rows, which wait for no disk: by one thread, and by several of one process together."""
    batch = _rows(100)
    raw = bytes(batch.serialize())
    where.mkdir()
    with mamba.open(where / "log", durability="os") as log, (where / "plain").open("wb", buffering=0) as file:
        topic = log.create_topic("t", batch.schema, time="time")

        def ours() -> float:
            rate = per_second(lambda: topic.append(batch), _SMALL_TIMES)
            log.flush()
            return rate

        def together() -> float:
            def some() -> None:
                for _ in range(_SMALL_TIMES // _THREADS):
                    topic.append(batch)

            threads = [threading.Thread(target=some) for _ in range(_THREADS)]
            begun = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rate = _SMALL_TIMES / (time.perf_counter() - begun)
            log.flush()
            return rate

        def plain() -> float:
            return per_second(lambda: os.write(file.fileno(), raw), _SMALL_TIMES)

        for who, measured, target in (
            ("one thread", ours, None),
            (f"{_THREADS} threads of a process", together, 20_000),
        ):
            pair = in_turns(measured, plain)
            yield Figure(
                f"appends of 100 rows at durability os by {who}",
                f"{middle(pair.ours):,.0f}/s, each has survived the death of the process when it returns",
                f"os.write of the same bytes {middle(pair.limit):,.0f}/s",
                middle(pair.ours),
                target,
                unit="/s",
            )


def _rate(rates: list[float], size: int) -> str:
    return f"{middle(rates):,.0f}/s, {middle(rates) * size / 1e6:,.0f} MB/s"


# -- size --------------------------------------------------------------------------------------------------------------


_OPEN = """
import sys, time
from mamba_stream.log import open_log
start = time.perf_counter()
log = open_log(sys.argv[1])
names = log.topics()
log[names[-1]].offsets()
print(len(names), time.perf_counter() - start)
"""


def _opened(where: Path, topics: int) -> list[float]:
    """Seconds in which processes that have just begun open a log and list its topics."""
    found = []
    for _ in range(5):
        said = subprocess.run(
            [sys.executable, "-c", _OPEN, str(where)],
            check=True,
            capture_output=True,
            text=True,
            env=environment(),
        ).stdout.split()
        assert said[0] == str(topics)
        found.append(float(said[1]))
    return found


def _topics(where: Path) -> Iterator[Figure]:
    """A log of ten thousand topics, opened by a process that has just begun."""
    batch = _rows(1)
    with mamba.open(where) as log:
        for number in range(_TOPICS):
            log.create_topic(f"topic-{number:05}", batch.schema)
    found = _opened(where, _TOPICS)
    yield Figure(
        f"opening a log of {_TOPICS:,} topics, and listing them",
        f"{middle(found):.3f} s",
        f"{min(found):.3f} to {max(found):.3f} s",
        middle(found),
        2.0,
        at_least=False,
        unit=" s",
    )


def _index(where: Path) -> Iterator[Figure]:
    """An index as that of a terabyte in batches of 64 KB; the batches themselves are not there."""
    entries = 16_000_000
    with mamba.open(where) as log:
        log.create_topic("t", _rows(1).schema, time="time")
        _fill_index(log, "t", entries)
        size = log.statistics().index_bytes
    found = _opened(where, 1)
    yield Figure(
        f"opening a log of {entries:,} batches (a terabyte of 64 KB each)",
        f"{middle(found) * 1e3:.1f} ms",
        f"{min(found) * 1e3:.1f} to {max(found) * 1e3:.1f} ms",
        middle(found) * 1e3,
        200,
        at_least=False,
        unit=" ms",
    )
    yield Figure(
        "what its index takes on the disk",
        f"{size / 1e9:.2f} GB",
        f"{size / entries:.0f} bytes a batch",
        size / 1e9,
        2.0,
        at_least=False,
        unit=" GB",
    )


def _deletion(where: Path) -> Iterator[Figure]:
    """Deleting a topic of a million batches: how long whoever appends waits for that, and for what upkeep does then."""
    # What a busy disk takes to sync is not what is measured.
    entries, batch = 1_000_000, _rows(10)
    where = Path(tempfile.mkdtemp(prefix="mamba-stream-bench-", dir=MEMORY or where.parent))
    with contextlib.ExitStack() as left:
        left.callback(shutil.rmtree, where)
        log = left.enter_context(mamba.open(where, durability="os"))
        log.create_topic("large", batch.schema, time="time")
        other = log.create_topic("t", batch.schema, time="time")
        _fill_index(log, "large", entries)
        deleted = seconds(lambda: log.delete_topic("large"))
        keeper = threading.Thread(target=log.maintain)
        keeper.start()
        waits = []
        while keeper.is_alive():
            waits.append(seconds(lambda: other.append(batch)))
    yield Figure(
        f"deleting a topic of {entries:,} batches",
        f"{deleted * 1e3:.0f} ms",
        f"meanwhile, and while the rest of it goes, an append takes up to {max(waits) * 1e3:.0f} ms",
        deleted,
        1.0,
        at_least=False,
        unit=" s",
    )


_AT_ONCE = 200_000


def _fill_index(log: mamba.Log, topic: str, entries: int) -> None:
    """Entries for so many batches, which are not there."""
    store = log._store
    assert isinstance(store, Store)
    row = store.topic(topic)
    assert row is not None
    for begin in range(0, entries, _AT_ONCE):
        store.index.update(partial(_enter, topic=row.id, schema=row.schema, begin=begin))


def _enter(draft: Draft, topic: int, schema: int, begin: int) -> None:
    """Entries of a row each, as if so many batches had been appended."""
    ledger = Ledger(draft, 0)
    head = ledger.head(topic, 0)
    assert head is not None
    chain = head.chain
    for offset in range(begin, begin + _AT_ONCE):
        entry = rows.Entry(
            1, 65_536 * offset, 65_536, 1, 1, offset, offset, offset, offset, schema, offset, rows.HAS_TIME
        )
        key, value = rows.entry_key(topic, 0, offset), entry.pack()
        ledger.put(key, value)
        chain = (chain + rows.entry_hash(key, value)) % (1 << 64)
    end = begin + _AT_ONCE
    ledger.set_head(topic, 0, rows.Head(0, end, end, chain, end, 65_536 * end, end - 1, end - 1))
    ledger.flush()


# -- what is written anew ----------------------------------------------------------------------------------------------


def _upkeep(where: Path) -> Iterator[Figure]:
    """Sealing, merging and compaction, where no disk is the limit, beside a copy of the same bytes in memory."""
    where = Path(tempfile.mkdtemp(prefix="mamba-stream-bench-", dir=MEMORY)) if MEMORY else where
    try:
        for name, rows_each, batches, settings in (
            ("sealing batches of 64k rows", _ROWS, 128, {}),
            ("merging batches of 1,000 rows", 1_000, 4_000, {}),
            ("merging batches of 100 rows", 100, 10_000, {}),
            (
                "compacting to 10,000 keys of 8 million rows",
                _ROWS,
                128,
                {"key": "key", "compact": True, "compact_after": "0s"},
            ),
        ):
            yield _anew(where / "anew", name, rows_each, batches, settings)
        yield _copied(where)
        yield _merged(where / "merged")
        yield from _beside(where / "beside")
    finally:
        if MEMORY:
            shutil.rmtree(where)


def _anew(where: Path, name: str, rows_each: int, batches: int, settings: dict[str, Any]) -> Figure:
    taken, copied = [], []
    for number in range(3):
        with mamba.open(where / str(number), durability="os") as log:
            topic = log.create_topic("t", _rows(1).schema, time="time", **settings)
            for seed in range(batches):
                topic.append(_rows(rows_each, seed))
            if settings:
                # What is compacted was sealed before: that is measured by itself.
                log.seal()
            size = sum(topic.sizes().values())
            begun = time.perf_counter()
            while not log.maintain().done:
                pass
            taken.append(size / (time.perf_counter() - begun))
        block = np.ones(size, np.uint8)
        begun = time.perf_counter()
        block.copy()
        copied.append(size / (time.perf_counter() - begun))
        shutil.rmtree(where / str(number))
    pair = Pair(taken, copied)
    return Figure(
        name,
        f"{middle(taken) / 1e6:,.0f} MB/s",
        f"a copy in memory {middle(copied) / 1e6:,.0f} MB/s",
        pair.ratio,
        0.3,
        spread=pair.spread,
    )


def _copied(where: Path) -> Figure:
    """What the system itself takes to copy a file of the same size, there where segments are written."""
    block = np.ones(_ROWS * 32 * 64, np.uint8)
    source, target = where / "source", where / "target"
    source.write_bytes(block)

    def ours() -> float:
        found = block.nbytes / seconds(lambda: shutil.copyfile(source, target))
        target.unlink()
        return found

    pair = in_turns(ours, lambda: block.nbytes / seconds(block.copy), rounds=5)
    source.unlink()
    return Figure(
        "for comparison: a copy of a file, by the system",
        f"{middle(pair.ours) / 1e6:,.0f} MB/s",
        f"a copy in memory {middle(pair.limit) / 1e6:,.0f} MB/s",
        pair.ratio,
        None,
        spread=pair.spread,
    )


def _merged(where: Path) -> Figure:
    """A log that is sealed after every few rows: how often each byte is written anew, and how many files are left."""
    batch, sealed = _rows(2_000), 300
    with mamba.open(where, durability="os") as log:
        topic = log.create_topic("t", batch.schema, time="time")
        written = most = 0
        for _ in range(sealed):
            topic.append(batch)
            written += log.maintain().written_bytes
            most = max(most, log.statistics().segments)
        size = sum(topic.sizes().values())
    return Figure(
        f"bytes that are written anew, for each that is appended to a log that is sealed {sealed} times",
        f"{written / size:.1f}; at most {most} segments",
        f"{sealed} segments, and 1, without merging",
        written / size,
        2 + math.log(sealed, 4),
        at_least=False,
    )


def _beside(where: Path) -> Iterator[Figure]:
    """Appends at durability os while somebody does upkeep of a backlog, a budget at a time, and while nobody does."""
    batch = _rows(1_000)
    with mamba.open(where, durability="os") as log:
        topic = log.create_topic("t", batch.schema, time="time")
        other = log.create_topic("other", batch.schema, time="time")

        def alone() -> float:
            return per_second(lambda: topic.append(batch), _APPENDS)

        def left_behind() -> None:
            while not log.maintain().done:
                # What was left by the last round.
                pass
            for _ in range(_BACKLOG):
                other.append(batch)
            store = log._store
            assert isinstance(store, Store)
            store.committer.roll()

        def by_a_process() -> float:
            left_behind()
            keeper = subprocess.Popen(
                [sys.executable, "-c", _KEEP, str(where)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(),
            )
            assert keeper.stdin is not None
            assert keeper.stdout is not None
            keeper.stdout.readline()
            rate = alone()
            keeper.stdin.close()
            keeper.wait()
            return rate

        def by_a_thread() -> float:
            left_behind()
            over = threading.Event()

            def keep() -> None:
                while not over.wait(0.1):
                    log.maintain(budget="16MB")

            keeper = threading.Thread(target=keep)
            keeper.start()
            rate = alone()
            over.set()
            keeper.join()
            return rate

        for who, kept in (("another process", by_a_process), ("a thread of the process", by_a_thread)):
            pair = in_turns(kept, alone, rounds=3)
            yield Figure(
                f"appends of 1,000 rows while {who} keeps the log",
                f"{middle(pair.ours):,.0f}/s",
                f"alone {middle(pair.limit):,.0f}/s",
                pair.ratio,
                0.7,
                spread=pair.spread,
            )


_KEEP = """
import sys, threading
import mamba_stream as mamba
log = mamba.open(sys.argv[1])
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
print("keeping", flush=True)
while not over.is_set():
    log.maintain(budget="16MB")
    over.wait(0.1)
"""


def _backup(where: Path) -> Iterator[Figure]:
    """A second backup, of a log of which a hundredth is new."""
    with mamba.open(where / "log", durability="os") as log:
        topic = log.create_topic("t", _rows(1).schema, time="time")
        for seed in range(100):
            topic.append(_rows(_ROWS, seed))
        first = log.backup(where / "backups")
        topic.append(_rows(_ROWS, 100))
        second = log.backup(where / "backups")
    yield Figure(
        "a backup of a log of which a hundredth is new, as a share of what the first one copied",
        f"{second.copied:,} bytes",
        f"the first one {first.copied:,} bytes",
        second.copied / first.copied,
        0.02,
        at_least=False,
    )


_PARTS = {
    "levels": _levels,
    "small": _small,
    "topics": _topics,
    "index": _index,
    "deletion": _deletion,
    "upkeep": _upkeep,
    "backup": _backup,
}


if __name__ == "__main__":
    sys.exit(main())
