"""Clients that write and follow numbered rows, note what they were told, and compare it with what is there."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa

import mamba_stream as mamba
from mamba_stream.errors import CommitUnknown, MambaStreamError, ServerUnavailable
from mamba_stream.log import Log
from mamba_stream.log.remote.address import Credentials, address_of
from mamba_stream.log.remote.storage import RemoteStorage

ROWS = pa.schema({"writer": pa.int64(), "n": pa.int64()})
WRITERS = 2
LAST = -1
"""The number of the row that ends a partition: whoever follows ends there."""


def client_of(address: str) -> Log:
    """A handle that shares no connection with others of this process."""
    return Log(_own(RemoteStorage(address_of(address), Credentials())))


def _opened(address: str) -> Log:
    """The same through a line that breaks: to open an address that does not answer says so at once."""
    for _ in range(200):
        try:
            return client_of(address)
        except ServerUnavailable:
            threading.Event().wait(0.05)
    return client_of(address)


def _own(storage: RemoteStorage) -> RemoteStorage:
    storage.handles = 1
    return storage


class Told:
    """What a writer was told of its rows."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, int | None] = {}
        """Numbers, and the offsets that were answered."""
        self.unknown: set[int] = set()
        self.refused: set[int] = set()

    def check(self, rows: list[tuple[int, int]]) -> None:
        """Compares it with all (offset, number) that are there, in their order."""
        there = [n for _, n in rows]
        assert there == sorted(set(there)), "rows are there twice, or out of order"
        missing = self.acknowledged.keys() - set(there)
        assert not missing, f"acknowledged, and not there: {sorted(missing)}"
        assert not self.refused & set(there), f"said not to be there: {sorted(self.refused & set(there))}"
        strange = set(there) - self.acknowledged.keys() - self.unknown
        assert not strange, f"nobody wrote {sorted(strange)}"
        places = {n: offset for offset, n in rows}
        wrong = {n: at for n, at in self.acknowledged.items() if at is not None and places[n] != at}
        assert not wrong, f"acknowledged at other offsets than they have: {wrong}"


