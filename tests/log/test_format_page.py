"""docs/format.md, followed to the letter: a reader that knows the page, and nothing of this package.

It takes the layouts from the page's own tables, so that neither can change without the other.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import polars as pl
import pyarrow as pa
import pytest
import xxhash

from mamba_stream.core.changes import ChangeSet, Once, Record
from mamba_stream.log import open_log
from mamba_stream.log.repair import repair
from tests.log.pictures import picture

pytestmark = pytest.mark.embedded

PAGE = (Path(__file__).parent.parent.parent / "docs" / "format.md").read_text()


def table(first: str) -> list[list[str]]:
    """The rows of the page's table whose head begins with these words."""
    lines = iter(PAGE.splitlines())
    for line in lines:
        if line.startswith(f"| {first} "):
            break
    else:
        raise AssertionError(f"the page has no table of {first!r}")
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


class Kind:
    """A kind of row of the index, as the page's table has it."""

    def __init__(self, key: str, key_layout: str, value_layout: str, fields: str) -> None:
        self.byte, self.name = bytes.fromhex(codes(key)[0]), key.rsplit(maxsplit=1)[-1]
        self.key_layout = key_layout
        self.layout = codes(value_layout)[0] if codes(value_layout) else value_layout
        self.fields = [field.strip() for field in fields.split(",")]

    def key(self, data: bytes) -> dict[str, Any]:
        """The named parts of a key, cut as the table says."""
        found: dict[str, Any] = {}
        parts = [part.strip() for part in self.key_layout.split(",")]
        at, position = 0, 0
        while at < len(parts):
            part = parts[at]
            if part.startswith("`"):
                layout, *named = part.replace("`", "").split()
                names = list(named)
                while at + 1 < len(parts) and not parts[at + 1].startswith(("`", "the ", "a ")):
                    at += 1
                    names.append(parts[at])
                values = struct.unpack_from(layout, data, position)
                position += struct.calcsize(layout)
                # The kind itself has no name.
                found |= dict(zip(names, values[len(values) - len(names) :], strict=True))
            elif part == "a zero byte":
                assert data[position] == 0
                position += 1
            else:
                rest = parts[at + 1 :]
                ends = data.index(0, position) if "a zero byte" in rest else len(data)
                found[part.removeprefix("the ")] = data[position:ends].decode()
                position = ends
            at += 1
        assert position == len(data)
        return found

    def value(self, data: bytes, *, earlier: bool) -> Any:
        if self.layout == "msgpack":
            value = msgpack.unpackb(data)
            # Of an earlier version it may lack names that came since.
            named = [field for field in self.fields if not earlier or field in value]
            assert isinstance(value, list) or list(value) == named
            return value
        if self.layout == "bytes":
            return data
        return dict(zip(self.fields, struct.unpack(self.layout, data), strict=True))


KINDS = [Kind(*row) for row in table("key")]
FLAGS = {row[1].split()[0] + " " + row[1].split()[1]: int(row[0]) for row in table("flag of an entry")}
HAS_TIME, COMPRESSED, SEGMENT, LOST, MERGED = sorted(FLAGS.values())


