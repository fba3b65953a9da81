"""Logs of every released format, frozen as they were written: each opens, is sound, and takes more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mamba_stream.core.changes import ChangeSet, Once, Record
from mamba_stream.core.clock import SystemClock
from mamba_stream.errors import NewerFormat, TopicEnded
from mamba_stream.log import Log, open_log
from mamba_stream.log.store import acquire
from tests.fixtures.logs import HERE, told
from tests.log.pictures import unsound
from tests.log.test_format_page import PageReader

pytestmark = pytest.mark.embedded


class YearsLater(SystemClock):
    """As it is when somebody opens a log that was put away long ago."""

    def now(self) -> int:
        return super().now() + 5 * 365 * 86_400_000_000


@pytest.fixture(params=["format-1"])
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a log, and what it holds."""
    place = tmp_path / "log"
    shutil.copytree(HERE / request.param / "log", place)
    return place, json.loads((HERE / request.param / "expected.json").read_text())


def seen(log: Log) -> dict[str, Any]:
    """What is found of the topics, as ``expected.json`` has it."""
    found = {}
    for name in log.topics(internal=True):
        topic = log[name]
        parts: dict[str, list[Any]] = {str(partition): [] for partition in topic.offsets()}
        for batch in topic.read():
            lines = zip(batch.offsets.tolist(), pl.DataFrame(batch.data).rows(), strict=True)
            parts[str(batch.partition)] += [[offset, told(row)] for offset, row in lines]
        found[name] = {
            "columns": {column: str(dtype) for column, dtype in topic.polars_schema.items()},
            "offsets": {str(partition): list(ends) for partition, ends in topic.offsets().items()},
            "rows": parts,
        }
    return found


def test_every_row_is_there(frozen: tuple[Path, dict[str, Any]]) -> None:
    path, expected = frozen
    assert unsound(path) == []
    with open_log(path) as log:
        assert seen(log) == expected["topics"]
        for name, topic in expected["topics"].items():
            rows = [row for part in topic["rows"].values() for _, row in part]
            assert [told(row) for row in log[name].scan().collect().rows()] == rows
        groups = {
            g: [[*place, at] for place, at in sorted(log.group_offsets(g).items())] for g in log.groups()
        }
        assert groups == expected["groups"]
        assert {key: value.hex() for key, value in log.records("jobs").items()} == expected["records"]
        assert [version.schema.names for version in log["altered"].schemas()] == expected[
            "schemas of altered"
        ]
        assert (log["altered"].compatibility, log["altered"].retention.days) == ("none", 365_000)  # type: ignore[union-attr]
    assert unsound(path) == []


def test_it_takes_more(frozen: tuple[Path, dict[str, Any]]) -> None:
    """Appends, alterations and seals go on where it was, and producers are known: until others come, also years later."""
    path, expected = frozen
    with Log(acquire(path, YearsLater())) as log:
        end = log["altered"].offsets()[0][1]
        log.alter_topic("altered", add={"c": pl.Int8})
        log["altered"].append([{"a": 7, "b": "new", "c": 1}])
        log["zstd"].append([{"s": "later"}])
        assert log["ended"].append([{"n": 2}], producer="feed", sequence=8) == {0: (1, 2)}
        with pytest.raises(TopicEnded):
            log["ended"].append([{"n": 3}])
        before = seen(log)
        log.seal()
        assert seen(log) == before
        assert before["altered"]["rows"]["0"][-1] == [end, [7, "new", 1]]
        kept = expected["topics"]["altered"]["rows"]["0"]
        assert before["altered"]["rows"]["0"][:-1] == [[offset, [*row, None]] for offset, row in kept]
    store = acquire(path, YearsLater())
    again = store.commit(ChangeSet(records=(Record("jobs", "once", b"\x01"),), once=Once("client", 3)))
    store.release()
    assert again.repeated
    assert unsound(path) == []


def test_the_page_of_the_format_reads_it(frozen: tuple[Path, dict[str, Any]]) -> None:
    path, expected = frozen
    page = PageReader(path, earlier=True)
    assert page.topics.keys() == expected["topics"].keys()
    for name, topic in expected["topics"].items():
        for partition, part in topic["rows"].items():
            assert [[offset, told(row)] for offset, row in page.read(name, int(partition))] == part


def test_a_newer_format_is_refused_with_words_and_not_touched(tmp_path: Path) -> None:
    place = tmp_path / "log"
    shutil.copytree(HERE / "newer" / "log", place)
    before = (place / "index" / "data.mdb").read_bytes()
    with pytest.raises(NewerFormat, match="has format 1000, and this version .* pip install -U mamba-stream"):
        open_log(place)
    assert (place / "index" / "data.mdb").read_bytes() == before
