"""The vectorised hash is the package's, for every length and number of rows."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given, strategies as st

from mamba_stream.core.xxh64 import hash_lanes, hash_slices

COUNTS = [0, 1, 2, 47, 48, 999, 1_000, 1_001, 16_384, 16_385, 40_000]


def slices_of(rows: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows], np.int64)
    starts = np.cumsum(lengths) - lengths
    return np.frombuffer(b"".join(rows), np.uint8), starts, lengths


def digests(rows: list[bytes]) -> list[int]:
    return [xxhash.xxh64_intdigest(row) for row in rows]


def random_rows(count: int, shortest: int, longest: int) -> list[bytes]:
    rng = np.random.default_rng(count * 1_000 + longest)
    return [rng.bytes(int(n)) for n in rng.integers(shortest, longest + 1, count)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 5, 8, 11])
def test_lanes_hash_as_their_bytes(count: int, lanes: int) -> None:
    matrix = np.random.default_rng(lanes).integers(0, 2**64, (lanes, count), dtype=np.uint64)
    found = hash_lanes(list(matrix))
    assert found.dtype == np.uint64
    every = max(1, count // 500)
    rows = [matrix[:, i].astype("<u8").tobytes() for i in range(0, count, every)]
    assert found[::every].tolist() == digests(rows)


@pytest.mark.parametrize("length", [*range(70), 127, 128, 1_023, 1_024, 1_025])
def test_rows_of_one_length_hash_as_the_package_does(length: int) -> None:
    rows = random_rows(1_200, length, length)
    assert hash_slices(*slices_of(rows)).tolist() == digests(rows)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("longest", [3, 8, 31, 40, 200])
def test_rows_of_all_lengths_hash_as_the_package_does(count: int, longest: int) -> None:
    rows = random_rows(count, 0, longest)
    assert hash_slices(*slices_of(rows)).tolist() == digests(rows)


def test_a_few_long_rows_among_short_ones() -> None:
    rows = random_rows(3_000, 0, 20)
    rows[7], rows[2_000], rows[2_999] = b"x" * 5_000, b"y" * 1_024, b"z" * 100_000
    assert hash_slices(*slices_of(rows)).tolist() == digests(rows)


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=8), st.integers(200, 400))
def test_rows_may_overlap_and_lie_in_any_order(pieces: list[bytes], times: int) -> None:
    rows = pieces * times
    data = np.frombuffer(b"".join(pieces), np.uint8)
    ends = np.cumsum([len(piece) for piece in pieces])
    starts = np.array([end - len(piece) for end, piece in zip(ends, pieces, strict=True)] * times, np.int64)
    lengths = np.array([len(row) for row in rows], np.int64)
    assert hash_slices(data, starts[::-1], lengths[::-1]).tolist() == digests(rows[::-1])


def test_the_arguments_are_left_as_they_were() -> None:
    lanes = [np.arange(100, dtype=np.uint64), np.arange(100, dtype=np.uint64)]
    data, starts, lengths = slices_of(random_rows(1_500, 0, 50))
    kept = starts.copy(), lengths.copy()
    hash_lanes(lanes)
    hash_slices(data, starts, lengths)
    assert all((lane == np.arange(100)).all() for lane in lanes)
    assert (starts == kept[0]).all() and (lengths == kept[1]).all()
