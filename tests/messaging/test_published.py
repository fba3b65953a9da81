"""The six oldest published examples run as they were published, each in a process of its own, on one log."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mamba_stream as mamba
from mamba_stream.messaging.members import CLIENTS, alive
from tests import forking

PUBLISHER = """\
publisher = mamba.Publisher("my-topic")               # no address: the embedded log, shared by processes
publisher.publish("Hello, world!")
"""
SUBSCRIBER = """\
subscriber = mamba.Subscriber("my-topic")
subscriber.subscribe(lambda message: print(message))
subscriber.run()
"""
PRODUCER = """\
producer = mamba.Producer("localhost:9092")           # needs a server there; Producer("data") does not
producer.create_topic("my-topic")
producer.send("my-topic", "Hello, world!")
"""
CONSUMER = """\
consumer = mamba.Consumer("localhost:9092")
consumer.subscribe("my-topic")
for message in consumer.consume():
    print(message.value)                              # "Hello, world!", a str again
"""
ROUTING = """\
routing_policy = mamba.RoutingPolicy()
routing_policy.add_rule("my-topic", "partition-1")    # partition number 1, counted from 0
producer.set_routing_policy(routing_policy)
"""
FILTER = """\
filter_rule = mamba.FilterRule()
filter_rule.add_condition("key", "value")             # a header: producer.send(..., headers={"key": "value"})
consumer.set_filter_rule(filter_rule)
"""
SHOWN = "Message('Hello, world!', topic='my-topic', partition=0, offset=0)"


class Stage:
    """One log, and processes on it that run what was published."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.place = place / "log"
        self._cwd = place
        self._environment = {**environment, "MAMBA_STREAM_LOG": str(self.place)}
        self._running: list[forking.Process] = []

    def begin(self, *parts: str) -> forking.Process:
        script = "import mamba_stream as mamba\n" + "".join(parts)
        process = forking.Process(
            [sys.executable, "-u", "-W", "error", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd=self._cwd,
        )
        self._running.append(process)
        return process

    def run(self, *parts: str) -> None:
        """Runs it to its end, which must be a good one, and silent."""
        process = self.begin(*parts)
        out, errors = process.communicate(timeout=60)
        # It may say that the disk takes its time.
        errors = "".join(line for line in errors.splitlines(True) if "still to be sent" not in line)
        assert (out, errors, process.returncode) == ("", "", 0)

    def embedded(self, snippet: str) -> str:
        """The same on the directory, where it was published with the address of a server."""
        assert snippet.count('"localhost:9092"') == 1
        return snippet.replace('"localhost:9092"', repr(str(self.place)))

    def kinds(self) -> list[str]:
        """What has registered on the log and is alive."""
        with mamba.open(self.place) as log:
            return sorted(
                client.kind for client in alive(log.records(CLIENTS), time.time_ns() // 1000).values()
            )

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def stage(tmp_path: Path, environment: dict[str, str]) -> Iterator[Stage]:
    made = Stage(tmp_path, environment)
    yield made
    made.close()


def line(process: forking.Process) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    assert process.stderr is not None
    text = process.stdout.readline()
    assert text, process.stderr.read()
    return text.rstrip("\n")


def wait_for(condition: Callable[[], bool]) -> None:
    bell = threading.Event()
    for _ in range(6_000):
        if condition():
            return
        bell.wait(0.01)
    raise AssertionError("it did not come true")


def test_a_subscriber_that_is_there_is_called_for_what_is_published_after(stage: Stage) -> None:
    subscriber = stage.begin(SUBSCRIBER)
    wait_for(lambda: stage.kinds() == ["subscriber"])
    stage.run(PUBLISHER)
    assert line(subscriber) == SHOWN


def test_a_subscriber_that_comes_later_is_called_for_what_was_published_if_it_starts_at_the_earliest(
    stage: Stage,
) -> None:
    stage.run(PUBLISHER)
    earliest = SUBSCRIBER.replace('"my-topic")', '"my-topic", start="earliest")')
    assert line(stage.begin(earliest)) == SHOWN


def test_a_subscriber_that_comes_later_and_waits_says_how_it_would_have_been_called(stage: Stage) -> None:
    stage.run(PUBLISHER)
    subscriber = stage.begin(SUBSCRIBER)
    assert subscriber.stderr is not None
    assert "start='earliest'" in subscriber.stderr.readline()
    # And it goes on waiting for new ones.
    stage.run(PUBLISHER)
    assert line(subscriber) == SHOWN.replace("offset=0", "offset=1")


def test_every_subscriber_is_called_for_everything(stage: Stage) -> None:
    both = [stage.begin(SUBSCRIBER), stage.begin(SUBSCRIBER)]
    wait_for(lambda: stage.kinds() == ["subscriber"] * 2)
    stage.run(PUBLISHER)
    assert [line(each) for each in both] == [SHOWN] * 2


def test_a_subscriber_ends_at_an_interrupt(stage: Stage) -> None:
    subscriber = stage.begin(SUBSCRIBER)
    wait_for(lambda: stage.kinds() == ["subscriber"])
    subscriber.send_signal(signal.SIGINT)
    _, errors = subscriber.communicate(timeout=60)
    assert errors.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("times", [1, 1_000])
def test_a_script_that_publishes_and_ends_has_published(stage: Stage, times: int) -> None:
    head, last = PUBLISHER.splitlines()
    stage.run(f"{head}\nfor _ in range({times}):\n    {last}\n")
    with mamba.open(stage.place) as log:
        assert log["my-topic"].offsets() == {0: (0, times)}


def test_a_script_that_sends_and_ends_has_sent(stage: Stage) -> None:
    stage.run(stage.embedded(PRODUCER))
    with mamba.open(stage.place) as log:
        topic = log["my-topic"]
        assert topic.partitions == 4
        assert sum(end for _, end in topic.offsets().values()) == 1


@pytest.mark.parametrize("first", ["producer", "consumer"])
def test_a_consumer_gets_what_a_producer_sends_whoever_starts_first(stage: Stage, first: str) -> None:
    if first == "producer":
        stage.run(stage.embedded(PRODUCER))
    consumer = stage.begin(stage.embedded(CONSUMER))
    if first == "consumer":
        wait_for(lambda: stage.kinds() == ["consumer"])
        stage.run(stage.embedded(PRODUCER))
    assert line(consumer) == "Hello, world!"


def test_a_routing_policy_sends_to_the_partition_that_it_names(stage: Stage) -> None:
    before, send = stage.embedded(PRODUCER).rsplit("\n", 2)[:2]
    stage.run(f"{before}\n", ROUTING, f"{send}\n" * 3)
    with mamba.open(stage.place) as log:
        assert {p: end for p, (_, end) in log["my-topic"].offsets().items()} == {0: 0, 1: 3, 2: 0, 3: 0}


def test_a_filter_rule_lets_through_what_has_the_header(stage: Stage) -> None:
    more = "".join(
        f'producer.send("my-topic", "{value}", headers={headers!r})\n'
        for value, headers in (
            ("not this", {"key": "other"}),
            ("this", {"key": "value"}),
            ("nor this", {}),
            ("and this", {"key": "value", "b": "c"}),
        )
    )
    # One partition, so that there is one order.
    stage.run(stage.embedded(PRODUCER).replace('"my-topic")\n', '"my-topic", 1)\n'), more)
    subscribed, loop = stage.embedded(CONSUMER).split("for ")
    consumer = stage.begin(subscribed, FILTER, f"for {loop}")
    assert [line(consumer), line(consumer)] == ["this", "and this"]


@pytest.mark.parametrize("snippet", [PRODUCER, CONSUMER], ids=["producer", "consumer"])
def test_without_a_server_it_says_what_to_do(stage: Stage, snippet: str) -> None:
    process = stage.begin(snippet)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    said = errors.rstrip().splitlines()[-1]
    assert said.startswith("mamba_stream.errors.ServerUnavailable: ")
    assert "localhost:9092" in said
    assert "pass a directory" in said
