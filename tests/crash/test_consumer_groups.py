"""A group whose consumers are killed, stopped, sent away and started at random loses nothing and comes to rest."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import defaultdict
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
    "kills", [pytest.param(6, id="6"), pytest.param(80, id="80", marks=pytest.mark.slow)]
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
        check(crew.journals, {p: end for (_, p), end in ends.items()})
        assert out.scan().collect()["offset"].to_list() == list(range(ends["work", 0]))
    assert examine(path).sound


def lines(crew: Crowd) -> int:
    """About how many lines their journals have."""
    return sum(path.stat().st_size for path in crew.journals if path.exists()) // 8


def check(journals: list[Path], ends: dict[int, int]) -> None:
    """Every owner saw its partitions in order and without a gap, from no later than where the one before stopped."""
    runs: dict[int, dict[tuple[int, Path], list[int]]] = defaultdict(lambda: defaultdict(list))
    for path in journals:
        for line in path.read_text().splitlines() if path.exists() else []:
            if line == "here":
                continue
            partition, offset, generation = map(int, line.split())
            runs[partition][generation, path].append(offset)
    for partition, end in ends.items():
        reached = 0
        generations = sorted(runs[partition])
        assert len({generation for generation, _ in generations}) == len(generations), (
            "two had one generation"
        )
        for place in generations:
            offsets = runs[partition][place]
            assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
            assert offsets[0] <= reached
            reached = max(reached, offsets[-1] + 1)
        assert reached == end
