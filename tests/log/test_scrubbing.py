"""Scrubbing looks at every batch, a piece at a time, whoever does it, and counts what it finds."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import InvalidInput, LogUnavailable
from mamba_stream.log import Log, open_log
from tests.served import serving

BATCHES = 10
TOPICS = 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "log"
    with open_log(place) as log:
        for name in range(TOPICS):
            topic = log.create_topic(f"t{name}", {"n": pl.Int64}, partitions=2)
            for n in range(BATCHES):
                topic.append([{"n": n}] * 4, partition=n % 2)
        log.seal()
        log["t0"].append([{"n": 1}])
    return place


def hurt(path: Path) -> None:
    """A byte of the last batch that was appended."""
    file = max((path / "files").glob("*.commit"))
    data = bytearray(file.read_bytes())
    data[-60] ^= 1
    file.write_bytes(data)


def test_a_whole_look_sees_every_batch(path: Path) -> None:
    with open_log(path) as log:
        lsn = log.lsn()
        held = log.statistics()
        found = log.scrub()
        assert (found.batches, found.bytes) == (held.batches, held.bytes)
        assert (found.findings, found.done, found.busy) == ((), True, None)
        # It was at the start, and is there again: nothing to remember.
        assert log.lsn() == lsn
        counted = log.statistics()
        assert (counted.scrubbed_batches, counted.scrubbed_bytes) == (found.batches, found.bytes)


def test_looks_follow_each_other_over_handles_and_begin_anew_at_the_end(path: Path) -> None:
    rounds = seen = 0
    while rounds < 2:
        with open_log(path) as log:
            whole = log.statistics().batches
            found = log.scrub(1)
            seen += found.batches
            if found.done:
                assert seen == whole
                rounds, seen = rounds + 1, 0
            else:
                assert found.batches == 1


def test_damage_is_found_once_in_each_round_with_its_place(path: Path) -> None:
    hurt(path)
    with open_log(path) as log:
        for number in (1, 2):
            found = log.scrub()
            [finding] = found.findings
            assert (finding.severity, finding.topic) == ("damage", "t0")
            assert (finding.partition, finding.offset) in ((0, 20), (1, 20))
            assert log.statistics().scrub_findings == number


def test_a_file_that_is_gone_is_found(path: Path) -> None:
    segment = max((path / "files").glob("*.arrows"))
    segment.unlink()
    with open_log(path) as log:
        found = log.scrub("10MB")
        assert {f.severity for f in found.findings} == {"loss"}
        assert all(segment.name in f.what for f in found.findings)


def test_what_is_sealed_and_trimmed_between_two_looks_is_not_damage(path: Path) -> None:
    with open_log(path) as log:
        log.scrub(700)
        log["t0"].trim({0: 4, 1: 2})
        log.delete_topic("t1")
        log.seal()
        found = log.scrub()
        assert found.done
        assert found.findings == ()


def test_one_looks_at_a_time(path: Path) -> None:
    with open_log(path) as log:
        held = log.lock("upkeep", "scrub")
        assert held is not None
        found = log.scrub()
        assert found.batches == 0
        assert "process" in str(found.busy)
        held.release()
        assert log.scrub().done
        for wrong in ("much", -1):
            with pytest.raises(InvalidInput):
                log.scrub(wrong)


def test_a_server_looks_too(path: Path) -> None:
    hurt(path)

    def rounds(log: Log) -> int:
        found = log.scrub(2000)
        return len(found.findings) + (0 if found.done else rounds(log))

    with serving(path) as address, mamba.open(address) as log:
        assert rounds(log) == 1
        assert log.statistics().scrub_findings == 1


def test_upkeep_looks_for_damage_where_that_is_asked_for(path: Path) -> None:
    hurt(path)
    with open_log(path) as log:
        nothing = log.maintain(budget="0B")
        assert (nothing.scrubbed_bytes, nothing.findings) == (0, ())
        found = log.maintain(scrub="1GB")
        assert found.scrubbed_bytes == log.statistics().bytes
        assert [(one.topic, one.severity) for one in found.findings] == [("t0", "damage")]
        with pytest.raises(InvalidInput):
            log.maintain(scrub="some")


def test_what_cannot_be_looked_at_for_want_of_descriptors_is_not_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def none_left(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.suffix == ".arrows":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(self, *arguments, **options)

    with open_log(path) as log:
        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", none_left)
            with pytest.raises(LogUnavailable, match="cannot be read now"):
                log.scrub()
        assert log.statistics().scrub_findings == 0
        assert log.scrub().findings == ()
