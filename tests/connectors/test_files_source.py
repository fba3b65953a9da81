"""Files in: the contract for every format and packing, and what is particular to files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from mamba_connectors import files
from mamba_connectors.files import records
from mamba_stream.errors import ConnectorFailed, InvalidInput, SchemaMismatch, UnsupportedType
from mamba_stream.testing.sources import SourceContract, read_to_end, rows_of, stored


def frame(first: int, rows: int) -> pl.DataFrame:
    numbers = pl.int_range(first, first + rows, dtype=pl.Int64, eager=True).alias("number")
    return numbers.to_frame().with_columns(
        text=pl.when(pl.col("number") % 5 != 0).then(pl.format('a "quoted" line\nand {}', "number")),
        empty=pl.when(pl.col("number") % 2 == 0).then(pl.lit("")),
        share=pl.col("number") / 7,
        at=pl.datetime(2026, 1, 1, time_zone="UTC") + pl.duration(microseconds=pl.col("number") * 1_000_001),
        day=pl.date(2026, 1, 1) + pl.duration(days=pl.col("number")),
        even=pl.col("number") % 2 == 0,
    )


SCHEMA = frame(0, 0).schema


def write(rows: pl.DataFrame, path: Path, **options: Any) -> None:
    match path.suffixes[0]:
        case ".parquet":
            rows.write_parquet(path, row_group_size=7)
        case ".arrow":
            rows.write_ipc(path, record_batch_size=5)
        case ".arrows":
            with pa.ipc.new_stream(str(path), rows.to_arrow().schema) as stream:
                for batch in rows.to_arrow().to_batches(max_chunksize=6):
                    stream.write_batch(batch)
        case ".csv":
            text = rows.write_csv(
                quote_style="non_numeric", datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ"
            ).encode()
            path.write_bytes(packed(text, path))
        case ".ndjson":
            path.write_bytes(packed(rows.write_ndjson().encode(), path))


def packed(data: bytes, path: Path) -> bytes:
    match path.suffix:
        case ".gz":
            middle = len(data) // 2
            return gzip.compress(data[:middle]) + gzip.compress(data[middle:])
        case ".bz2":
            return bz2.compress(data)
        case ".xz":
            return lzma.compress(data)
        case ".zst":
            return pa.compress(data, "zstd", asbytes=True)
    return data


class FilesContract(SourceContract):
    ending: str
    sizes = (17, 1, 0, 30)

    def source(self, place: Path) -> files.FileSource:
        if not (place / "in").exists():
            (place / "in").mkdir()
            first = 0
            for number, rows in enumerate(self.sizes):
                write(frame(first, rows), place / "in" / f"{number}{self.ending}")
                first += rows
        return files.source(str(place / "in" / f"*{self.ending}"), schema=SCHEMA, **self.options())

    def options(self) -> dict[str, Any]:
        return {}

    def expected(self, place: Path) -> pl.DataFrame:
        return frame(0, sum(self.sizes))


class TestParquet(FilesContract):
    ending = ".parquet"


class TestParquetFilesAsPartitions(FilesContract):
    ending = ".parquet"

    def options(self) -> dict[str, Any]:
        return {"partitions": "files"}


class TestIpcFiles(FilesContract):
    ending = ".arrow"


class TestIpcStreams(FilesContract):
    ending = ".arrows"


class TestCsv(FilesContract):
    ending = ".csv"


class TestCsvFilesAsPartitions(FilesContract):
    ending = ".csv"

    def options(self) -> dict[str, Any]:
        return {"partitions": "files"}


class TestGzippedCsv(FilesContract):
    ending = ".csv.gz"


class TestZstdCsv(FilesContract):
    ending = ".csv.zst"


class TestNdjson(FilesContract):
    ending = ".ndjson"


class TestBzippedNdjson(FilesContract):
    ending = ".ndjson.bz2"


class TestXzippedNdjson(FilesContract):
    ending = ".ndjson.xz"


class TestHive(SourceContract):
    def source(self, place: Path) -> files.FileSource:
        for year in (2025, 2026):
            for name in ("A B", "ü/%"):
                directory = place / f"year={year}" / f"name={name.replace('%', '%25').replace('/', '%2F')}"
                if not directory.exists():
                    directory.mkdir(parents=True)
                    frame(year, 9).write_parquet(directory / "x.parquet")
        (place / "year=2026" / "name=__HIVE_DEFAULT_PARTITION__").mkdir(exist_ok=True)
        return files.source(str(place / "**" / "*.parquet"), hive=True)

    def expected(self, place: Path) -> pl.DataFrame:
        return pl.concat(
            frame(year, 9).with_columns(pl.lit(year, pl.Int64).alias("year"), pl.lit(name).alias("name"))
            for year in (2025, 2026)
            for name in ("A B", "ü/%")
        )


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> int:
        return int((self.begun + self.seconds) * 1_000_000)

    def monotonic(self) -> float:
        return self.seconds

    begun = 0.0


def one(source: files.FileSource, position: Any = None) -> pl.DataFrame:
    return read_to_end(source, "all", position)


# -- what the columns are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".arrows", ".csv", ".ndjson", ".csv.gz"])
def test_columns_are_those_of_the_first_file(tmp_path, ending):
    write(frame(0, 20), tmp_path / f"a{ending}")
    found = one(files.source(tmp_path / f"a{ending}"))
    wanted = frame(0, 20)
    if "ndjson" in ending:  # JSON has no days, and an instant in it has a zone
        wanted = wanted.with_columns(pl.col("day").cast(pl.Datetime("us")))
    assert_frame_equal(found, wanted)


def test_a_type_that_the_first_file_does_not_suggest_can_be_said(tmp_path):
    (tmp_path / "a.csv").write_text("n,zip\n1,01234\n")
    source = files.source(tmp_path / "a.csv", schema_overrides={"zip": pl.String, "n": pl.Float64})
    assert one(source).rows() == [(1.0, "01234")]
    with pytest.raises(InvalidInput, match="no column 'zap'"):
        files.source(tmp_path / "a.csv", schema_overrides={"zap": pl.String})


def test_nothing_there_yet_needs_a_schema_and_a_format(tmp_path):
    with pytest.raises(InvalidInput, match="pass schema="):
        files.source(tmp_path / "*.csv")
    with pytest.raises(InvalidInput, match="pass format="):
        files.source(tmp_path)
    assert one(files.source(tmp_path, format="csv", schema={"a": pl.Int64})).height == 0


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".csv"])
def test_another_file_with_other_columns_is_named_with_them(tmp_path, ending):
    write(frame(0, 3), tmp_path / f"a{ending}")
    write(frame(3, 3).rename({"text": "test"}), tmp_path / f"b{ending}")
    with pytest.raises(SchemaMismatch) as refused:
        one(files.source(tmp_path / f"*{ending}"))
    for words in (
        f"b{ending}",
        "missing column 'text' (String)",
        "unexpected column 'test', did you mean 'text'",
    ):
        assert words in str(refused.value)


def test_another_file_with_other_types_is_named_with_them(tmp_path):
    write(frame(0, 3), tmp_path / "a.parquet")
    write(frame(3, 3).cast({"number": pl.String}), tmp_path / "b.parquet")
    with pytest.raises(SchemaMismatch, match=r"b\.parquet: 'number' is String, the source has Int64"):
        one(files.source(tmp_path / "*.parquet"))


def test_narrower_types_of_another_file_fit(tmp_path):
    write(frame(0, 3), tmp_path / "a.parquet")
    write(
        frame(3, 3).cast({"number": pl.Int8}).select(pl.col("*").exclude("at"), "at"), tmp_path / "b.parquet"
    )
    assert_frame_equal(one(files.source(tmp_path / "*.parquet")), frame(0, 6))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("x.csv", "n,s\n1,a\n2,b\n", "n,s\n3,c\n4,d\n5.5,e\n"),
        ("x.ndjson", '{"n":1}\n', '{"n":3}\n{"n":4}\n{"n":"x"}\n'),
    ],
)
def test_a_record_that_does_not_fit_is_named_by_its_byte(tmp_path, name, good, bad):
    (tmp_path / f"a{name}").write_text(good)
    (tmp_path / f"b{name}").write_text(bad)
    with pytest.raises(SchemaMismatch) as refused:
        one(files.source(tmp_path / f"*{name}"))
    last = bad.splitlines()[-1]
    assert f"b{name}: the record at byte {bad.index(last)}" in str(refused.value)
    assert repr(last) in str(refused.value)


def test_a_field_that_nobody_expected_is_refused(tmp_path):
    (tmp_path / "a.ndjson").write_text('{"n":1}\n{"n":2,"m":3}\n')
    with pytest.raises(SchemaMismatch, match="record at byte 8"):
        one(files.source(tmp_path / "a.ndjson", schema={"n": pl.Int64}))


def test_what_has_no_form_as_text_is_refused_at_once(tmp_path):
    with pytest.raises(UnsupportedType, match="'b'"):
        files.source(tmp_path, format="csv", schema={"b": pl.Binary})
    with pytest.raises(UnsupportedType, match="'l'"):
        files.source(tmp_path, format="csv", schema={"l": pl.List(pl.Int64)})


def test_nested_json_comes_as_it_is(tmp_path):
    (tmp_path / "a.ndjson").write_text(
        '{"l":[{"at":"2026-01-01T00:00:00Z","d":"1.50"}],"t":{"x":null}}\n{"l":null}\n'
    )
    schema = {
        "l": pl.List(pl.Struct({"at": pl.Datetime("us", "UTC"), "d": pl.Decimal(10, 2)})),
        "t": pl.Struct({"x": pl.Date}),
    }
    found = one(files.source(tmp_path / "a.ndjson", schema=schema)).to_dicts()
    assert found[0]["l"][0]["at"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert str(found[0]["l"][0]["d"]) == "1.50"
    assert found[1] == {"l": None, "t": None}


# -- CSV -----------------------------------------------------------------------------------------------------------


def test_csv_as_it_comes(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfn;s\r\n1;"a ""b""\r\nc"\r\n2;\r\n\r\n3;""')
    (tmp_path / "b.csv").write_bytes(b"s;n\nx;4\n")
    source = files.source(tmp_path / "*.csv", separator=";")
    assert one(source).rows() == [(1, 'a "b"\r\nc'), (2, None), (3, ""), (4, "x")]
    (tmp_path / "t.tsv").write_text("1\tx\n2\ty\n")
    tabs = files.source(tmp_path / "t.tsv", header=False, schema={"n": pl.Int64, "s": pl.String})
    assert one(tabs).rows() == [(1, "x"), (2, "y")]


def test_a_column_of_nulls_alone_keeps_its_rows(tmp_path):
    (tmp_path / "a.csv").write_text("n\n1\n\n3\n")
    assert one(files.source(tmp_path / "a.csv"))["n"].to_list() == [1, None, 3]


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.csv").write_text("n\n1\n")
    assert one(files.source(tmp_path / "*.csv", schema={"n": pl.Int64})).rows() == [(1,)]
    with pytest.raises(ConnectorFailed, match="is empty"):
        files.source(tmp_path / "*.csv")


def test_columns_of_directories_need_a_first_file(tmp_path):
    with pytest.raises(InvalidInput, match="none lies at"):
        files.source(tmp_path / "**" / "*.csv", hive=True, schema={"n": pl.Int64})
    with pytest.raises(InvalidInput, match="did you mean 'day'"):
        files.source(tmp_path / "**" / "*.csv", hive=["dai"], schema={"n": pl.Int64, "day": pl.Int64})
    (tmp_path / "day=3").mkdir()
    (tmp_path / "day=3" / "a.csv").write_text("n\n1\n")
    source = files.source(tmp_path / "**" / "*.csv", hive=["day"], schema={"n": pl.Int64, "day": pl.Int64})
    assert one(source).rows() == [(1, 3)]


def test_a_quote_that_is_never_closed_is_an_error_and_not_all_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_BLOCK", 64)
    monkeypatch.setattr(records, "_LONGEST", 1_000)
    (tmp_path / "a.csv").write_text('n,s\n1,"open\n' + "2,x\n" * 1_000)
    with pytest.raises(ConnectorFailed, match="record at byte 4 is longer.*a quote is not closed"):
        one(files.source(tmp_path / "a.csv", schema={"n": pl.Int64, "s": pl.String}))


@pytest.mark.parametrize("block", [1, 7, 64])
def test_records_are_cut_alike_whatever_the_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(records, "_BLOCK", block)
    write(frame(0, 40), tmp_path / "a.csv")
    assert_frame_equal(one(files.source(tmp_path / "a.csv", schema=SCHEMA)), frame(0, 40))


def test_going_on_in_a_large_file_reads_only_the_rest(tmp_path, monkeypatch):
    write(frame(0, 50_000), tmp_path / "a.csv")
    source = files.source(tmp_path / "a.csv", schema=SCHEMA)
    reader = source.open("all", None)
    *all_but_last, before, _ = list(rows_of(reader, 1_000))
    seen = sum(rows.batch.num_rows for rows in [*all_but_last, before])
    read = []
    opened = records.open_bytes

    def counting(path, offset):
        read.append(offset)
        return opened(path, offset)

    monkeypatch.setattr(records, "open_bytes", counting)
    assert one(source, before.position)["number"][0] == seen
    assert max(read) > 0.9 * (tmp_path / "a.csv").stat().st_size


# -- watching ------------------------------------------------------------------------------------------------------


def test_new_files_are_read_when_they_are_complete(tmp_path):
    clock = HandClock()
    source = files.source(tmp_path, format="csv", schema={"n": pl.Int64}, watch=True, clock=clock)
    assert not source.bounded and source.as_of_now().bounded
    reader = source.open("all", None)
    assert reader.read(10) is None and not reader.ended

    def put(name: str, number: int, age: float) -> None:
        (tmp_path / name).write_text(f"n\n{number}\n")
        moment = clock.begun + clock.seconds - age
        os.utime(tmp_path / name, (moment, moment))

    clock.begun = 1_700_000_000.0
    put("b.csv", 1, age=10)
    put("young.csv", 2, age=1)
    put("c.csv.tmp", 9, age=10)
    put(".d.csv", 9, age=10)
    put("_e.csv", 9, age=10)
    assert reader.read(10) is None, "it looks every half second"
    clock.seconds = 0.6
    rows = reader.read(10)
    assert rows.batch.to_pylist() == [{"n": 1}]
    assert reader.read(10) is None
    put("a.csv", 3, age=10)  # its name comes before one that was read
    clock.seconds = 1.2
    rows = reader.read(10)
    assert rows.batch.to_pylist() == [{"n": 3}]
    clock.seconds = 2.0
    last = reader.read(10)
    assert last.batch.to_pylist() == [{"n": 2}]
    clock.seconds = 9
    assert reader.read(10) is None and not reader.ended
    (tmp_path / "c.csv.tmp").rename(tmp_path / "c.csv")
    assert one(source.as_of_now(), stored(last.position)).rows() == [(9,)]


def test_a_directory_means_the_files_in_it_and_a_list_several(tmp_path):
    for place, number in (("in", 0), ("in/deeper", 1), ("other", 2)):
        (tmp_path / place).mkdir(exist_ok=True)
        write(frame(number, 1), tmp_path / place / "x.parquet")
    schema = SCHEMA
    assert one(files.source(tmp_path / "in", format="parquet", schema=schema))["number"].to_list() == [0]
    several = [tmp_path / "in" / "**" / "*.parquet", str(tmp_path / "other")]
    assert one(files.source(several, schema=schema))["number"].to_list() == [1, 0, 2]


# -- files that change ---------------------------------------------------------------------------------------------


def partly_read(source: files.FileSource) -> Any:
    return stored(next(rows_of(source.open("all", None), 2)).position)


@pytest.mark.parametrize("partitions", ["all", "files"])
def test_a_file_that_changed_after_it_was_read_is_an_error(tmp_path, partitions):
    path = tmp_path / "a.csv"
    path.write_text("n\n1\n2\n3\n")
    source = files.source(path, partitions=partitions)
    (partition,) = source.partitions()
    reader = source.open(partition, None)
    part, *_, whole = (stored(rows.position) for rows in rows_of(reader, 1))
    with path.open("a") as file:
        file.write("4\n")
    for position in (part, whole):
        with pytest.raises(ConnectorFailed, match=r"a\.csv changed after it was read"):
            read_to_end(source, partition, position)
    ignoring = files.source(path, partitions=partitions, changed="ignore")
    assert read_to_end(ignoring, partition, part)["n"].to_list() == [2, 3, 4]
    assert read_to_end(ignoring, partition, whole)["n"].to_list() == []


def test_a_file_that_is_written_to_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("n\n1\n2\n3\n")
    source = files.source(path)
    reader = source.open("all", None)
    reader.read(1)
    with path.open("a") as file:
        file.write("4\n")
    with pytest.raises(ConnectorFailed, match="written to while it was read"):
        for _ in rows_of(reader, 1):
            pass


def test_a_file_that_is_gone_is_an_error_if_a_part_was_read_and_none_if_all_was(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("n\n1\n2\n3\n")
    source = files.source(tmp_path / "*.csv")
    part = partly_read(source)
    reader = source.open("all", None)
    whole_of_a = stored(next(rows_of(reader, 3)).position)
    (tmp_path / "a.csv").unlink()
    assert one(source, whole_of_a).height == 3
    with pytest.raises(ConnectorFailed, match=r"a\.csv is gone, of which a part was read"):
        one(source, part)


def test_a_damaged_file_is_an_error_that_names_it(tmp_path):
    for ending in (".parquet", ".arrow"):
        (tmp_path / f"x{ending}").write_bytes(b"PAR1 nothing of the kind")
        with pytest.raises(ConnectorFailed, match=rf"x\{ending}"):
            files.source(tmp_path / f"x{ending}")
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"n\n" + b"1\n" * 1_000)[:-20])
    with pytest.raises(ConnectorFailed, match=r"x\.csv\.gz"):
        one(files.source(tmp_path / "x.csv.gz", schema={"n": pl.Int64}))


def test_a_thousand_files_are_remembered_in_few_bytes(tmp_path):
    for number in range(1_000):
        (tmp_path / f"{number:04}.csv").write_text(f"n\n{number}\n")
    source = files.source(tmp_path / "*.csv")
    reader = source.open("all", None)
    *_, last = rows_of(reader, 10)
    assert len(last.position[-1]) == 12_000
    assert one(source, stored(last.position)).height == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format": "parket"}, "did you mean 'parquet'"),
        ({"partitions": 3}, "choose 'all' or 'files'"),
        ({"changed": "maybe"}, "choose 'fail' or 'ignore'"),
        ({"separator": ",,"}, "one ASCII character"),
        ({"settle": 2}, "settle has no unit"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, arguments, words):
    with pytest.raises(InvalidInput, match=words):
        files.source(tmp_path, **{"format": "csv", "schema": {"n": pl.Int64}, **arguments})
    with pytest.raises(InvalidInput, match=r"files\.source takes a glob"):
        files.source(3)


# -- a writer that is killed ---------------------------------------------------------------------------------------

WRITER = """
import sys, os, itertools
from pathlib import Path
place = Path(sys.argv[1])
for number in itertools.count():
    temporary = place / f"{number:06}.csv.tmp"
    with temporary.open("w") as file:
        file.write("file,row\\n")
        for row in range(200):
            file.write(f"{number},{row}\\n")
    temporary.rename(place / f"{number:06}.csv")
    print(number, flush=True)
"""


def test_of_a_writer_that_is_killed_only_complete_files_are_read(tmp_path):
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    found = one(files.source(tmp_path / "*.csv", format="csv", schema={"file": pl.Int64, "row": pl.Int64}))
    assert set(found.group_by("file").len()["len"]) == {200}
