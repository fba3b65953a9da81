"""A group whose consumers are killed, stopped, sent away and started at random loses nothing and comes to rest."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.log.doctor import examine
from mamba_stream.messaging.members import CLIENTS, alive
from mamba_stream.messaging.schema import MESSAGES
from tests.crash.crowd import Crowd
from tests.messaging.receiving import messages

_PARTITIONS = 8
_CREW = 3


class Appender(threading.Thread):
    """Appends a few messages at a time, here and there, until it is told to end."""

    def __init__(self, log: mamba.Log, seed: int) -> None:
        super().__init__()
        self._topic = log["work"]
        self._random = random.Random(seed)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.01):
            partition = self._random.randrange(_PARTITIONS)
            rows = self._random.randint(1, 4 if partition == 0 else 40)
            self._topic.append(messages(range(rows)), partition=partition)

    def finish(self) -> None:
        self._over.set()
        self.join()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kills", [pytest.param(4, id="4"), pytest.param(80, id="80", marks=pytest.mark.slow)]
)
def test_a_rebalance_storm_loses_nothing_and_comes_to_rest(
    tmp_path: Path, environment: dict[str, str], seed: int, kills: int
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "log"
    with mamba.open(path) as log:
        log.create_topic("work", MESSAGES, partitions=_PARTITIONS)
        out = log.create_topic("out", {"offset": pl.Int64})
        appender, crew = Appender(log, seed), Crowd("tests.crash.group_member", path, tmp_path, environment)
        appender.start()
        try:
            for _ in range(kills):
                while len(crew.there) < _CREW:
                    crew.begin()
                goal = lines(crew) + chance.randint(1, 300)
                crew.wait_for(lambda goal=goal: lines(crew) >= goal)
                victim = chance.choice(crew.there)
                how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
                if how == signal.SIGSTOP:
                    # Longer than its lease: the others go on without it, and it comes back.
                    victim.send_signal(how)
                    time.sleep(1.2)
                    victim.send_signal(signal.SIGCONT)
                else:
                    crew.wait_for(lambda: crew.journals[-1].exists() or len(crew.journals) < _CREW)
                    if how == signal.SIGTERM and not crew.begun(victim):
                        how = signal.SIGKILL
                    crew.remove(victim, how)
            appender.finish()
            ends = {("work", p): end for p, (_, end) in log["work"].offsets().items()}
            while len(crew.there) < 2:
                crew.begin()
            crew.wait_for(lambda: log.group_offsets("storm") == ends)
            for process in list(crew.there):
                crew.wait_for(lambda process=process: crew.begun(process))
                crew.remove(process, signal.SIGTERM)
        finally:
            appender.finish()
            crew.disband()
        assert log.group_offsets("storm") == ends
        now = time.time_ns() // 1000
        assert not [client for client in alive(log.records(CLIENTS), now + 10**6).values() if client.group]
        check(read(crew.journals), {p: end for (_, p), end in ends.items()})
        assert out.scan().collect()["offset"].to_list() == list(range(ends["work", 0]))
    assert examine(path).sound


def lines(crew: Crowd) -> int:
    """About how many lines their journals have."""
    return sum(path.stat().st_size for path in crew.journals if path.exists()) // 24


@dataclass(frozen=True)
class Line:
    """One message that was handed out, as a journal says."""

    partition: int
    offset: int
    generation: int
    time: int


def read(journals: list[Path]) -> dict[str, list[Line]]:
    """By journal, what its member was handed."""
    return {
        path.name: [Line(*map(int, line.split())) for line in path.read_text().splitlines() if line != "here"]
        for path in journals
        if path.exists()
    }


def check(journals: dict[str, list[Line]], ends: dict[int, int]) -> None:
    """Every owner saw its partition in order and without a gap, from where all before had been handed out by then.

    By then, not by the owners of lower generations: one that stalls after it took a partition, and is overtaken before it
    reads where to begin, begins where its successor has come. It can commit nothing of that.
    """
    owners: dict[int, dict[tuple[int, str], list[Line]]] = defaultdict(lambda: defaultdict(list))
    for journal, handed in journals.items():
        for line in handed:
            owners[line.partition][line.generation, journal].append(line)
    for partition, end in ends.items():
        own = owners[partition]
        assert len({generation for generation, _ in own}) == len(own), "two had one generation"
        first: dict[int, int] = {}
        for line in sorted((line for run in own.values() for line in run), key=lambda line: line.time):
            first.setdefault(line.offset, line.time)
        assert sorted(first) == list(range(end)), "something was never handed out"
        # From which time on all before an offset had been handed out.
        known = list(accumulate((first[offset] for offset in range(end)), max, initial=-1))
        for run in own.values():
            offsets = [line.offset for line in run]
            assert offsets == list(range(offsets[0], offsets[0] + len(offsets))), (
                "an owner passed over something"
            )
            assert known[offsets[0]] < run[0].time, "an owner began behind what nobody had been handed"


def owner(generation: int, offsets: Iterable[int], since: int) -> list[Line]:
    """What an owner of partition 0 is handed, a message each moment."""
    return [Line(0, offset, generation, since + moment) for moment, offset in enumerate(offsets)]


OVERTAKEN = {"a": owner(1, range(5), 0), "b": owner(2, range(8, 9), 30), "c": owner(3, range(5, 12), 10)}
FINE = {
    "one after the other": {"a": owner(1, range(6), 0), "b": owner(2, range(4, 12), 10)},
    "one owner comes again": {
        "a": owner(1, range(5), 0) + owner(3, range(8, 12), 30),
        "b": owner(2, range(3, 8), 10),
    },
    "a successor came further before one knew where to begin": OVERTAKEN,
    "one that stalled goes on for a moment": {"a": owner(1, range(7), 0), "b": owner(2, range(3, 12), 5)},
}
WRONG = {
    "something is never handed out": {"a": owner(1, range(5), 0), "b": owner(2, range(6, 12), 10)},
    "the end is never handed out": {"a": owner(1, range(11), 0)},
    "something is passed over, and handed out later": {
        "a": owner(1, range(5), 0),
        "b": owner(2, range(7, 12), 10),
        "c": owner(3, range(5, 7), 30),
    },
    "a successor came further only after one had begun there": {**OVERTAKEN, "b": owner(2, range(8, 9), 11)},
    "an owner passes over something": {
        "a": owner(1, [*range(5), *range(6, 12)], 0),
        "b": owner(2, range(4, 12), 20),
    },
    "an owner goes back": {"a": owner(1, [*range(5), *range(3, 12)], 0)},
    "two have one generation": {"a": owner(1, range(5), 0), "b": owner(1, range(5, 12), 10)},
}


@pytest.mark.parametrize("journals", FINE.values(), ids=FINE.keys())
def test_the_check_bears_what_may_be(journals: dict[str, list[Line]]) -> None:
    check(journals, {0: 12})


@pytest.mark.parametrize("journals", WRONG.values(), ids=WRONG.keys())
def test_the_check_notices_what_may_not_be(journals: dict[str, list[Line]]) -> None:
    with pytest.raises(AssertionError):
        check(journals, {0: 12})
