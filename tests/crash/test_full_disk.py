"""A small disk fills up: commits fail whole, all that was acknowledged can be read, and room again is enough.

The disk is a file system of a few megabytes that each test mounts for itself. What was acknowledged is known from
what the writing process said, never from the log.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.errors import DiskFull
from mamba_stream.log import Log, open_log
from mamba_stream.log.recovery import TRASH_DELAY
from mamba_stream.log.store import acquire
from tests import forking
from tests.crash.filler import MAP_SIZE, SCHEMA, SHAPES, STATE, TOPICS, body, record
from tests.crash.pipeline_job import OUTPUTS
from tests.log.pictures import picture, rows_of, unsound
from tests.mounts import NO_MARKS, Mount, free, mounts, take_all

pytestmark = pytest.mark.root

_PAGE = 4096


@pytest.fixture(autouse=True)
def no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are about a disk that is full, whatever its marks would have refused before."""
    for name, value in NO_MARKS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with mounts(tmp_path) as mount:
        yield mount


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return {**environment, **NO_MARKS}


class Child:
    """The writing process, and what it said."""

    def __init__(self, environment: dict[str, str], log: Path, shape: str, first: int = 0) -> None:
        self.shape = shape
        self.acknowledged: dict[int, list[tuple[str, int, int]]] = {}
        self._process = forking.Process(
            [sys.executable, "-m", "tests.crash.filler", str(log), shape, str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.opened = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait(60)
        self._process.stdout.close()
        assert code == 0, f"the writer ended with {code}"

    def tell(self, command: str) -> Any:
        """Gives a command; what errors there were."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if "over" in event:
                return event["over"]
            self.acknowledged[event["ack"]] = [tuple(place) for place in event["ranges"]]
        raise AssertionError(f"the writer died ({self._process.wait()}) in the middle of a command")


def check(log: Log, acknowledged: dict[int, list[tuple[str, int, int]]], shape: str) -> None:
    """All that was acknowledged is there, where it was said to be, and nothing else is."""
    wanted = {
        (topic, partition, offset): (number, body(shape, number, topic))
        for number, places in acknowledged.items()
        for topic, partition, offset in places
    }
    assert {len(places) for places in acknowledged.values()} == {len(TOPICS)}
    found = {(t, p, offset): row for t in TOPICS for p, offset, row in rows_of(log[t])}
    assert found.keys() == wanted.keys()
    assert found == wanted
    records = {f"{number}-{at}": record(number) for number in acknowledged for at in range(SHAPES[shape][1])}
    assert log.records(STATE) == {**records, "last": str(max(acknowledged)).encode()}


# --- appending --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"), [("large", 16 << 20), ("tiny", 5 << 20), ("records", 10 << 20), ("both", 6 << 20)]
)
def test_a_full_disk_fails_commits_whole_and_room_again_is_enough(
    shape: str, size: int, mount: Mount, environment: dict[str, str]
) -> None:
    disk = mount(size)
    path = disk / "log"
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(4 << 20))
    with Child(environment, path, shape) as writer:
        assert writer.opened is None
        full = writer.tell("fill")
        assert full["type"] == "DiskFull" and "nothing was committed. Free some" in full["text"]
        assert str(path) in full["text"]
        if shape in ("large", "records"):
            assert full["index"] is (shape == "records"), "the other one of file and index was full"
        assert len(writer.acknowledged) > 15
        take_all(disk)
        for _ in range(3):
            # The index may have pages left that an attempt before had taken in vain.
            errors = writer.tell("try 20")
            assert errors.keys() == {"DiskFull"} and errors["DiskFull"] > 10

        # This process is another one: it opens and reads while the disk is full, and has no room either.
        with open_log(path, map_size=MAP_SIZE) as log:
            check(log, writer.acknowledged, shape)
            before = picture(log)
            with pytest.raises(DiskFull, match="nothing was committed"):
                log["a"].append([{"n": -1, "body": bytes(1 << 20)}])
            assert picture(log) == before

        # A third one begins while it is full, and a log that is new there is refused: no signal kills it.
        with Child(environment, disk / "other", shape) as third:
            assert third.opened is not None and third.opened["type"] == "DiskFull"
            assert "Free some" in third.opened["text"]

        ballast.unlink()
        (disk / "crumbs").unlink()
        already = len(writer.acknowledged)
        assert writer.tell("try 3") == {}
        assert len(writer.acknowledged) == already + 3
        acknowledged = dict(writer.acknowledged)
        with Child(environment, path, shape, 1_000_000) as another:
            assert another.tell("try 3") == {}
            acknowledged.update(another.acknowledged)
        with Child(environment, disk / "other", shape) as third:
            assert third.opened is None
            assert third.tell("try 1") == {}
    assert len(acknowledged) == already + 6
    with open_log(path) as log:
        check(log, acknowledged, shape)
    assert unsound(path) == []
    assert unsound(disk / "other") == []


@pytest.mark.parametrize("shape", ["tiny", "both", "records"])
def test_whichever_page_is_the_first_without_room_the_commit_fails_whole(shape: str, mount: Mount) -> None:
    found_by_index = set()
    for pages in range(8):
        disk = mount(700_000 + pages * _PAGE)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(200_000))
        with open_log(disk / "log", map_size=1 << 18) as log:
            for topic in TOPICS:
                log.create_topic(topic, SCHEMA, partitions=2)
            acknowledged = {}
            failures = 0
            for number in itertools.count():
                try:
                    with log.transaction() as tx:
                        for topic in TOPICS:
                            row = {"n": number, "body": body(shape, number, topic)}
                            tx.append(topic, [row], partition=number % 2)
                        for at in range(SHAPES[shape][1]):
                            tx.put_record(STATE, f"{number}-{at}", record(number))
                        tx.put_record(STATE, "last", str(number).encode())
                except DiskFull as error:
                    found_by_index.add(not isinstance(error.__cause__, OSError))
                    failures += 1
                    if failures == 3 and ballast.exists():
                        check(log, acknowledged, shape)
                        ballast.unlink()
                    elif failures == 6:
                        break
                else:
                    assert failures in (0, 1, 2, 3, 4, 5)
                    acknowledged[number] = [(t, p, first) for (t, p), (first, _) in tx.offsets.items()]
            check(log, acknowledged, shape)
        with open_log(disk / "log") as log:
            check(log, acknowledged, shape)
        assert unsound(disk / "log") == []
    assert True in found_by_index, "the index never was what found no room"


def test_attempts_that_fail_leave_no_room_taken(mount: Mount) -> None:
    disk = mount(8 << 20)
    with open_log(disk / "log", map_size=MAP_SIZE) as log:
        log.create_topic("users", SCHEMA)
        log.create_topic("_engine", SCHEMA, internal=True)
        log["users"].append([{"n": 0, "body": b""}])
        log["_engine"].append([{"n": 0, "body": b""}])

        def attempt() -> None:
            # Users' rows fit, and the engine's, which go to a file of their own, do not.
            with log.transaction() as tx:
                tx.append("users", [{"n": 1, "body": bytes(1 << 20)}])
                tx.append("_engine", [{"n": 1, "body": bytes(10 << 20)}])

        for _ in range(3):
            with pytest.raises(DiskFull):
                attempt()
            assert sum(path.stat().st_size for path in (disk / "log" / "files").iterdir()) < 100_000
    assert unsound(disk / "log") == []


# --- room by trimming -------------------------------------------------------------------------------------------


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 1_800_000_000_000_000

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return self.time / 1e6


@pytest.mark.parametrize("shape", ["large", "both"])
def test_trimming_on_a_full_disk_makes_room_once_the_trash_is_gone(shape: str, mount: Mount) -> None:
    disk = mount(12 << 20)
    clock = Clock()
    with Log(acquire(disk / "log", clock, map_size=MAP_SIZE)) as log:
        topic = log.create_topic("a", SCHEMA)
        appended = 0
        with pytest.raises(DiskFull):
            while True:
                topic.append([{"n": appended, "body": body(shape, appended, "a")}])
                appended += 1
        take_all(disk)
        # Who has read the rows has their file mapped: that must not hold its room.
        assert len(rows_of(topic)) == appended
        topic.trim(appended)
        log.seal()
        with pytest.raises(DiskFull):
            topic.append([{"n": -1, "body": bytes(1 << 20)}])
        clock.time += TRASH_DELAY
        log.seal()
        assert free(disk) > 6 << 20
        assert topic.append([{"n": -2, "body": bytes(1 << 20)}]) == {0: (appended, appended + 1)}
        assert [row[0] for _, _, row in rows_of(topic)] == [-2]
    assert unsound(disk / "log") == []


def test_a_reader_in_another_process_does_not_hold_the_room_of_files_that_are_gone(
    mount: Mount,
) -> None:
    # Its own process is played by a second set of maps.
    disk = mount(12 << 20)
    clock = Clock()
    from mamba_stream.log.files import Maps

    with Log(acquire(disk / "log", clock, map_size=MAP_SIZE)) as log:
        topic = log.create_topic("a", SCHEMA)
        topic.append([{"n": 0, "body": bytes(4 << 20)}])
        others = Maps(disk / "log" / "files")
        assert others.read(1, "commit", 0, 64) is not None
        topic.trim(1)
        log.seal()
        clock.time += TRASH_DELAY
        log.seal()
        assert free(disk) < 9 << 20
        topic.append([{"n": 1, "body": b""}])
        [number] = [int(path.stem, 16) for path in (disk / "log" / "files").glob("*.commit")]
        assert others.read(number, "commit", 0, 64) is not None
        assert free(disk) > 11 << 20


# --- pipelines --------------------------------------------------------------------------------------------------


def events(seed: int) -> pl.DataFrame:
    choose = random.Random(seed)
    moment = datetime(2026, 1, 1)
    rows = []
    for number in range(20_000):
        moment += timedelta(milliseconds=choose.randint(0, 700))
        behind = choose.choice([0, 0, 0, 5, 15, 30, 200]) * choose.random()
        rows.append(
            {
                "at": moment - timedelta(seconds=behind),
                "key": choose.choice(["a", "b", "c", None]),
                "value": choose.randint(-10, 100),
                "number": number,
            }
        )
    return pl.DataFrame(rows)


def run_job(log: Path, job: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return forking.run(
        [sys.executable, "-m", "tests.crash.pipeline_job", str(log), job],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )


def test_a_pipeline_whose_disk_fills_goes_on_where_it_was_once_there_is_room(
    mount: Mount, environment: dict[str, str], seed: int
) -> None:
    disk = mount(24 << 20)
    path = disk / "log"
    rows = events(seed)
    with open_log(path) as log:
        topic = log.create_topic("events", rows, partitions=3, time="at")
        for at, piece in enumerate(rows.iter_slices(150)):
            topic.append(piece, partition=at % 3)
        topic.end()
    crumbs = take_all(disk)
    failed = 0
    for room in (0, 3, 9, 30, 120, 500):
        # So many pages are given back, and the job goes on until it has filled them.
        os.truncate(crumbs, max(0, crumbs.stat().st_size - room * _PAGE))
        done = run_job(path, "full", environment)
        if done.returncode == 0:
            break
        failed += 1
        assert done.returncode == 1, done.stderr
        assert (
            "mamba_stream.errors.DiskFull" in done.stderr.splitlines()[-2 if "in job" in done.stderr else -1]
        )
        assert "nothing was committed" in done.stderr
    assert failed >= 4, "the disk was hardly ever full"
    crumbs.unlink()
    done = run_job(path, "full", environment)
    assert done.returncode == 0, done.stderr
    assert run_job(path, "peaceful", environment).returncode == 0
    with open_log(path) as log:
        for output in OUTPUTS:
            full, peaceful = (log[f"{job}.{output}"].scan().collect() for job in ("full", "peaceful"))
            assert peaceful.height > 0
            assert_frame_equal(full.sort(full.columns), peaceful.sort(peaceful.columns))
    assert unsound(path) == []


def test_a_job_says_that_the_disk_is_full_and_the_same_process_can_run_it_again(
    mount: Mount,
) -> None:
    disk = mount(8 << 20)
    with open_log(disk / "log") as log:
        log.create_topic("in", {"n": int}).append(pl.DataFrame({"n": range(50_000)}))
        log["in"].end()
        crumbs = take_all(disk)
        # One page, which the lock of a job takes.
        os.truncate(crumbs, crumbs.stat().st_size - _PAGE)
        pipeline = mamba.pipeline("copy", mamba.stream("in").with_columns(m=pl.col("n") * 2).to("out"))
        for _ in range(2):
            with pytest.raises(DiskFull, match="nothing was committed") as refused:
                mamba.run(pipeline, log=log)
            assert "out" not in log or log["out"].offsets() == {0: (0, 0)}
        assert refused.value.__cause__ is not None
        crumbs.unlink()
        assert mamba.run(pipeline, log=log).rows_out == 50_000
        assert log["out"].scan().collect()["m"].to_list() == list(range(0, 100_000, 2))
    assert unsound(disk / "log") == []
