"""Whether a log holds what the writers of a storm were told, and whether its followers saw that and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from mamba_stream.log import Log, open_log
from tests.crash.storm import LATEST, PARTITIONS, PLAIN, Row, partition_of, rows_of
from tests.log.pictures import unsound

Place = tuple[str, int]
Rows = dict[Place, dict[int, Row]]
"""By topic and partition the rows by offset."""


@dataclass
class Deed:
    """An operation: without an answer, it happened or it did not."""

    lsn: int | None = None
    ranges: dict[Place, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Sky:
    """All that is known of a storm."""

    seed: int
    deeds: dict[tuple[int, int], Deed] = field(default_factory=dict)

    def take(self, events: Iterable[dict[str, Any]]) -> None:
        """Takes in a writer's journal."""
        for event in events:
            if event["k"] == "try":
                self.deeds.setdefault((event["w"], event["n"]), Deed())
            elif event["k"] == "ack":
                ranges = {(t, p): (first, following) for t, p, first, following in event["ranges"]}
                self.deeds[event["w"], event["n"]] = Deed(event["lsn"], ranges)

    def next_number(self, writer: int) -> int:
        return max((number for who, number in self.deeds if who == writer), default=-1) + 1

    def wrong(self, path: Path, until: int | None = None) -> list[str]:
        """What is wrong with a log that nobody writes to; where ``until`` says so, as of that commit."""
        found = [f"doctor: {finding}" for finding in unsound(path)]
        if found:
            return found
        with open_log(path) as log:
            rows, bounds = held(log), {name: log[name].offsets() for name in PARTITIONS}
        for place, there in rows.items():
            begin, end = bounds[place[0]][place[1]]
            if place[0] != "latest" and list(there) != list(range(begin, end)):
                found.append(f"{place}: of the offsets {begin} to {end} there are {len(there)}")
        if bounds["plain"] != {p: (0, end) for p, (_, end) in bounds["plain"].items()}:
            found.append(f"plain begins at {bounds['plain']}")
        found += self.strange(rows)
        found += self._whole(rows, bounds, until)
        return found + self._latest(rows)

    def strange(self, rows: Rows) -> list[str]:
        """Rows that nobody appended, or that lie elsewhere than was said."""
        found = []
        said = {
            (place, offset): (who, offset - first)
            for who, deed in self.deeds.items()
            for place, (first, following) in deed.ranges.items()
            for offset in range(first, following)
        }
        for place, there in rows.items():
            for offset, row in there.items():
                who, at = said.get((place, offset), (None, None))
                if who is None:
                    fits = any(
                        row in rows_of(self.seed, *other)[place[0]]
                        for other in self._named(row)
                        if other in self.deeds and self.deeds[other].lsn is None
                    )
                else:
                    assert at is not None
                    fits = rows_of(self.seed, *who)[place[0]][at] == row
                if not fits:
                    found.append(f"{place} {offset}: {row} is not what was appended there ({who})")
        return found

    def _named(self, row: Row) -> list[tuple[int, int]]:
        """The operations that a row may be of."""
        if isinstance(row[0], int):
            return [(row[0], row[1])]
        if row[1] is not None:
            return [(row[1], row[2])]
        return [who for who, deed in self.deeds.items() if deed.lsn is None]

    def _whole(
        self, rows: Rows, bounds: dict[str, dict[int, tuple[int, int]]], until: int | None
    ) -> list[str]:
        """Every operation is there once and in order, in all topics, or in none."""
        found = []
        at: dict[tuple[int, int], list[int]] = defaultdict(list)
        order: dict[tuple[int, int], int] = {}
        for (topic, p), there in rows.items():
            for offset, row in there.items() if topic == "plain" else ():
                at[row[0], row[1]].append(offset)
                # A writer's rows of a partition follow each other, whoever is in between.
                if order.get((row[0], p), -1) >= row[1] * 10 + row[2]:
                    found.append(f"plain/{p} {offset}: {row[:3]} is twice, or out of order")
                order[row[0], p] = row[1] * 10 + row[2]
        for who, deed in self.deeds.items():
            wanted = rows_of(self.seed, *who)
            there = [rows["plain", partition_of(who[1])][offset] for offset in at.get(who, [])]
            happened = deed.lsn is not None and (until is None or deed.lsn <= until)
            if there != wanted["plain"] if happened or there else there:
                found.append(f"{who} ({deed.lsn}): {len(there)} of {len(wanted['plain'])} rows")
            if there and not happened and deed.lsn is not None:
                found.append(f"{who} came at {deed.lsn}, and the log is at {until}")
            if happened:
                for (topic, p), (_, following) in deed.ranges.items():
                    if following > bounds[topic][p][1]:
                        found.append(f"{who}: {topic}/{p} ends before {following}")
        return found + [
            f"{who}: only its rows in short are there"
            for who in sorted({row[:2] for row in rows["short", 0].values()} - at.keys())
        ]

    def _latest(self, rows: Rows) -> list[str]:
        """Of every key the latest row is there, and none without those behind it."""
        found = []
        seen = tables(rows)
        ends = {p: max(rows["plain", p], default=-1) for p in range(PARTITIONS["plain"])}
        for who, deed in self.deeds.items():
            home = partition_of(who[1])
            if not deed.ranges or deed.ranges["plain", home][0] > ends[home]:
                # It came after the commit that this is of.
                continue
            [(p, first)] = [(p, first) for (topic, p), (first, _) in deed.ranges.items() if topic == "latest"]
            [(key, *_)] = rows_of(self.seed, *who)["latest"]
            if seen.get(key, (-1,))[0] < first:
                found.append(f"latest/{p}: {key} of offset {first} is lost, {seen.get(key)} is there")
        return found


