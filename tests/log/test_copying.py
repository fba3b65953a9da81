"""Copies of topics: the same rows at the same offsets, once, however often they are interrupted."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import AlreadyExists, InvalidInput, OffsetTrimmed, PreconditionFailed, TopicNotFound
from mamba_stream.log import Log, open_log
from tests import forking
from tests.served import serving


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "other") as opened:
        yield opened


@pytest.fixture
def filled(log: Log) -> Log:
    topic = log.create_topic(
        "t",
        {"ts": pl.Datetime("us"), "n": pl.Int64},
        partitions=3,
        key="n",
        strict_key=True,
        time="ts",
        retention="7d",
    )
    for start in range(0, 300, 100):
        topic.append([{"n": n} for n in range(start, start + 100)])
    log.seal()
    topic.trim({0: 10, 1: 4})
    topic.append([{"n": n} for n in range(50)])
    return log


def rows(log: Log, name: str = "t") -> dict[tuple[int, int], Any]:
    return {
        (batch.partition, offset): row
        for batch in log[name].read()
        for offset, row in zip(batch.offsets.tolist(), batch.data.to_pylist(), strict=True)
    }


def test_a_copy_has_the_same_rows_at_the_same_offsets(filled: Log, other: Log) -> None:
    done = filled.copy("t", other)
    assert done.rows == len(rows(filled))
    assert rows(other) == rows(filled)
    assert other["t"].offsets() == filled["t"].offsets()
    for what in ("schema", "key", "strict_key", "time", "partitions", "compression"):
        assert getattr(other["t"], what) == getattr(filled["t"], what)
    assert other["t"]._row.settings == filled["t"]._row.settings
    assert {place: following for place, (_, following) in done.ranges.items()} == {
        ("t", p): end for p, (_, end) in filled["t"].offsets().items()
    }


def test_a_later_copy_goes_on_and_an_end_is_copied(filled: Log, other: Log) -> None:
    filled.copy(["t"], other)
    assert filled.copy("t", other).rows == 0
    filled["t"].append([{"n": 1}])
    filled["t"].end()
    assert filled.copy("t", other).rows == 1
    assert rows(other) == rows(filled)
    assert other["t"].ended
    assert filled.copy("t", other).rows == 0


def test_a_copy_may_begin_later(filled: Log, other: Log, tmp_path: Path) -> None:
    end = filled["t"].offsets()[2][1]
    filled.copy("t", other, start={"t": {0: 20, 2: end}})
    begins = {0: 20, 1: 4, 2: end}
    assert {p: begin for p, (begin, _) in other["t"].offsets().items()} == begins
    assert rows(other) == {(p, o): row for (p, o), row in rows(filled).items() if o >= begins[p]}
    for wrong in (3, end + 1000):
        with pytest.raises(InvalidInput, match="cannot be made of rows from"):
            filled.copy("t", open_log(tmp_path / "third"), start={"t": {0: wrong}})


def test_what_is_no_copy_is_not_appended_to(filled: Log, other: Log) -> None:
    other.create_topic("t", {"n": pl.Int64})
    with pytest.raises(AlreadyExists, match="is no copy of that of"):
        filled.copy("t", other)
    other.delete_topic("t")
    filled.copy("t", other)
    other["t"].append([{"n": 7}])
    with pytest.raises(PreconditionFailed, match="somebody appended to it"):
        filled.copy("t", other)
    with pytest.raises(InvalidInput, match="is the log itself"):
        filled.copy("t", filled)
    with pytest.raises(TopicNotFound):
        filled.copy("nothing", other)
    # A topic of the same name that came later is another one.
    filled.delete_topic("t")
    filled.create_topic("t", {"n": pl.Int64})
    with pytest.raises(AlreadyExists):
        filled.copy("t", other)


def test_rows_that_went_in_between_are_told(filled: Log, other: Log) -> None:
    filled.copy("t", other)
    filled["t"].append([{"n": n} for n in range(100)])
    filled["t"].trim({p: end for p, (_, end) in filled["t"].offsets().items()})
    with pytest.raises(OffsetTrimmed):
        filled.copy("t", other)


def test_rows_that_were_compacted_away_are_refused(log: Log, other: Log) -> None:
    topic = log.create_topic("t", {"k": pl.Int64, "v": pl.Int64}, key="k", compact=True, compact_after="0s")
    for v in range(4):
        topic.append([{"k": k, "v": v} for k in range(10)])
    log.maintain()
    if len(rows(log)) == 40:
        log.maintain()
    assert len(rows(log)) < 40
    with pytest.raises(InvalidInput, match="compacted away"):
        log.copy("t", other)


def test_rows_that_are_gone_at_the_end_are_missing_too(log: Log, other: Log) -> None:
    settings: dict[str, Any] = {"compact": True, "compact_after": "0s", "tombstones": "0s"}
    topic = log.create_topic("t", {"k": pl.Int64, "v": pl.Int64}, key="k", **settings)
    topic.append([{"k": 1, "v": 1}])
    # Of another schema, so that it lies in a batch of its own.
    log.alter_topic("t", add={"note": pl.String}).append([{"k": 2}])
    while log.maintain().compacted_rows:
        pass
    assert list(rows(log)) == [(0, 0)]
    with pytest.raises(InvalidInput, match="behind offset 1, which were compacted away.*Back the log up"):
        log.copy("t", other)


def test_a_topic_that_was_altered_is_copied_with_the_columns_it_has_and_its_copy_gets_those_that_come(
    log: Log, other: Log
) -> None:
    columns = {"k": pl.Int32, "v": pl.Float32}
    topic = log.create_topic("t", columns, key="k", partitions=2, compatibility="full")
    topic.append(pl.DataFrame({"k": [1, 2, 3], "v": [1.0, 2.0, 3.0]}, schema=columns))
    log.alter_topic("t", add={"note": pl.String})
    log["t"].append([{"k": 4, "v": 4.0, "note": "x"}])
    log.copy("t", other)
    assert rows(other) == rows(log)
    assert [row["note"] for row in rows(other).values()].count(None) == 3
    topic.append(pl.DataFrame({"k": [5], "v": [5.0]}, schema=columns))
    wider = {"k": pl.Int32, "v": pl.Float64, "note": pl.String, "by": pl.String}
    log.alter_topic("t", schema=wider, compatibility="backward")
    log["t"].append([{"k": 6, "v": 1e300, "by": "y"}])
    assert log.copy("t", other).rows == 2
    assert rows(other) == rows(log)
    assert other["t"].schema.equals(log["t"].schema)
    assert other["t"].compatibility == "backward"


@pytest.mark.embedded
def test_over_servers(filled: Log, tmp_path: Path) -> None:
    with (
        serving(filled.path) as here,
        serving(tmp_path / "other") as there,
        mamba.open(here) as source,
        mamba.open(there) as target,
    ):
        source.copy("t", target)
        assert rows(target) == rows(filled)
        filled["t"].append([{"n": 5}])
        assert source.copy("t", target).rows == 1


@pytest.mark.embedded
def test_a_copy_that_is_killed_goes_on_and_each_row_lands_once(
    filled: Log, tmp_path: Path, environment: dict[str, str]
) -> None:
    topic = filled["t"]
    for number in range(20):
        topic.append([{"n": n} for n in range(number, number + 30)])
    code = (
        "import os, signal\nfrom mamba_stream.log import committer, copying, open_log\n"
        "copying._AT_ONCE = 40\nreal, left = committer.Committer._apply, [LEFT]\n"
        "def apply(self, *given):\n"
        "    left[0] -= 1\n"
        "    if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(self, *given)\n"
        "    if left[0] == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "committer.Committer._apply = apply\n"
        f"source, target = open_log({str(filled.path)!r}), open_log({str(tmp_path / 'other')!r})\n"
        "source.copy('t', target)"
    )
    for left in (1, 2, 3, 6):
        done = forking.run(
            [sys.executable, "-c", code.replace("LEFT", str(left))],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    with open_log(tmp_path / "other") as other:
        filled.copy("t", other)
        assert rows(other) == rows(filled)
