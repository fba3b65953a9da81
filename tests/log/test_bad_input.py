"""What bad input gets: an error of the tree that says what, where and what next, and a log as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mamba_stream import errors
from mamba_stream.errors import (
    AlreadyExists,
    DiskFull,
    InvalidInput,
    InvalidName,
    MambaStreamError,
    PartitionNotFound,
    PreconditionFailed,
    SchemaMismatch,
    TopicEnded,
    TopicNotFound,
    UnsupportedType,
)
from mamba_stream.log import Log, Topic, format as message_format, open_log
from mamba_stream.log.opening import locate
from tests.log.neighbour import finished, script
from tests.log.pictures import picture, rows_of, unsound
from tests.mounts import NO_MARKS, mounts

MOMENT = datetime(2024, 1, 1)
FITS: dict[str, Any] = {"ts": [MOMENT], "symbol": ["A"], "price": [1.5], "size": [3]}


@pytest.fixture
def filled(trades: Topic) -> Topic:
    trades.append(FITS)
    return trades


def without(*names: str, **more: Any) -> dict[str, Any]:
    return {name: values for name, values in FITS.items() if name not in names} | more


# --- rows that do not fit --------------------------------------------------------------------------------------

_NO_TEXT = pa.Array.from_buffers(
    pa.large_string(),
    1,
    [None, pa.py_buffer((0).to_bytes(8, "little") + (1).to_bytes(8, "little")), pa.py_buffer(b"\xff")],
)
ROWS = {
    "a missing column": (
        pl.DataFrame(without("price")),
        SchemaMismatch,
        r"missing column 'price' \(Float64\)",
    ),
    "a column too many": (
        pl.DataFrame(FITS | {"colour": ["red"]}),
        SchemaMismatch,
        "unexpected column 'colour'",
    ),
    "a column misspelt": (
        pl.DataFrame(without("price", prise=[1.0])),
        SchemaMismatch,
        "missing column 'price'.*unexpected column 'prise', did you mean 'price'",
    ),
    "text for a number": (
        pl.DataFrame(FITS | {"size": ["3"]}),
        SchemaMismatch,
        "'size' is String, topic has Int64",
    ),
    "a number for text": (
        pl.DataFrame(FITS | {"symbol": [1]}),
        SchemaMismatch,
        "'symbol' is Int64, topic has String",
    ),
    "a float for an integer": (
        pa.table(FITS | {"size": [3.0]}),
        SchemaMismatch,
        "'size' is Float64, topic has Int64",
    ),
    "a larger integer": (
        pl.DataFrame(FITS, schema_overrides={"size": pl.UInt64}),
        SchemaMismatch,
        "'size' is UInt64, topic has Int64",
    ),
    "a finer time": (
        pl.DataFrame(FITS).with_columns(pl.col("ts").cast(pl.Datetime("ns"))),
        SchemaMismatch,
        r"'ts' is Datetime\('ns'\), topic has Datetime\('us'\)",
    ),
    "two columns of one name": (
        pa.table([pa.array([1]), pa.array([2])], names=["size", "size"]),
        SchemaMismatch,
        "column 'size' occurs twice",
    ),
    "a row with an unknown key": (
        [{"symbol": "A"}, {"symbl": "B"}],
        SchemaMismatch,
        "row 1 has an unexpected key 'symbl', did you mean 'symbol'",
    ),
    "a row with a value of another type": (
        [{"size": 1}, {"size": "2"}],
        SchemaMismatch,
        r"row 1, column 'size' \(Int64\): '2' is a str, not an int",
    ),
    "a value that is too large": ([{"size": 2**63}], SchemaMismatch, "row 0, column 'size'"),
    "half a number": ([{"size": 1.5}], SchemaMismatch, "1.5 is a float, not an int"),
    "a truth for a number": ([{"size": True}], SchemaMismatch, "True is a bool, not an int"),
    "a pandas column that does not fit": (
        pd.DataFrame(FITS | {"size": [1.5]}),
        SchemaMismatch,
        "column 'size'",
    ),
    "a type that is not stored": (
        pl.DataFrame(FITS | {"size": pl.Series([3], dtype=pl.Int128)}),
        MambaStreamError,
        "'size'",
    ),
    "a lazy frame": (
        pl.LazyFrame(FITS),
        InvalidInput,
        r"a LazyFrame has no rows yet: pass frame.collect\(\)",
    ),
    "one row for many": ({"size": 3}, InvalidInput, r"pass one row as \[row\]"),
    "columns of different lengths": (
        {"size": [1, 2], "symbol": ["A"]},
        InvalidInput,
        "the columns differ in length",
    ),
    "a list of numbers": ([1, 2], InvalidInput, "a list of rows holds dicts, not int: 1"),
    "a number": (5, InvalidInput, "int holds no rows that can be appended: pass a Polars or pandas frame"),
    "nothing": (None, InvalidInput, "NoneType holds no rows"),
    "text": ("rows", InvalidInput, "rows|str"),
    "text that is no text": (
        pa.table({**{name: pa.array(values) for name, values in FITS.items()}, "symbol": _NO_TEXT}),
        InvalidInput,
        "the Arrow buffers are unsound.*UTF8",
    ),
}


@pytest.mark.usefixtures("filled", "unchanged")
@pytest.mark.parametrize(("data", "error", "words"), ROWS.values(), ids=ROWS)
def test_rows_that_do_not_fit_are_refused_whole(
    log: Log, data: Any, error: type[MambaStreamError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        log["trades"].append(data)
    if caught.type is SchemaMismatch:
        assert "cannot append to topic 'trades'" in str(caught.value)
    with pytest.raises(error, match=words), log.transaction() as tx:
        tx.append("trades", [{"symbol": "fits"}])
        tx.append("trades", data)


@pytest.mark.usefixtures("filled", "unchanged")
def test_a_reader_that_breaks_in_the_middle_leaves_nothing(log: Log) -> None:
    schema = log["trades"].schema

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([{"symbol": "A"}], schema=schema)
        raise ConnectionResetError("the other side went away")

    with pytest.raises(Exception, match="the other side went away"):
        log["trades"].append(pa.RecordBatchReader.from_batches(schema, batches()))


@pytest.mark.inside
@pytest.mark.usefixtures("filled", "unchanged")
def test_a_value_that_is_too_large_for_a_batch_is_refused_with_what_to_do(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mamba_stream.log.intake.MAX_BYTES", 1_000)
    monkeypatch.setattr(message_format, "MAX_MESSAGE_BYTES", 5_000)
    log["trades"]._intake.batches([{"symbol": "x" * 3_000}])
    with pytest.raises(InvalidInput, match=r"topic 'trades': a row has \d+ bytes, more than 5000: split it"):
        log["trades"].append([{"symbol": "small"}, {"symbol": "x" * 9_000}])


def test_rows_without_a_time_are_rows(filled: Topic) -> None:
    filled.append([{"symbol": "B"}, {"symbol": "C", "ts": MOMENT}])
    assert len(rows_of(filled)) == 3
    assert filled.scan().filter(pl.col("ts").is_null()).select("symbol").collect()["symbol"].to_list() == [
        "B"
    ]
    assert filled.scan().filter(pl.col("ts") <= MOMENT).collect().height == 2
    assert filled.describe().first_time == MOMENT


# --- schemas that cannot be stored -----------------------------------------------------------------------------

_UNION = pa.sparse_union([pa.field("a", pa.int64()), pa.field("b", pa.string())])
_DEEP = pa.int64()
for _ in range(9):
    _DEEP = pa.list_(_DEEP)
SCHEMAS = {
    "a union": (
        pa.schema({"u": _UNION}),
        UnsupportedType,
        "column 'u'.*use a struct with one field for each",
    ),
    "a run-end encoding": (
        pa.schema({"r": pa.run_end_encoded(pa.int32(), pa.int64())}),
        UnsupportedType,
        "column 'r'",
    ),
    "an extension": (pa.schema({"e": pa.uuid()}), UnsupportedType, "column 'e'.*store its storage type"),
    "Python objects": ({"o": pl.Object}, UnsupportedType, "column 'o'.*Python objects are not stored"),
    "an integer of 128 bits": ({"n": pl.Int128}, UnsupportedType, "column 'n'.*cast it to Int64"),
    "a decimal of 50 digits": (pa.schema({"d": pa.decimal256(50, 2)}), UnsupportedType, "at most 38 digits"),
    "an interval": (pa.schema({"i": pa.month_day_nano_interval()}), UnsupportedType, "column 'i'"),
    "lists in lists in lists": (
        pa.schema({"l": _DEEP}),
        UnsupportedType,
        "column 'l'.*nested more than 8 levels deep",
    ),
    "a union in a struct": (pa.schema({"s": pa.struct({"u": _UNION})}), UnsupportedType, "column 's'"),
    "no column": ({}, InvalidInput, "at least one column"),
    "a column without a name": ({"": pl.Int64}, InvalidInput, "a column name is a str that is not empty"),
    "a name that is a number": ({1: pl.Int64}, InvalidInput, "a column name is a str"),
    "a name twice": (pa.schema([("a", pa.int64()), ("a", pa.int64())]), InvalidInput, "'a' occurs twice"),
    "too many columns": (
        {f"c{n}": pl.Int64 for n in range(2_001)},
        InvalidInput,
        "at most 2000 columns, not 2001",
    ),
    "a type that is none": ({"a": "Int64"}, InvalidInput, "column 'a' has no type: 'Int64'"),
    "a schema that is none": ("ts, price", InvalidInput, "a schema is an Arrow or Polars schema"),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("schema", "error", "words"), SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_that_cannot_be_stored_is_refused_by_its_column(
    log: Log, schema: Any, error: type[MambaStreamError], words: str
) -> None:
    with pytest.raises(error, match=words):
        log.create_topic("t", schema)


# --- names -----------------------------------------------------------------------------------------------------

NAMES = {
    "a separator": ("a/b", "contains '/'"),
    "another separator": ("a\\b", r"name .a.*b. contains"),
    "a way out": ("../escape", "contains '/'"),
    "a drive": ("C:data", "contains ':'"),
    "a space": ("my topic", "contains ' '"),
    "a line": ("a\nb", r"contains '\\n'"),
    "a NUL": ("a\0b", r"contains '\\x00'"),
    "letters of elsewhere": ("tópico", "contains 'ó'"),
    "a percent sign": ("%2e%2e", "contains '%'"),
    "a dot": (".", "must not consist of dots only"),
    "two dots": ("..", "must not consist of dots only"),
    "many dots": ("." * 9, "must not consist of dots only"),
    "nothing": ("", "must not be empty"),
    "too much": ("x" * 201, "is 201 characters long: at most 200"),
    "the engine's mark": ("_state", "must not begin with '_'"),
    "a number": (7, "is a str, not int"),
    "no name": (None, "is a str, not NoneType"),
    "bytes": (b"trades", "is a str, not bytes"),
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("name", "words"), NAMES.values(), ids=NAMES)
def test_a_name_that_is_not_allowed_is_refused_in_words(log: Log, name: Any, words: str) -> None:
    with pytest.raises(InvalidName, match=words):
        log.create_topic(name, {"n": int})
    assert name not in log
    with pytest.raises(TopicNotFound, match="no topic"):
        log[name]


@pytest.mark.parametrize("name", ["x" * 200, "a.b", "-", "a..b", ".hidden", "CON", "0", "A_b-C.9"])
def test_a_name_that_is_allowed_is_kept_as_it_is(log: Log, name: str, tmp_path: Path) -> None:
    log.create_topic(name, {"n": int}).append([{"n": 1}])
    assert log.topics() == [name]
    assert rows_of(log[name]) == [(0, 0, (1,))]
    assert os.listdir(tmp_path / "log" / "files") == ["00000001.commit"], "names make no files"


@pytest.mark.usefixtures("filled", "unchanged")
@pytest.mark.parametrize("exist_ok", [True, False])
def test_a_name_that_differs_only_in_case_is_taken(log: Log, exist_ok: bool) -> None:
    with pytest.raises(AlreadyExists, match="'Trades', or one that differs only in case, exists"):
        log.create_topic("Trades", {"n": int}, exist_ok=exist_ok)


@pytest.mark.usefixtures("filled", "unchanged")
@pytest.mark.parametrize(
    ("name", "meant"), [("trade", "trades"), ("TRADES", "trades"), ("tradse", "trades"), ("weather", None)]
)
def test_an_unknown_topic_is_answered_with_those_there_are(log: Log, name: str, meant: str | None) -> None:
    words = rf"no topic '{name}' in .*{f', did you mean {meant!r}[?]' if meant else ''}; it has trades"
    for use in (
        lambda: log[name],
        lambda: log.delete_topic(name),
        lambda: log.transaction().append(name, []),
        lambda: log.transaction().commit_offsets("g", {(name, 0): 0}),
        lambda: log.transaction().trim(name, {}),
    ):
        with pytest.raises(TopicNotFound, match=words):
            use()


@pytest.mark.usefixtures("unchanged")
def test_a_log_without_topics_says_so(log: Log) -> None:
    with pytest.raises(TopicNotFound, match="it has none"):
        log["trades"]


PARTITIONS = [
    (4, PartitionNotFound),
    (-1, PartitionNotFound),
    (1.0, InvalidInput),
    ("1", InvalidInput),
    (True, InvalidInput),
]


@pytest.mark.usefixtures("filled", "unchanged")
@pytest.mark.parametrize(("partition", "error"), PARTITIONS, ids=[repr(p) for p, _ in PARTITIONS])
def test_an_unknown_partition_is_answered_with_how_many_there_are(
    log: Log, partition: Any, error: type[MambaStreamError]
) -> None:
    topic = log["trades"]
    words = "topic 'trades' has no partition .*: it has 4, counted from 0|a partition is a number, not"
    for use in (
        lambda: topic.append(FITS, partition=partition),
        lambda: topic.append(FITS, expect={partition: 0}),
        lambda: topic.read(partitions=[partition]),
        lambda: topic.read(start={partition: 0}),
        lambda: topic.read(end={partition: 0}),
        lambda: topic.trim({partition: 0}),
        lambda: log.transaction().append("trades", FITS, partition=partition),
        lambda: log.transaction().commit_offsets("g", {("trades", partition): 0}),
        lambda: log.transaction().trim("trades", {partition: 0}),
    ):
        with pytest.raises(error, match=words):
            use()


ARGUMENTS: dict[str, tuple[Callable[[Log], object], str]] = {
    "partitions that are a number": (lambda log: log["trades"].read(partitions=1), "give a list such as"),  # type: ignore[arg-type]
    "columns that are a number": (lambda log: log["trades"].read(columns=5), "give a list of names"),  # type: ignore[arg-type]
    "an end that is a number": (lambda log: log["trades"].read(end=5), r"end=5: give \{partition: offset\}"),  # type: ignore[arg-type]
    "ends in a list": (lambda log: log["trades"].read(end=[5]), r"give \{partition: offset\}"),  # type: ignore[arg-type]
    "a place that is a number": (lambda log: log["trades"].reader().seek(5), r"give \{partition: offset\}"),  # type: ignore[arg-type]
    "a key that is a number": (
        lambda log: log.create_topic("k", {"a": pl.Int64}, key=5),
        "key=5 is not a column",
    ),  # type: ignore[arg-type]
    "a record of no name": (lambda log: log.record("", "k"), "1 to 200 bytes"),
    "a record of a long name": (lambda log: log.record("n" * 999, "k"), "1 to 200 bytes"),
    "records of a number": (lambda log: log.records(5), "1 to 200 bytes"),  # type: ignore[arg-type]
    "fewer records than none": (
        lambda log: log.records("r", limit=-1),
        r"records\(limit=-1\): give a number from 0 on",
    ),
    "endlessly many records": (lambda log: log.records("r", limit=1 << 64), "give a number from 0 on"),
    "offsets of a number": (lambda log: log.group_offsets(5), "group name"),  # type: ignore[arg-type]
    "a topic that is a list": (lambda log: log[["trades"]], "no topic"),  # type: ignore[index]
    "a column that is a number": (lambda log: log["trades"].read(columns=[1]), "no column 1"),  # type: ignore[list-item]
    "a directory with NUL": (lambda _: locate("a\0b"), "names no directory"),
}


@pytest.mark.usefixtures("filled", "unchanged")
@pytest.mark.parametrize(("use", "words"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_an_argument_of_another_kind_is_refused_with_what_it_should_be(
    log: Log, use: Callable[[Log], object], words: str
) -> None:
    with pytest.raises(MambaStreamError, match=words):
        use(log)


# --- producers, expectations, ends ------------------------------------------------------------------------------

PRODUCERS: dict[str, tuple[dict[str, Any], str]] = {
    "a producer without a sequence": (
        {"producer": "p"},
        "sequence=None: give a number from 0 on, together with producer=",
    ),
    "a sequence without a producer": ({"sequence": 1}, "producer=None: give a name of 1 to 200 bytes"),
    "a producer without a name": ({"producer": "", "sequence": 1}, "producer='': give a name"),
    "a producer with too long a name": ({"producer": "é" * 101, "sequence": 1}, "1 to 200 bytes"),
    "a producer that is a number": ({"producer": 5, "sequence": 1}, "producer=5"),
    "a producer with NUL": ({"producer": "a\0b", "sequence": 1}, "without NUL"),
    "a producer with half a character": ({"producer": "\ud800", "sequence": 1}, "1 to 200 bytes"),
    "an expectation of no partition": ({"expect": 5}, r"expect=5: give \{partition: offset\}"),
    "expectations in a list": ({"expect": [0]}, r"give \{partition: offset\}"),
    "a negative sequence": ({"producer": "p", "sequence": -1}, "sequence=-1"),
    "a sequence beyond all numbers": ({"producer": "p", "sequence": 2**63}, "give a number from 0 on"),
    "half a sequence": ({"producer": "p", "sequence": 1.5}, "sequence=1.5"),
    "an expectation that is no offset": (
        {"expect": {0: "0"}, "partition": 0},
        "partition 0: '0' is not an offset",
    ),
    "a negative expectation": ({"expect": {0: -1}, "partition": 0}, "-1 is not an offset"),
}


@pytest.mark.usefixtures("filled", "unchanged")
@pytest.mark.parametrize(("options", "words"), PRODUCERS.values(), ids=PRODUCERS)
def test_options_of_an_append_that_make_no_sense_are_refused(
    log: Log, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        log["trades"].append(FITS, **options)
    with pytest.raises(InvalidInput, match=words):
        log.transaction().append("trades", FITS, **options)


def test_an_ended_topic_and_a_wrong_expectation_leave_the_log_as_it_was(log: Log, filled: Topic) -> None:
    log.create_topic("done", {"n": int}).end()
    before = picture(log)
    with pytest.raises(TopicEnded, match="topic 'done' was ended and takes no more rows"):
        log["done"].append([{"n": 1}])
    with pytest.raises(
        PreconditionFailed, match=r"topic 'trades', partition 0: expected to end at 77, but it ends at \d"
    ):
        filled.append(FITS, partition=0, expect={0: 77})
    assert picture(log) == before


# --- processes that forked --------------------------------------------------------------------------------------

FORKED = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")
from mamba_stream.errors import MambaStreamError
from mamba_stream.log import open_log

path = sys.argv[1]
log = open_log(path)
topic = log.create_topic("t", {"n": int}, exist_ok=True)
topic.append([{"n": 1}])
reader, scan = topic.reader(), topic.scan()

# A thread that commits all the time: at the fork it holds locks that the child inherits without it.
stop = threading.Event()
def write():
    while not stop.is_set(): topic.append([{"n": 2}])
writer = threading.Thread(target=write); writer.start()

def asked():
    return {
        "append": lambda: topic.append([{"n": 9}]), "offsets": topic.offsets, "read": lambda: list(topic.read()),
        "poll": reader.poll, "scan": scan.collect, "topics": log.topics, "lsn": log.lsn, "seal": log.seal,
        "create": lambda: log.create_topic("u", {"n": int}), "transaction": lambda: log.transaction().commit(),
        "wait": lambda: log.wait(0, 1), "open": lambda: open_log(path), "statistics": log.statistics,
    }

for _ in range(5):
    come, go = os.pipe()
    child = os.fork()
    if child == 0:
        answers = []
        for what, use in asked().items():
            try: answers.append(f"{what} {use()!r}")
            except MambaStreamError as error: answers.append(f"{what} {type(error).__name__} {error}")
            except BaseException as error: answers.append(f"{what} unexpected {error!r}")
        log.close()
        os.write(go, "\\n".join(answers).encode())
        os._exit(0)
    os.close(go)
    said = b""
    while part := os.read(come, 65536): said += part
    os.close(come)
    assert os.waitpid(child, 0)[1] == 0
stop.set(); writer.join()
topic.append([{"n": 3}])
log.close()
print(said.decode())
"""


