"""Measures the message queue, in processes of their own: ``python benchmarks/queue.py``, or ``make bench``.

Each figure stands beside its target and beside a limit of the machine that was measured in the same run. Beside Kafka
too, where there is one (``KAFKA_HOME``) and the ``confluent-kafka`` client is installed.
"""

from __future__ import annotations

import sys

if sys.path and sys.path[0].endswith("benchmarks"):
    # A module of the standard library has this file's name, and others import that.
    del sys.path[0]

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

import mamba_stream as mamba
from mamba_stream.cli.bench.measuring import Figure, middle, quantile, seconds, show
from mamba_stream.cli.bench.parts import Parts, line_of
from mamba_stream.messaging.schema import MESSAGES

SIZE = 100
VALUES = [f"{number:0{SIZE}}" for number in range(10_000)]
ROUNDS = 5


def figures(where: Path, options: argparse.Namespace) -> Iterator[Figure]:
    sent = list(sending(where / "send", options.scale))
    yield from sent
    yield from latency(where / "latency", options.seconds)
    yield from _acks(where, options.scale)
    yield from _backlog(where, options.backlog)
    yield from _many(where, options.topics, options.groups)
    yield from kafka(where, options.scale, sent)


# --- sending and consuming


def sending(
    place: Path | str, scale: float, targets: tuple[float, float, float] = (150_000, 1_000_000, 300_000)
) -> Iterator[Figure]:
    """The rates of send, send_many and consume at a place."""
    count = int(1_000_000 * scale)
    for part, name, target, limit in (
        ("send", "send of 100-byte messages, one call each", targets[0], "plain append of the same rows"),
        ("send_many", "send_many, 10,000 at a time", targets[1], "plain append of the same rows"),
    ):
        yield _rate(part, name, target, limit, place, count)
    yield _rate(
        "consume",
        "for message in consumer.consume(): message.value",
        targets[2],
        "a loop over the values of the same batches",
        place,
        count,
    )


def _rate(part: str, name: str, target: float, limit: str, place: Path | str, count: int) -> Figure:
    found = PARTS.found(part, place, count)
    rate, most = middle(found["ours"]), middle(found["limit"])
    return Figure(
        name,
        f"{rate / most:.2f} of the limit ({min(found['ours']):,.0f} to {max(found['ours']):,.0f}/s)",
        f"{limit}: {most:,.0f}/s",
        round(rate),
        target,
        unit=" messages/s",
    )


