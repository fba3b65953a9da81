"""Joins in plain Python, pair by pair: what the engine must agree with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.runtime.model import Row

Pair = tuple[Row | None, Row | None]


@dataclass(frozen=True)
class Placed:
    """A row that came in time, with where it came from."""

    row: Row
    partition: int
    offset: int

    @property
    def time(self) -> int:
        assert self.row.time is not None
        return self.row.time


@dataclass
class Judged:
    """The rows of a side: those in time, and the late ones with how many seconds of lateness they lacked."""

    on_time: list[Placed] = field(default_factory=list)
    late: list[tuple[Row, int]] = field(default_factory=list)


def judged(partitions: list[list[Row]], lateness: int) -> Judged:
    """Judges every row against the greatest time of the rows before it in its own partition."""
    found = Judged()
    for partition, rows in enumerate(partitions):
        greatest = None
        for offset, row in enumerate(rows):
            if row.time is None:
                continue
            if greatest is not None and row.time < greatest - lateness:
                found.late.append((row, greatest - lateness - row.time))
            else:
                found.on_time.append(Placed(row, partition, offset))
            greatest = row.time if greatest is None else max(greatest, row.time)
    return found


def joined(
    left: list[Placed], right: list[Placed], how: str, meets: Callable[[Row, Row], bool]
) -> list[tuple[Placed | None, Placed | None]]:
    """The pairs of a join; ``None`` for the side that has no row."""
    pairs = [
        (one, other)
        for one in left
        for other in right
        if one.row.key is not None and one.row.key == other.row.key and meets(one.row, other.row)
    ]
    met_left, met_right = {id(one) for one, _ in pairs}, {id(other) for _, other in pairs}
    if how == "semi":
        return [(one, None) for one in left if id(one) in met_left]
    alone_left = [(one, None) for one in left if id(one) not in met_left]
    if how == "anti":
        return alone_left
    alone_right = [(None, other) for other in right if id(other) not in met_right]
    return (
        pairs
        + (alone_left if how in ("left", "full") else [])
        + (alone_right if how in ("right", "full") else [])
    )


def in_order(pairs: list[tuple[Placed | None, Placed | None]]) -> list[tuple[Placed | None, Placed | None]]:
    """Pairs in the order of a stream: by the time of the later row, then by where the rows came from."""

    def place(pair: tuple[Placed | None, Placed | None]) -> tuple[object, ...]:
        times = [placed.time for placed in pair if placed is not None]
        origins = [(-1, -1) if placed is None else (placed.partition, placed.offset) for placed in pair]
        return (max(times), *origins)

    return sorted(pairs, key=place)
