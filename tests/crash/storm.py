"""Processes that write to a log, follow it, keep it up and back it up, all at once, until they are killed.

The nursery forks them; ``main`` takes ``KIND DIRECTORY JOURNAL --seed 7 --number 0 [--first 12] [--positions JSON]``.

What a writer writes follows from the seed, its number and the operation's, so that whoever checks knows each row. An
operation is one transaction: some rows to ``plain``, one to ``latest``, of which the latest of each key is kept, and some
to ``short``, of which the first go when there are many.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from mamba_stream.errors import OffsetTrimmed
from mamba_stream.log import Log, open_log
from tests.crash import planting, upkeep_run
from tests.crash.journal import Journal
from tests.crash.workload import durability

PARTITIONS = {"plain": 2, "latest": 2, "short": 1}
PLAIN = {"w": pl.Int64, "n": pl.Int64, "i": pl.Int64, "text": pl.String}
LATEST = {"k": pl.String, "w": pl.Int64, "n": pl.Int64}
ADDED = ("more", "even more")
_KEYS = 6
_AT_ONCE = 4
Row = tuple[Any, ...]


def rows_of(seed: int, writer: int, number: int) -> dict[str, list[Row]]:
    """What an operation appends, by topic."""
    rng = random.Random(f"{seed}/{writer}/{number}")
    plain = [
        (writer, number, i, f"{seed}/{writer}/{number}/{i} " * rng.randrange(6))
        for i in range(rng.randint(1, 5))
    ]
    key = f"{writer}-{rng.randrange(_KEYS)}"
    # One in eight deletes its key.
    latest = (key, None, None) if rng.randrange(8) == 0 else (key, writer, number)
    return {"plain": plain, "latest": [latest], "short": plain[:2]}


def partition_of(number: int) -> int:
    """Where in ``plain`` an operation's rows lie."""
    return number % PARTITIONS["plain"]


def create(log: Log) -> None:
    """Makes the topics, where they are not there yet."""
    log.create_topic("plain", PLAIN, partitions=2, exist_ok=True)
    log.create_topic("latest", LATEST, partitions=2, key="k", compact=True, compact_after="0s", exist_ok=True)
    log.create_topic("short", PLAIN, retention_bytes=20_000, exist_ok=True)


def write(log: Log, journal: Journal, arguments: argparse.Namespace) -> None:
    """Operations from a number on."""
    for number in itertools.count(arguments.first):
        journal.write(k="try", n=number)
        perform(log, journal, arguments.seed, arguments.number, number)


def perform(log: Log, journal: Journal, seed: int, writer: int, number: int) -> None:
    """One of them."""
    wanted = rows_of(seed, writer, number)
    with log.transaction(durability=durability("mixed", seed, writer, number)) as tx:
        for name, rows in wanted.items():
            columns = LATEST if name == "latest" else PLAIN
            frame = pl.DataFrame(rows, schema=columns, orient="row")
            tx.append(name, frame, partition=partition_of(number) if name == "plain" else None)
    ranges = [[topic, p, first, following] for (topic, p), (first, following) in tx.offsets.items()]
    journal.write(k="ack", n=number, lsn=tx.lsn, ranges=ranges)


class Follower:
    """Reads all topics from where it is told, and writes down what it sees."""

    def __init__(self, log: Log, journal: Journal, positions: dict[str, dict[int, int]]) -> None:
        self._log = log
        self._journal = journal
        self._readers = {name: log[name].reader(start=positions[name]) for name in PARTITIONS}

    def follow(self) -> None:
        """For ever."""
        while True:
            lsn = self._log.lsn()
            while self.poll():
                pass
            self._log.wait(lsn, 1.0)

    def poll(self) -> bool:
        """What there is; whether there was anything."""
        found = False
        for name, reader in self._readers.items():
            try:
                batches = reader.poll(max_rows=64)
            except OffsetTrimmed:
                begins = {p: begin for p, (begin, _) in self._log[name].offsets().items()}
                reader.seek({p: max(at, begins[p]) for p, at in reader.positions.items()})
                found = True
                continue
            columns = list(LATEST if name == "latest" else PLAIN)
            for batch in batches:
                rows = pl.DataFrame(batch.data).select(columns).rows()
                place = {"t": name, "p": batch.partition, "next": batch.next_offset}
                self._journal.write(k="saw", **place, o=batch.offsets.tolist(), r=rows)
            found = found or bool(batches)
        return found


def follow(log: Log, journal: Journal, arguments: argparse.Namespace) -> None:
    positions = json.loads(arguments.positions)
    found = {name: {int(p): at for p, at in at_of.items()} for name, at_of in positions.items()}
    Follower(log, journal, found).follow()


def keep(log: Log, journal: Journal, arguments: argparse.Namespace) -> None:
    """Upkeep in pieces of any size, and alterations now and then."""
    for module, sizes in upkeep_run.small().items():
        for name, value in sizes.items():
            setattr(module, name, value)
    rng = random.Random(f"{arguments.seed}/{arguments.number}/{arguments.first}")
    while True:
        log.maintain(rng.choice([0, 2_000, 10_000, 100_000, None]))
        if rng.randrange(6) == 0:
            log.alter_topic("plain", add={rng.choice(ADDED): pl.Int64})
        if rng.randrange(4) == 0:
            assert log.scrub(20_000).findings == ()
        journal.write(k="kept")
        log.wait(log.lsn(), 0.02)


def back_up(log: Log, journal: Journal, arguments: argparse.Namespace) -> None:
    """One backup after the other."""
    while True:
        journal.write(k="backup", lsn=log.backup(upkeep_run.kept(log.path)).lsn)
        log.wait(log.lsn(), 0.1)


_KINDS: dict[str, Callable[[Log, Journal, argparse.Namespace], None]] = {
    "writer": write,
    "follower": follow,
    "keeper": keep,
    "backup": back_up,
}


def main(given: list[str], plant: str = "", pause: Callable[[], None] | None = None) -> int:
    """As the arguments say, until it is killed; an error, which there should be none of, ends it with a traceback."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=_KINDS)
    parser.add_argument("directory", type=Path)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--positions")
    arguments = parser.parse_args(given)
    assert pause is None
    planting.tune()
    upkeep_run.plant(plant)
    journal = Journal(arguments.journal, arguments.number)
    with open_log(arguments.directory) as log:
        _KINDS[arguments.kind](log, journal, arguments)
    return 0