def test_a_process_that_forked_is_refused_and_its_parent_goes_on(tmp_path: Path) -> None:
    out = finished(script(FORKED, tmp_path / "log"))
    answers = dict(line.split(" ", 1) for line in out.splitlines() if line)
    assert len(answers) == 13
    for what, answer in answers.items():
        assert answer.startswith("ForkedProcess this process was forked"), (what, answer)
        assert "'spawn' method" in answer
    with open_log(tmp_path / "log") as log:
        rows = [row[0] for _, _, row in rows_of(log["t"])]
    assert (rows[0], rows[-1], set(rows[1:-1])) == (1, 3, {2})
    assert unsound(tmp_path / "log") == []


def test_a_child_may_open_what_its_parent_did_not_have_open(tmp_path: Path) -> None:
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
from mamba_stream.log import open_log
with open_log(sys.argv[1]) as log:
    log.create_topic("t", {"n": int}).append([{"n": 1}])
with open_log(sys.argv[2]) as other:
    if os.fork() == 0:
        with open_log(sys.argv[1]) as log:
            log["t"].append([{"n": 2}])
        os._exit(0)
    assert os.wait()[1] == 0
    other.create_topic("mine", {"n": int})
"""
    finished(script(code, tmp_path / "one", tmp_path / "other"))
    with open_log(tmp_path / "one") as log:
        assert [row[0] for _, _, row in rows_of(log["t"])] == [1, 2]
    for place in ("one", "other"):
        assert unsound(tmp_path / place) == []


def test_a_child_that_lives_on_does_not_make_its_parent_look_alive(tmp_path: Path) -> None:
    """The parent dies; the child, which inherited its descriptors, must not hold the lock of its file."""
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
from mamba_stream.log import open_log
log = open_log(sys.argv[1])
log.create_topic("t", {"n": int}).append([{"n": 1}])
if os.fork() == 0:
    print("forked", flush=True)
    os.close(1)
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""
    with script(code, tmp_path / "log") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        process.wait(60)
        with open_log(tmp_path / "log") as log:
            log["t"].append([{"n": 2}])
            assert len(list((tmp_path / "log" / "files").iterdir())) == 1, "its file is gone on with"


# --- a full disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of eight megabytes, without marks."""
    for name, value in NO_MARKS.items():
        monkeypatch.setenv(name, value)
    with mounts(tmp_path) as mount:
        yield mount(8 << 20)


