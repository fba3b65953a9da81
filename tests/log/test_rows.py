"""The rows of the index as bytes: they sort, they come back, and they prove what they are."""

from __future__ import annotations

import struct
import zlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mamba_stream.log import rows
from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import Entry, FileRow, Head, Meta, Ticks, TopicRow

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
PLACES = st.tuples(U32, st.integers(0, 2**16 - 1), U64)
NAMES = st.text("aB.-_9", min_size=1, max_size=6)


@given(places=st.lists(PLACES, min_size=2))
def test_entries_sort_by_topic_partition_and_offset(places: list[tuple[int, int, int]]) -> None:
    keys = sorted(rows.entry_key(*place) for place in places)
    assert [rows.entry_place(key) for key in keys] == sorted(places)


@given(place=PLACES, other=PLACES)
def test_a_partition_is_found_by_the_prefix_of_its_entries(
    place: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    inside = rows.entry_key(*other).startswith(rows.entry_prefix(*place[:2]))
    assert inside == (place[:2] == other[:2])


@given(numbers=st.tuples(*[U64] * 6, I64, I64), ended=st.booleans())
def test_the_state_of_a_partition_comes_back(numbers: tuple[int, ...], ended: bool) -> None:
    head = Head(*numbers, ended=ended)
    assert rows.unpack_head(head.pack()) == head


@given(
    entry=st.builds(
        Entry,
        file=U32, position=U64, length=U32, rows=U32, span=U32, min_time=I64, max_time=I64,
        running_time=I64, append_time=I64, schema=U32, header=U64, flags=st.integers(0, 7),
    )
)  # fmt: skip
def test_an_entry_comes_back(entry: Entry) -> None:
    assert rows.unpack_entry(entry.pack()) == entry


@given(group=NAMES, topic=U32, partition=st.integers(0, 2**16 - 1))
def test_a_group_offset_says_whose_and_where_it_is(group: str, topic: int, partition: int) -> None:
    assert rows.offset_place(rows.offset_key(group, topic, partition)) == (group, topic, partition)


@given(one=st.tuples(NAMES, NAMES), other=st.tuples(NAMES, NAMES))
def test_records_never_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (rows.record_key(*one) == rows.record_key(*other)) == (one == other)


@given(
    one=st.tuples(st.integers(0, 2), st.text("a\0b", min_size=1, max_size=4), st.integers(0, 300)),
    other=st.tuples(st.integers(0, 2), st.text("a\0b", min_size=1, max_size=4), st.integers(0, 300)),
)
def test_sequences_of_different_producers_never_share_a_key(
    one: tuple[int, str, int], other: tuple[int, str, int]
) -> None:
    assert (rows.sequence_key(*one) == rows.sequence_key(*other)) == (one == other)


def test_topics_that_differ_only_in_case_share_a_name() -> None:
    assert rows.name_key("Trades") == rows.name_key("tRADES") != rows.name_key("trades2")


@given(
    key=st.binary(max_size=20), value=st.binary(max_size=40), at=st.integers(0, 999), bit=st.integers(0, 7)
)
def test_a_flipped_bit_in_a_value_or_its_key_is_found(key: bytes, value: bytes, at: int, bit: int) -> None:
    sealed = rows.seal(key, value)
    assert rows.unseal(key, sealed) == value
    both = bytearray(key + sealed)
    both[at % len(both)] ^= 1 << bit
    with pytest.raises(Damaged, match="checksum"):
        rows.unseal(bytes(both[: len(key)]), bytes(both[len(key) :]))


@pytest.mark.parametrize("length", range(4))
def test_a_value_too_short_for_a_checksum_is_damaged(length: int) -> None:
    with pytest.raises(Damaged):
        rows.unseal(b"key", b"\0" * length)


def test_a_value_is_sealed_with_the_crc_of_key_and_value() -> None:
    assert rows.seal(b"key", b"value") == b"value" + struct.pack(">I", zlib.crc32(b"keyvalue"))


@pytest.mark.parametrize(
    "row",
    [
        Meta(1, "ab", 5),
        FileRow("commit", "open", 10, 2, True, 3, 4),
        TopicRow(7, "trades", 4, ("symbol",), "ts", "zstd", 7, False, 12),
        TopicRow(7, "trades", 4, (), None, "none", 7, True, 12),
    ],
)
def test_rows_of_words_come_back(row: Meta | FileRow | TopicRow) -> None:
    assert rows.unpack(type(row), rows.pack(row)) == row


def test_ticks_come_back() -> None:
    assert rows.unpack_ticks(Ticks(5, 6, 7).pack()) == Ticks(5, 6, 7)
