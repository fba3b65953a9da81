"""Subscribers that share a topic, killed, stopped and started at random: nothing lost, nothing twice where it matters."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.log.doctor import examine
from tests.crash.crowd import Crowd
from tests.crash.share import GROUP, is_hopeless, is_transactional
from tests.messaging.desk import Sent, rows

_CREW = 3


class Sender(threading.Thread):
    """Sends numbers all the while, some with a key, until it is told to end."""

    def __init__(self, log: mamba.Log, seed: int) -> None:
        super().__init__()
        self._topic = log["work"]
        self._random = random.Random(seed)
        self._over = threading.Event()
        self.sent = 0

    def run(self) -> None:
        while not self._over.wait(0.01):
            count = self._random.randint(1, 30)
            numbers = range(self.sent, self.sent + count)
            sent = [Sent(n, key=self._random.choice([None, None, "a", "b", "c", "d"])) for n in numbers]
            self._topic.append(rows(sent), partition=self._random.randrange(2))
            self.sent += count

    def finish(self) -> None:
        self._over.set()
        self.join()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "kills", [pytest.param(4, id="4"), pytest.param(80, id="80", marks=pytest.mark.slow)]
)
def test_a_shared_group_whose_members_are_killed_loses_nothing_and_does_nothing_twice_in_a_transaction(
    tmp_path: Path, environment: dict[str, str], seed: int, kills: int
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "log"
    with mamba.open(path) as log:
        log.create_topic("work", rows([Sent(0)]), partitions=2, time="time")
        out = log.create_topic("out", {"number": pl.Int64})
        sender, crew = Sender(log, seed), Crowd("tests.crash.share_member", path, tmp_path, environment)
        sender.start()
        try:
            for _ in range(kills):
                while len(crew.there) < _CREW:
                    crew.begin()
                goal = out.offsets()[0][1] + chance.randint(1, 200)
                crew.wait_for(lambda goal=goal: out.offsets()[0][1] >= goal)
                victim = chance.choice(crew.there)
                how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
                if how == signal.SIGSTOP:
                    # Longer than its leases: the others go on without it, and it comes back.
                    victim.send_signal(how)
                    time.sleep(1.5)
                    victim.send_signal(signal.SIGCONT)
                else:
                    crew.remove(victim, how if crew.begun(victim) else signal.SIGKILL)
        finally:
            sender.finish()
            crew.disband()
        rest = mamba.Subscriber("work", log, group=GROUP, attempts=1000)
        left: list[int] = []
        rest.subscribe(lambda message: left.append(message.value))
        rest.run(until="empty")
        rest.close()
        done = [
            int(line.split()[0])
            for j in crew.journals
            if j.exists()
            for line in j.read_text().splitlines()
            if line != "here"
        ]
        letters = log["work.dead"].scan().collect() if "work.dead" in log else None
        dead = [] if letters is None else [row["_dead"]["offset"] for row in letters.iter_rows(named=True)]
        outputs = out.scan().collect()["number"].to_list()
        everything = set(range(sender.sent))
        hopeless = {n for n in everything if is_hopeless(n)}
        transactional = {n for n in everything - hopeless if is_transactional(n)}
        assert len(outputs) == len(set(outputs)), "done twice in a transaction"
        assert not set(outputs) & set(left), "done in a transaction, and delivered again"
        assert set(outputs) <= transactional
        assert transactional <= set(outputs) | set(left)
        assert everything - hopeless - transactional <= set(done) | set(left)
        assert len(dead) + len(set(left) & hopeless) == len(hopeless), "every hopeless one is given up once"
    assert examine(path).sound
