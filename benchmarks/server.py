"""Measures a served log, client and server as processes of their own on loopback: ``python benchmarks/server.py``.

Rates of batches stand beside those of a bare Arrow Flight server that discards and generates the same batches, in turns
in the same run. The log of that part lies in memory (``/dev/shm``), so that the disk is not what is measured; all
other parts are on disk, and what they count is durable. Where there is Kafka (``KAFKA_HOME``) and the
``confluent-kafka`` client, its rates of sending and consuming stand beside ours.
"""

from __future__ import annotations

import sys

if sys.path and sys.path[0].endswith("benchmarks"):
    # A module of the standard library has the name of a file here, and others import that.
    del sys.path[0]

import argparse
import importlib.util
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from pyarrow import flight

import mamba_stream as mamba
from mamba_stream.cli.bench.measuring import Figure, environment, in_turns, middle, seconds, show
from mamba_stream.cli.bench.parts import Parts, line_of
from mamba_stream.log.remote.protocol import Ack, decode

_spec = importlib.util.spec_from_file_location("queue_benchmark", Path(__file__).with_name("queue.py"))
assert _spec is not None
assert _spec.loader is not None
queue = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(queue)

SIZES = (64 << 10, 256 << 10, 1 << 20)
MEMORY = Path("/dev/shm")


def figures(where: Path, options: argparse.Namespace) -> Iterator[Figure]:
    yield from _batches(int(256 * options.scale) << 20)
    with served(where / "log") as address:
        sent = list(queue.sending(address, options.scale, (150_000, 500_000, 300_000)))
        yield from sent
        yield from queue.latency(address, options.seconds, (3.0, 15.0))
    yield from _idle(where / "idle", options.seconds)
    yield from queue.kafka(where, options.scale, sent)


# --- batches


