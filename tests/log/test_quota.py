"""The quota of a topic: appends beyond it are refused whole, and what is there stays."""

from __future__ import annotations

from typing import Any

import pytest

import mamba_stream as mamba
from mamba_stream.errors import InvalidInput, TopicFull
from mamba_stream.log import Log
from mamba_stream.log.transaction import commit_together
from tests.log.desk import SCHEMA, frame_of
from tests.log.neighbour import Neighbour
from tests.log.pictures import picture
from tests.served import serving

COLUMNS = {"n": int, "body": bytes}


def row(number: int, size: int = 1000) -> list[dict[str, Any]]:
    return [{"n": number, "body": bytes(size)}]


def taken(log: Log, topic: str) -> int:
    return int(log[topic].describe().bytes)


def test_appends_go_up_to_the_quota_and_not_a_byte_further(log: Log) -> None:
    free = log.create_topic("free", COLUMNS, partitions=3)
    for at in range(6):
        free.append(row(at), partition=at % 3)
    quota = taken(log, "free")
    topic = log.create_topic("t", COLUMNS, partitions=3, quota=quota)
    assert topic.quota == topic.describe().settings.quota == quota
    for at in range(6):
        topic.append(row(at), partition=at % 3)
    assert taken(log, "t") == quota
    before = picture(log)
    with pytest.raises(
        TopicFull, match=r"topic 't' takes .* KiB on disk, and its quota is .* nothing was committed. Trim it"
    ):
        topic.append(row(6, 0), partition=1)
    assert picture(log) == before
    assert (log.statistics().quota_refused, log.statistics().disk_refused) == (1, 0)

    topic.trim({0: 2})
    assert topic.append(row(6), partition=1) == {1: (2, 3)}
    with pytest.raises(TopicFull):
        topic.append(row(7, 2000), partition=1)
    log.alter_topic("t", quota=None)
    topic.append(row(7, 2000), partition=1)
    log.alter_topic("t", quota=1)
    with pytest.raises(TopicFull):
        topic.append(row(8, 0))
    assert sorted(n for batch in topic.read() for n in batch.data["n"].to_pylist()) == [1, 2, 4, 5, 6, 7]


def test_one_topic_that_is_full_has_the_whole_transaction_refused_and_nobody_else(log: Log) -> None:
    log.create_topic("full", COLUMNS, quota=1)
    log.create_topic("other", COLUMNS)
    with pytest.raises(TopicFull), log.transaction() as tx:
        tx.append("other", row(1))
        tx.append("full", row(1))
        tx.put_record("a", "b", b"c")
    assert log["other"].offsets() == {0: (0, 0)}
    assert log.record("a", "b") is None
    refused, fine = log.transaction(), log.transaction()
    refused.append("full", row(1))
    fine.append("other", row(2))
    outcomes = commit_together(log, [refused, fine])
    assert isinstance(outcomes[0], TopicFull)
    assert outcomes[1] is None
    assert log["other"].offsets() == {0: (0, 1)}


def test_two_in_one_commit_do_not_go_beyond_it_together(log: Log) -> None:
    topic = log.create_topic("t", COLUMNS)
    topic.append(row(0))
    log.alter_topic("t", quota=2 * taken(log, "t"))
    several = [log.transaction() for _ in range(3)]
    for at, each in enumerate(several):
        each.append("t", row(at))
    # Which of them it is, is not said: over the network they go their ways at once.
    found = [type(outcome) for outcome in commit_together(log, several)]
    assert (found.count(type(None)), found.count(TopicFull)) == (1, 2)


def test_what_was_appended_before_is_answered_again_although_the_topic_is_full(log: Log) -> None:
    topic = log.create_topic("t", COLUMNS)
    first = topic.append(row(0), producer="p", sequence=0)
    log.alter_topic("t", quota=1)
    assert topic.append(row(0), producer="p", sequence=0) == first
    with pytest.raises(TopicFull):
        topic.append(row(1), producer="p", sequence=1)


def test_another_process_is_refused_by_the_same_quota(log: Log, neighbour: Neighbour) -> None:
    topic = log.create_topic("t", SCHEMA)
    mine, theirs = (
        [[1, 0, "a", 0.5]],
        {"do": "append", "topic": "t", "rows": [[2, 0, "b", 0.5]], "form": "dicts"},
    )
    topic.append(frame_of(mine, "dicts"))
    log.alter_topic("t", quota=2 * taken(log, "t"))
    assert "ok" in neighbour.do({"do": "open", "path": log.place})
    try:
        assert neighbour.do(theirs) == {"ok": [[0, 1, 2]]}
        with pytest.raises(TopicFull):
            topic.append(frame_of(mine, "dicts"))
        assert neighbour.do(theirs)["error"] == "TopicFull"
    finally:
        neighbour.do({"do": "close"})
    assert topic.offsets() == {0: (0, 2)}


@pytest.mark.embedded
def test_over_the_network_it_is_the_same_error(log: Log) -> None:
    with serving(log.path) as address, mamba.open(address) as client:
        topic = client.create_topic("t", COLUMNS, quota="1KiB")
        topic.append(row(0, 100))
        with pytest.raises(TopicFull, match="its quota is 1.0 KiB"):
            topic.append(row(1, 2000))
        assert client.alter_topic("t", quota="10KiB").quota == 10 << 10
        topic.append(row(1, 2000))
        assert client.statistics().quota_refused == 1


@pytest.mark.parametrize(
    ("quota", "words"),
    [(-1, "give a size"), (0, "takes no rows"), ("much", "give a size"), (True, "give a size")],
)
def test_a_quota_that_cannot_be_is_refused(log: Log, quota: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=f"topic 't': quota={quota!r}.*{words}"):
        log.create_topic("t", COLUMNS, quota=quota)
    assert "t" not in log
