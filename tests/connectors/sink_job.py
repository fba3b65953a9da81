"""Writes rows into files, with a checkpoint of its own in place of the log; run as a process, and killed at any moment.

python -m tests.connectors.sink_job PLACE OPTIONS endless|last
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgpack
import polars as pl

from mamba_connectors import files
from mamba_stream.core.batches import batch_from_frame
from mamba_stream.testing.sinks import OWNER, some_rows
from mamba_stream.testing.sources import read_to_end

_OPTIONS: dict[str, dict[str, Any]] = {
    "parquet": {"roll_rows": 500},
    "csv": {"format": "csv", "roll_after": "0s"},
    "partitioned": {"partition_by": "key", "roll_rows": 300},
}


def sink_in(place: Path, options: str) -> files.FileSink:
    return files.sink(place / "out", **_OPTIONS[options])


def seen(place: Path, options: str) -> pl.DataFrame:
    source = files.source(
        place / "out" / "**" / "*.*",
        format=_OPTIONS[options].get("format", "parquet"),
        schema=some_rows(0, 0).schema,
        hive=["key"] if "partition_by" in _OPTIONS[options] else False,
    )
    return read_to_end(source, "all")


def read_checkpoint(place: Path) -> dict[str, Any]:
    path = place / "checkpoint"
    return msgpack.unpackb(path.read_bytes()) if path.exists() else {"epoch": 0, "rows": 0, "prepared": None}


def write_checkpoint(place: Path, **values: Any) -> None:
    with (place / "checkpoint.new").open("wb") as file:
        file.write(msgpack.packb(values))
        file.flush()
        os.fsync(file.fileno())
    (place / "checkpoint.new").rename(place / "checkpoint")


def main(place: Path, options: str, how: str) -> None:
    saved = read_checkpoint(place)
    epoch, rows = saved["epoch"], saved["rows"]
    writer = sink_in(place, options).begin(batch_from_frame(some_rows(0, 1)).schema, OWNER)
    if saved["prepared"] is not None:
        writer.commit(epoch, saved["prepared"])
    writer.abort(epoch)
    print("begun", flush=True)
    while True:
        for _ in range(3):
            writer.write(batch_from_frame(some_rows(rows, 37)))
            rows += 37
        epoch += 1
        prepared = writer.prepare(epoch, last=how == "last")
        write_checkpoint(place, epoch=epoch, rows=rows, prepared=prepared)
        if prepared is not None:
            writer.commit(epoch, prepared)
        if how == "last":
            writer.close()
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