def tables(rows: Rows) -> dict[str, tuple[int, Row]]:
    """What ``latest`` folds to: of each key the last offset and row."""
    found: dict[str, tuple[int, Row]] = {}
    for (topic, _), there in rows.items():
        for offset, row in sorted(there.items()) if topic == "latest" else ():
            found[row[0]] = offset, row
    return found


def held(log: Log) -> Rows:
    """What a log holds."""
    found: Rows = {(name, p): {} for name, count in PARTITIONS.items() for p in range(count)}
    for name in PARTITIONS:
        for batch in log[name].read():
            frame = pl.DataFrame(batch.data).select(list(LATEST if name == "latest" else PLAIN))
            found[name, batch.partition].update(zip(batch.offsets.tolist(), frame.rows(), strict=True))
    return found


class Seen:
    """What the lives of one follower saw, one after the other."""

    def __init__(self) -> None:
        self.rows: Rows = {(name, p): {} for name, count in PARTITIONS.items() for p in range(count)}
        self.positions = {name: dict.fromkeys(range(count), 0) for name, count in PARTITIONS.items()}
        self.wrong: list[str] = []

    def take(self, events: Iterable[dict[str, Any]]) -> None:
        """Takes in one life, which began at these positions."""
        for event in events:
            if event["k"] != "saw":
                continue
            place = event["t"], event["p"]
            for offset, row in zip(event["o"], event["r"], strict=True):
                expected = self.positions[event["t"]][event["p"]]
                if offset < expected or (event["t"] == "plain" and offset != expected):
                    self.wrong.append(f"{place}: offset {offset} came where {expected} was next")
                self.rows[place][offset] = tuple(row)
                self.positions[event["t"]][event["p"]] = offset + 1
            self.positions[event["t"]][event["p"]] = event["next"]

    def against(self, log: Log, sky: Sky) -> list[str]:
        """What it saw that it should not have seen, or did not, once it is at the end of a log."""
        now = held(log)
        found = [*self.wrong, *sky.strange(self.rows)]
        for place, there in now.items():
            seen = self.rows[place]
            if place[0] == "plain" and seen != there:
                found.append(f"{place}: {len(seen)} rows were seen, {len(there)} are there")
            other = [offset for offset, row in there.items() if seen.get(offset, row) != row]
            if other:
                found.append(f"{place}: other rows were seen at {other[:5]}")
        if tables(self.rows) != tables(now):
            found.append("what was seen of latest folds to another table")
        return found
