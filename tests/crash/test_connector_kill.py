"""A pipeline from files to files that is killed anywhere has every row of its input in exactly one file of its output."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.log.doctor import examine
from tests import forking
from tests.crash.connector_job import SCHEMA
from tests.server.running import until


def rows(first: int, count: int) -> pl.DataFrame:
    moment = datetime(2026, 1, 1)
    numbers = range(first, first + count)
    times = [moment + timedelta(seconds=number - (40 if number % 10 == 9 else 0)) / 8 for number in numbers]
    return pl.DataFrame(
        {"number": numbers, "at": times, "key": [f"k{n % 3}" for n in numbers]}, schema=SCHEMA
    )


class Filler(threading.Thread):
    """Puts complete files into a directory, all the while, with names that are not always the next if they need not be."""

    def __init__(self, place: Path, seed: int, steps: list[int]) -> None:
        super().__init__()
        self._steps = steps
        self._place = place
        self._random = random.Random(seed)
        self._over = threading.Event()
        self.rows = 0

    def run(self) -> None:
        number = 1_000
        while not self._over.wait(0.08):
            count = self._random.randint(1, 400)
            number += self._random.choice(self._steps)
            path = self._place / f"{number:06}-{self.rows}.csv.tmp"
            rows(self.rows, count).write_csv(path, datetime_format="%Y-%m-%dT%H:%M:%S%.6f")
            path.rename(path.with_suffix(""))
            self.rows += count

    def finish(self) -> None:
        self._over.set()
        self.join()


def begin(place: Path, environment: dict[str, str], kind: str, until: str = "") -> forking.Process:
    process = forking.Process(
        [sys.executable, "-m", "tests.crash.connector_job", str(place), kind, until],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "running\n", f"the job did not begin: {line!r}"
    return process


def wait_for_commits(log: mamba.Log, more: int) -> None:
    def commits() -> int:
        return sum(end for _, end in log["_state.killed"].offsets().values())

    goal, deadline = commits() + more, time.monotonic() + 60
    while commits() < goal:
        assert time.monotonic() < deadline, f"the job did not commit {more} times within a minute"
        log.wait(log.lsn(), 0.05)


def files_of(place: Path, ending: str) -> list[Path]:
    return sorted(place.rglob(f"*{ending}"))


def numbers_in(place: Path) -> list[int]:
    frames = [
        pl.read_csv(path, schema={"number": pl.Int64, "at": pl.String}) for path in files_of(place, ".csv")
    ]
    return sorted(pl.concat(frames)["number"]) if frames else []


@pytest.mark.parametrize("kind", ["watched", "files", "rolling", "sequence"])
@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="1"), pytest.param(100, id="100", marks=pytest.mark.slow)]
)
def test_files_to_files_killed_anywhere_has_every_row_once(
    tmp_path: Path, environment: dict[str, str], kind: str, kills: int
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, {kills} kills")
    moments = random.Random(seed)
    (tmp_path / "in").mkdir()
    with mamba.open(tmp_path / "log") as log:
        live = log.create_topic("live", SCHEMA, time="at")
        filler = Filler(tmp_path / "in", seed, [1] if kind == "sequence" else [1, 1, 1, -500])
        filler.start()
        if kind == "sequence":
            while filler.rows < 3_000:
                time.sleep(0.01)
            filler.finish()
        try:
            for _ in range(kills):
                with begin(tmp_path, environment, kind) as process:
                    if kind == "sequence":
                        live.append(rows(filler.rows, 70))
                        filler.rows += 70
                    else:
                        wait_for_commits(log, moments.randint(0, 4))
                        # Killed but once, it has read so much as it came: by name, all might be late but a few rows.
                        if kills == 1:
                            until(lambda: log["killed.rows"].offsets()[0][1] >= 1_200, "1,200 rows")
                    time.sleep(moments.uniform(0.0, 0.05))
                    assert process.poll() is None, "the job ended by itself"
                    process.kill()
                # Whenever anybody looks, no row is there twice, and every file is whole.
                seen = numbers_in(tmp_path / "rows")
                assert len(seen) == len(set(seen))
            # Enough that windows are over before the last row.
            while filler.rows < 2_000:
                time.sleep(0.01)
        finally:
            filler.finish()
        live.end()
        with begin(tmp_path, environment, kind, "" if kind == "sequence" else "now") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
        assert process.returncode == 0

        assert numbers_in(tmp_path / "rows") == list(range(filler.rows))
        assert sorted(log["killed.rows"].scan().collect()["number"]) == list(range(filler.rows))
        windows = pl.concat([pl.read_parquet(path) for path in files_of(tmp_path / "windows", ".parquet")])
        assert windows.height > 0
        assert_frame_equal(windows, log["killed.windows"].scan().collect(), check_row_order=False)
        if kind == "sequence":
            stream = mamba.stream(rows(0, filler.rows), time="at", lateness="1m")
            counted = stream.window(mamba.tumbling("20s"), by="key").agg(
                rows=pl.len(), total=pl.col("number").sum()
            )
            assert_frame_equal(
                windows.sort("window_start", "key"), counted.collect().sort("window_start", "key")
            )
        assert not list(tmp_path.glob(".*.staging"))
    assert examine(tmp_path / "log").sound
