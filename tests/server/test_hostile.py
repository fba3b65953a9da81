"""Bytes that no client of ours would send: the right error, a server that stays, and other clients that notice nothing."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import psutil
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pyarrow import flight

from mamba_stream.errors import InvalidInput
from mamba_stream.log import Log
from mamba_stream.log.remote.address import Credentials, address_of
from mamba_stream.log.remote.protocol import Read
from mamba_stream.log.remote.storage import connect
from mamba_stream.server.actions import ACTIONS
from tests.server.messages import saying_anything
from tests.sizes import examples

_SERVER = """
import sys
from mamba_stream.log.store import acquire
from mamba_stream.server.limits import Limits
from mamba_stream.server.service import FlightService
from pathlib import Path
service = FlightService(acquire(Path(sys.argv[1])), limits=Limits(most_bytes=64 << 20, most_rows=1 << 20))
print(service.port, flush=True)
sys.stdin.read()
"""


class _Server:
    """A server in a process of its own, with a topic of numbers and texts."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.client = flight.connect(f"grpc://localhost:{port}")
        self.log = Log(connect(address_of(f"localhost:{port}"), Credentials()))
        self.schema = pa.schema({"n": pa.int64(), "text": pa.large_string()})
        self.topic = self.log.create_topic("rows", self.schema)

    def well(self) -> None:
        """Another client is served as ever, and no more memory is held than a call may take."""
        before = self.topic.offsets()[0][1]
        self.topic.append([{"n": 1, "text": "a"}])
        assert self.topic.offsets()[0][1] == before + 1
        assert self.process.poll() is None
        assert psutil.Process(self.process.pid).memory_info().rss < 1 << 30

    def ask(self, action: str, body: bytes) -> Any:
        (result,) = self.client.do_action(flight.Action(action, body))
        return msgpack.unpackb(result.body.to_pybytes(), strict_map_key=False)

    def commits(self, data: bytes) -> Any:
        """Commits rows as they are."""
        request = {"change": [], "rows": [{"topic": self.topic.number, "data": data}]}
        return self.ask("commit", msgpack.packb(request))

    def puts(self, batch: pa.RecordBatch, options: pa.ipc.IpcWriteOptions | None = None) -> None:
        """Writes a batch as it is, and waits for what becomes of it."""
        writer, answers = self.client.do_put(
            flight.FlightDescriptor.for_path("rows"),
            batch.schema,
            flight.FlightCallOptions(write_options=options),
        )
        try:
            writer.write_batch(batch)
            writer.done_writing()
            answers.read()
        finally:
            writer.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    place = tmp_path_factory.mktemp("hostile") / "log"
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        served = _Server(process, int(process.stdout.readline()))
        yield served
        served.log.close()
        served.client.close()
        process.kill()


@contextlib.contextmanager
def refused(code: str, words: str = "") -> Iterator[None]:
    """Fails unless the server answers with this error of ours, without a word of how it is built."""
    with pytest.raises(flight.FlightError) as caught:
        yield
    told = msgpack.unpackb(caught.value.extra_info)
    assert told["code"] == code, told
    assert words in told["message"]
    for leak in ("Traceback", ".py", "/tmp", "mamba_stream/"):
        assert leak not in told["message"]