@pytest.mark.root
def test_on_a_full_disk_appends_fail_whole_and_work_again_once_there_is_room(small: Path) -> None:
    ballast = small / "ballast"
    ballast.write_bytes(bytes(4 << 20))
    with open_log(small / "log", map_size=1 << 20) as log:
        topic = log.create_topic("t", {"n": int, "b": bytes}, partitions=2)
        kept = 0
        with pytest.raises(DiskFull, match=r"nothing was committed. Free some"):
            while True:
                with log.transaction() as tx:
                    for partition in range(2):
                        tx.append("t", [{"n": kept, "b": os.urandom(50_000)}], partition=partition)
                kept += 1
        before = picture(log)
        assert kept > 5
        for _ in range(3):
            with pytest.raises(DiskFull):
                topic.append([{"n": -1, "b": os.urandom(500_000)}])
        assert picture(log) == before
        assert [row[0] for p, _, row in rows_of(topic) if p == 1] == list(range(kept))
        ballast.unlink()
        topic.append([{"n": kept, "b": os.urandom(500_000)}], partition=0)
        assert topic.offsets() == {0: (0, kept + 1), 1: (0, kept)}
    with open_log(small / "log") as log:
        assert log["t"].offsets() == {0: (0, kept + 1), 1: (0, kept)}
    assert unsound(small / "log") == []


@pytest.mark.root
def test_a_disk_without_any_room_holds_no_new_log(small: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        with (small / "ballast").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
    with pytest.raises(DiskFull):
        open_log(small / "log")
    (small / "ballast").unlink()
    with open_log(small / "log") as log:
        log.create_topic("t", {"n": int}).append([{"n": 1}])


# --- the tree ---------------------------------------------------------------------------------------------------


def test_every_error_is_of_the_tree_and_catchable_as_what_python_calls_it() -> None:
    for name in dir(errors):
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, MambaStreamError)
    assert issubclass(SchemaMismatch, ValueError)
    assert issubclass(TopicNotFound, LookupError)


def test_values_that_python_cuts_to_size_are_refused_instead(log: Log) -> None:
    topic = log.create_topic("t", {"d": pl.Date, "m": pl.Decimal(4, 1), "s": pl.Datetime("ms")})
    for row in (
        {"d": MOMENT.replace(hour=5)},
        {"m": Decimal("1.05")},
        {"m": Decimal("12345.6")},
        {"s": MOMENT.replace(microsecond=1, tzinfo=UTC)},
    ):
        with pytest.raises(SchemaMismatch, match="row 0, column"):
            topic.append([row])
    assert topic.offsets() == {0: (0, 0)}
