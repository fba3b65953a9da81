"""Counts rows by key with Bytewax: ``python bytewax_count.py WORKERS ROWS``; prints rows per second."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main

_BATCH = 1_000


class _Numbers(StatefulSourcePartition):
    def __init__(self, first: int, last: int) -> None:
        self._next, self._last = first, last

    def next_batch(self) -> list[tuple[str, int]]:
        if self._next >= self._last:
            raise StopIteration
        first, self._next = self._next, min(self._next + _BATCH, self._last)
        return [(str(number * 7_919 % 10_000), number % 1_000) for number in range(first, self._next)]

    def snapshot(self) -> int:
        return self._next


class _Rows(FixedPartitionedSource):
    def __init__(self, rows: int) -> None:
        self._share = rows // 4

    def list_parts(self) -> list[str]:
        return ["0", "1", "2", "3"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Numbers:
        first = int(for_part) * self._share
        return _Numbers(first, first + self._share)


class _Nowhere(StatelessSinkPartition):
    def write_batch(self, items: list) -> None:
        pass


class _Discard(DynamicSink):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Nowhere:
        return _Nowhere()


def _flow(rows: int) -> Dataflow:
    flow = Dataflow("counts")
    stream = op.input("in", flow, _Rows(rows))
    counts = op.stateful_map("count", stream, lambda state, _: ((state or 0) + 1, (state or 0) + 1))
    op.output("out", counts, _Discard())
    return flow


if __name__ == "__main__":
    workers, rows = int(sys.argv[1]), int(sys.argv[2])
    begun = time.perf_counter()
    cluster_main(_flow(rows), [], 0, worker_count_per_proc=workers, epoch_interval=timedelta(seconds=1))
    print(rows / (time.perf_counter() - begun))
