"""Transactions: everything at once or nothing, and nothing after the end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mamba_stream.errors import (
    DiskFull,
    InvalidInput,
    InvalidName,
    LogClosed,
    MambaStreamError,
    PartitionNotFound,
    PreconditionFailed,
    SchemaMismatch,
    SequenceGap,
    TopicEnded,
    TopicNotFound,
)
from mamba_stream.log import Log, Topic, Transaction, commit_together, open_log, rows
from mamba_stream.log.committer import Batch
from tests.log.pictures import picture, rows_of


@pytest.fixture
def audit(log: Log) -> Topic:
    return log.create_topic("audit", {"what": str}, partitions=2)


def test_a_transaction_commits_rows_offsets_records_and_trims_in_one(
    log: Log, plain: Topic, audit: Topic
) -> None:
    plain.append([{"n": 0}, {"n": 1}])
    before = log.lsn()
    with log.transaction() as tx:
        tx.append("plain", [{"n": 2}])
        tx.append("audit", pl.DataFrame({"what": ["a", "b"]}), partition=1)
        tx.append("plain", [{"n": 3}, {"n": 4}])
        tx.commit_offsets("group", {("plain", 0): 5, ("audit", 1): 0})
        tx.put_record("jobs", "state", b"\x00\xff")
        tx.trim("plain", {0: 1})
        assert log.lsn() == before
        assert plain.offsets() == {0: (0, 2)}
    assert tx.lsn == log.lsn() == before + 1
    assert tx.offsets == {("plain", 0): (2, 5), ("audit", 1): (0, 2)}
    assert [row for _, _, row in rows_of(plain)] == [(1,), (2,), (3,), (4,)]
    assert rows_of(audit) == [(1, 0, ("a",)), (1, 1, ("b",))]
    assert log.group_offsets("group") == {("plain", 0): 5, ("audit", 1): 0}
    assert log.record("jobs", "state") == b"\x00\xff"


@pytest.mark.usefixtures("unchanged")
def test_an_exception_in_the_block_aborts_and_goes_on(log: Log) -> None:
    with pytest.raises(ZeroDivisionError), log.transaction() as tx:
        tx.put_record("a", "b", b"c")
        1 / 0  # noqa: B018
    assert log.record("a", "b") is None


def test_an_aborted_transaction_left_nothing(log: Log, plain: Topic) -> None:
    before = picture(log)
    with log.transaction() as tx:
        tx.append("plain", [{"n": 1}])
        tx.abort()
    assert tx.lsn is None
    assert picture(log) == before


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_transaction_that_is_over_takes_nothing_more(log: Log, plain: Topic, end: str) -> None:
    tx = log.transaction()
    getattr(tx, end)()
    for use in (
        lambda: tx.append("plain", [{"n": 1}]),
        lambda: tx.commit_offsets("g", {}),
        lambda: tx.delete_offsets("g", []),
        lambda: tx.put_record("a", "b", b""),
        lambda: tx.delete_record("a", "b"),
        lambda: tx.require_record("a", "b", None),
        lambda: tx.trim("plain", {}),
        lambda: tx.commit(),
    ):
        with pytest.raises(MambaStreamError, match=r"is over: begin another with log.transaction\(\)"):
            use()
    tx.abort()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda tx: tx.require_record("jobs", "owner", b"me"), id="a record that is missing"),
        pytest.param(lambda tx: tx.require_record("jobs", "known", None), id="a record that exists"),
        pytest.param(lambda tx: tx.require_record("jobs", "known", b"2"), id="another value"),
        pytest.param(lambda tx: tx.append("plain", [{"n": 9}], expect={0: 7}), id="another end"),
        pytest.param(lambda tx: tx.append("ended", [{"n": 9}]), id="an ended topic"),
        pytest.param(lambda tx: tx.commit_offsets("g", {("plain", 0): 9}), id="an offset behind the end"),
        pytest.param(lambda tx: tx.trim("plain", {0: 9}), id="a trim behind the end"),
        pytest.param(
            lambda tx: tx.append("plain", [{"n": 9}], producer="p", sequence=9), id="a sequence that skips"
        ),
    ],
)
def test_one_condition_that_fails_fails_all_of_it(log: Log, plain: Topic, spoil: object) -> None:
    log.create_topic("ended", {"n": int}).end()
    plain.append([{"n": 0}], producer="p", sequence=0)
    with log.transaction() as tx:
        tx.put_record("jobs", "known", b"1")
    before = picture(log) | {"records": log.records("jobs")}
    tx = log.transaction()
    tx.append("plain", [{"n": 1}])
    tx.put_record("jobs", "new", b"1")
    tx.commit_offsets("g", {("plain", 0): 1})
    spoil(tx)  # type: ignore[operator]
    with pytest.raises((PreconditionFailed, TopicEnded, InvalidInput, SequenceGap)):
        tx.commit()
    assert tx.lsn is None
    assert tx.offsets == {}
    assert picture(log) | {"records": log.records("jobs")} == before


def test_what_cannot_be_appended_is_refused_when_it_is_asked_for(log: Log, plain: Topic) -> None:
    with (
        pytest.raises(SchemaMismatch, match=r"unexpected column 'm'|unexpected key 'm'"),
        log.transaction() as tx,
    ):
        tx.append("plain", [{"n": 1}])
        tx.append("plain", [{"m": 1}])
    assert plain.offsets() == {0: (0, 0)}


def test_offsets_may_reach_the_end_that_the_transaction_makes(log: Log, plain: Topic) -> None:
    with log.transaction() as tx:
        tx.append("plain", [{"n": 1}] * 3)
        tx.commit_offsets("g", {("plain", 0): 3})
        tx.trim("plain", {0: 2})
    assert log.group_offsets("g") == {("plain", 0): 3}
    assert plain.offsets() == {0: (2, 3)}


def test_offsets_of_a_group_are_replaced_one_by_one(log: Log, audit: Topic) -> None:
    audit.append([{"what": "x"}], partition=0)
    for offset in (0, 1):
        with log.transaction() as tx:
            tx.commit_offsets("g", {("audit", 0): np.int64(offset)})
            tx.commit_offsets("h", {("audit", 1): 0})
    assert log.groups() == ["g", "h"]
    assert log.group_offsets("g") == {("audit", 0): 1}
    assert log.group_offsets("nobody") == {}


def test_a_group_whose_name_begins_another_is_another(log: Log, plain: Topic) -> None:
    with log.transaction() as tx:
        tx.commit_offsets("g", {("plain", 0): 0})
        tx.commit_offsets("g2", {("plain", 0): 0})
    assert log.group_offsets("g") == {("plain", 0): 0}


def test_offsets_of_a_group_can_be_forgotten(log: Log, plain: Topic, audit: Topic) -> None:
    with log.transaction() as tx:
        tx.commit_offsets("g", {("plain", 0): 0, ("audit", 0): 0, ("audit", 1): 0})
        tx.commit_offsets("h", {("plain", 0): 0})
    with log.transaction() as tx:
        tx.delete_offsets("g", [("plain", 0), ("audit", 1)])
        tx.delete_offsets("nobody", [("plain", 0)])
    assert log.group_offsets("g") == {("audit", 0): 0}
    assert log.group_offsets("h") == {("plain", 0): 0}
    with log.transaction() as tx:
        tx.delete_offsets("g", [("audit", 0)])
        tx.commit_offsets("h", {("plain", 0): 0})
        tx.delete_offsets("h", [("plain", 0)])
    assert log.groups() == []


def test_offsets_that_went_with_their_topic_are_forgotten_anyway(log: Log, audit: Topic) -> None:
    tx = log.transaction()
    tx.delete_offsets("g", [("audit", 0)])
    tx.put_record("a", "b", b"c")
    log.delete_topic("audit")
    tx.commit()
    assert log.record("a", "b") == b"c"


def test_namespaces_are_those_that_hold_records(log: Log) -> None:
    assert log.namespaces() == []
    with log.transaction() as tx:
        for namespace in ("a", "a/b", "a!", "ab", "b", "é"):
            for key in ("x", "y"):
                tx.put_record(namespace, key, b"")
    assert log.namespaces() == ["a", "a!", "a/b", "ab", "b", "é"]
    assert log.namespaces("a") == ["a", "a!", "a/b", "ab"]
    assert log.namespaces("a/") == ["a/b"]
    assert log.namespaces("c") == []
    with log.transaction() as tx:
        for key in ("x", "y"):
            tx.delete_record("a/b", key)
    assert log.namespaces("a/") == []


def test_records_come_back_by_namespace(log: Log) -> None:
    with log.transaction() as tx:
        for namespace, key in (("a", "x"), ("a", "y"), ("ab", "x"), ("b", "x")):
            tx.put_record(namespace, key, f"{namespace}{key}".encode())
    assert log.records("a") == {"x": b"ax", "y": b"ay"}
    with log.transaction() as tx:
        tx.delete_record("a", "x")
        tx.put_record("a", "y", b"")
    assert log.records("a") == {"y": b""}


def test_the_last_word_about_a_record_counts(log: Log) -> None:
    with log.transaction() as tx:
        tx.put_record("a", "x", b"1")
        tx.delete_record("a", "x")
        tx.delete_record("a", "y")
        tx.put_record("a", "y", b"2")
    assert log.records("a") == {"y": b"2"}


def test_a_repeated_transaction_lands_once_and_is_answered_as_before(
    log: Log, plain: Topic, audit: Topic
) -> None:
    def send() -> dict[tuple[str, int], tuple[int, int]]:
        with log.transaction() as tx:
            tx.append("plain", [{"n": 1}], producer="p", sequence=4)
            tx.append("audit", [{"what": "x"}], partition=0, producer="p", sequence=0)
        return tx.offsets

    first = send()
    plain.append([{"n": 2}])
    assert send() == first == {("plain", 0): (0, 1), ("audit", 0): (0, 1)}
    assert len(rows_of(audit)) == 1


@pytest.mark.embedded
def test_a_producer_that_is_done_leaves_nothing_behind(log: Log, plain: Topic) -> None:
    for number in range(140):
        plain.append([{"n": number}], producer="p", sequence=number)
    plain.append([{"n": 0}], producer="p2", sequence=0)
    with log.transaction() as tx:
        tx.forget_producer("plain", "p")
    assert plain.append([{"n": 9}], producer="p2", sequence=0) == {0: (140, 141)}, "another is still known"
    assert plain.append([{"n": 0}], producer="p", sequence=7) == {0: (141, 142)}, "it begins anew"
    with log.transaction() as tx:
        tx.forget_producer("plain", "p")
        tx.forget_producer("plain", "p2")
        tx.forget_producer("plain", "never")
    kinds = (rows.PRODUCER, rows.SEQUENCE)
    assert not [key for kind in kinds for key, _ in log._store.items(kind)]
    with pytest.raises(InvalidInput, match="give a name"), log.transaction() as tx:
        tx.forget_producer("plain", "")


def test_two_sequences_of_one_producer_do_not_fit_one_transaction(log: Log, plain: Topic) -> None:
    tx = log.transaction()
    tx.append("plain", [{"n": 1}], producer="p", sequence=0)
    tx.append("plain", [{"n": 1}], producer="q", sequence=0)
    with pytest.raises(InvalidInput, match="append all its rows at once"):
        tx.append("plain", [{"n": 1}], producer="p", sequence=1)


NONSENSE = {
    "an unknown topic": (lambda tx: tx.append("plane", []), TopicNotFound, "did you mean 'plain'"),
    "an unknown partition": (lambda tx: tx.append("plain", [], partition=1), PartitionNotFound, "from 0"),
    "a group of two names": (lambda tx: tx.commit_offsets("a/b", {}), InvalidName, "'a/b' contains '/'"),
    "forgetting offsets of no topic": (
        lambda tx: tx.delete_offsets("g", [("plane", 0)]),
        TopicNotFound,
        "plain",
    ),
    "offsets of no topic": (lambda tx: tx.commit_offsets("g", {("plane", 0): 0}), TopicNotFound, "plain"),
    "offsets of no partition": (
        lambda tx: tx.commit_offsets("g", {("plain", 1): 0}),
        PartitionNotFound,
        "no partition 1",
    ),
    "a negative offset": (
        lambda tx: tx.commit_offsets("g", {("plain", 0): -1}),
        InvalidInput,
        "'plain', partition 0: -1 is not an offset",
    ),
    "half an offset": (
        lambda tx: tx.commit_offsets("g", {("plain", 0): 1.5}),
        InvalidInput,
        "1.5 is not an offset",
    ),
    "a record of text": (lambda tx: tx.put_record("a", "b", "text"), InvalidInput, "must be bytes"),
    "a record of much": (lambda tx: tx.put_record("a", "b", bytes(2049)), InvalidInput, "at most 2048"),
    "a namespace of nothing": (lambda tx: tx.put_record("", "b", b""), InvalidInput, "1 to 200 bytes"),
    "a namespace with NUL": (lambda tx: tx.put_record("a\0b", "b", b""), InvalidInput, "without NUL"),
    "a long key": (lambda tx: tx.put_record("a", "b" * 201, b""), InvalidInput, "1 to 200 bytes"),
    "a key that is a number": (lambda tx: tx.delete_record("a", 5), InvalidInput, "1 to 200 bytes"),
    "a key of nothing": (lambda tx: tx.require_record("a", "", None), InvalidInput, "1 to 200 bytes"),
    "text for a value": (lambda tx: tx.require_record("a", "b", "text"), InvalidInput, "is bytes, or None"),
    "a trim before the beginning": (
        lambda tx: tx.trim("plain", {0: -1}),
        InvalidInput,
        "-1 is not an offset",
    ),
    "offsets in a list": (
        lambda tx: tx.commit_offsets("g", [0]),
        InvalidInput,
        r"give \{\(topic, partition\)",
    ),
    "offsets by topic": (
        lambda tx: tx.commit_offsets("g", {"plain": 1}),
        InvalidInput,
        r"\(topic, partition\)",
    ),
    "a trim without a partition": (
        lambda tx: tx.trim("plain", 5),
        InvalidInput,
        r"before=5: give \{partition",
    ),
    "half a character": (lambda tx: tx.put_record("\ud800", "b", b""), InvalidInput, "1 to 200 bytes"),
    "a trim to a word": (lambda tx: tx.trim("plain", {0: "1"}), InvalidInput, "'1' is not an offset"),
    "a trim of no partition": (lambda tx: tx.trim("plain", {3: 0}), PartitionNotFound, "no partition 3"),
}


@pytest.mark.usefixtures("plain", "unchanged")
@pytest.mark.parametrize(("use", "error", "words"), NONSENSE.values(), ids=NONSENSE)
def test_what_makes_no_sense_is_refused_when_it_is_asked_for(
    log: Log, use: Callable[[Transaction], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        use(log.transaction())


def test_a_topic_deleted_in_between_is_named(log: Log, plain: Topic, audit: Topic) -> None:
    tx = log.transaction()
    tx.append("audit", [{"what": "x"}])
    tx.append("plain", [{"n": 1}])
    log.delete_topic("plain")
    with pytest.raises(TopicNotFound, match="topic 'plain' was deleted; nothing was committed"):
        tx.commit()
    assert audit.offsets() == {0: (0, 0), 1: (0, 0)}


def test_a_transaction_of_a_closed_handle_is_refused(plain: Topic, tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as other:
        tx = other.transaction()
        tx.append("plain", [{"n": 1}])
    with pytest.raises(LogClosed):
        tx.commit()
    with pytest.raises(LogClosed):
        other.transaction().append("plain", [{"n": 1}])
    assert plain.offsets() == {0: (0, 0)}


def test_a_transaction_over_many_partitions_is_one_commit(log: Log) -> None:
    topic = log.create_topic("many", {"n": int}, partitions=128)
    before = log.statistics()
    with log.transaction() as tx:
        for partition in range(128):
            tx.append("many", [{"n": partition}], partition=partition)
    assert log.statistics().commits - before.commits == 1
    assert rows_of(topic) == [(p, 0, (p,)) for p in range(128)]


@pytest.mark.embedded
def test_of_transactions_that_are_committed_together_each_is_accepted_or_refused_by_itself(
    log: Log, plain: Topic, audit: Topic
) -> None:
    ended = log.create_topic("ended", {"n": int})
    ended.end()
    gone = log.create_topic("gone", {"n": int})
    transactions = [log.transaction() for _ in range(6)]
    for number, tx in enumerate(transactions):
        tx.append("plain", [{"n": number}])
        tx.put_record("seen", str(number), b"")
    transactions[1].require_record("seen", "0", None)
    transactions[2].require_record("seen", "0", b"")
    transactions[3].append("ended", [{"n": 3}])
    transactions[4].append("gone", [{"n": 4}])
    log.delete_topic(gone.name)
    before = log.statistics()
    outcomes = commit_together(log, transactions)
    assert [type(outcome) for outcome in outcomes] == [
        type(None), PreconditionFailed, type(None), TopicEnded, TopicNotFound, type(None)
    ]  # fmt: skip
    assert "'gone' was deleted" in str(outcomes[4])
    after = log.statistics()
    assert (after.commits - before.commits, after.changes - before.changes) == (1, 3)
    assert after.refused - before.refused == 3
    assert [row for _, _, row in rows_of(plain)] == [(0,), (2,), (5,)]
    assert list(log.records("seen")) == ["0", "2", "5"]
    assert transactions[5].offsets == {("plain", 0): (2, 3)}
    assert transactions[0].lsn is not None
    assert transactions[1].lsn is None
    with pytest.raises(MambaStreamError, match="is over"):
        transactions[0].commit()
    assert commit_together(log, []) == []


@pytest.mark.embedded
def test_what_cannot_be_encoded_fails_alone_among_those_that_are_committed_together(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = [log.transaction() for _ in range(3)]
    for number, tx in enumerate(transactions):
        tx.append("plain", [{"n": number}])
    (broken,) = transactions[1]._batches

    def made(batch: Batch) -> list[Batch]:
        if batch is broken:
            raise RuntimeError("no")
        return whole(batch)

    whole = Batch.made
    monkeypatch.setattr(Batch, "made", made)
    outcomes = commit_together(log, transactions)
    assert [type(outcome) for outcome in outcomes] == [type(None), RuntimeError, type(None)]
    assert [row for _, _, row in rows_of(plain)] == [(0,), (2,)]


@pytest.mark.embedded
def test_a_disk_that_is_full_refuses_all_that_are_committed_together(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = [log.transaction() for _ in range(2)]
    for number, tx in enumerate(transactions):
        tx.append("plain", [{"n": number}])

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        assert [type(outcome) for outcome in commit_together(log, transactions)] == [DiskFull, DiskFull]
    assert not rows_of(plain)
    plain.append([{"n": 2}])
    assert [row for _, _, row in rows_of(plain)] == [(2,)]
