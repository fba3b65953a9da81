"""Files in: the contract for every format and packing, and what is particular to files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from mamba_connectors import files
from mamba_connectors.files import records
from mamba_stream.errors import ConnectorFailed, InvalidInput, SchemaMismatch, UnsupportedType
from mamba_stream.testing.sources import SourceContract, joined, read_to_end, rows_of, stored


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
            text = rows.write_csv(quote_style="non_numeric", datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ").encode()
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
