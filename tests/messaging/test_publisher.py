"""A publisher makes its topic, publishes each message at once, and has published when its program ends."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mamba_stream import InvalidInput, InvalidName, Producer, Publisher, RoutingPolicy
from mamba_stream.log import Log, open_log
from mamba_stream.messaging.schema import is_message_schema
from tests import forking
from tests.conftest import ROOT
from tests.messaging.flaky import until
from tests.messaging.test_producer import rows


def test_a_publisher_makes_its_topic_with_one_partition(log: Log):
    with Publisher("my-topic", log) as publisher:
        assert publisher.topic.partitions == 1 and is_message_schema(publisher.topic.schema)
        assert "my-topic" in repr(publisher)
        sent = publisher.publish(
            "Hello, world!", key="k", headers={"h": "v"}, event_type="greeting", priority=1, delay="1s"
        )
        assert sent.result().offset == 0
    (row,) = rows(log, "my-topic")
    assert (row["value"], row["key"], row["headers"], row["event_type"], row["priority"]) == (
        "Hello, world!", "k", {"h": "v"}, "greeting", 1,
    )  # fmt: skip
    assert row["deliver_at"] == row["time"] + 1_000_000


def test_what_is_published_comes_without_being_waited_for(log: Log):
    with Publisher("my-topic", log) as publisher:
        publisher.publish("x")
        until(lambda: log["my-topic"].offsets() == {0: (0, 1)}, log)


def test_a_topic_that_is_there_is_used_as_it_is(log: Log):
    with Producer(log) as producer:
        producer.create_topic("my-topic")
    with Publisher("my-topic", log) as publisher:
        assert publisher.topic.partitions == 4
        publisher.set_routing_policy(RoutingPolicy().add_rule("my-topic", "partition-1"))
        assert publisher.publish("x").result().partition == 1
        assert publisher.statistics().sent == 1
        publisher.flush()


def test_what_cannot_be_published_is_refused_at_once(log: Log):
    with pytest.raises(InvalidName):
        Publisher("my topic", log)
    with Publisher("my-topic", log, max_message_bytes=10) as publisher:
        for value in (object(), "x" * 11):
            with pytest.raises(InvalidInput):
                publisher.publish(value)
        publisher.close()
    assert log["my-topic"].offsets() == {0: (0, 0)}


def snippet(containing: str) -> str:
    """A piece of the product's oldest published documentation, as written."""
    return PUBLISHED[containing]


PUBLISHED = {
    "publisher": """
publisher = mamba.Publisher("my-topic")
publisher.publish("Hello, world!")
""",
    "producer": """
producer = mamba.Producer()
producer.create_topic("my-topic")
producer.send("my-topic", "Hello, world!")
""",
    "routing": """
producer = mamba.Producer()
producer.create_topic("my-topic")
routing_policy = mamba.RoutingPolicy()
routing_policy.add_rule("my-topic", "partition-1")
producer.set_routing_policy(routing_policy)
producer.send("my-topic", "Hello, world!", headers={"key": "value"})
""",
}


@pytest.mark.parametrize("which", sorted(PUBLISHED))
def test_the_published_snippets_have_sent_when_they_end(
    tmp_path: Path, environment: dict[str, str], which: str
):
    for _ in range(2):
        done = forking.run(
            [sys.executable, "-W", "error", "-c", "import mamba_stream as mamba\n" + snippet(which)],
            env={**environment, "MAMBA_STREAM_LOG": str(tmp_path / "log")},
            capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    with open_log(tmp_path / "log") as log:
        found = rows(log, "my-topic")
        assert [row["value"] for row in found] == ["Hello, world!"] * 2
        if which == "routing":
            assert {row["partition"] for row in found} == {1}


def test_a_producer_with_an_address_says_what_it_needs():
    with pytest.raises(Exception, match=re.escape("localhost:9092")):
        Producer("localhost:9092")