def part_send(place: str, count: str) -> dict[str, Any]:
    """One call for each message, from the first call until the last message is durable."""
    number = int(count)
    ours, limit = [], []
    with mamba.Producer(place) as producer:
        producer.create_topic("send", partitions=1)
        plain = producer.create_topic("plain", partitions=1)
        rows = _message_rows()

        def ourselves() -> None:
            for _ in range(number // len(VALUES)):
                for value in VALUES:
                    producer.send("send", value)
            producer.flush()

        def least() -> None:
            for _ in range(number // len(VALUES)):
                plain.append(rows)

        for _ in range(ROUNDS):
            ours.append(number / seconds(ourselves))
            limit.append(number / seconds(least))
    return {"ours": ours, "limit": limit}


def part_send_many(place: str, count: str) -> dict[str, Any]:
    number = int(count)
    ours, limit = [], []
    with mamba.open(place) as log, mamba.Producer(log) as producer:
        producer.create_topic("many", partitions=1)
        plain = producer.create_topic("plain", partitions=1)
        rows = _message_rows()

        def ourselves() -> None:
            for _ in range(number // len(VALUES)):
                producer.send_many("many", VALUES)
            producer.flush()

        def least() -> None:
            for _ in range(number // len(VALUES)):
                plain.append(rows)

        for _ in range(ROUNDS):
            ours.append(number / seconds(ourselves))
            limit.append(number / seconds(least))
    return {"ours": ours, "limit": limit}


def part_consume(place: str, count: str) -> dict[str, Any]:
    ours, limit = [], []
    with mamba.open(place) as log:
        topic = log["many"]
        number = min(int(count), topic.offsets()[0][1])

        def ourselves() -> None:
            with mamba.Consumer(log, group=f"g{len(ours)}") as consumer:
                consumer.subscribe("many")
                for message in consumer.consume(max_messages=number):
                    message.value  # noqa: B018 - decoded

        def least() -> None:
            left = number
            for batch in topic.read():
                for _ in batch.data.column("value").cast(pa.large_string()).to_pylist():
                    pass
                left -= batch.data.num_rows
                if left <= 0:
                    return

        for _ in range(ROUNDS):
            ours.append(number / seconds(ourselves))
            limit.append(number / seconds(least))
    return {"ours": ours, "limit": limit}


def _message_rows() -> pa.RecordBatch:
    """What ``VALUES`` are as rows."""
    count = len(VALUES)
    columns = {
        "value": pa.array([value.encode() for value in VALUES], pa.large_binary()),
        "kind": pa.array([1] * count, pa.uint8()),
        "time": pa.array([time.time_ns() // 1000] * count, pa.timestamp("us", "UTC")),
        "priority": pa.array([0] * count, pa.uint8()),
    }
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(count, field.type)) for field in MESSAGES], schema=MESSAGES
    )


# --- latency


def latency(place: Path | str, lasts: float, targets: tuple[float, float] = (2.0, 10.0)) -> Iterator[Figure]:
    """How long a message takes from publish to callback at a place."""
    with mamba.open(place) as log, mamba.Producer(log) as producer:
        producer.create_topic("ticks", partitions=1)
        producer.create_topic("alone", partitions=1)
    count = int(lasts * 1_000)
    with PARTS.running("ticked", place, count) as subscriber:
        line_of(subscriber)
        published = PARTS.found("ticking", place, count)
        found = json.loads(line_of(subscriber))["latencies"]
    commit = middle(published["commits"])
    taken = [after for _, after in found]
    for name, share, target in (("median", 0.5, targets[0]), ("99th percentile", 0.99, targets[1])):
        yield Figure(
            f"publish to callback at 1,000 messages a second, beyond the durable commit: {name}",
            f"{quantile(taken, share):.2f} ms in all",
            f"a durable commit alone takes {commit:.2f} ms (99th percentile "
            f"{quantile(published['commits'], 0.99):.2f} ms), of which the median is subtracted",
            quantile(taken, share) - commit,
            target,
            at_least=False,
            unit=" ms",
        )
    # At this rate messages wait for the commit before theirs too: what is left is the way to the callback.
    durable = dict(published["durable"])
    after = [at * 1e3 + whole - durable[at] * 1e3 for at, whole in found]
    yield Figure(
        "from durable, as the publisher's handle says, to callback: median",
        f"{middle(after):.2f} ms (99th percentile {quantile(after, 0.99):.2f} ms)",
        f"from publish to durable {middle([(b - a) * 1e3 for a, b in durable.items()]):.2f} ms",
        middle(after),
        targets[0],
        at_least=False,
        unit=" ms",
    )


def part_ticking(place: str, count: str) -> dict[str, Any]:
    """Publishes one message each millisecond; before and after, how long a commit takes that has nothing else to do."""
    with mamba.open(place) as log, mamba.Publisher("ticks", log) as publisher:
        row = _message_rows().slice(0, 1)
        commits: list[float] = []

        def alone() -> None:
            commits.extend(seconds(lambda: log["alone"].append(row)) * 1e3 for _ in range(300))

        alone()
        begun = time.perf_counter()
        rest = threading.Event()
        durable: list[tuple[float, float]] = []
        for number in range(int(count)):
            wait = begun + number / 1_000 - time.perf_counter()
            if wait > 0:
                rest.wait(wait)
            now = time.time_ns()
            sent = publisher.publish(now)

            def note(now: int = now) -> None:
                durable.append((now / 1e9, time.time()))

            # As awaiting it does, without what an event loop would add.
            if not sent._parcel.home.listen(sent._parcel, sent._row, note):
                note()
        publisher.flush()
        alone()
    return {"commits": commits, "durable": durable}


def part_ticked(place: str, count: str) -> dict[str, Any]:
    latencies: list[tuple[float, float]] = []
    subscriber = mamba.Subscriber("ticks", place)

    def tick(message: mamba.Message) -> None:
        latencies.append((message.value / 1e9, (time.time_ns() - message.value) / 1e6))
        if len(latencies) == int(count):
            subscriber.stop()

    subscriber.subscribe(tick)
    print("ready", flush=True)
    subscriber.run()
    subscriber.close()
    return {"latencies": latencies}


# --- acknowledgements


def _acks(where: Path, scale: float) -> Iterator[Figure]:
    place, count = where / "acks", int(400_000 * scale)
    with mamba.open(place) as log, mamba.Producer(log) as producer:
        producer.create_topic("work", partitions=4)
        for at in range(0, count, len(VALUES)):
            producer.send_many("work", VALUES[: min(len(VALUES), count - at)])
    with ExitStack() as running:
        workers = [running.enter_context(PARTS.running("acking", place)) for _ in range(4)]
        for worker in workers:
            line_of(worker)
        begun = time.time()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        found = [json.loads(line_of(worker)) for worker in workers]
    assert sum(each["done"] for each in found) == count, "a message was done twice, or not at all"
    lasted = max(each["ended"] for each in found) - begun
    one = PARTS.found("looping", place, count)
    yield Figure(
        "per-message ack, one group of 4 subscriber processes",
        f"{count:,} messages in {lasted:.2f} s; by process {', '.join(str(each['done']) for each in found)}",
        f"one consumer that commits offsets only: {one['rate']:,.0f}/s",
        round(count / lasted),
        50_000,
        unit=" messages/s",
    )


def part_acking(place: str) -> dict[str, Any]:
    with mamba.Subscriber("work", place, group="crew", start="earliest") as subscriber:
        done = ended = 0

        def work(message: mamba.Message) -> None:
            nonlocal done, ended
            done += 1
            ended = time.time()

        subscriber.subscribe(work)
        print("ready", flush=True)
        sys.stdin.readline()
        subscriber.run(until="empty")
    return {"done": done, "ended": ended}


def part_looping(place: str, count: str) -> dict[str, Any]:
    with mamba.Consumer(place, group="loop") as consumer:
        consumer.subscribe("work")

        def loop() -> None:
            for _ in consumer.consume(max_messages=int(count)):
                pass

        return {"rate": int(count) / seconds(loop)}


# --- scale


def _backlog(where: Path, backlog: int) -> Iterator[Figure]:
    long, short = where / "long", where / "short"
    PARTS.found("fill", long, backlog)
    PARTS.found("fill", short, 1_000)
    ours, least = _in_turns("behind", long, short)
    shutil.rmtree(long)
    for name, key in (
        ("send of 1,000 messages", "send"),
        ("receipt and ack of a message by a group", "shared"),
        ("receipt of a message by a consumer", "consume"),
    ):
        yield _beside(
            f"{name}, with a backlog of {backlog:,}",
            ours[key],
            least[key],
            "a backlog of 1,000",
        )


def _beside(name: str, ours: list[float], least: list[float], of: str) -> Figure:
    """How much more it costs (seconds each, several times) than with less."""
    return Figure(
        name,
        f"{middle(ours) * 1e6:,.1f} µs",
        f"with {of} {middle(least) * 1e6:,.1f} µs",
        middle(ours) / middle(least),
        1.5,
        at_least=False,
    )


def part_fill(place: str, count: str) -> dict[str, Any]:
    with mamba.Producer(place) as producer:
        producer.create_topic("work", partitions=1)
        rows = VALUES[:1_000]
        for _ in range(int(count) // len(rows)):
            producer.send_many("work", rows)
    return {}


def part_behind(place: str) -> dict[str, Any]:
    return _exercise(place, "work", rounds=ROUNDS)


def _exercise(place: str, topic: str, rounds: int) -> dict[str, Any]:
    """Seconds for sending 1,000 messages, and for each message that is received and acknowledged."""
    found: dict[str, list[float]] = {"send": [], "shared": [], "consume": []}
    some, batch = 10_000, VALUES[:1_000]
    with (
        mamba.open(place) as log,
        mamba.Producer(log) as producer,
        mamba.Consumer(log, group="g") as consumer,
    ):
        consumer.subscribe(topic)
        handled = 0

        def handle(message: mamba.Message) -> None:
            nonlocal handled
            handled += 1
            if handled % some == 0:
                subscriber.stop()

        subscriber = mamba.Subscriber(topic, log, group="s", start="earliest")
        subscriber.subscribe(handle)
        for number in range(rounds + 1):
            sent = [seconds(lambda: producer.send_many(topic, batch).result()) for _ in range(some // 1_000)]
            shared = seconds(subscriber.run) / some
            consumed = seconds(lambda: [None for _ in consumer.consume(max_messages=some)]) / some
            if number:
                found["send"] += sent
                found["shared"].append(shared)
                found["consume"].append(consumed)
        subscriber.close()
    return found


def _many(where: Path, topics: int, groups: int) -> Iterator[Figure]:
    few, many = where / "few", where / "many"
    some = PARTS.found("topics", few, 100)
    all_ = PARTS.found("topics", many, topics)
    yield _beside(f"creating one of {topics:,} topics", all_["last"], some["last"], "100 topics")
    ours, least = _in_turns("among", many, few)
    for key in ("send", "shared", "consume"):
        name = {"send": "send of 1,000 messages", "shared": "receipt and ack", "consume": "receipt"}[key]
        yield _beside(f"{name}, among {topics:,} topics", ours[key], least[key], "100 topics")
    PARTS.found("groups", many, groups)
    ours, least = _in_turns("among", many, few)
    for key in ("send", "shared", "consume"):
        name = {"send": "send of 1,000 messages", "shared": "receipt and ack", "consume": "receipt"}[key]
        yield _beside(
            f"{name}, among {groups:,} groups too", ours[key], least[key], "100 topics and no groups"
        )


def _in_turns(part: str, ours: Path, least: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What a part finds in two logs, one after the other several times: the machine's drift meets both."""
    found: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
    for _ in range(3):
        for place, into in zip((ours, least), found, strict=True):
            for key, values in PARTS.found(part, place).items():
                into.setdefault(key, []).extend(values)
    return found


def part_topics(place: str, count: str) -> dict[str, Any]:
    with mamba.Producer(place) as producer:
        took = [
            seconds(lambda n=number: producer.create_topic(f"t{n}", partitions=1))
            for number in range(int(count))
        ]
    return {"last": took[-100:]}


def part_among(place: str) -> dict[str, Any]:
    return _exercise(place, "t7", rounds=ROUNDS)


def part_groups(place: str, count: str) -> dict[str, Any]:
    """Groups that read the topic and hold some of its messages."""
    with mamba.open(place) as log:
        for number in range(int(count)):
            subscriber = mamba.Subscriber("t7", log, group=f"group-{number}", start="earliest")
            subscriber.subscribe(lambda message, of=subscriber: (message.nack(delay="1h"), of.stop()))
            subscriber.run()
            subscriber.close()
    return {}


# --- Kafka


def kafka(where: Path, scale: float, ours: Sequence[Figure]) -> Iterator[Figure]:
    """What Apache Kafka does on the same machine, where there is one, beside what :func:`sending` found of ours."""
    home = os.environ.get("KAFKA_HOME")
    if not home or not list(Path(home).glob("libs/kafka_*.jar")) or shutil.which("java") is None:
        print(
            " - Kafka beside it: left out; it takes java, and a $KAFKA_HOME with Kafka's jars under libs/ "
            "(a distribution, or org.apache.kafka:kafka_2.13 with its dependencies)"
        )
        return
    if importlib.util.find_spec("confluent_kafka") is None:
        print(" - Kafka beside it: left out, confluent-kafka is not installed")
        return
    number = int(1_000_000 * scale)
    with _broker(Path(home), where / "kafka") as address:
        found = PARTS.found("kafka", where, address, number)
    send, _, consume = ours
    for key, name, beside in (
        ("send", "send of 100-byte messages, one call each", send),
        ("poll", "consume, one call each", consume),
        ("consume", "consume, 10,000 at a time", consume),
    ):
        rate = middle(found[key])
        yield Figure(
            f"Kafka, by confluent-kafka: {name}",
            f"{min(found[key]):,.0f} to {max(found[key]):,.0f}/s; acks=all, and its broker leaves syncing to the "
            "system, where ours has synced every message",
            f"{beside.name}: {beside.value / rate:.1f} times as many",
            round(rate),
            None,
            unit=" messages/s",
        )


class _broker:  # noqa: N801 - used as a block
    """A Kafka broker of one node, in a directory of its own."""

    def __init__(self, home: Path, place: Path) -> None:
        self._home = home
        self._place = place
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        self._place.mkdir()
        settings = self._place / "server.properties"
        settings.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:19093\n"
            "listeners=PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093\n"
            "controller.listener.names=CONTROLLER\noffsets.topic.replication.factor=1\n"
            f"transaction.state.log.replication.factor=1\nlog.dirs={self._place / 'data'}\n"
        )
        java = ["java", "-cp", f"{self._home / 'libs'}/*"]
        tool = [*java, "kafka.tools.StorageTool"]
        name = subprocess.run([*tool, "random-uuid"], check=True, capture_output=True, text=True)
        formatting = [*tool, "format", "-t", name.stdout.split()[-1], "-c", settings]
        subprocess.run(formatting, check=True, capture_output=True)
        self._server = subprocess.Popen(
            [*java, "kafka.Kafka", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return "127.0.0.1:19092"

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.terminate()
        self._server.wait()


def part_kafka(place: str, address: str, count: str) -> dict[str, Any]:
    import confluent_kafka
    from confluent_kafka.admin import AdminClient, NewTopic

    number = int(count)
    # Until it listens, each attempt would be told of.
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    admin.list_topics(timeout=60)
    topics = [f"send-{turn}" for turn in range(ROUNDS)]
    for future in admin.create_topics([NewTopic(topic, 1, 1) for topic in topics]).values():
        future.result()
    settings = {"bootstrap.servers": address, "linger.ms": 5, "acks": "all"}
    producer = confluent_kafka.Producer({**settings, "queue.buffering.max.messages": 1_000_000})

    def send(topic: str) -> None:
        for at in range(number):
            while True:
                try:
                    producer.produce(topic, VALUES[at % len(VALUES)])
                    break
                except BufferError:
                    producer.poll(0.01)
        producer.flush()

    def poll(consumer: Any, most: int) -> int:
        message = consumer.poll(1.0)
        return 0 if message is None or message.error() or message.value() is None else 1

    def consume(consumer: Any, most: int) -> int:
        # For no more than there are: it would wait for them.
        return sum(message.value() is not None for message in consumer.consume(most, 1.0))

    def receive(topic: str, group: str, some: Callable[[Any, int], int]) -> float:
        """The rate from the first message on: joining the group is not what is measured."""
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": address, "group.id": group, "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([topic])
        while (first := consumer.poll(1.0)) is None or first.error():
            pass

        def rest() -> None:
            left = number - 1
            while left > 0:
                left -= some(consumer, min(left, len(VALUES)))

        rate = number / seconds(rest)
        consumer.close()
        return rate

    return {
        "send": [number / seconds(lambda topic=topic: send(topic)) for topic in topics],
        "poll": [receive(topic, f"{topic}-poll", poll) for topic in topics],
        "consume": [receive(topic, f"{topic}-consume", consume) for topic in topics],
    }


# --- processes

PARTS = Parts(__file__, globals())


def main() -> int:
    if PARTS.asked():
        return 0
    parser = argparse.ArgumentParser(description="Measures the message queue.")
    parser.add_argument(
        "--directory", type=Path, help="where to; a temporary directory unless told otherwise"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="how many messages: 1 is a million")
    parser.add_argument("--seconds", type=float, default=10, help="how long latency is measured")
    parser.add_argument("--backlog", type=int, default=10_000_000)
    parser.add_argument("--topics", type=int, default=10_000)
    parser.add_argument("--groups", type=int, default=1_000)
    options = parser.parse_args()
    where = Path(tempfile.mkdtemp(prefix="mamba-stream-queue-", dir=options.directory))
    try:
        return 0 if show(f"The queue, on {where.parent}", figures(where, options)) else 1
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    sys.exit(main())
