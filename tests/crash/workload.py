"""What a process does to a log in the crash tests: each operation follows from (seed, writer, number) alone.

So whoever knows the seed knows every row that may ever be in the log, without having been told: the checker
compares what it reads with this, and needs from the process only what was tried and what was acknowledged.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from mamba_stream.core.durability import Durability, check_durability

SCHEMA = pa.schema(
    [
        ("writer", pa.int64()),
        ("number", pa.int64()),
        ("part", pa.int64()),
        ("row", pa.int64()),
        ("text", pa.large_string()),
        ("value", pa.float64()),
        ("ts", pa.timestamp("us")),
    ]
)

SHARED = "shared"
WIDE = "wide"
KEYED = "keyed"
PARTITIONS = {SHARED: 1, WIDE: 3, KEYED: 3}
STATE = "state"
"""The namespace of the record in which every transaction of a writer leaves its number."""

Row = tuple[int, int, int, int, str | None, float, int]


@dataclass(frozen=True)
class Part:
    """Rows for one topic; ``partition`` is ``None`` where the key decides."""

    index: int
    topic: str
    partition: int | None
    rows: int


@dataclass(frozen=True)
class Operation:
    """One step of a writer.

    ``kind`` is ``append``, ``idempotent``, ``transaction``, ``trim``, ``seal``, ``reopen``, ``temporary`` (a
    topic comes and goes), ``refused`` (a precondition does not hold), ``abort`` or ``alter`` (a topic gets a column,
    and rows that have it).
    """

    writer: int
    number: int
    kind: str
    parts: tuple[Part, ...] = ()
    trims: bool = False
    fraction: float = 0.0

    @property
    def vanishes(self) -> bool:
        """Whether none of its rows may ever be seen."""
        return self.kind in ("refused", "abort")


KINDS = {
    "append": 10,
    "idempotent": 6,
    "transaction": 8,
    "trim": 2,
    "seal": 1,
    "reopen": 1,
    "temporary": 1,
    "refused": 1,
    "abort": 1,
    "alter": 1,
}


def own(writer: int) -> str:
    """The topic that only this writer appends to, and trims."""
    return f"own-{writer}"


def inner(writer: int) -> str:
    """The same among the internal topics, whose rows lie in files of their own."""
    return f"_inner-{writer}"


def added(op: Operation) -> str | None:
    """The column that an alteration adds, where it is not there yet; in its rows it is the number of the row."""
    return f"more{op.number % 8}" if op.kind == "alter" else None


def partitions(topic: str) -> int:
    return PARTITIONS.get(topic, 1 if topic.startswith("_") else 2)


@lru_cache(maxsize=1 << 16)
def operation(seed: int, writer: int, number: int, kinds: tuple[str, ...] = tuple(KINDS)) -> Operation:
    """The operation of this number."""
    rng = random.Random(f"{seed}/{writer}/{number}")
    kind = rng.choices(kinds, [KINDS[kind] for kind in kinds])[0]
    return _operation(rng, writer, number, kind)


def durability(asked: str, seed: int, writer: int, number: int) -> Durability:
    """How durable the operation of this number is: as was asked for, or now this way and now that if it was ``mixed``."""
    if asked != "mixed":
        return check_durability(asked)
    # Few that wait for the disk: each of them takes all before it along.
    return random.Random(f"{seed}/{writer}/{number}/durability").choice(["commit", *["interval", "os"] * 3])  # type: ignore[return-value]


@lru_cache(maxsize=1 << 16)
def scripted(seed: int, writer: int, number: int, script: tuple[str, ...]) -> Operation:
    """The operation of this number where the kinds are given in order, again and again."""
    return _operation(
        random.Random(f"{seed}/{writer}/{number}"), writer, number, script[number % len(script)]
    )


def _operation(rng: random.Random, writer: int, number: int, kind: str) -> Operation:
    fraction = rng.random() * 0.5
    if kind in ("append", "abort", "temporary"):
        return Operation(writer, number, kind, (_part(rng, writer, 0, rng.choice((1, 3, 20, 20, 400))),))
    if kind == "idempotent":
        # The key would be as good; a fixed place makes the producer's sequence easy to follow.
        return Operation(writer, number, kind, (Part(0, WIDE, rng.randrange(3), rng.randint(1, 8)),))
    if kind in ("transaction", "refused"):
        count = rng.randint(2, 6)
        parts = tuple(_part(rng, writer, index, rng.randint(1, 12)) for index in range(count))
        return Operation(
            writer,
            number,
            kind,
            parts,
            trims=rng.random() < 0.25 and kind == "transaction",
            fraction=fraction,
        )
    if kind == "alter":
        part = Part(0, own(writer), rng.randrange(partitions(own(writer))), rng.randint(1, 8))
        return Operation(writer, number, kind, (part,))
    return Operation(writer, number, kind, trims=kind == "trim", fraction=fraction)


def _part(rng: random.Random, writer: int, index: int, rows: int) -> Part:
    topic = rng.choice((SHARED, WIDE, KEYED, own(writer), inner(writer)))
    return Part(index, topic, None if topic == KEYED else rng.randrange(partitions(topic)), rows)


@lru_cache(maxsize=1 << 14)
def rows_of(seed: int, writer: int, number: int, part: int, count: int) -> tuple[Row, ...]:
    """The rows of a part, as tuples in the order of the schema."""
    digest = hashlib.blake2b(f"{seed}/{writer}/{number}/{part}".encode(), digest_size=16).hexdigest()
    return tuple(
        (
            writer,
            number,
            part,
            row,
            None if (number + row) % 7 == 3 else digest * ((number + row) % 4) + str(row),
            (number * 1000 + row) / 8,
            # A little out of order, as times are.
            (number * 10 - (row * 7919) % 50) * 1_000_000,
        )
        for row in range(count)
    )


def table_of(seed: int, op: Operation, part: Part) -> pa.Table:
    """The rows of a part as a table."""
    columns = list(zip(*rows_of(seed, op.writer, op.number, part.index, part.rows), strict=True))
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
