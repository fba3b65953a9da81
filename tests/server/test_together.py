"""Several actions in one call: each is checked, and fails, by itself."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest

import mamba_stream as mamba
from mamba_stream.core.changes import ChangeSet
from mamba_stream.errors import InvalidInput
from mamba_stream.log import Log
from mamba_stream.log.remote import protocol
from mamba_stream.log.remote.protocol import Asked, Piece, Read, Together, Told
from mamba_stream.messaging.books import LogBook, PrivateBook
from mamba_stream.server.actions import ACTIONS, perform
from mamba_stream.server.desk import Desk
from mamba_stream.server.gate import Caller, OpenGate
from mamba_stream.server.limits import Limits
from mamba_stream.server.service import FlightService
from tests.messaging.desk import HandClock, Sent, member, message_topic, messages, rows as rows_of, values
from tests.server.load import client_of
from tests.server.test_security import requests

EVE = Caller("eve")


def together(desk: Desk, *asks: tuple[str, Any], caller: Caller = EVE) -> list[Told]:
    request = Together([Asked(name, msgspec.Raw(msgspec.msgpack.encode(body))) for name, body in asks])
    answer = perform(desk, caller, "together", msgspec.msgpack.encode(request))
    return msgspec.msgpack.decode(answer, type=list[Told])


def result(told: Told) -> Any:
    assert told.failure is None, told.failure
    return msgspec.msgpack.decode(told.answer, strict=False)


@pytest.fixture
def desk(log: Log) -> Desk:
    log.create_topic("orders", {"n": pl.Int64, "s": pl.String}, partitions=2)
    for at in range(0, 30, 10):
        rows = {"n": [*range(at, at + 10)], "s": [str(n) for n in range(at, at + 10)]}
        log["orders"].append(rows, partition=0)
    with log.transaction() as tx:
        tx.put_record("shop/money", "ann", b"1")
    return Desk(log._shared, OpenGate(), Limits(), "")


def test_each_comes_to_what_it_comes_to_alone(desk: Desk, log: Log) -> None:
    made = {name: request for name, request in requests(log).items() if ACTIONS[name].together}
    assert made.keys() == {"heads", "lsn", "record", "records", "rows"}
    found = together(desk, *made.items())
    for (name, request), told in zip(made.items(), found, strict=True):
        alone = perform(desk, EVE, name, msgspec.msgpack.encode(request))
        assert told.failure is None and bytes(told.answer) == alone, name


def test_one_that_fails_is_told_by_itself(desk: Desk) -> None:
    found = together(
        desk,
        ("heads", protocol.AskHeads(999)),
        ("none", {}),
        ("records", {"namespace": 5}),
        ("record", protocol.AskRecord("shop/money", "ann")),
    )
    assert [told.failure and told.failure.code for told in found] == [
        "TopicNotFound",
        "InvalidInput",
        "InvalidInput",
        None,
    ]
    assert result(found[-1]) == b"1"


def test_what_does_not_only_look_is_asked_for_alone(desk: Desk, log: Log) -> None:
    before = log.lsn()
    for name, request in requests(log).items():
        if ACTIONS[name].together:
            continue
        [told] = together(desk, (name, request))
        assert told.failure is not None and told.failure.code == "InvalidInput", name
        assert "heads, lsn, record, records, rows" in told.failure.message
    assert log.lsn() == before
    [told] = together(desk, ("commit", protocol.Commit(ChangeSet(drops=(log["orders"].number,)))))
    assert told.failure is not None and "orders" in log


def test_there_is_a_limit_to_what_is_asked_together(desk: Desk) -> None:
    asks = [("record", protocol.AskRecord("shop/money", "ann"))] * 64
    assert {result(told) for told in together(desk, *asks)} == {b"1"}
    with pytest.raises(InvalidInput, match="65 actions together: ask for at most 64"):
        together(desk, *asks, asks[0])


def test_what_waits_for_a_commit_sees_what_came_with_it(desk: Desk, log: Log) -> None:
    asks = [
        Asked("lsn", msgspec.Raw(msgspec.msgpack.encode({}))),
        Asked("rows", msgspec.Raw(protocol.encode(Read(name="orders", start={0: 30})))),
    ]
    answers: list[tuple[int, list[int]]] = []

    def ask(beyond: int, timeout: float) -> None:
        answer = perform(desk, EVE, "together", protocol.encode(Together(asks, beyond, timeout)))
        lsn, read = msgspec.msgpack.decode(answer, type=list[Told])
        found = protocol.decode(read.answer, protocol.RowsRead)
        with pa.ipc.open_stream(pa.py_buffer(found.data)) as stream:
            answers.append((result(lsn), stream.read_all()["n"].to_pylist()))

    before = log.lsn()
    ask(before - 1, 3_600.0)
    ask(before, 0.0)
    waiting = threading.Thread(target=ask, args=(before, 3_600.0), daemon=True)
    waiting.start()
    while not desk.pulse._waiting:
        threading.Event().wait(0.001)
    log["orders"].append({"n": [100], "s": ["x"]}, partition=0)
    waiting.join(30)
    assert answers == [(before, []), (before, []), (before + 1, [100])]


def test_nobody_waits_for_no_number_of_seconds(desk: Desk) -> None:
    with pytest.raises(InvalidInput, match="timeout=nan"):
        perform(desk, EVE, "together", protocol.encode(Together([], 0, math.nan)))


def test_who_may_not_ask_alone_may_not_ask_together(log: Log, as_user: Any) -> None:
    log.create_topic("orders", {"n": pl.Int64})
    log.create_topic("hidden", {"n": pl.Int64})
    guard, eve = as_user("eve")
    desk = Desk(log._shared, guard, Limits(), "")
    # How many commits there were is for everybody to know.
    made = [
        (name, request) for name, request in requests(log).items() if ACTIONS[name].together and name != "lsn"
    ]
    told = together(desk, *made, caller=eve)
    assert {each.failure.code for each in told if each.failure} == {"NotAuthorized"}
    assert all(each.failure and bytes(each.answer) == b"\xc0" for each in told)
    guard, ann = as_user("ann", "allow describe,read topic orders")
    desk = Desk(log._shared, guard, Limits(), "")
    told = together(desk, *made, caller=ann)
    seen = {name for (name, _), each in zip(made, told, strict=True) if each.failure is None}
    assert seen == {"heads", "rows"}


# Rows as an answer.


def rows(desk: Desk, **request: Any) -> list[tuple[Piece, dict[str, list[Any]]]]:
    answer = perform(desk, EVE, "rows", protocol.encode(Read(**request)))
    read = protocol.decode(answer, protocol.RowsRead)
    with pa.ipc.open_stream(pa.py_buffer(read.data)) as stream:
        return [(piece, data.to_pydict()) for piece, data in zip(read.pieces, stream, strict=True)]


def numbers(found: list[tuple[Piece, dict[str, list[Any]]]]) -> list[int]:
    return [n for _, data in found for n in data["n"]]


def test_rows_are_those_of_a_stream(desk: Desk, log: Log) -> None:
    assert numbers(rows(desk, name="orders")) == [*range(30)]
    assert numbers(rows(desk, topic=log["orders"].number, start={0: 13, 1: 0}, ends={0: 21})) == [
        *range(13, 21)
    ]
    [(piece, data)] = rows(desk, name="orders", start={0: 25}, columns=["s"])
    assert data == {"s": ["25", "26", "27", "28", "29"]}
    assert [(run.offset, run.next_offset, run.rows) for run in piece.runs] == [(25, 30, 5)]
    assert rows(desk, name="orders", start={0: 30}) == rows(desk, name="orders", start={1: 0}) == []


def test_partitions_come_in_the_order_in_which_they_are_named_until_there_are_enough(
    desk: Desk, log: Log
) -> None:
    log["orders"].append({"n": [100], "s": ["x"]}, partition=1)
    assert numbers(rows(desk, name="orders", start={1: 0, 0: 0}, most_rows=1)) == [100]
    assert numbers(rows(desk, name="orders", start={0: 0, 1: 0}, most_rows=1)) == [*range(10)]
    assert numbers(rows(desk, name="orders", start={1: 0, 0: 0}, most_rows=2)) == [100, *range(10)]
    assert rows(desk, name="orders", start={1: 0, 0: 0}, most_rows=0) == []


def test_large_batches_come_by_a_stream_only(desk: Desk, log: Log) -> None:
    log["orders"].append({"n": [1], "s": ["x" * (2 << 20)]}, partition=1)
    log["orders"].append({"n": [2], "s": ["y"]}, partition=1)
    assert rows(desk, name="orders", start={1: 0}) == []
    assert numbers(rows(desk, name="orders", start={1: 1})) == [2]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Read(), "one of them"),
        (Read(name="orders", topic=1), "one of them"),
        (Read(name="orders", columns=["m"]), "no column 'm'"),
        (Read(name="orders", most_rows=-1), "most_rows=-1"),
        (Read(name="orders", start={9: 0}), "9"),
        (Read(name="orders", predicate=b"x"), "these bytes are no predicate"),
    ],
)
def test_what_cannot_be_right_is_refused(desk: Desk, request_: Read, says: str) -> None:
    with pytest.raises(mamba.errors.MambaStreamError, match=says):
        perform(desk, EVE, "rows", protocol.encode(request_))


# How many calls a message costs.


@pytest.mark.parametrize("private", [True, False])
def test_what_a_message_costs_a_member_of_a_group_in_calls(log: Log, private: bool) -> None:
    message_topic(log, "mails", partitions=3)
    service = FlightService(log._shared)
    client = client_of(f"localhost:{service.port}")
    book = PrivateBook(client) if private else LogBook(client)
    group = member(client, 1, HandClock(), topic="mails", book=book)

    def calls() -> Counter[str]:
        found = Counter[str]()
        for (what, _), count in service.figures.calls.items():
            found[what] += count
        return found

    try:
        group.begin({0: 0, 1: 0, 2: 0})
        # So that it hears of commits as one who waits does.
        client.wait(client.lsn() - 1, 10)
        assert group.take(4) == []
        for number in range(9):
            log["mails"].append(rows_of([Sent(number)]), partition=number % 3)
            assert client.wait(log.lsn() - 1, 10) == log.lsn()
            before = calls()
            leases = group.take(4)
            taken = calls() - before
            assert values(leases) == [number]
            assert taken == {"action/together": 1} | ({} if private else {"action/commit": 1})
            # All that there was is taken; and what is done leaves nothing to look for.
            assert group.take(4) == [] and calls() - before == taken
            for message in messages(leases):
                message.ack()
            group.settle(leases)
            assert client.wait(log.lsn() - 1, 10) == log.lsn()
            settled = calls() - before
            if not private:
                assert settled - taken == {"action/commit": 1}
                assert group.take(4) == [] and calls() - before == settled
    finally:
        client.close()
        service.shutdown()


@pytest.mark.parametrize("private", [True, False])
def test_messages_that_are_waited_for_come_by_themselves(log: Log, private: bool) -> None:
    message_topic(log, "mails", partitions=3)
    service = FlightService(log._shared)
    client = client_of(f"localhost:{service.port}")
    group = member(
        client, 1, HandClock(), topic="mails", book=PrivateBook(client) if private else LogBook(client)
    )

    def calls() -> int:
        return sum(count for (what, _), count in service.figures.calls.items() if what != "action/commit")

    try:
        group.begin({0: 0, 1: 0, 2: 0})
        client.wait(client.lsn() - 1, 10)
        assert group.take(4) == []
        for number in range(9):
            before = calls()
            waiting = threading.Thread(target=group.wait, args=(log.lsn(), 3_600.0, 4, 1 << 20), daemon=True)
            waiting.start()
            while service.desk.pulse._waiting < 2:
                # One is the stream that tells of commits.
                threading.Event().wait(0.001)
            log["mails"].append(rows_of([Sent(number)]), partition=number % 3)
            waiting.join(30)
            leases = group.take(4)
            assert values(leases) == [number]
            assert group.take(4) == []
            assert calls() - before == 1
            for message in messages(leases):
                message.ack()
            group.settle(leases)
    finally:
        client.close()
        service.shutdown()


@pytest.mark.parametrize("why", ["it cannot wait", "enough wait there"])
def test_where_no_call_may_wait_at_the_server_it_waits_here(log: Log, why: str) -> None:
    message_topic(log, "mails")
    service = FlightService(log._shared)
    client = client_of(f"localhost:{service.port}")
    try:
        if why == "it cannot wait":
            client._store._connection.welcome.beyond = False
        else:
            for _ in range(2):
                client._store._waiting.acquire()
        look = client.look(log.lsn(), 3_600.0)
        lsn, offsets = look.lsn(), look.offsets(client["mails"])
        waiting = threading.Thread(target=lsn.get, daemon=True)
        waiting.start()
        while not service.desk.pulse._waiting:
            threading.Event().wait(0.001)
        log["mails"].append(rows_of([Sent(1)]))
        waiting.join(30)
        assert (lsn.get(), offsets.get()) == (log.lsn(), log["mails"].offsets())
        assert service.figures.calls["action/together", "ok"] == 1
    finally:
        client.close()
        service.shutdown()


def test_what_a_message_costs_its_sender_in_calls(log: Log) -> None:
    service = FlightService(log._shared)
    client = client_of(f"localhost:{service.port}")
    try:
        with mamba.Publisher("mails", client) as publisher:
            publisher.publish("first").result(30)
            before = dict(service.figures.calls)
            for number in range(9):
                publisher.publish(number).result(30)
            found = {what: count - before.get(what, 0) for what, count in service.figures.calls.items()}
        # That the sender is there is noted once a second, whatever it sends.
        assert found["action/commit", "ok"] >= 9
        assert sum(count for (what, _), count in found.items() if what != "action/commit") < 9
    finally:
        client.close()
        service.shutdown()
