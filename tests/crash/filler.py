"""A process that appends to a log whose disk is small, as it is told on its standard input.

    python -m tests.crash.filler LOG SHAPE [FIRST]

``fill`` appends until the disk is full, ``try N`` makes so many attempts whatever comes of them. What was
acknowledged goes to standard output at once, a line each; every command, and opening the log, ends with a line
``over`` that holds what errors there were.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lmdb

from mamba_stream.errors import DiskFull, MambaStreamError
from mamba_stream.log import Log, open_log

TOPICS = ("a", "b", "c")
SCHEMA = {"n": int, "body": bytes}
PARTITIONS = 2
STATE = "state"
MAP_SIZE = 4 << 20

SHAPES = {"large": (150_000, 0), "tiny": (0, 0), "records": (0, 40), "both": (3_000, 2)}
"""Bytes in a row, and records of nearly two kilobytes beside it: what fills the disk is the file or the index."""


def body(shape: str, number: int, topic: str) -> bytes:
    """What the row of this number holds in this topic."""
    return random.Random(f"{number} {topic}").randbytes(SHAPES[shape][0])


def record(number: int) -> bytes:
    return number.to_bytes(4, "big") * 475


class Filler:
    """Appends transactions over several topics, numbered."""

    def __init__(self, log: Log, shape: str, first: int) -> None:
        self._log = log
        self._shape = shape
        self._number = first

    def attempt(self) -> None:
        """Tries the next transaction; a number is used once, whether it is acknowledged or not."""
        number = self._number
        self._number += 1
        with self._log.transaction() as tx:
            for topic in TOPICS:
                row = {"n": number, "body": body(self._shape, number, topic)}
                tx.append(topic, [row], partition=number % PARTITIONS)
            for at in range(SHAPES[self._shape][1]):
                tx.put_record(STATE, f"{number}-{at}", record(number))
            tx.put_record(STATE, "last", str(number).encode())
        ranges = [[topic, p, first] for (topic, p), (first, _) in tx.offsets.items()]
        say(ack=number, ranges=ranges)

    def fill(self) -> dict[str, Any]:
        while True:
            try:
                self.attempt()
            except DiskFull as error:
                return seen(error)

    def attempts(self, count: int) -> dict[str, int]:
        found: Counter[str] = Counter()
        for _ in range(count):
            try:
                self.attempt()
            except MambaStreamError as error:
                found[type(error).__name__] += 1
        return dict(found)


def seen(error: MambaStreamError) -> dict[str, Any]:
    """An error as the parent looks at it; ``index`` where it was LMDB that found no room."""
    return {
        "type": type(error).__name__,
        "text": str(error),
        "index": isinstance(error.__cause__, lmdb.Error),
    }


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def main(path: str, shape: str, first: str = "0") -> None:
    """Does what standard input says, until it ends."""
    try:
        log = open_log(Path(path), map_size=MAP_SIZE)
    except MambaStreamError as error:
        say(over=seen(error))
        return
    with log:
        for topic in TOPICS:
            log.create_topic(topic, SCHEMA, partitions=PARTITIONS, exist_ok=True)
        filler = Filler(log, shape, int(first))
        say(over=None)
        for line in sys.stdin:
            command, *numbers = line.split()
            if command == "fill":
                say(over=filler.fill())
            else:
                say(over=filler.attempts(int(numbers[0])))


if __name__ == "__main__":
    main(*sys.argv[1:])