class PageReader:
    """Reads a log as the page says; one that an ``earlier`` version wrote, too."""

    def __init__(self, path: Path, *, earlier: bool = False) -> None:
        self.path = path
        self.rows: dict[str, list[tuple[dict[str, Any], Any]]] = {kind.name: [] for kind in KINDS}
        self.sealed: dict[bytes, bytes] = {}
        with lmdb.open(str(path / "index"), readonly=True) as env, env.begin() as transaction:
            for key, sealed in transaction.cursor():
                value, crc = sealed[:-4], sealed[-4:]
                assert crc == struct.pack(">I", zlib.crc32(key + value))
                [kind] = [kind for kind in KINDS if key[:1] == kind.byte]
                self.rows[kind.name].append((kind.key(key), kind.value(value, earlier=earlier)))
                self.sealed[key] = value
        self.files = {key["file"]: value for key, value in self.rows["file"]}
        self.topics = {value["name"]: value for _, value in self.rows["topic"]}
        self.schemas = {key["schema"]: pa.ipc.read_schema(pa.py_buffer(v)) for key, v in self.rows["schema"]}

    def head(self, topic: int, partition: int) -> dict[str, Any]:
        [found] = [v for k, v in self.rows["head"] if (k["topic"], k["partition"]) == (topic, partition)]
        return dict(found)

    def entries(self, topic: int, partition: int) -> list[tuple[int, dict[str, Any]]]:
        return [
            (key["offset"], value)
            for key, value in self.rows["entry"]
            if (key["topic"], key["partition"]) == (topic, partition)
        ]

    def bytes_of(self, entry: dict[str, Any]) -> bytes:
        suffix = "arrows" if entry["flags"] & SEGMENT else "commit"
        data = (self.path / "files" / f"{entry['file']:08x}.{suffix}").read_bytes()
        assert entry["position"] + entry["length"] <= self.files[entry["file"]]["end"]
        return data[entry["position"] : entry["position"] + entry["length"]]

    def read(self, topic: str, partition: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """(offset, row) of a partition."""
        known = self.topics[topic]
        head, schema = self.head(known["id"], partition), self.schemas[known["schema"]]
        expected = None
        for offset, entry in self.entries(known["id"], partition):
            assert expected in (None, offset), "entries follow each other"
            expected = offset + entry["span"]
            if entry["flags"] & LOST:
                assert (
                    entry["rows"]
                    == entry["file"]
                    == entry["position"]
                    == entry["length"]
                    == entry["header"]
                    == 0
                )
                continue
            message = self.bytes_of(entry)
            written = self.schemas[entry["schema"]]
            verify(message, written, entry["header"])
            offsets = list(range(entry["rows"]))
            merged = origins(message, len(written))
            assert bool(entry["flags"] & MERGED) == (merged is not None)
            if merged is not None:
                firsts, times, bitmap = merged
                assert list(firsts) == sorted(firsts) and times[-1] == entry["append_time"]
                if bitmap:
                    offsets = [n for n in range(8 * len(bitmap)) if bitmap[n // 8] >> n % 8 & 1]
            # Columns of a later schema are null in the rows of an earlier one.
            places = [written.names.index(name) if name in written.names else -1 for name in schema.names]
            for at, row in zip(offsets, decoded(message, written), strict=True):
                if offset + at >= head["begin"]:
                    yield offset + at, tuple(None if place < 0 else row[place] for place in places)
        assert expected in (None, head["end"])


def verify(message: bytes, schema: pa.Schema, header: int) -> None:
    """Every checksum of a message, and every length."""
    mark, length = struct.unpack_from("<Ii", message)
    body_at = 8 + length
    assert mark == 0xFFFFFFFF
    assert body_at % 64 == len(message) % 64 == 0
    assert xxhash.xxh3_64_intdigest(message[:body_at], fingerprint(schema)) == header
    count, magic = struct.unpack_from("<I4s", message, body_at - 8)
    assert count == len(schema)
    assert magic in (b"MBA1", b"MBA2")
    checksums = struct.unpack_from(f"<{count}Q", message, body_at - 8 - 8 * count)
    body_length, buffers = flatbuffer(message[8:body_at])
    assert body_at + body_length == len(message)
    starts, number = [], 0
    for field in schema:
        starts.append(buffers[number] if number < len(buffers) else body_length)
        number += buffers_of(field.type)
    assert number == len(buffers)
    starts[0] = 0
    for start, end, checksum in zip(starts, [*starts[1:], body_length], checksums, strict=True):
        assert xxhash.xxh3_64_intdigest(message[body_at + start : body_at + end]) == checksum


def origins(message: bytes, columns: int) -> tuple[tuple[int, ...], tuple[int, ...], bytes] | None:
    """First offsets and moments of appends, and the bitmap of rows, if the message says where they come from."""
    body_at = 8 + struct.unpack_from("<i", message, 4)[0]
    if message[body_at - 4 : body_at] != b"MBA2":
        return None
    end = body_at - 8 - 8 * columns - 4
    (size,) = struct.unpack_from("<I", message, end)
    data = message[end - size : end]
    (count,) = struct.unpack_from("<I", data)
    firsts = struct.unpack_from(f"<{count}I", data, 4)
    return firsts, struct.unpack_from(f"<{count}q", data, 4 + 4 * count), data[4 + 12 * count :]


def flatbuffer(data: bytes) -> tuple[int, list[int]]:
    """bodyLength and the offsets of the buffers, from the flatbuffers ``Message`` and ``RecordBatch``."""

    def field(where: int, number: int) -> int:
        vtable = where - struct.unpack_from("<i", data, where)[0]
        size = struct.unpack_from("<H", data, vtable)[0]
        relative = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0] if 4 + 2 * number < size else 0
        return where + relative if relative else 0

    def pointed(where: int) -> int:
        return int(where + struct.unpack_from("<I", data, where)[0])

    root = pointed(0)
    length_at = field(root, 3)
    batch = pointed(field(root, 2))
    vector = pointed(field(batch, 2))
    count = struct.unpack_from("<I", data, vector)[0]
    offsets = [struct.unpack_from("<q", data, vector + 4 + 16 * n)[0] for n in range(count)]
    return (struct.unpack_from("<q", data, length_at)[0] if length_at else 0), offsets


def buffers_of(kind: Any) -> int:
    types = pa.types
    if types.is_null(kind):
        return 0
    if types.is_struct(kind):
        return 1 + sum(buffers_of(kind.field(n).type) for n in range(kind.num_fields))
    if types.is_map(kind):
        return 2 + buffers_of(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
    if types.is_fixed_size_list(kind):
        return 1 + buffers_of(kind.value_type)
    if types.is_large_list(kind):
        return 2 + buffers_of(kind.value_type)
    return 3 if types.is_large_string(kind) or types.is_large_binary(kind) else 2


def fingerprint(schema: pa.Schema) -> int:
    lines = "\n".join(f"{json.dumps(field.name)}: {words(field.type)}" for field in schema)
    return int(xxhash.xxh3_64_intdigest(lines.encode()))


def words(kind: Any) -> str:
    names = {
        "null": "Null", "bool": "Boolean", "float": "Float32", "double": "Float64", "halffloat": "Float16",
        "date32[day]": "Date", "time64[ns]": "Time", "large_string": "String", "large_binary": "Binary",
        **{f"int{n}": f"Int{n}" for n in (8, 16, 32, 64)}, **{f"uint{n}": f"UInt{n}" for n in (8, 16, 32, 64)},
    }  # fmt: skip
    if str(kind) in names:
        return names[str(kind)]
    types = pa.types
    if types.is_timestamp(kind):
        return f"Datetime('{kind.unit}', '{kind.tz}')" if kind.tz else f"Datetime('{kind.unit}')"
    if types.is_duration(kind):
        return f"Duration('{kind.unit}')"
    if types.is_decimal128(kind):
        return f"Decimal({kind.precision}, {kind.scale})"
    if types.is_large_list(kind):
        return f"List({words(kind.value_type)})"
    if types.is_fixed_size_list(kind):
        return f"Array({words(kind.value_type)}, {kind.list_size})"
    if types.is_map(kind):
        return f"Map({words(kind.key_type)}, {words(kind.item_type)})"
    fields = (
        f"{json.dumps(kind.field(n).name)}: {words(kind.field(n).type)}" for n in range(kind.num_fields)
    )
    return f"Struct({{{', '.join(fields)}}})"


def decoded(message: bytes, schema: pa.Schema) -> list[tuple[Any, ...]]:
    with pa.ipc.open_stream(schema.serialize().to_pybytes() + message) as reader:
        return pl.DataFrame(reader.read_next_batch()).rows()


EVERY_TYPE = {
    "null": pl.Null, "bool": pl.Boolean, "i8": pl.Int8, "i64": pl.Int64, "u16": pl.UInt16, "f32": pl.Float32,
    "f64": pl.Float64, "date": pl.Date, "time": pl.Time, "naïve": pl.Datetime("ms"), "aware": pl.Datetime("ns", "UTC"),
    "for": pl.Duration("us"), "dec": pl.Decimal(10, 2), "s": pl.String, "b": pl.Binary, "list": pl.List(pl.String),
    "array": pl.Array(pl.Int32, 2), "struct": pl.Struct({"a": pl.Int64, "b": pl.List(pl.Date)}), "last": pl.Null,
}  # fmt: skip
ROW: dict[str, Any] = {
    "bool": True, "i8": -5, "i64": 2**40, "u16": 7, "f32": 0.5, "f64": -1e300, "date": date(2024, 2, 29),
    "naïve": datetime(2024, 1, 1), "aware": datetime(2024, 1, 1, tzinfo=UTC), "for": timedelta(seconds=-1),
    "dec": Decimal("1.05"), "s": "ünïcode", "b": b"\0\xff", "list": ["x", None], "array": [1, 2],
    "struct": {"a": 1, "b": [date(2024, 1, 1)]},
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that has some of everything."""
    place = tmp_path_factory.mktemp("page") / "log"
    with open_log(place) as log:
        for name, compression in (("plain", "none"), ("Lz4", "lz4"), ("zstd", "zstd")):
            topic = log.create_topic(name, EVERY_TYPE, compression=compression)
            topic.append([ROW, {}, {"s": "alone"}])
            topic.append([ROW] * 40)
        keyed = log.create_topic(
            "keyed", {"ts": pl.Datetime("us"), "k": str, "m": pl.Int64}, partitions=4, key=["k"], time="ts"
        )
        for n in range(30):
            moment = None if n % 5 == 0 else datetime(2024, 1, 1, n % 24)
            keyed.append([{"ts": moment, "k": f"k{n % 7}", "m": n}] * (n % 3 + 1))
            if n == 15:
                log.seal()
        keyed.trim({p: (begin + end) // 2 + 1 for p, (begin, end) in keyed.offsets().items() if end > 2})
        altered = log.create_topic("altered", {"a": pl.Int32}, compression="lz4")
        altered.append([{"a": 1}, {"a": 2}])
        for columns in ({"a": pl.Int64}, {"a": pl.Int64, "b": str}):
            log.alter_topic("altered", schema=columns).append([{"a": 2**40}])
        altered.append([{"a": 3}])
        log.create_topic("_engine", {"n": int}, internal=True).append([{"n": 1}])
        log.create_topic("nulls", {"a": pl.Null}).append([{}, {}])
        log.create_topic("gone", {"n": int}).append([{"n": 1}])
        log.delete_topic("gone")
        with log.transaction() as tx:
            tx.append("nulls", [{}], producer="feed", sequence=7)
            tx.commit_offsets("readers", {("keyed", 0): 0, ("plain", 0): 43})
            tx.put_record("jobs", "hourly", b"\x01\x02")
        log["nulls"].end()
    return place


@pytest.fixture(scope="module")
def page(path: Path) -> PageReader:
    return PageReader(path)


def test_a_reader_that_knows_only_the_page_reads_every_row(path: Path, page: PageReader) -> None:
    with open_log(path) as log:
        expected = picture(log)["topics"]
    assert page.topics.keys() == expected.keys()
    for name, topic in page.topics.items():
        offsets, ended, rows = expected[name]
        heads = {p: page.head(topic["id"], p) for p in range(topic["partitions"])}
        assert {p: (head["begin"], head["end"]) for p, head in heads.items()} == offsets
        assert {bool(head["ended"]) for head in heads.values()} == {ended}
        found = [(p, offset, row) for p in heads for offset, row in page.read(name, p)]
        assert sorted(found, key=lambda f: f[:2]) == sorted(rows, key=lambda f: f[:2])


def test_the_numbers_of_a_partition_are_sums_over_its_entries(page: PageReader) -> None:
    for key, head in page.rows["head"]:
        entries = [value for _, value in page.entries(key["topic"], key["partition"])]
        assert head["entries"] == len(entries)
        assert head["rows"] == sum(entry["rows"] for entry in entries)
        assert head["size"] == sum(entry["length"] for entry in entries)
        prefix = struct.pack(">BIH", 0x10, key["topic"], key["partition"])
        chain = sum(
            xxhash.xxh3_64_intdigest(value, zlib.crc32(k))
            for k, value in page.sealed.items()
            if k.startswith(prefix)
        )
        assert head["chain"] == chain % 2**64


def test_times_are_those_of_the_rows(page: PageReader) -> None:
    topic = page.topics["keyed"]
    schema = page.schemas[topic["schema"]]
    for partition in range(4):
        running = None
        for _, entry in page.entries(topic["id"], partition):
            times = [row[0] for row in decoded(page.bytes_of(entry), schema) if row[0] is not None]
            ticks = [(t - datetime(1970, 1, 1)) // timedelta(microseconds=1) for t in times]
            assert bool(entry["flags"] & HAS_TIME) == bool(ticks)
            if ticks:
                assert (entry["min_time"], entry["max_time"]) == (min(ticks), max(ticks))
            # What was trimmed away counts in the running time of what is left.
            assert entry["running_time"] >= max(ticks, default=-(2**63))
            assert running is None or entry["running_time"] == max(running, *ticks, running)
            running = entry["running_time"]
        assert running is None or page.head(topic["id"], partition)["running_time"] == running
        appended = [entry["append_time"] for _, entry in page.entries(topic["id"], partition)]
        assert appended == sorted(appended)


def test_everything_else_lies_where_the_page_says(path: Path, page: PageReader) -> None:
    [(_, meta)] = page.rows["meta"]
    assert meta["format"] == 1
    [(_, ticks)] = page.rows["ticks"]
    with open_log(path) as log:
        assert ticks["lsn"] == log.lsn()
    assert ticks["file"] == max(page.files)
    assert ticks["topic"] == max(topic["id"] for topic in page.topics.values()) + 1, (
        "the deleted one was the last"
    )
    ids = {name: topic["id"] for name, topic in page.topics.items()}
    assert {key["name"]: value["topic"] for key, value in page.rows["name"]} == {
        n.casefold(): i for n, i in ids.items()
    }
    assert [(k["group"], k["topic"], k["partition"], v["offset"]) for k, v in page.rows["offset"]] == [
        ("readers", ids["plain"], 0, 43), ("readers", ids["keyed"], 0, 0)
    ]  # fmt: skip
    assert page.rows["record"] == [({"namespace": "jobs", "key": "hourly"}, b"\x01\x02")]
    [(producer, last)] = page.rows["producer"]
    assert (producer, last["sequence"]) == ({"topic": ids["nulls"], "producer": "feed"}, 7)
    name = bytes([9, *ids["nulls"].to_bytes(4, "big"), *b"feed"]).decode()
    assert page.rows["used"] == [({"day": last["used"] // 86_400_000_000, "key": name}, b"")]
    [(key, answer)] = page.rows["sequence"]
    assert key == {"topic": ids["nulls"], "producer": "feed", "sequence": 7}
    assert answer == [[ids["nulls"], 0, 2, 3]]
    keyed = page.topics["keyed"]
    assert (keyed["key"], keyed["time"], keyed["partitions"], keyed["internal"]) == (["k"], "ts", 4, False)
    assert page.topics["_engine"]["internal"]
    live = dict.fromkeys(page.files, 0)
    for _, entry in page.rows["entry"]:
        live[entry["file"]] += 1
    assert live == {number: file["live"] for number, file in page.files.items()}


def test_what_is_done_once_lies_where_the_page_says(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        log._shared.commit(ChangeSet(records=(Record("space", "key", b"1"),), once=Once("ann/feed", 4)))
        lsn = log.lsn()
    page = PageReader(tmp_path / "log")
    [(key, (number, used, committed, ranges, topics))] = page.rows["once"]
    assert (key, number, committed, ranges, topics) == ({"name": "ann/feed"}, 4, lsn, [], [])
    assert page.rows["used"] == [({"day": used // 86_400_000_000, "key": "\x0cann/feed"}, b"")]


def test_segments_are_streams_and_are_understood_without_the_index(path: Path, page: PageReader) -> None:
    names = [row[0] for row in table("name")]
    columns = [
        column.strip()
        for column in next(row for row in table("name") if row[0] == "batches")[1].split(":")[1].split(",")
    ]
    segments = sorted((path / "files").glob("*.arrows"))
    assert len(segments) >= 4
    for segment in segments:
        data, contents = segment.read_bytes(), segment.with_suffix(".toc").read_bytes()
        assert contents[:8] == b"MBATOC1\n"
        assert contents[8:16] == xxhash.xxh3_64_intdigest(contents[16:]).to_bytes(8, "big")
        toc = msgpack.unpackb(contents[16:])
        assert set(toc) == {name for names_of_row in names for name in names_of_row.split(", ")}
        schema = pa.ipc.read_schema(pa.py_buffer(toc["schema"]))
        assert toc["size"] == len(data)
        assert data.endswith(b"\xff\xff\xff\xff\0\0\0\0")
        batches = [dict(zip(columns, batch, strict=True)) for batch in toc["batches"]]
        opening = data[: batches[0]["position"]]
        assert len(opening) % 64 == 0
        assert toc["opening"] == xxhash.xxh3_64_intdigest(opening)
        rows = []
        for batch in batches:
            message = data[batch["position"] : batch["position"] + batch["length"]]
            verify(message, schema, batch["header"])
            rows += decoded(message, schema)
        with pa.ipc.open_stream(data) as stream:
            assert stream.schema.equals(schema)
            assert pl.DataFrame(stream.read_all()).rows() == rows
        [(_, meta)] = page.rows["meta"]
        assert toc["log"] == meta["uuid"]
        assert page.topics[toc["topic"]]["id"] == toc["topic_id"]


def test_the_words_for_types_are_those_on_the_page(page: PageReader) -> None:
    said = set(codes(" ".join(row[1] for row in table("type"))))
    for topic in page.topics.values():
        for field in page.schemas[topic["schema"]]:
            kind = words(field.type)
            assert kind in said or kind.partition("(")[0] in {each.partition("(")[0] for each in said}


def test_what_a_repair_gave_up_is_as_the_page_says(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        for n in range(3):
            topic.append([{"n": n}] * 2)
    [file] = (tmp_path / "log" / "files").iterdir()
    data = bytearray(file.read_bytes())
    [entry, *_] = [entry for offset, entry in PageReader(tmp_path / "log").entries(1, 0) if offset == 2]
    data[entry["position"] + entry["length"] - 60] ^= 1
    file.write_bytes(data)
    assert [loss.offset for loss in repair(tmp_path / "log").lost] == [2]
    found = list(PageReader(tmp_path / "log").read("t", 0))
    assert found == [(0, (0,)), (1, (0,)), (4, (2,)), (5, (2,))]
