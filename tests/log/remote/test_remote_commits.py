"""Commits at a server: each lands once, and its answer is one of committed, not committed and unknown."""

from __future__ import annotations

import threading

import polars as pl
import pytest

from mamba_stream.errors import (
    AlreadyExists,
    CommitUnknown,
    InvalidInput,
    PreconditionFailed,
    QuotaExceeded,
    ServerUnavailable,
)
from mamba_stream.log import Log, commit_together, rows
from mamba_stream.log.remote import connection as connections
from mamba_stream.log.remote.connection import Connection
from mamba_stream.log.remote.failing import Lost
from mamba_stream.server.gate import OpenGate
from tests.log.pictures import rows_of


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch):
    """Loses the answers to so many of the commits that follow; runs ``then`` each time."""

    def lose(times: int, then=lambda: None) -> list[str]:
        lost, once = [], Connection.once

        def call(self, action, *arguments, **options):
            answer = once(self, action, *arguments, **options)
            if action == "commit" and len(lost) < times:
                lost.append(action)
                then()
                raise Lost("the answer was lost")
            return answer

        monkeypatch.setattr(Connection, "once", call)
        return lost

    return lose


def test_an_append_whose_answer_is_lost_lands_once(log: Log, losing) -> None:
    topic = log.create_topic("t", {"n": pl.Int64})
    lost = losing(3)
    assert topic.append([{"n": 1}, {"n": 2}]) == {0: (0, 2)}
    assert len(lost) == 3
    assert topic.append([{"n": 3}]) == {0: (2, 3)}
    assert [row for _, _, row in rows_of(topic)] == [(1,), (2,), (3,)]


def test_an_append_lands_once_also_if_the_server_forgot_it(server, log: Log, losing) -> None:
    topic = log.create_topic("t", {"n": pl.Int64})
    losing(1, server.restart)
    assert topic.append([{"n": 1}]) == {0: (0, 1)}
    assert topic.append([{"n": 2}]) == {0: (1, 2)}
    assert [row for _, _, row in rows_of(topic)] == [(1,), (2,)]


def test_a_commit_with_conditions_whose_answer_is_lost_has_its_answer(log: Log, losing) -> None:
    losing(2)
    with log.transaction() as tx:
        tx.require_record("n", "k", None)
        tx.put_record("n", "k", b"1")
    assert tx.lsn == log.lsn() == 1
    losing(1)
    log.create_topic("t", {"n": pl.Int64})
    with pytest.raises(AlreadyExists):
        log.create_topic("t", {"n": pl.Int64})


def test_a_commit_with_conditions_is_known_although_the_server_forgot_it(server, log: Log, losing) -> None:
    losing(1, server.restart)
    with log.transaction() as tx:
        tx.require_record("n", "k", None)
        tx.put_record("n", "k", b"1")
    assert log.record("n", "k") == b"1"


def test_what_is_sent_first_to_a_server_that_was_started_anew_is_no_question(server, log: Log) -> None:
    for n in range(3):
        server.restart()
        with log.transaction() as tx:
            tx.require_record("n", "k", None if n == 0 else bytes([n - 1]))
            tx.put_record("n", "k", bytes([n]))
        log.create_topic(f"t{n}", {"n": pl.Int64})
    assert log.lsn() == 6


def test_a_quota_is_waited_for(server, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = log.create_topic("t", {"n": pl.Int64})
    refusals = iter(range(3))

    def spend(self, caller, received=0, sent=0):
        if received and next(refusals, None) is not None:
            raise QuotaExceeded("too much", retry_after=0.01)

    monkeypatch.setattr(OpenGate, "spend", spend)
    assert topic.append([{"n": 1}]) == {0: (0, 1)}
    assert next(refusals, None) is None


def test_without_a_server_nothing_is_committed_and_that_is_said(
    server, log: Log, losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t", {"n": pl.Int64})
    losing(1, server.stop)
    with monkeypatch.context() as patched:
        patched.setattr(connections, "PATIENCE", 0.1)
        patched.setattr(Connection.again, "__defaults__", (0.1,))
        with pytest.raises(CommitUnknown, match="may or may not have happened"):
            topic.append([{"n": 1}])
        with pytest.raises(ServerUnavailable, match="nothing listens on localhost"):
            topic.append([{"n": 2}])
    server.start()
    assert topic.append([{"n": 3}]) == {0: (1, 2)}


def known(server) -> list[bytes]:
    """What the log knows of producers, and of what is done once."""
    return [key for kind in (rows.PRODUCER, rows.SEQUENCE, rows.ONCE) for key, _ in server.store.items(kind)]


def test_a_client_leaves_nothing_behind_and_its_end_is_no_commit(server) -> None:
    with server.client() as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        gone = log.create_topic("gone", {"n": pl.Int64})
        gone.append([{"n": 0}])

        def append() -> None:
            for n in range(20):
                topic.append([{"n": n}])

        threads = [threading.Thread(target=append) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        log.delete_topic("gone")
    assert server.store.lsn() == 84
    assert known(server)
    with server.client() as log, log.transaction() as tx:
        tx.put_record("n", "k", b"")
    assert server.store.lsn() == 85
    # That of the last one goes with the next commit.
    assert len(known(server)) == 1


def test_what_clients_left_goes_with_the_server(server) -> None:
    with server.client() as log:
        log.create_topic("t", {"n": pl.Int64}).append([{"n": 1}])
    server.restart()
    assert known(server) == []


def test_a_strict_key_is_kept_by_the_server(log: Log) -> None:
    topic = log.create_topic("t", {"k": pl.String}, partitions=4, key="k", strict_key=True)
    ((home, _),) = topic.append([{"k": "a"}]).items()
    other = (home + 1) % 4
    with pytest.raises(InvalidInput, match=f"k='a' belongs to partition {home}, not {other}"):
        topic.append([{"k": "a"}], partition=other)
    assert list(topic.append([{"k": "a"}], partition=home)) == [home]
    assert log["t"].strict_key


def test_transactions_that_are_committed_together_land_once_each_though_answers_are_lost(
    log: Log, losing
) -> None:
    topic = log.create_topic("t", {"n": pl.Int64})
    transactions = [log.transaction() for _ in range(20)]
    for number, tx in enumerate(transactions):
        tx.append("t", [{"n": number}])
        tx.require_record("n", "k", b"" if number % 5 == 4 else None)
    lost = losing(7)
    outcomes = commit_together(log, transactions)
    assert len(lost) == 7
    refused = [number for number, outcome in enumerate(outcomes) if outcome is not None]
    assert refused == [4, 9, 14, 19]
    assert all(isinstance(outcomes[number], PreconditionFailed) for number in refused)
    landed = sorted(row[0] for _, _, row in rows_of(topic))
    assert landed == [number for number in range(20) if number not in refused]
