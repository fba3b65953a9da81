"""The table of contents beside a segment."""

from __future__ import annotations

import pytest

from mamba_stream.log import contents
from mamba_stream.log.contents import Batch, Contents
from mamba_stream.log.format import Damaged

TABLE = Contents(
    log="ab12",
    topic="trades",
    topic_id=3,
    partition=1,
    schema=b"schema",
    schema_id=3,
    batches=(Batch(0, 64, 128, 5, 5, 1, 9, 9, 77, 2**64 - 1, 5), Batch(5, 192, 64, 1, 1, 0, -1, 9, 78, 0, 4)),
    size=264,
    opening=2**63,
)


def test_a_table_comes_back() -> None:
    assert contents.decode(contents.encode(TABLE)) == TABLE


def test_every_flipped_bit_and_every_cut_is_found() -> None:
    data = contents.encode(TABLE)
    for at in range(len(data)):
        with pytest.raises(Damaged):
            contents.decode(data[:at])
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises(Damaged):
                contents.decode(bytes(damaged))
