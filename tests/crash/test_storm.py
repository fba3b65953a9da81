"""Writers, followers, upkeep and backups at one log at once, each killed at any moment, for as long as it takes."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamba_stream.log import backups, open_log, restore, restoring
from mamba_stream.log.doctor import Report
from tests.crash.journal import Journal, Tail
from tests.crash.nursery import Nursery
from tests.crash.processes import Process
from tests.crash.storm import Follower, create
from tests.crash.stormy import Seen, Sky
from tests.crash.upkeep_run import kept

CREW = ("writer", "writer", "follower", "keeper", "backup")
_SOON = 0.1
_LIVES = 40
"""After so many a new log is begun: with its tiny segments it has thousands of files by then."""


class Storm:
    """A log, and those who are at it."""

    def __init__(self, nursery: Nursery, place: Path, seed: int, keeper: str = "") -> None:
        self.log = place / "log"
        self.sky = Sky(seed)
        self.seen = Seen()
        self.backed_up: set[int] = set()
        self._nursery = nursery
        self._place = place
        self._plants = {"keeper": keeper}
        self._lives = 0
        self.there: dict[int, Process] = {}
        with open_log(self.log) as log:
            create(log)

    def begin(self, number: int) -> None:
        """One of the crew comes, or comes again."""
        kind, self._lives = CREW[number], self._lives + 1
        journal = self._place / f"journal-{self._lives}"
        errors = self._place / f"errors-{self._lives}"
        given = [kind, str(self.log), str(journal), "--seed", str(self.sky.seed), "--number", str(number)]
        first = self.sky.next_number(number) if kind == "writer" else self._lives
        given += ["--first", str(first), "--positions", json.dumps(self.seen.positions)]
        plant = self._plants.get(kind, "")
        pid = self._nursery.begin(given, errors=errors, plant=plant, program="storm")
        self.there[number] = Process(self._nursery, pid, journal, errors)

    def strike(self, number: int) -> None:
        """One is killed; what it did is known from then on."""
        process = self.there.pop(number)
        process.kill()
        events = process.events()
        match CREW[number]:
            case "writer":
                self.sky.take(events)
            case "follower":
                self.seen.take(events)
            case "backup":
                self.backed_up |= {event["lsn"] for event in events}

    def wrong(self, most: int) -> list[str]:
        """What is wrong once all are gone; so many backups are restored, the last one among them."""
        found = self.sky.wrong(self.log)
        if found:
            return found
        with open_log(self.log) as log:
            journal = self._place / "journal-last"
            follower = Follower(log, Journal(journal, 0), self.seen.positions)
            while follower.poll():
                pass
            self.seen.take(Tail(journal).events())
            found += self.seen.against(log, self.sky)
        lsns = {one.lsn for one in backups(kept(self.log))}
        if not self.backed_up <= lsns:
            found.append(f"backups are gone: {self.backed_up - lsns}")
        earlier = random.Random(self.sky.seed).sample(sorted(lsns), min(most, len(lsns)))
        for lsn in {*earlier, max(lsns)}:
            back = self._place / f"back-{lsn}"
            restore(kept(self.log), back, to=lsn)
            found += [f"the backup of {lsn}: {each}" for each in self.sky.wrong(back, lsn)]
        return found

    def forget(self) -> None:
        shutil.rmtree(self._place)

    def disband(self) -> None:
        for process in self.there.values():
            process.discard()


@pytest.fixture(autouse=True)
def examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restored logs are examined by the checker."""
    monkeypatch.setattr(restoring, "examine", lambda log: Report(log, (), {}, True))


@pytest.fixture
def storm(nursery: Nursery, place: Path, seed: int) -> Iterator[Callable[..., Storm]]:
    made: list[Storm] = []

    def make(keeper: str = "") -> Storm:
        where = place / f"storm-{len(made)}"
        where.mkdir()
        made.append(Storm(nursery, where, seed + len(made), keeper))
        return made[-1]

    yield make
    for each in made:
        each.disband()


def raged(storm: Storm, kills: int, rng: random.Random) -> Counter[str]:
    """So many are killed, one after the other, and begin anew; at last all are. Says how many of each kind were."""
    struck: Counter[str] = Counter()
    for number in range(len(CREW)):
        storm.begin(number)
    for _ in range(kills):
        number = rng.randrange(len(CREW))
        process = storm.there[number]
        lines = rng.choice((0, 1, 20) if CREW[number] == "writer" else (0, 1, 2))
        try:
            process.wait_for(lambda p=process, n=lines: len(p.events()) >= n)
        except AssertionError as error:
            error.add_note(f"{CREW[number]} {number}, process {process.pid}")
            raise
        # Not to wait for anything: the moment is what is random.
        time.sleep(rng.uniform(0, _SOON))
        storm.strike(number)
        storm.begin(number)
        struck[CREW[number]] += 1
    for number, process in list(storm.there.items()):
        process.wait_for(lambda p=process: len(p.events()) > 0)
        storm.strike(number)
    return struck


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(16, id="16"),
        pytest.param(600, id="600", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_whoever_is_killed_every_row_is_there_once_and_seen_once(
    kills: int, storm: Callable[..., Storm], seed: int
) -> None:
    rng, struck, done = random.Random(seed), Counter[str](), 0
    for turn in range(0, kills, _LIVES):
        made = storm()
        struck += raged(made, min(kills - turn, _LIVES), rng)
        assert made.wrong(2) == []
        assert made.backed_up
        done += sum(deed.lsn is not None for deed in made.sky.deeds.values())
        made.forget()
    assert set(struck) == set(CREW)
    assert done > 2 * kills


def test_upkeep_that_removes_what_is_read_is_noticed(storm: Callable[..., Storm], seed: int) -> None:
    made = storm(keeper="removed at once")
    with pytest.raises(AssertionError, match="are damaged|ended by itself"):
        raged(made, 200, random.Random(seed))
        assert made.wrong(2) == []
