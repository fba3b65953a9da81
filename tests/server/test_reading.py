"""What reads count of what they send."""

from __future__ import annotations

import polars as pl
import pytest

from mamba_stream.errors import QuotaExceeded
from mamba_stream.log import Log
from mamba_stream.log.remote.protocol import Read, encode
from mamba_stream.server.desk import Desk
from mamba_stream.server.gate import Caller, OpenGate
from mamba_stream.server.limits import Limits
from mamba_stream.server.reading import read
from mamba_stream.server.room import Room
from tests.server.clocks import HandClock

ROWS = 10_000
COLUMNS = {
    "numbers": [*range(ROWS)],
    "few bits": [number % 3 == 0 for number in range(ROWS)],
    "text": [f"{number:05}" for number in range(ROWS)],
}
TYPES = {"numbers": pl.Int64, "few bits": pl.Boolean, "text": pl.String}


class _Counting(OpenGate):
    """Remembers how many bytes went out."""

    def __init__(self) -> None:
        self.sent = 0

    def spend(self, caller: Caller, received: int = 0, sent: int = 0) -> None:
        self.sent += sent


@pytest.mark.parametrize("columns", [["numbers"], ["numbers", "few bits"], ["text"], [*COLUMNS]])
@pytest.mark.parametrize(("first", "behind"), [(0, ROWS), (ROWS - 80, ROWS), (160, 240)])
def test_what_is_sent_is_counted_as_what_was_asked_for(
    log: Log, columns: list[str], first: int, behind: int
) -> None:
    log.create_topic("rows", TYPES).append(COLUMNS)
    gate = _Counting()
    desk = Desk(log._shared, gate, Limits(), "")
    asked = Read(name="rows", start={0: first}, ends={0: behind}, columns=columns)
    _, groups = read(desk, Caller("ann"), encode(asked))
    batches = [data for group in groups for data, _ in group]
    assert sum(data.num_rows for data in batches) == behind - first
    assert gate.sent == sum(data.nbytes for data in batches)


def test_a_read_takes_little_at_first_and_where_much_is_held_and_nothing_where_there_is_no_memory(
    log: Log,
) -> None:
    topic = log.create_topic("rows", {"n": pl.Int64}, compression="zstd")
    for _ in range(64):
        # All alike: a few hundred bytes in the file.
        topic.append({"n": [7] * (1 << 16)})
    held = [0]
    room = Room(1 << 30, lambda: 0, HandClock(), lambda: held[0], lambda: None)
    desk = Desk(log._shared, OpenGate(), Limits(), "", room)
    _, groups = read(desk, Caller("ann"), encode(Read(name="rows")))
    sizes = []
    for group in groups:
        sizes.append(sum(data.nbytes for data, _ in group) >> 20)
        held[0] = (1 << 28) if len(sizes) == 5 else (1 << 30) if len(sizes) == 7 else held[0]
        if len(sizes) == 7:
            break
    assert sizes == [1, 2, 4, 8, 8, 1, 1]
    with pytest.raises(QuotaExceeded, match="read slowly"):
        next(groups)
    with pytest.raises(QuotaExceeded, match="read slowly"):
        next(read(desk, Caller("ann"), encode(Read(name="rows")))[1])
