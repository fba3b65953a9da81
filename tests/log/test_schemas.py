"""A topic that is altered: rows of every schema it had, read by whoever has whichever of them."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from mamba_stream.errors import InvalidInput, SchemaMismatch
from mamba_stream.log import Log, Topic, open_log, rows, storage_of
from tests.log.neighbour import finished, script
from tests.log.pictures import unsound

COLUMNS = {"ts": pl.Datetime("us"), "k": pl.String, "n": pl.Int32}
START = datetime(2026, 1, 1)


@pytest.fixture
def topic(log: Log) -> Topic:
    return log.create_topic("t", COLUMNS, key="k", time="ts")


def row(n: int, **more: Any) -> dict[str, Any]:
    return {"ts": START + timedelta(seconds=n % 1000), "k": f"k{n % 3}", "n": n, **more}


def frame(*numbers: int, n: Any = pl.Int32, **more: Any) -> pl.DataFrame:
    """Rows as somebody has them who knows of these columns only."""
    rows = [row(number) for number in numbers]
    made = pl.DataFrame(rows, schema={**COLUMNS, "n": n})
    return made.with_columns(**{name: pl.Series(name, values) for name, values in more.items()})


def everything(topic: Topic, **options: Any) -> list[dict[str, Any]]:
    return [found for batch in topic.read(**options) for found in batch.data.to_pylist()]


def test_a_column_that_was_added_is_null_in_the_rows_before(log: Log, topic: Topic) -> None:
    topic.append(frame(0, 1))
    altered = log.alter_topic("t", add={"note": pl.String})
    assert altered.polars_schema == pl.Schema({**COLUMNS, "note": pl.String})
    altered.append(frame(2, note=["x"]))
    assert [found["note"] for found in everything(altered)] == [None, None, "x"]
    assert everything(altered, columns=["note", "n"]) == [
        {"note": None, "n": 0},
        {"note": None, "n": 1},
        {"note": "x", "n": 2},
    ]
    assert everything(altered, columns=["note"], where=pl.col("note").is_null()) == [{"note": None}] * 2
    scanned = altered.scan().filter(pl.col("note") == "x").select("n").collect()
    assert scanned["n"].to_list() == [2]
    assert altered.scan().select(pl.len()).collect().item() == 3
    assert altered.scan().select("note").collect()["note"].to_list() == [None, None, "x"]
    late = altered.scan().filter(pl.col("ts") >= START + timedelta(seconds=1)).collect()
    assert late["n"].to_list() == [1, 2]


def test_a_type_that_was_widened_holds_the_rows_before_and_greater_ones(log: Log, topic: Topic) -> None:
    topic.append(frame(0, 1))
    altered = log.alter_topic("t", schema={**COLUMNS, "n": pl.Int64})
    altered.append([row(2**40)])
    assert altered.scan().collect()["n"].to_list() == [0, 1, 2**40]
    assert altered.scan().filter(pl.col("n") > 2**39).collect().height == 1
    assert [found["n"] for found in everything(altered, where=pl.col("n") >= 1)] == [1, 2**40]
    assert altered.offset_at(START + timedelta(seconds=1)) == {0: 1}


def test_many_small_batches_of_several_schemas_are_read_in_their_order(log: Log, topic: Topic) -> None:
    number = 0
    for step in range(4):
        for _ in range(9):
            log["t"].append([row(number)])
            number += 1
        log.alter_topic("t", add={f"more{step}": pl.Int8})
    found = log["t"]
    assert [each["n"] for each in everything(found)] == list(range(number))
    assert {tuple(each) for each in everything(found)} == {tuple(found.schema.names)}
    assert everything(found, columns=["more3"]) == [{"more3": None}] * number


def test_rows_of_an_earlier_schema_are_taken_from_whoever_knows_no_other(log: Log, topic: Topic) -> None:
    altered = log.alter_topic("t", add={"note": pl.String})
    # By the old handle, by a new one, and as part of a transaction.
    topic.append(frame(0))
    altered.append(frame(1))
    with log.transaction() as tx:
        tx.append("t", frame(2))
        tx.append("t", frame(3, note=["x"]))
    altered.append([row(4)])
    assert [(found["n"], found["note"]) for found in everything(altered)] == [
        (0, None), (1, None), (2, None), (3, "x"), (4, None),
    ]  # fmt: skip
    with pytest.raises(SchemaMismatch, match="missing column 'k'"):
        altered.append(frame(5).drop("k"))
    with pytest.raises(SchemaMismatch, match="unexpected column 'nota'.*did you mean 'note'"):
        altered.append(frame(5, nota=["x"]))
    assert (
        altered.difference(pa.schema({**dict(zip(topic.schema.names, topic.schema.types, strict=True))}))
        == ""
    )


def test_a_handle_goes_on_with_the_columns_that_it_has(log: Log, topic: Topic) -> None:
    reader = topic.reader()
    altered = log.alter_topic("t", schema={**COLUMNS, "n": pl.Int64, "note": pl.String})
    altered.append(frame(0, 1, n=pl.Int64, note=["x", "y"]))
    assert topic.polars_schema == pl.Schema(COLUMNS)
    assert everything(topic) == [row(0), row(1)]
    assert [found for batch in reader.poll() for found in batch.data.to_pylist()] == [row(0), row(1)]
    assert topic.scan().collect().schema == pl.Schema(COLUMNS)
    # Named again, it has them all.
    assert log["t"].polars_schema == altered.polars_schema


def test_a_value_that_an_earlier_type_does_not_hold_is_refused_and_the_rest_can_be_read(
    log: Log, topic: Topic
) -> None:
    altered = log.alter_topic("t", schema={**COLUMNS, "n": pl.Int64})
    altered.append([row(1), row(2**31)])
    altered.append([row(3)])
    reader = topic.reader()
    with pytest.raises(
        SchemaMismatch, match="row 1 of offsets 0 to 1: column 'n': 2147483648 of Int64 is not in Int32"
    ):
        reader.poll()
    reader.seek({0: 2})
    assert [batch.data["n"].to_pylist() for batch in reader.poll()] == [[3]]
    assert [found["k"] for found in everything(topic, columns=["k"])] == ["k1", "k2", "k0"]
    assert [found["n"] for found in everything(altered)] == [1, 2**31, 3]


def test_rows_that_were_trimmed_away_need_not_be_in_the_earlier_type(log: Log) -> None:
    earlier = log.create_topic("t", {"n": pl.Int8})
    log.alter_topic("t", schema={"n": pl.Int16})
    later = log["t"]
    later.append(pl.DataFrame({"n": [1, 300, 2, 3]}, schema={"n": pl.Int16}))
    later.trim({0: 1})
    with pytest.raises(SchemaMismatch, match="row 0 of offsets 1 to 3: column 'n': 300"):
        everything(earlier)
    later.trim({0: 2})
    assert everything(earlier) == [{"n": 2}, {"n": 3}]
    assert [(batch.offset, batch.next_offset) for batch in earlier.read()] == [(2, 4)]


def test_what_cannot_be_altered_is_refused_column_by_column(log: Log, topic: Topic, unchanged: None) -> None:
    with pytest.raises(
        SchemaMismatch, match="'n' is Int32 and not to become Int8.*it may become Int64, Float64"
    ):
        log.alter_topic("t", schema={**COLUMNS, "n": pl.Int8})
    with pytest.raises(SchemaMismatch, match="column 'n' .Int32. is missing"):
        log.alter_topic("t", schema={"ts": pl.Datetime("us"), "k": pl.String})
    with pytest.raises(SchemaMismatch, match="'ts' is Datetime.*the topic's time column, whose type stays"):
        log.alter_topic("t", schema={**COLUMNS, "ts": pl.Datetime("ns")})
    with pytest.raises(SchemaMismatch, match="a column 'n' of Int32, and add= says Int64"):
        log.alter_topic("t", add={"n": pl.Int64})
    with pytest.raises(InvalidInput, match="not both"):
        log.alter_topic("t", add={"m": pl.Int8}, schema=COLUMNS)
    with pytest.raises(InvalidInput, match="choose one of 'backward'"):
        log.alter_topic("t", compatibility="sideways")


def test_what_is_so_already_is_no_alteration(log: Log, topic: Topic, unchanged: None) -> None:
    assert log.alter_topic("t", schema=dict(reversed(COLUMNS.items()))).schema == topic.schema
    assert log.alter_topic("t", add={"n": pl.Int32}).schema == topic.schema
    assert len(log["t"].schemas()) == 1


def test_a_topic_says_what_alterations_have_to_leave_possible(log: Log, topic: Topic) -> None:
    assert topic.compatibility == "backward"
    assert log.alter_topic("t", compatibility="full").compatibility == "full"
    with pytest.raises(SchemaMismatch, match="compatibility='full'"):
        log.alter_topic("t", schema={**COLUMNS, "n": pl.Int64})
    log.alter_topic("t", add={"note": pl.String})
    # With both at once, the new one counts.
    loose = log.alter_topic("t", compatibility="none", schema={**COLUMNS, "n": pl.Float32, "note": pl.String})
    topic.append(frame(5, 2**24 + 1))
    with pytest.raises(
        SchemaMismatch, match="row 1 of offsets 0 to 1: column 'n': 16777217 of Int32 is not in Float32"
    ):
        everything(loose)
    made = log.create_topic("u", COLUMNS, compatibility="forward")
    assert made.compatibility == "forward"


def test_a_program_that_makes_its_topic_as_it_knows_it_gets_the_altered_one(log: Log, topic: Topic) -> None:
    altered = log.alter_topic("t", add={"note": pl.String})
    again = log.create_topic("t", COLUMNS, key="k", time="ts", exist_ok=True)
    assert again.schema == altered.schema
    with pytest.raises(SchemaMismatch, match="unexpected column 'other'.*alter_topic"):
        log.create_topic(
            "t", {**COLUMNS, "other": pl.Int8, "note": pl.String}, key="k", time="ts", exist_ok=True
        )


def test_two_who_alter_at_once_both_get_their_columns(log: Log, topic: Topic) -> None:
    at_once = threading.Barrier(4)

    def alter(number: int) -> None:
        at_once.wait()
        log.alter_topic("t", add={f"c{number}": pl.Int8})

    threads = [threading.Thread(target=alter, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {*log["t"].schema.names} == {*COLUMNS, "c0", "c1", "c2", "c3"}
    assert len(log["t"].schemas()) == 5


def test_what_became_of_the_columns_is_told_with_when(log: Log, topic: Topic) -> None:
    log.alter_topic("t", add={"note": pl.String})
    log.alter_topic("t", schema={**COLUMNS, "n": pl.Int64, "note": pl.String})
    for versions in (log["t"].schemas(), log["t"].describe().schemas):
        assert [version.number for version in versions] == [1, 2, 3]
        assert [[str(change) for change in version.changes] for version in versions] == [
            [],
            ["added 'note' (String)"],
            ["'n' Int32 -> Int64"],
        ]
        assert [version.since for version in versions] == sorted(version.since for version in versions)
        assert versions[0].schema.equals(topic.schema)


def test_what_would_be_taken_can_be_asked(log: Log, topic: Topic, unchanged: None) -> None:
    topic.check(frame(1))
    with pytest.raises(SchemaMismatch, match="missing column 'k'"):
        topic.check(frame(1).drop("k"))
    assert topic.altered({**COLUMNS, "n": pl.Int64}).field("n").type == pa.int64()
    with pytest.raises(SchemaMismatch, match="cannot be altered"):
        topic.altered({**COLUMNS, "n": pl.Int8})
    assert "'n' is Int64" in topic.difference(frame(1, n=pl.Int64).to_arrow().schema)


def test_an_altered_topic_goes_with_all_its_schemas(log: Log, topic: Topic) -> None:
    altered = log.alter_topic("t", add={"note": pl.String})
    altered.append([row(1)])
    log.delete_topic("t")
    again = log.create_topic("t", {"n": pl.String})
    again.append([{"n": "x"}])
    assert everything(again) == [{"n": "x"}]


@pytest.mark.embedded
def test_no_schema_is_left_of_a_topic_that_is_gone(tmp_path: Path) -> None:
    storage = storage_of(tmp_path / "log")
    with open_log(tmp_path / "log") as log:
        log.create_topic("t", COLUMNS)
        log.alter_topic("t", add={"note": pl.String})
        assert len(storage.items(rows.SCHEMA)) == 2  # type: ignore[attr-defined]
        log.delete_topic("t")
        assert storage.items(rows.SCHEMA) == []  # type: ignore[attr-defined]
    storage.release()


@pytest.mark.embedded
def test_segments_have_one_schema_each_and_open_in_plain_arrow(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        topic = log.create_topic("t", COLUMNS)
        for number in range(3):
            log["t"].append([row(number)])
            topic.append(frame(number + 10))
            log.alter_topic("t", add={f"more{number}": pl.Int8})
        before = everything(log["t"])
        log.seal()
        assert everything(log["t"]) == before
        assert everything(topic) == [{name: each[name] for name in COLUMNS} for each in before]
    opened = [pa.ipc.open_stream(path).read_all() for path in (tmp_path / "log" / "files").glob("*.arrows")]
    assert sum(table.num_rows for table in opened) == 6
    assert {len(table.schema) for table in opened} == {3, 4, 5}
    assert unsound(tmp_path / "log") == []


@pytest.mark.embedded
def test_upkeep_leaves_rows_of_every_schema_as_they_were(tmp_path: Path) -> None:
    """What is merged and compacted is of one schema each, and the latest row of a key is so over all of them."""
    with open_log(tmp_path / "log") as log:
        topic = log.create_topic("t", COLUMNS, key="k", compact=True, compact_after="0s")
        for number in range(4):
            for turn in range(6):
                log["t"].append([row(number * 6 + turn)])
                topic.append(frame(100 + number * 6 + turn))
            log.alter_topic("t", add={f"more{number}": pl.Int8})
        log["t"].append([row(200, more3=7)])
        every = everything(log["t"])
        latest = {found["k"]: found for found in every}
        log.maintain()
        assert sorted(everything(log["t"]), key=str) == sorted(latest.values(), key=str)
        assert len(every) > len(latest) == 3
        earlier = [{name: found[name] for name in COLUMNS} for found in everything(log["t"])]
        assert everything(topic) == earlier
    assert unsound(tmp_path / "log") == []


BESIDE = """
import sys
import polars as pl
from mamba_stream.log import locate

