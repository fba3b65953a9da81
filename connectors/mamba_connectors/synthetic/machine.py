"""What this machine does: processor, memory, disks, network, a row every second. A moment comes only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType
from typing import Final

import pyarrow as pa

from mamba_connectors.waking import Sleeper
from mamba_stream.connect import Delivery, Position, Reader, Rows
from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.durations import duration_us
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.errors import MissingExtra

_SCHEMA: Final = canonical_schema(
    pa.schema(
        [
            ("at", pa.timestamp("us", "UTC")),
            ("cpu_percent", pa.float64()),
            ("load_1m", pa.float64()),
            ("memory_used", pa.int64()),
            ("memory_percent", pa.float64()),
            ("disk_read_bytes", pa.int64()),
            ("disk_write_bytes", pa.int64()),
            ("net_sent_bytes", pa.int64()),
            ("net_received_bytes", pa.int64()),
        ]
    )
)


def machine(
    *,
    every: str | timedelta = "1s",
    rows: int | None = None,
    name: str = "machine",
    clock: Clock | None = None,
) -> MachineSource:
    """Metrics of this machine, by psutil. Bytes of disks and network are counted since it started.

    Args:
        every: How often.
        rows: How many; endless if left out.
        name: What progress and messages call it.
        clock: Tells the time, and when.

    Raises:
        MissingExtra: psutil is not installed.
    """
    _psutil()
    seconds = duration_us(every, what="every", zero=False) / 1_000_000
    return MachineSource(name, seconds, rows, clock or SystemClock())


@dataclass(frozen=True)
class MachineSource:
    """What :func:`machine` makes."""

    name: str
    every: float
    rows: int | None
    clock: Clock = field(repr=False)
    schema: pa.Schema = field(default=_SCHEMA, repr=False)
    delivery: Delivery = "at-most-once"

    @property
    def bounded(self) -> bool:
        """Whether it was told how many rows to give."""
        return self.rows is not None

    def partitions(self) -> Sequence[str]:
        """One."""
        return ["all"]

    def open(self, partition: str, position: Position) -> Reader:
        """A reader; a position is how many rows came before."""
        return _MachineReader(self, position or 0)


class _MachineReader(Sleeper):
    def __init__(self, source: MachineSource, count: int) -> None:
        self._source = source
        self._count = count
        self._psutil = _psutil()
        self._psutil.cpu_percent(interval=None)  # says what happened since it was asked last
        self._next = source.clock.monotonic()

    @property
    def ended(self) -> bool:
        return self._source.rows is not None and self._count >= self._source.rows

    def read(self, max_rows: int) -> Rows | None:
        now = self._source.clock.monotonic()
        if self.ended or now < self._next:
            self._woken(self._next - now)
            return None
        self._next = max(self._next + self._source.every, now)  # moments that were missed are gone
        self._count += 1
        return Rows(self._measured(), self._count)

    def close(self) -> None: ...

    def _measured(self) -> pa.RecordBatch:
        asked = self._psutil
        memory = asked.virtual_memory()
        disks, network = asked.disk_io_counters(), asked.net_io_counters()  # a machine may have none
        row = {
            "at": self._source.clock.now(),
            "cpu_percent": asked.cpu_percent(interval=None),
            "load_1m": asked.getloadavg()[0],
            "memory_used": memory.used,
            "memory_percent": memory.percent,
            "disk_read_bytes": getattr(disks, "read_bytes", None),
            "disk_write_bytes": getattr(disks, "write_bytes", None),
            "net_sent_bytes": getattr(network, "bytes_sent", None),
            "net_received_bytes": getattr(network, "bytes_recv", None),
        }
        return pa.RecordBatch.from_pylist([row], schema=self._source.schema)


def _psutil() -> ModuleType:
    try:
        import psutil
    except ImportError as error:
        raise MissingExtra(
            "synthetic.machine measures with psutil, which is not installed: pip install 'mamba-stream[machine]'"
        ) from error
    module: ModuleType = psutil
    return module