def _stream(batch: pa.RecordBatch, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _texts(offsets: list[int], data: bytes, rows: int) -> pa.RecordBatch:
    """A batch whose texts have these offsets, whatever they point at."""
    # Arrow looks at the offsets when an array is made of them, and not again before it is sent.
    places = bytearray(8 * (rows + 1))
    texts = pa.Array.from_buffers(pa.large_string(), rows, [None, pa.py_buffer(places), pa.py_buffer(data)])
    batch = pa.record_batch({"n": pa.array(range(rows)), "text": texts})
    places[:] = b"".join(offset.to_bytes(8, "little", signed=True) for offset in offsets)
    return batch


# --- below Flight


@pytest.mark.parametrize("size", [1, 24, 1000, 1 << 20])
def test_random_bytes_on_the_port(server: _Server, size: int):
    for seed in range(20):
        with socket.create_connection(("localhost", server.port)) as raw, contextlib.suppress(OSError):
            raw.sendall(random.Random(seed).randbytes(size))
            raw.recv(1024)
    server.well()


def test_half_open_connections_hold_nobody_up(server: _Server):
    waiting = [socket.create_connection(("localhost", server.port)) for _ in range(200)]
    for one in waiting[::2]:
        one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    server.well()
    for one in waiting:
        one.close()
    server.well()


def test_enormous_headers(server: _Server):
    options = flight.FlightCallOptions(headers=[(b"authorization", b"x" * (1 << 20))])
    with pytest.raises(pa.ArrowException):
        list(server.client.do_action(flight.Action("lsn", b""), options))
    server.well()


# --- messages


def test_an_unknown_action(server: _Server):
    with refused("InvalidInput", "no action 'steal'; there are "):
        server.ask("steal", b"")


@pytest.mark.parametrize(
    "action", [name for name, one in ACTIONS.items() if one.request.__name__ != "Nothing"]
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xff" * 100,
        b"\x81\xa1x",
        msgpack.packb([1] * 5),
        b"\x91" * 100_000,
        b"\xdf\xff\xff\xff\xff",
    ],
    ids=["empty", "reserved", "ones", "cut off", "list", "deep", "a map of four billion"],
)
def test_bodies_that_are_none(server: _Server, action: str, body: bytes):
    with refused("InvalidInput"):
        server.ask(action, body)


@pytest.mark.parametrize("number", [-(1 << 63), -1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1])
@pytest.mark.parametrize(
    ("action", "field", "more"),
    [
        ("schema", "number", {}),
        ("describe", "number", {}),
        ("heads", "topic", {}),
        ("offsets_at", "topic", {"ticks": 0, "by": "append"}),
        ("rows", "topic", {}),
    ],
)
def test_numbers_that_nothing_has(
    server: _Server, action: str, field: str, more: dict[str, Any], number: int
):
    with refused("TopicNotFound"):
        server.ask(action, msgpack.packb({field: number, **more}))


def test_a_wait_that_never_would_be_over(server: _Server):
    with refused("InvalidInput", "give a number of seconds"):
        server.ask("wait", msgpack.packb({"lsn": 1 << 40, "timeout": float("nan")}))


@pytest.mark.parametrize("limit", [-1, 1 << 63, (1 << 64) - 1])
def test_records_that_are_too_many_to_count(server: _Server, limit: int):
    with refused("InvalidInput", "give a number from 0 on"):
        server.ask("records", msgpack.packb({"namespace": "jobs", "limit": limit}))


@settings(max_examples=examples(150), suppress_health_check=list(HealthCheck), deadline=None)
@given(
    action=st.sampled_from(sorted(set(ACTIONS) - {"wait", "seal", "settle"})),
    body=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    "topic name number partition data change rows namespace key group space ticks by".split()
                ),
                inner,
                max_size=6,
            )
        ),
    ),
)
def test_any_message_is_answered(server: _Server, action: str, body: Any):
    try:
        server.ask(action, msgpack.packb(body))
    except flight.FlightError as error:
        told = msgpack.unpackb(error.extra_info)
        assert told["code"] != "Internal", (action, body, told)
        assert "Traceback" not in str(error)


@pytest.mark.parametrize("action", sorted(set(ACTIONS) - {"wait", "seal", "settle"}))
@settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_any_message_of_the_right_shape_is_answered(server: _Server, action: str, data: st.DataObject):
    body = msgpack.packb(data.draw(saying_anything(ACTIONS[action].request)))
    try:
        server.ask(action, body)
    except flight.FlightError as error:
        told = msgpack.unpackb(error.extra_info)
        assert told["code"] != "Internal", (action, body, told)


@settings(max_examples=examples(100), suppress_health_check=list(HealthCheck), deadline=None)
@given(ticket=st.binary(max_size=200) | saying_anything(Read).map(msgpack.packb))
def test_any_ticket_is_answered(server: _Server, ticket: bytes):
    try:
        for _ in server.client.do_get(flight.Ticket(ticket)):
            pass
    except flight.FlightError as error:
        assert msgpack.unpackb(error.extra_info)["code"] != "Internal", ticket


