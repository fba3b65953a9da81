"""A server that is being stopped: what was begun is finished, and what was not is told to come again."""

from __future__ import annotations

import threading
from pathlib import Path

import polars as pl
import pytest
from pyarrow import flight

from mamba_stream.log import Log
from mamba_stream.log.store import acquire
from mamba_stream.server.service import FlightService


def test_a_read_that_was_begun_gives_all_its_rows(tmp_path: Path):
    store = acquire(tmp_path / "log")
    topic = Log(store).create_topic("rows", {"n": pl.Int64})
    for start in range(0, 3_000_000, 500_000):
        topic.append(pl.DataFrame({"n": range(start, start + 500_000)}))
    service = FlightService(store)
    client = flight.connect(f"grpc://localhost:{service.port}")
    stream = client.do_get(flight.Ticket(b"rows"))
    rows = stream.read_chunk().data.num_rows
    service.desk.drain()
    with pytest.raises(flight.FlightUnavailableError, match="being stopped"):
        list(client.do_action(flight.Action("lsn", b"")))
    drained = threading.Thread(target=service.drain, args=(60.0,))
    drained.start()
    rows += sum(chunk.data.num_rows for chunk in stream)
    assert rows == 3_000_000
    drained.join(60)
    assert not drained.is_alive()
    client.close()
    service.shutdown()
    store.release()
