"""How a topic is kept: said when it is created, changed while it is in use, refused where it cannot be."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import polars as pl
import pytest

from mamba_stream.core.changes import AlterTopic, ChangeSet, TopicSettings
from mamba_stream.errors import InvalidInput, PreconditionFailed, TopicNotFound
from mamba_stream.log import Log, Topic, rows
from mamba_stream.log.rows import TopicRow


def test_what_a_topic_is_created_with_is_what_it_has(log: Log) -> None:
    topic = log.create_topic(
        "t", {"k": str, "n": int}, key="k", retention="7d", retention_bytes="10GB", compact=True,
        compact_after=timedelta(hours=1), tombstones="2d", seal_compression="zstd",
    )  # fmt: skip
    assert topic.retention == timedelta(days=7)
    assert topic.retention_bytes == 10 << 30
    assert (topic.compact, topic.seal_compression) == (True, "zstd")
    assert topic.describe().settings == TopicSettings(
        7 * 86_400_000_000, 10 << 30, True, 3_600_000_000, 2 * 86_400_000_000, "zstd"
    )


def test_what_is_not_said_keeps_everything(log: Log, plain: Topic) -> None:
    assert (plain.retention, plain.retention_bytes, plain.compact, plain.seal_compression) == (None,) * 2 + (
        False,
        None,
    )
    assert plain.describe().settings == TopicSettings()


def test_only_what_is_named_is_altered(log: Log) -> None:
    log.create_topic("t", {"k": str}, key="k", retention="7d", retention_bytes=1000)
    changed = log.alter_topic("t", retention_bytes=None, compact=True)
    assert (changed.retention, changed.retention_bytes, changed.compact) == (timedelta(days=7), None, True)
    lsn = log.lsn()
    assert log.alter_topic("t").describe().settings == changed.describe().settings
    assert log.lsn() == lsn, "nothing is committed where nothing changes"


def test_a_topic_that_is_there_keeps_its_settings(log: Log) -> None:
    log.create_topic("t", {"n": int}, retention="7d")
    assert log.create_topic("t", {"n": int}, retention="1d", exist_ok=True).retention == timedelta(days=7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"retention": 7}, r"topic 't': retention has no unit: 7; write"),
        ({"retention": "7y"}, "a year has none"),
        ({"retention": "0s"}, "must be longer than nothing"),
        ({"retention": "-1d"}, "must not be negative"),
        ({"retention_bytes": "many"}, r"topic 't': retention_bytes='many': give a size, as 512MiB or 1GiB"),
        ({"retention_bytes": -1}, "give a size"),
        ({"retention_bytes": 0}, "keeps nothing"),
        ({"compact": True}, r"compact=True keeps the latest row of each key, and the topic has no key"),
        ({"compact": 1}, r"compact=1: give True or False"),
        ({"compact_after": None}, "compact_after has no unit"),
        ({"tombstones": "-1s"}, "tombstones must not be negative"),
        ({"seal_compression": "zst"}, r"seal_compression='zst', did you mean 'zstd'\?; choose one of none, lz4"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_changes_nothing(log: Log, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        log.create_topic("t", {"n": int}, **given)
    assert log.topics() == []
    log.create_topic("t", {"n": int})
    with pytest.raises(InvalidInput, match=message):
        log.alter_topic("t", **given)
    assert log["t"].describe().settings == TopicSettings()


def test_a_topic_that_is_not_there_cannot_be_altered(log: Log, plain: Topic) -> None:
    with pytest.raises(TopicNotFound, match="did you mean 'plain'"):
        log.alter_topic("plian", retention="1d")
    with pytest.raises(TopicNotFound):
        log._shared.commit(ChangeSet(alters=(AlterTopic(99, TopicSettings(), TopicSettings()),)))


def test_of_two_that_alter_at_once_neither_undoes_the_other(log: Log, plain: Topic) -> None:
    seen = TopicSettings()
    first = ChangeSet(alters=(AlterTopic(plain.number, seen, TopicSettings(retention=1)),))
    log._shared.commit(first)
    with pytest.raises(PreconditionFailed, match="altered by somebody else"):
        log._shared.commit(ChangeSet(alters=(AlterTopic(plain.number, seen, TopicSettings(retention=2)),)))
    # The loser looks again, and alters what it finds.
    assert log.alter_topic("plain", retention_bytes=5).describe().settings == TopicSettings(1, 5)


def test_a_change_that_does_not_happen_alters_nothing(log: Log, plain: Topic) -> None:
    wrong = ChangeSet(alters=(AlterTopic(plain.number, TopicSettings(), TopicSettings(1)),), ends=(99,))
    with pytest.raises(TopicNotFound):
        log._shared.commit(wrong)
    assert log["plain"].retention is None


def test_a_topic_goes_on_while_it_is_altered(log: Log, plain: Topic) -> None:
    reader = plain.reader()
    plain.append([{"n": 1}])
    log.alter_topic("plain", retention="1d")
    plain.append([{"n": 2}])
    assert [n for batch in reader.poll() for n in batch.data["n"].to_pylist()] == [1, 2]


@pytest.mark.embedded
def test_a_topic_of_before_there_were_settings_has_the_usual_ones() -> None:
    row = {
        "id": 1, "name": "t", "partitions": 1, "key": [], "time": None, "compression": "none", "schema": 1,
        "internal": False, "created": 0, "strict_key": False,
    }  # fmt: skip
    assert rows.unpack(TopicRow, msgspec.msgpack.encode(row)).settings == TopicSettings()


@pytest.mark.embedded
def test_settings_of_a_later_version_are_passed_over() -> None:
    row = TopicRow(1, "t", 1, (), None, "none", 1, False, 0, settings=TopicSettings(retention=5))
    raw = msgspec.msgpack.decode(rows.pack(row))
    raw["settings"]["later"] = 1
    assert rows.unpack(TopicRow, msgspec.msgpack.encode(raw)) == row


def test_schemas_are_given_in_every_way_beside_settings(log: Log) -> None:
    topic = log.create_topic("t", pl.Schema({"n": pl.Int64}), retention=timedelta(minutes=5))
    assert topic.append([{"n": 1}]) == {0: (0, 1)}
