"""Trimming in steps: as many as keep each of them short, to where it was asked, and all or nothing where that is refused."""

from __future__ import annotations

import polars as pl
import pytest

from mamba_stream.errors import MambaStreamError, PartitionNotFound
from mamba_stream.log import Log, trimming
from mamba_stream.log.storage import PartitionHead
from mamba_stream.log.trimming import steps
from tests.log.handclock import HandClock


def head(begin: int, end: int) -> PartitionHead:
    return PartitionHead(1, begin, end, end - begin, 0, 0)


def test_steps_become_larger_while_they_are_short_and_smaller_where_they_are_long() -> None:
    clock = HandClock()
    taken = iter([0.01, 0.1, 0.5, 0.5, 0.01, *[0.1] * 99])
    reached = []
    for step in steps({0: 10 * trimming.FIRST}, {0: head(0, 1 << 40)}, clock):
        reached.append(step[0] / trimming.FIRST)
        clock.at += int(1e6 * next(taken))
    assert reached == [1, 3, 5, 6, 6.5, 7.5, 8.5, 9.5, 10]


def test_every_partition_comes_to_its_bound_and_none_goes_back() -> None:
    first = trimming.FIRST
    heads = {0: head(5, 9 * first), 1: head(first, 2 * first), 2: head(3, 8)}
    found = list(steps({0: 3 * first, 1: first + 1, 2: 1}, heads, HandClock()))
    assert found == [{0: 5 + first, 1: first + 1, 2: 1}, {0: 3 * first}]


def test_what_is_refused_is_one_step() -> None:
    heads = {0: head(0, 1 << 40), 1: head(0, 8)}
    assert list(steps({0: 1 << 39, 1: 9}, heads, HandClock())) == [{0: 1 << 39, 1: 9}]


def test_a_large_trim_is_several_commits_and_a_refused_one_none(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimming, "FIRST", 10)
    topic = log.create_topic("t", {"n": pl.Int64}, partitions=2)
    for n in range(100):
        topic.append([{"n": n}], partition=n % 2)
    before = log.lsn()
    with pytest.raises(MambaStreamError, match="cannot trim to 51, it ends at 50"):
        topic.trim({0: 40, 1: 51})
    assert (log.lsn(), topic.offsets()) == (before, {0: (0, 50), 1: (0, 50)})
    topic.trim({0: 45, 1: 5})
    assert topic.offsets() == {0: (45, 50), 1: (5, 50)}
    assert log.lsn() > before + 1
    topic.trim(3)
    assert topic.offsets() == {0: (45, 50), 1: (5, 50)}
    with pytest.raises(PartitionNotFound):
        topic.trim({2: 1})
