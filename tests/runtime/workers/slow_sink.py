"""A job over two workers whose sink takes so many bytes a second: ``python -m … LOG BYTES_PER_SECOND MEMORY TAKEN``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import polars as pl
import pyarrow as pa

import mamba_stream as mamba

_AT_ONCE = 64


class Slow:
    """A sink at the end of a thin line; in a file there is a byte for each row that it has taken."""

    name = "slow"
    delivery = "at-least-once"

    def __init__(self, rate: float, taken: str) -> None:
        self._rate = rate
        self._taken = taken

    def open(self, schema: pa.Schema, owner: str) -> SlowWriter:
        return SlowWriter(self._rate, Path(self._taken))


class SlowWriter:
    def __init__(self, rate: float, taken: Path) -> None:
        self._rate = rate
        self._taken = taken.open("ab", buffering=0)

    def write(self, batch: pa.RecordBatch) -> None:
        for at in range(0, batch.num_rows, _AT_ONCE):
            some = batch.slice(at, _AT_ONCE)
            threading.Event().wait(some.nbytes / self._rate)
            self._taken.write(bytes(some.num_rows))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._taken.close()


def main(place: str, rate: str, memory: str, taken: str) -> None:
    stream = mamba.stream("in").filter(pl.col("number") >= 0)
    pipeline = mamba.pipeline("job", stream.to(Slow(float(rate), taken)))
    with mamba.open(place) as log:
        job = mamba.start(pipeline, log=log, workers="exactly:2", memory=memory)
        while len(job.workers) < 2:
            threading.Event().wait(0.02)
        print("ready", flush=True)
        job.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