@pytest.mark.parametrize(
    "change",
    [
        [[], [], [[1, 0, 1, 0, 100, 5, 0, 0, 1, 1, 0, False, None]]],
        [[["../etc", 1, [], None, "none", b"", False, 0]]],
        [[["ok", 1, [], None, "none", b"no schema", False, 0]]],
        [[["ok", 10**9, [], None, "none", pa.schema({"n": pa.int64()}).serialize().to_pybytes(), False, 0]]],
        [[], [], [], [], [], [[1, 0, -1]]],
        [[], [], [], [], [], [], [["g" * 500, 1, 0, 5]]],
        [[], [], [], [], [], [], [["g", 1, 0, 2**63]]],
        [[], [], [], [], [], [], [], [["space", "key", b"x" * 3000]]],
        [[], [], [], [], [], [], [], [["sp\0ce", "key", b"x"]]],
        [[], [], [], [], [], [], [], [], [["", "key", b"x"]]],
        [[], [], [], [[1, "\0", 0]]],
    ],
    ids="places name schema partitions trim group offset record namespace require producer".split(),
)
def test_change_sets_that_no_log_makes(server: _Server, change: list[Any]):
    before = server.log.lsn()
    with pytest.raises(flight.FlightError) as caught:
        server.ask("commit", msgpack.packb({"change": change}))
    assert msgpack.unpackb(caught.value.extra_info)["code"] in (
        "InvalidInput",
        "InvalidName",
        "UnsupportedType",
    )
    assert server.log.lsn() == before


@pytest.mark.parametrize("client", ["x" * 201, "x" * (1 << 20), "a\0b"])
def test_a_clients_name_is_kept_only_where_it_is_short(server: _Server, client: str):
    change = [[], [], [], [], [], [], [], [["space", "key", b"x"]]]
    with pytest.raises(flight.FlightError) as caught:
        server.ask("commit", msgpack.packb({"change": change, "client": client, "number": 1}))
    assert msgpack.unpackb(caught.value.extra_info)["message"].startswith("a client's name: 1 to 200 bytes")


# --- rows


SOUND = pa.record_batch({"n": [1, 2], "text": pa.array(["a", "bc"], pa.large_string())})
BAD: dict[str, Callable[[], pa.RecordBatch]] = {
    "offsets beyond the data": lambda: _texts([0, 1, 1 << 40], b"abc", 2),
    "offsets that run backwards": lambda: _texts([0, 3, 1], b"abc", 2),
    "negative offsets": lambda: _texts([-8, 0, 1], b"abc", 2),
    "bytes that are no utf-8": lambda: _texts([0, 1, 2], b"\xff\xfe", 2),
    "another column": lambda: pa.record_batch({"n": [1], "other": ["a"]}),
    "a missing column": lambda: pa.record_batch({"n": [1]}),
    "another type": lambda: pa.record_batch({"n": ["x"], "text": pa.array(["a"], pa.large_string())}),
    "too many rows": lambda: pa.record_batch(
        {"n": pa.nulls(2 << 20, pa.int64()), "text": pa.nulls(2 << 20, pa.large_string())}
    ),
    "a dictionary that unfolds to a terabyte": lambda: pa.record_batch(
        {
            "n": pa.nulls(1_000_000, pa.int64()),
            "text": pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0), 1_000_000), ["x" * 1_000_000]),
        }
    ),
    "columns nested too deeply": lambda: pa.record_batch({"n": [1], "text": _nested(40)}),
    "very many columns": lambda: pa.record_batch({f"c{i}": [1] for i in range(5_000)}),
}


def _nested(depth: int) -> pa.Array:
    array = pa.array([1])
    for _ in range(depth):
        array = pa.StructArray.from_arrays([array], ["x"])
    return array


@pytest.mark.parametrize("way", ["commit", "put"])
@pytest.mark.parametrize("what", BAD)
def test_rows_that_cannot_be(server: _Server, what: str, way: str):
    before = server.topic.offsets()
    batch = BAD[what]()
    with pytest.raises(flight.FlightError) as caught:
        server.commits(_stream(batch)) if way == "commit" else server.puts(batch)
    told = msgpack.unpackb(caught.value.extra_info)
    assert told["code"] in ("InvalidInput", "SchemaMismatch", "UnsupportedType"), told
    assert "rows" in told["message"]
    assert server.topic.offsets() == before
    server.well()