class Load:
    """Threads that write and follow at an address until they are told to stop, each by a connection of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.steps = 0
        """What was tried so far."""
        self.stop = threading.Event()
        self._step = threading.Condition()
        self._failures: list[BaseException] = []
        self._writers: list[threading.Thread] = []
        self._followers: list[threading.Thread] = []
        self.appended = [Told() for _ in range(WRITERS)]
        self.sent = Told()
        self.together = Told()
        self.seen: list[tuple[int, int, int]] = []
        """(partition, offset, number) as the follower got them."""
        self.consumed: list[tuple[int, int, int]] = []
        self.fenced = 0

    def create(self, log: Log) -> None:
        log.create_topic("rows", ROWS, partitions=WRITERS)
        log.create_topic("left", ROWS)
        log.create_topic("right", ROWS)
        mamba.Producer(log).create_topic("mail", 1)

    def start(self) -> None:
        for writer in range(WRITERS):
            self._writers.append(self._thread(self._append, writer))
        self._writers.append(self._thread(self._send))
        self._writers.append(self._thread(self._commit))
        self._followers.append(self._thread(self._follow))
        self._followers.append(self._thread(self._consume))

    def wait_for(self, steps: int) -> None:
        """Until so many more steps were taken."""
        with self._step:
            until = self.steps + steps
            self._step.wait_for(lambda: self.steps >= until or self._failures, 120)
        self._raise()
        assert self.steps >= until, "the writers came to a standstill"

    def finish(self, log: Log) -> None:
        """Stops the writers, ends the partitions, and waits for who follows to come to the end."""
        self.stop.set()
        for thread in self._writers:
            thread.join(180)
            assert not thread.is_alive(), f"{thread.name} hangs"
        for partition in range(WRITERS):
            log["rows"].append([{"writer": partition, "n": LAST}], partition=partition)
        with mamba.Producer(log) as producer:
            producer.send("mail", str(LAST)).result()
        for thread in self._followers:
            thread.join(180)
            assert self._failures or not thread.is_alive(), f"{thread.name} hangs"
        self._raise()

    def check(self, log: Log) -> None:
        """All that was told is so."""
        rows = _rows(log, "rows")
        for writer, told in enumerate(self.appended):
            told.check([(offset, n) for partition, offset, n in rows if partition == writer and n != LAST])
        assert self.seen == [] or Counter(self.seen) == Counter(rows), "the follower saw something else"
        for partition in range(WRITERS):
            offsets = [offset for at, offset, _ in self.seen if at == partition]
            assert offsets == sorted(offsets)
        mail = _mail(log)
        self.sent.check([(offset, n) for offset, n in mail if n != LAST])
        consumed = [(offset, n) for _, offset, n in self.consumed]
        assert set(consumed) == set(mail), "the consumer saw something else"
        if not self.fenced:
            assert consumed == mail, "the consumer saw rows again, or out of order"
        self._check_transactions(log)

    def _check_transactions(self, log: Log) -> None:
        left, right = ([(offset, n) for _, offset, n in _rows(log, topic)] for topic in ("left", "right"))
        self.together.check([(offset, n) for offset, n in left])
        assert [n for _, n in left] == [n for _, n in right], "transactions are not whole"
        if left:
            last = left[-1][1]
            assert log.record("faults", "last") == str(last).encode()
            # A transaction moves the group to where its own row of ``left`` lies, or before.
            assert log.group_offsets("readers")["left", 0] == _group_offset(last)

    # --- the threads ----------------------------------------------------------------------------------------

    def _thread(self, work: Callable[..., None], *args: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*args)
            except BaseException as error:
                self._failures.append(error)
                with self._step:
                    self._step.notify_all()

        thread = threading.Thread(target=run, name=f"{work.__name__}{args}", daemon=True)
        thread.start()
        return thread

    def _raise(self) -> None:
        if self._failures:
            raise self._failures[0]

    def _stepped(self) -> None:
        with self._step:
            self.steps += 1
            self._step.notify_all()

    def _tell(self, told: Told, n: int, write: Callable[[], int | None]) -> None:
        try:
            told.acknowledged[n] = write()
        except CommitUnknown:
            told.unknown.add(n)
        except ServerUnavailable:
            told.refused.add(n)
        self._stepped()

    def _append(self, writer: int) -> None:
        told = self.appended[writer]
        with _opened(self.address) as log:
            topic = _found(log, "rows")
            for n in itertools.count():
                if self.stop.is_set():
                    return

                def write(n: int = n) -> int:
                    return topic.append([{"writer": writer, "n": n}], partition=writer)[writer][0]

                self._tell(told, n, write)

    def _send(self) -> None:
        with _opened(self.address) as log, mamba.Producer(log, linger="1ms") as producer:
            for first in itertools.count(step=3):
                if self.stop.is_set():
                    return
                # Some are under way together; each is asked for its own fate.
                handles = {}
                for n in range(first, first + 3):
                    try:
                        handles[n] = producer.send("mail", str(n), partition=0)
                    except ServerUnavailable:
                        self.sent.refused.add(n)
                for n, handle in handles.items():
                    self._tell(self.sent, n, lambda handle=handle: handle.result(150).offset)

    def _commit(self) -> None:
        with _opened(self.address) as log:
            for n in itertools.count():
                if self.stop.is_set():
                    return

                def write(n: int = n) -> int:
                    with log.transaction() as transaction:
                        for topic in ("left", "right"):
                            transaction.append(topic, [{"writer": 0, "n": n}])
                        transaction.put_record("faults", "last", str(n).encode())
                        transaction.commit_offsets("readers", {("left", 0): _group_offset(n)})
                    assert transaction.offsets.keys() == {("left", 0), ("right", 0)}
                    return transaction.offsets["left", 0][0]

                self._tell(self.together, n, write)

    def _follow(self) -> None:
        positions = dict.fromkeys(range(WRITERS), 0)
        over = set[int]()
        with _opened(self.address) as log:
            while len(over) < WRITERS:
                try:
                    for batch in _found(log, "rows").read(start=positions, follow=True):
                        numbers = batch.data["n"].to_pylist()
                        self.seen += [
                            (batch.partition, offset, n)
                            for offset, n in zip(batch.offsets.tolist(), numbers, strict=True)
                        ]
                        positions[batch.partition] = batch.next_offset
                        over |= {batch.partition} if LAST in numbers else set()
                        if len(over) == WRITERS:
                            break
                except ServerUnavailable:
                    # It was away for longer than a client is patient: one goes on from where one came to.
                    continue

    def _consume(self) -> None:
        while True:
            try:
                with (
                    _opened(self.address) as log,
                    mamba.Consumer(log, group="mailers", commit="20ms") as consumer,
                ):
                    consumer.subscribe("mail")
                    for message in consumer.consume():
                        self.consumed.append((0, message.offset, int(message.value)))
                        if int(message.value) == LAST:
                            return
            except MambaStreamError:
                # What was not acknowledged comes again.
                self.fenced += 1


def _found(log: Log, name: str) -> Any:
    while True:
        try:
            return log[name]
        except ServerUnavailable:
            continue


def _group_offset(n: int) -> int:
    return n % 2


def _rows(log: Log, topic: str) -> list[tuple[int, int, int]]:
    return [
        (batch.partition, offset, n)
        for batch in log[topic].read()
        for offset, n in zip(batch.offsets.tolist(), batch.data["n"].to_pylist(), strict=True)
    ]


def _mail(log: Log) -> list[tuple[int, int]]:
    with mamba.Consumer(log) as consumer:
        consumer.subscribe("mail")
        return [(message.offset, int(message.value)) for message in consumer.consume(until="empty")]