log = locate(sys.argv[1])
topic = log["t"]
print("open", flush=True)
for line in sys.stdin:
    number = int(line)
    ranges = topic.append(pl.DataFrame({"n": [number]}, schema={"n": pl.Int32}))
    print(ranges, [n for batch in topic.read() for n in batch.data["n"].to_pylist()], flush=True)
print(log["t"].schema.names, flush=True)
"""


def test_another_process_that_knows_the_earlier_columns_writes_and_reads_on(log: Log) -> None:
    """What it appends lies in the log as it wrote it, and has the new columns for those who know of them."""
    topic = log.create_topic("t", {"n": pl.Int32})
    other = script(BESIDE, log.place)
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == "open\n"
    for number, change in enumerate(({"a": pl.Int8}, {"b": pl.String})):
        altered = log.alter_topic("t", add=change)
        altered.append([{"n": 10 + number}])
        other.stdin.write(f"{number}\n")
        other.stdin.flush()
        answer = other.stdout.readline()
        assert answer.startswith(f"{{0: ({2 * number + 1}, {2 * number + 2})}}"), answer
        assert answer.endswith(f"{[10, 0, 11, 1][: 2 * number + 2]}\n"), answer
    assert finished(other) == "['n', 'a', 'b']\n"
    assert everything(log["t"]) == [{"n": n, "a": None, "b": None} for n in (10, 0, 11, 1)]
    assert topic.scan().collect()["n"].to_list() == [10, 0, 11, 1]


CHAINS = {
    pl.Int8: pl.Int16,
    pl.Int16: pl.Int32,
    pl.Int32: pl.Int64,
    pl.UInt8: pl.Int16,
    pl.Float32: pl.Float64,
}
VALUES = {
    **{kind: st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for kind, bits in (
        (pl.Int8, 8), (pl.Int16, 16), (pl.Int32, 32), (pl.Int64, 64))},
    pl.UInt8: st.integers(0, 255), pl.Float32: st.floats(width=32, allow_nan=False),
    pl.Float64: st.floats(allow_nan=False), pl.String: st.text("ab", max_size=2),
}  # fmt: skip


class Chain:
    """A topic, and beside it its rows as dicts: a column that a row does not have is null."""

    def __init__(self, log: Log, data: st.DataObject) -> None:
        self.log = log
        self.data = data
        self.types: dict[str, Any] = {"c0": data.draw(st.sampled_from(list(VALUES)), "c0")}
        self.handles = [
            log.create_topic("t", self.types, compression=data.draw(st.sampled_from(["none", "zstd"])))
        ]
        self.known = [dict(self.types)]
        self.rows: list[dict[str, Any]] = []

    def step(self) -> None:
        kind = self.data.draw(
            st.sampled_from(["append", "append", "append", "alter", "seal", "trim", "look"]), "step"
        )
        getattr(self, kind)()

    def append(self) -> None:
        version = self.data.draw(st.integers(0, len(self.handles) - 1), "version")
        types = self.known[version]
        rows = self.data.draw(
            st.lists(st.fixed_dictionaries({n: st.none() | VALUES[t] for n, t in types.items()}), max_size=3),
            "rows",
        )
        # By the handle that has these columns, or by one that has all.
        handle = self.handles[self.data.draw(st.sampled_from([version, -1]), "handle")]
        handle.append(pl.DataFrame(rows, schema=types))
        self.rows += rows

    def alter(self) -> None:
        wanted = dict(self.types)
        for name, kind in self.types.items():
            if kind in CHAINS and self.data.draw(st.booleans(), f"widen {name}"):
                wanted[name] = CHAINS[kind]
        if self.data.draw(st.booleans(), "add"):
            wanted[f"c{len(wanted)}"] = self.data.draw(st.sampled_from(list(VALUES)), "type")
        order = self.data.draw(st.permutations(list(wanted)), "order")
        altered = self.log.alter_topic("t", schema={name: wanted[name] for name in order})
        assert altered.polars_schema == pl.Schema(wanted)
        if wanted != self.types:
            self.types = wanted
            self.handles.append(altered)
            self.known.append(dict(wanted))

    def seal(self) -> None:
        self.log.seal()

    def trim(self) -> None:
        (begin, end) = self.handles[-1].offsets()[0]
        before = self.data.draw(st.integers(begin, end), "before")
        self.handles[-1].trim(before)
        self.rows = self.rows[before - begin :]

    def look(self) -> None:
        names = self.data.draw(
            st.lists(st.sampled_from(list(self.types)), min_size=1, unique=True), "columns"
        )
        expected = pl.DataFrame(
            {name: pl.Series([row.get(name) for row in self.rows], dtype=self.types[name]) for name in names}
        )
        topic = self.log["t"]
        read = [pl.DataFrame(batch.data) for batch in topic.read(columns=names)]
        assert pl.concat([expected.clear(), *read]).equals(expected)
        assert topic.scan().select(names).collect().equals(expected)
        some = pl.col(names[0]).is_not_null()
        assert topic.scan().select(names).filter(some).collect().equals(expected.filter(some))
        sifted = [pl.DataFrame(batch.data) for batch in topic.read(columns=names, where=some)]
        assert pl.concat([expected.clear(), *sifted]).equals(expected.filter(some))
        self.look_back()

    def look_back(self) -> None:
        """By a handle with earlier columns: all rows, or a refusal where a value is not in them."""
        version = self.data.draw(st.integers(0, len(self.handles) - 1), "an earlier version")
        types, held = self.known[version], self.rows
        try:
            found = self.handles[version].scan().collect()
        except SchemaMismatch:
            assert any(not _holds(types[name], row.get(name)) for row in held for name in types)
            return
        assert found.schema == pl.Schema(types)
        assert found.rows() == [tuple(row.get(name) for name in types) for row in held]


def _holds(kind: Any, value: Any) -> bool:
    return value is None or pl.Series([value]).cast(kind, strict=False).to_list() == [value]


def test_chains_of_alterations_beside_a_model(tmp_path: Path, count: int) -> None:
    places = iter(range(10**6))

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.data())
    def chain(data: st.DataObject) -> None:
        path = tmp_path / f"log-{next(places)}"
        with open_log(path) as log:
            made = Chain(log, data)
            for _ in range(data.draw(st.integers(1, 12), "steps")):
                made.step()
            made.look()
        assert unsound(path) == []

    chain()


@pytest.fixture(params=[pytest.param(25, id="25"), pytest.param(500, id="500", marks=pytest.mark.slow)])
def count(request: pytest.FixtureRequest) -> int:
    return int(request.param)