def test_views_that_say_the_same_bytes_very_often(server: _Server):
    view = pa.array(["y" * 1_000_000], pa.string_view())
    texts = pa.Array.from_buffers(
        pa.string_view(),
        1_000_000,
        [None, pa.py_buffer(view.buffers()[1].to_pybytes() * 1_000_000), view.buffers()[2]],
    )
    batch = pa.record_batch({"n": pa.nulls(1_000_000, pa.int64()), "text": texts})
    with refused("InvalidInput", "send at most"):
        server.puts(batch)
    server.well()


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_what_unfolds_to_very_much(server: _Server, compression: str):
    zeros = pa.record_batch({"n": pa.array([0] * 1_000_000), "text": pa.nulls(1_000_000, pa.large_string())})
    big = pa.record_batch({"n": zeros["n"], "text": pa.array(["\0" * 300] * 1_000_000, pa.large_string())})
    with refused("InvalidInput", "without compression"):
        server.commits(_stream(zeros, compression))
    with refused("InvalidInput", "send at most"):
        server.puts(big, pa.ipc.IpcWriteOptions(compression=compression))
    server.well()


def test_bytes_of_a_stream_that_were_changed_anywhere(server: _Server):
    data = bytearray(_stream(SOUND))
    begun = server.topic.offsets()[0][1]
    taken = 0
    for at in range(0, len(data), 7):
        changed = bytearray(data)
        changed[at] ^= 0xFF
        try:
            taken += len(server.commits(bytes(changed))[1])
        except flight.FlightError as error:
            assert msgpack.unpackb(error.extra_info)["code"] != "Internal", at
    server.well()
    # What was taken is rows of the schema; which values, nobody but the sender can know.
    assert server.topic.offsets()[0][1] >= begun + taken


def test_compressed_streams_are_known_by_their_header():
    from mamba_stream.server.limits import Limits
    from mamba_stream.server.streams import read_plain

    schema, batches = read_plain(memoryview(_stream(SOUND)), Limits(), "here")
    assert (schema, batches) == (SOUND.schema, [SOUND])
    for compression in ("lz4", "zstd"):
        with pytest.raises(InvalidInput, match="without compression"):
            read_plain(memoryview(_stream(SOUND, compression)), Limits(), "here")
    packed = pa.record_batch({"d": pa.array(["a", "b"] * 50).dictionary_encode()})
    with pytest.raises(InvalidInput, match="without compression"):
        read_plain(memoryview(_stream(packed, "zstd")), Limits(), "here")


def test_rows_of_the_other_order_of_bytes_are_turned():
    from mamba_stream.log.metadata import PREFIX, field, u32
    from mamba_stream.server.limits import Limits
    from mamba_stream.server.streams import read_plain

    data = bytearray(_stream(pa.record_batch({"n": pa.array([1, 2], pa.int32())})))
    root = PREFIX.size + u32(data, PREFIX.size)
    schema = root + field(data, root, 2)
    schema += u32(data, schema)
    table = schema - int.from_bytes(data[schema : schema + 4], "little", signed=True)
    # The order is not told, and so little; now it is read from where the fields are told, which is not 0.
    assert data[table + 4 : table + 6] == b"\0\0"
    data[table + 4] = 4
    turned = pa.ipc.open_stream(bytes(data)).read_all()["n"].to_pylist()
    assert turned == [1 << 24, 2 << 24]
    [batch] = read_plain(memoryview(data), Limits(), "here")[1]
    assert batch["n"].to_pylist() == turned


def test_a_reader_that_does_not_read_holds_nobody_up(server: _Server):
    frame = pa.table(
        {"n": pa.array(range(200_000)), "text": pa.array(["z" * 100] * 200_000, pa.large_string())}
    )
    server.topic.append(frame)
    slow = [flight.connect(f"grpc://localhost:{server.port}") for _ in range(20)]
    streams = [client.do_get(flight.Ticket(b"rows")) for client in slow]
    server.well()
    for stream in streams:
        stream.cancel()
    server.well()


def test_sequences_that_come_again_change_nothing(server: _Server):
    body = {
        "change": [[], [], [], [[server.topic.number, "replayed", 0]]],
        "rows": [{"topic": server.topic.number, "data": _stream(SOUND)}],
    }
    first = server.ask("commit", msgpack.packb(body))
    again = server.ask("commit", msgpack.packb(body))
    assert again[1] == first[1]
    assert again[2] is True
    body["change"][3][0][2] = 7
    with refused("SequenceGap"):
        server.ask("commit", msgpack.packb(body))


def test_the_process_is_still_the_first_one(server: _Server):
    assert server.process.poll() is None
    os.kill(server.process.pid, 0)
