"""A group whose consumers are killed, stopped, sent away and started at random loses nothing and comes to rest."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.log.doctor import examine
from mamba_stream.messaging.members import CLIENTS, alive
from mamba_stream.messaging.schema import MESSAGES
from tests.crash.processes import child_environment
from tests.messaging.receiving import messages

_PARTITIONS = 8
_CREW = 3
_PATIENCE = 120.0


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


class Crew:
    """The consumers of the group."""

    def __init__(self, log: Path, place: Path, environment: dict[str, str]) -> None:
        self._log = log
        self._place = place
        self._environment = environment
        self.journals: list[Path] = []
        self.there: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        self.journals.append(self._place / f"journal-{len(self.journals)}")
        arguments = [sys.executable, "-m", "tests.crash.group_member", str(self._log), str(self.journals[-1])]
        self.there.append(subprocess.Popen(arguments, env=self._environment))

    def lines(self) -> int:
        return sum(path.stat().st_size for path in self.journals if path.exists()) // 8

    def remove(self, process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        assert process.poll() is None, f"a consumer ended by itself, with {process.returncode}"
        self.there.remove(process)
        process.send_signal(how)
        assert process.wait(_PATIENCE) == (0 if how == signal.SIGTERM else -how)

    def disband(self) -> None:
        for process in self.there:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], bool], crew: Crew) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        for process in crew.there:
            assert process.poll() is None, f"a consumer ended by itself, with {process.returncode}"
        time.sleep(0.01)


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
        appender, crew = Appender(log, seed), Crew(path, tmp_path, child_environment(environment))
        appender.start()
        try:
            for _ in range(kills):
                while len(crew.there) < _CREW:
                    crew.begin()
                goal = crew.lines() + chance.randint(1, 300)
                wait_for(lambda goal=goal: crew.lines() >= goal, crew)
                victim = chance.choice(crew.there)
                how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
                if how == signal.SIGSTOP:
                    # Longer than its lease: the others go on without it, and it comes back.
                    victim.send_signal(how)
                    time.sleep(1.2)
                    victim.send_signal(signal.SIGCONT)
                else:
                    wait_for(lambda: crew.journals[-1].exists() or len(crew.journals) < _CREW, crew)
                    if how == signal.SIGTERM and not started(crew, victim):
                        how = signal.SIGKILL
                    crew.remove(victim, how)
            appender.finish()
            ends = {("work", p): end for p, (_, end) in log["work"].offsets().items()}
            while len(crew.there) < 2:
                crew.begin()
            wait_for(lambda: log.group_offsets("storm") == ends, crew)
            for process in list(crew.there):
                wait_for(lambda process=process: started(crew, process), crew)
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


def started(crew: Crew, process: subprocess.Popen[bytes]) -> bool:
    """Whether it is beyond its imports, and takes a signal as it should."""
    journal = Path(str(process.args[-1]))  # type: ignore[index]
    return journal.exists() and journal.stat().st_size > 0


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