def _batches(total: int) -> Iterator[Figure]:
    place = Path(tempfile.mkdtemp(prefix="mamba-stream-server-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        with served(place / "log") as address, PARTS.running("bare") as bare:
            peer = f"localhost:{line_of(bare).strip()}"
            for size in SIZES:
                yield from _size(address, peer, size, total)
    finally:
        shutil.rmtree(place)


def _size(address: str, peer: str, size: int, total: int) -> Iterator[Figure]:
    batch = _batch(size)
    count = max(total // size, 32)
    megabytes = count * batch.nbytes / 1e6
    with mamba.open(address) as log:
        log.create_topic("put", batch.schema)

        def ours() -> float:
            took = _put(address, flight.FlightDescriptor.for_path("put"), batch, count, _of_ours)
            # The next round has the memory of this one. Memory that a virtual machine has not used before costs ten
            # times as much, page by page, and the bare server uses the same again and again.
            log["put"].trim({0: log["put"].offsets()[0][1]})
            log.maintain()
            return megabytes / took

        def bare() -> float:
            return megabytes / _put(peer, flight.FlightDescriptor.for_path("put"), batch, count, _of_bare)

        pair = in_turns(ours, bare, rounds=5)
        yield Figure(
            f"append of batches of {size >> 10} KB by DoPut, of a bare Flight server that discards them",
            f"{middle(pair.ours):,.0f} MB/s, durable in memory",
            f"bare {middle(pair.limit):,.0f} MB/s",
            pair.ratio,
            0.7,
            spread=pair.spread,
        )
        log.delete_topic("put")
        topic = log.create_topic("got", batch.schema)
        _fill(log, "got", batch, count)

        def read() -> float:
            return megabytes / seconds(lambda: sum(part.data.num_rows for part in topic.read()))

        def get() -> float:
            return megabytes / _get(peer, f"{count},{size}".encode())

        pair = in_turns(read, get, rounds=5)
        yield Figure(
            f"topic.read() of batches of {size >> 10} KB, of a bare Flight server that generates them",
            f"{middle(pair.ours):,.0f} MB/s",
            f"bare {middle(pair.limit):,.0f} MB/s",
            pair.ratio,
            0.7,
            spread=pair.spread,
        )
        log.delete_topic("got")
        log.maintain()


def _fill(log: mamba.Log, topic: str, batch: pa.RecordBatch, count: int) -> None:
    """Appends these batches each by itself: together, they would be fewer and larger ones to read."""
    for at in range(0, count, 64):
        with log.transaction() as tx:
            for _ in range(min(64, count - at)):
                tx.append(topic, batch)


def _batch(size: int) -> pa.RecordBatch:
    rows = size // 16
    random = np.random.default_rng(1)
    return pa.record_batch({"number": np.arange(rows), "price": random.random(rows)})


def _put(
    address: str,
    descriptor: flight.FlightDescriptor,
    batch: pa.RecordBatch,
    count: int,
    acknowledged: Callable[[pa.Buffer], int],
) -> float:
    """Seconds until the last of these batches is acknowledged."""
    with flight.connect(f"grpc://{address}") as client, ThreadPoolExecutor(1) as waiting:
        writer, answers = client.do_put(descriptor, batch.schema)

        def missing() -> int:
            left = count
            while left > 0 and (answer := answers.read()) is not None:
                left -= acknowledged(answer)
            return left

        begun = time.perf_counter()
        left = waiting.submit(missing)
        for _ in range(count):
            writer.write_batch(batch)
        writer.done_writing()
        left.result()
        took = time.perf_counter() - begun
        # Where something failed, this says what.
        writer.close()
    if left.result():
        raise SystemExit(f"{left.result()} batches were not acknowledged")
    return took


def _of_ours(answer: pa.Buffer) -> int:
    """How many batches one of our acknowledgements is about."""
    return len(decode(answer, Ack).offsets)


def _of_bare(answer: pa.Buffer) -> int:
    return 1


def _get(address: str, ticket: bytes) -> float:
    with flight.connect(f"grpc://{address}") as client:
        begun = time.perf_counter()
        for chunk in client.do_get(flight.Ticket(ticket)):
            chunk.data.num_rows  # noqa: B018 - it is here
        return time.perf_counter() - begun


class _Bare(flight.FlightServerBase):  # type: ignore[misc]
    """A Flight server that discards what comes, and gives one batch again and again."""

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        for _ in reader:
            writer.write(pa.py_buffer(b"taken"))

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        count, size = map(int, ticket.ticket.split(b","))
        batch = _batch(size)
        reader = pa.RecordBatchReader.from_batches(batch.schema, (batch for _ in range(count)))
        return flight.RecordBatchStream(reader)


def part_bare() -> dict[str, Any]:
    server = _Bare("grpc://localhost:0")
    print(server.port, flush=True)
    sys.stdin.read()
    os._exit(0)


# --- consumers that wait


def _idle(place: Path, lasts: float) -> Iterator[Figure]:
    count = 100
    with mamba.open(place) as log:
        log.create_topic("quiet", pa.schema({"n": pa.int64()}), partitions=4)
    with served(place) as address:
        server = psutil.Process(_SERVERS[address])
        _, before = _cost(server, 1.0)
        with PARTS.running("waiting", address, count) as waiting:
            line_of(waiting)
            share, after = _cost(server, lasts)
    yield Figure(
        f"{count} idle consumers: the server's share of a core",
        f"{share:.1%} over {lasts:.0f} s",
        "no rows come",
        share * 100,
        5.0,
        at_least=False,
        unit="%",
    )
    yield Figure(
        f"{count} idle consumers: the server's memory beyond that of an idle one",
        f"{(after - before) / 1e6:.0f} MB",
        f"an idle one has {before / 1e6:.0f} MB",
        (after - before) / 1e6,
        100.0,
        at_least=False,
        unit=" MB",
    )


def _cost(server: psutil.Process, lasts: float) -> tuple[float, int]:
    """Share of a core, and memory, of a server with its children."""

    def used() -> float:
        return sum(sum(one.cpu_times()[:2]) for one in [server, *server.children(recursive=True)])

    begun, clock = used(), time.perf_counter()
    threading.Event().wait(lasts)
    share = (used() - begun) / (time.perf_counter() - clock)
    return share, sum(one.memory_info().rss for one in [server, *server.children(recursive=True)])


def part_waiting(address: str, count: str) -> dict[str, Any]:
    """So many consumers, each with a connection of its own, as in processes of their own."""
    from mamba_stream.log.remote.address import Credentials, address_of
    from mamba_stream.log.remote.storage import RemoteStorage

    logs = []
    for _ in range(int(count)):
        storage = RemoteStorage(address_of(address), Credentials())
        storage.handles = 1
        logs.append(mamba.Log(storage))

    def follow(log: mamba.Log) -> None:
        for _ in log["quiet"].read(start="latest", follow=True):
            pass

    for log in logs:
        threading.Thread(target=follow, args=(log,), daemon=True).start()
    threading.Event().wait(2.0)
    print("ready", flush=True)
    sys.stdin.readline()
    os._exit(0)


# --- processes

_SERVERS: dict[str, int] = {}


@contextmanager
def served(place: Path) -> Iterator[str]:
    """The address of a server of the log in this directory, as the command starts it: two processes."""
    command = [
        sys.executable,
        "-m",
        "mamba_stream.cli",
        "serve",
        "--log",
        str(place),
        "--log-level",
        "warning",
    ]
    with subprocess.Popen(
        [*command, "--listen", "localhost:0", "--http", "off", "--health", "off"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        address = line_of(process).split(" at ")[1].split()[0]
        _SERVERS[address] = process.pid
        try:
            yield address
        finally:
            process.terminate()


PARTS = Parts(__file__, globals())


def main() -> int:
    if PARTS.asked():
        return 0
    parser = argparse.ArgumentParser(description="Measures a served log.")
    parser.add_argument(
        "--directory", type=Path, help="where to; a temporary directory unless told otherwise"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="how much: 1 is a million messages")
    parser.add_argument("--seconds", type=float, default=10, help="how long latency is measured")
    options = parser.parse_args()
    where = Path(tempfile.mkdtemp(prefix="mamba-stream-server-", dir=options.directory))
    try:
        return 0 if show(f"The server, on {where.parent}", figures(where, options)) else 1
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    sys.exit(main())
