"""Workers that are processes: how a pipeline gets to them, what becomes of its rows when they die, what they leave."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.cli.loading import load_pipeline
from mamba_stream.errors import JobFailed, PipelineRefused, StepFailed
from mamba_stream.runtime.workers.messages import Beat, Committed, Failed, Gone, Ready
from tests.runtime.workers.driving import Driven, drive
from tests.runtime.workers.leavings import readers
from tests.served import serving
from tests.server.running import alive, children, until

START = datetime(2024, 1, 1)
ROWS = pl.DataFrame(
    {
        "key": [f"k{number % 13}" for number in range(2_000)],
        "value": range(2_000),
        "at": [START + timedelta(seconds=number) for number in range(2_000)],
    }
)


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        fill(opened)
        yield opened


def fill(log, batches=40, *, ends=True):
    topic = log.create_topic("in", ROWS, partitions=3, key="key", time="at")
    for part in ROWS.iter_slices(-(-ROWS.height // batches)):
        topic.append(part)
    if ends:
        topic.end()


def counted(stream, **aggregates):
    """A window over all keys: what is read by one task goes through an exchange to another."""
    return stream.window(mamba.tumbling("1m"), by="bucket").agg(
        rows=pl.len(), total=pl.col("value").sum(), **aggregates
    )


def expected(factor=1, modulus=5):
    return (
        ROWS.with_columns(
            bucket=pl.col("value") % modulus,
            value=pl.col("value") * factor,
            window_start=pl.col("at").dt.truncate("1m"),
        )
        .group_by("bucket", "window_start")
        .agg(rows=pl.len().cast(pl.Int64), total=pl.col("value").sum())
    )


def check(log, *, factor=1, modulus=5):
    found = log["out"].scan().collect().with_columns(pl.col("rows").cast(pl.Int64))
    columns = ["bucket", "window_start", "rows", "total"]
    wanted = expected(factor, modulus)
    assert found.select(columns).sort(columns).rows() == wanted.select(columns).sort(columns).rows()


def bucketed(stream, modulus=5):
    return stream.with_columns(bucket=pl.col("value") % modulus)


def times(factor):
    """A pipeline of a lambda, and of a function that was made by another one."""
    schema = {**ROWS.schema, "bucket": pl.Int64}

    def multiplied(frame):
        return frame.with_columns(value=pl.col("value") * factor)

    rows = bucketed(mamba.stream("in")).map_batches(multiplied, schema=schema)
    rows = rows.map_batches(lambda frame: frame.filter(pl.lit(factor) > 0), schema=schema)
    return mamba.pipeline("job", counted(rows).to("out"))


# -- how a pipeline gets there ------------------------------------------------------------------------------------------


def test_lambdas_and_closures_reach_workers(log):
    drive(times(7), log, workers=1)
    check(log, factor=7)


def test_bound_topics_and_frames_reach_workers(log):
    names = pl.DataFrame({"bucket": range(5), "name": list("abcde")})
    rows = bucketed(log["in"].stream()).join(names, on="bucket")
    rows = rows.filter(pl.col("name").is_in(list("abcde")))
    drive(mamba.pipeline("job", counted(rows).to("out")), log, workers=1)
    check(log)


PROGRAM = """
import sys
import polars as pl
import mamba_stream as mamba
import beside
from tests.runtime.workers.driving import drive

with open("ran", "a") as file:
    file.write("ran ")

FACTOR = 3

class Multiplier:
    def __call__(self, frame):
        return frame.with_columns(value=pl.col("value") * FACTOR * beside.ONE)

def multiplied(frame):
    return Multiplier()(frame)

rows = mamba.stream("in").with_columns(bucket=pl.col("value") % 5)
schema = {"key": pl.String, "value": pl.Int64, "at": pl.Datetime("us"), "bucket": pl.Int64}
rows = rows.map_batches(multiplied, schema=schema)
hourly = rows.window(mamba.tumbling("1m"), by="bucket").agg(rows=pl.len(), total=pl.col("value").sum())
pipeline = mamba.pipeline("job", hourly.to("out"))
"""
DRIVES = """
with mamba.open("log") as log:
    drive(pipeline, log, workers=1)
print("done")
"""


def program(place, name="program.py", text=PROGRAM + DRIVES):
    (place / "beside.py").write_text("ONE = 1\n")
    (place / name).write_text(text)
    with mamba.open(place / "log") as log:
        fill(log)


def ran(place, environment, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_program_without_a_guard_is_run_once(tmp_path, environment):
    program(tmp_path)
    done = ran(tmp_path, environment, "program.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert (tmp_path / "ran").read_text() == "ran "
    with mamba.open(tmp_path / "log") as log:
        check(log, factor=3)


def test_a_module_that_runs_its_job_while_it_is_imported_is_run_once(tmp_path, environment):
    program(tmp_path)
    done = ran(tmp_path, environment, "-c", "import program")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert (tmp_path / "ran").read_text() == "ran "
    with mamba.open(tmp_path / "log") as log:
        check(log, factor=3)


def test_a_file_that_is_loaded_by_its_path_is_run_once(tmp_path, monkeypatch):
    program(tmp_path, "pipelines.py", PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    try:
        made = load_pipeline(str(tmp_path / "pipelines.py"))
        with mamba.open(tmp_path / "log") as log:
            drive(made, log, workers=1)
            check(log, factor=3)
    finally:
        for name in {"pipelines", "beside", "mamba_stream_pipeline"} - before:
            sys.modules.pop(name, None)
    assert (tmp_path / "ran").read_text() == "ran "


def test_a_module_is_found_where_this_process_looks_for_it(tmp_path, log, monkeypatch):
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "only_here.py").write_text(
        "import polars as pl\n"
        "print('imported')\n"
        "def multiplied(frame):\n"
        "    return frame.with_columns(value=pl.col('value') * 4)\n"
    )
    monkeypatch.syspath_prepend(str(place))
    import only_here

    rows = bucketed(mamba.stream("in"))
    rows = rows.map_batches(only_here.multiplied, schema={**ROWS.schema, "bucket": pl.Int64})
    drive(mamba.pipeline("job", counted(rows).to("out")), log, workers=1)
    check(log, factor=4)


def test_what_cannot_be_sent_is_refused_and_the_message_names_the_step(log):
    held = threading.Lock()

    def locked(frame):
        with held:
            return frame

    rows = bucketed(mamba.stream("in")).map_batches(locked, schema={**ROWS.schema, "bucket": pl.Int64})
    with pytest.raises(PipelineRefused) as raised:
        Driven(mamba.pipeline("job", counted(rows).to("out")), log)
    assert f"map_batches at {__file__}:" in str(raised.value)
    assert "lock" in str(raised.value) and "workers=1" in str(raised.value)

    rows = bucketed(mamba.stream("in")).map_batches(
        lambda frame: frame.filter(pl.lit("in" in log)), schema={**ROWS.schema, "bucket": pl.Int64}
    )
    with pytest.raises(PipelineRefused, match="is open in this process only"):
        Driven(mamba.pipeline("other", counted(rows).to("out")), log)


def test_a_module_that_workers_cannot_import_is_named(tmp_path, log, monkeypatch):
    place = tmp_path / "gone"
    place.mkdir()
    (place / "soon_gone.py").write_text("def same(frame):\n    return frame\n")
    monkeypatch.syspath_prepend(str(place))
    import soon_gone

    rows = bucketed(mamba.stream("in")).map_batches(
        soon_gone.same, schema={**ROWS.schema, "bucket": pl.Int64}
    )
    with Driven(mamba.pipeline("job", counted(rows).to("out")), log, workers=1) as job:
        (place / "soon_gone.py").unlink()
        with pytest.raises(JobFailed, match="cannot load the pipeline: ModuleNotFoundError: .*soon_gone"):
            job.finish()


def test_a_served_log_is_reached_by_workers_themselves(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        fill(log)
    with serving(tmp_path / "log") as address, mamba.open(address) as log:
        drive(times(2), log, workers=1)
        check(log, factor=2)


# -- what they say ------------------------------------------------------------------------------------------------------


def test_what_workers_print_is_printed_here_and_an_error_names_the_users_line(log, capfd):
    def broken(frame):
        print("about to break")
        if frame["value"].max() > 700:
            raise ValueError("not that many")
        return frame

    rows = bucketed(mamba.stream("in")).map_batches(broken, schema={**ROWS.schema, "bucket": pl.Int64})
    with Driven(mamba.pipeline("job", counted(rows).to("out")), log, workers=1, rows=100) as job:
        with pytest.raises(StepFailed, match="ValueError: not that many") as raised:
            job.finish()
    assert f"{__file__}:{broken.__code__.co_firstlineno + 3} in broken" in str(raised.value)
    assert re.search(r"^\[job: worker [01]\] about to break$", capfd.readouterr().out, re.MULTILINE)
    with pytest.raises(StepFailed, match="ValueError: not that many"):
        mamba.run(mamba.pipeline("alone", counted(rows).to("other")), log=log)


def test_a_worker_that_ends_itself_is_said_to_have_and_what_it_wrote_is_shown(log):
    def leaves(frame):
        sys.stderr.write("I had enough\n")
        os._exit(7)

    rows = bucketed(mamba.stream("in")).map_batches(leaves, schema={**ROWS.schema, "bucket": pl.Int64})
    with Driven(mamba.pipeline("job", counted(rows).to("out")), log, workers=1, restarts=1) as job:
        with pytest.raises(JobFailed, match="ended with exit code 7(?s:.*)I had enough"):
            job.finish()
        assert len(job.executor.heard(Gone)) == 2


def test_workers_show_that_they_live_while_a_function_of_the_users_takes_its_time(tmp_path, log):
    goes_on = tmp_path / "goes on"

    def slow(frame):
        while not goes_on.exists():
            threading.Event().wait(0.01)
        return frame

    rows = bucketed(mamba.stream("in")).map_batches(slow, schema={**ROWS.schema, "bucket": pl.Int64})
    with Driven(mamba.pipeline("job", counted(rows).to("out")), log) as job:
        job.until(lambda: len(job.executor.heard(Ready)) == 2)
        heard = len(job.executor.heard(Beat))
        job.until(lambda: len(job.executor.heard(Beat)) > heard + 8)
        goes_on.touch()
        job.finish()
    check(log)


def test_an_order_is_heard_by_workers_that_have_nothing_to_do(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        fill(log, ends=False)
        with Driven(times(1), log, until="stopped") as job:
            job.until(lambda: read(log) == ROWS.height)
            for _ in range(3):
                number = job.pool.commit()
                job.until(lambda number=number: job.pool.committed(number))
            assert len(job.executor.heard(Committed)) == 6
            job.pool.leave()
            job.finish()


# -- what becomes of rows when somebody dies ----------------------------------------------------------------------------


def slowly(place):
    """A pipeline whose workers take a batch for each file that is put into a directory."""

    def waits(frame):
        while not (place / "go on").exists():
            # Longer than it is to the next commit, with as many batches as there are.
            threading.Event().wait(0.05)
            try:
                next(place.glob("batch*")).unlink()
            except (StopIteration, FileNotFoundError):
                continue
            break
        return frame

    rows = bucketed(mamba.stream("in")).map_batches(waits, schema={**ROWS.schema, "bucket": pl.Int64})
    return mamba.pipeline("job", counted(rows).to("out"))


def allow(place, batches):
    for number in range(batches):
        (place / f"batch{number}").touch()


def read(log):
    """How many rows were read, as of the last commits."""
    return sum(log.group_offsets("job.job").values())


def test_tasks_of_a_worker_that_is_killed_move_and_its_rows_are_exact(tmp_path, log):
    allow(tmp_path, 12)
    with Driven(slowly(tmp_path), log, rows=50) as job:
        job.until(lambda: read(log) > 0 and len(job.pool.workers) == 2)
        first = dict(job.pool.workers)
        os.kill(first[0], signal.SIGKILL)
        [gone] = job.until(lambda: job.executor.heard(Gone))
        assert "was ended by signal 9 (Killed)" in gone.reason
        job.until(lambda: len(job.executor.heard(Ready)) == 3)
        assert not alive(first[0])
        assert alive(first[1])
        (tmp_path / "go on").touch()
        job.finish()
    check(log)


def test_a_worker_that_stands_still_past_its_lease_and_goes_on_commits_nothing(tmp_path, log):
    allow(tmp_path, 12)
    with Driven(slowly(tmp_path), log, rows=50, lease=2.0) as job:
        job.until(lambda: read(log) > 0 and len(job.pool.workers) == 2)
        # As on another machine, whose workers cannot be ended from here.
        job.executor.spares = True
        stalled = job.pool.workers[0]
        os.kill(stalled, signal.SIGSTOP)
        job.until(lambda: job.pool.workers.get(0, stalled) != stalled)
        (tmp_path / "go on").touch()
        job.until(lambda: job.pool.over or job.pool.error, "the end")
        assert job.pool.error is None
        check(log)
        records = log.records("jobs.tasks/job")
        os.kill(stalled, signal.SIGCONT)
        # It finds that another has taken over, or that what it was to read was trimmed away by that one.
        job.until(lambda: job.executor.heard(Failed))
        until(lambda: not alive(stalled))
        assert log.records("jobs.tasks/job") == records
        check(log)
        job.executor.spares = False


LONG = PROGRAM.replace(
    "def multiplied(frame):\n",
    "import pathlib, threading\n"
    "def multiplied(frame):\n"
    "    while not pathlib.Path('go on').exists():\n"
    "        threading.Event().wait(0.05)\n"
    "        if pathlib.Path('batch').exists():\n"
    "            break\n",
)
STARTS = """
with mamba.open("log") as log:
    drive(pipeline, log, rows=50)
print("done")
"""


def test_workers_end_with_the_program_that_started_them_and_it_resumes(tmp_path, environment):
    program(tmp_path, text=LONG + STARTS)
    (tmp_path / "batch").touch()
    with subprocess.Popen([sys.executable, "program.py"], cwd=tmp_path, env=environment) as started:
        with mamba.open(tmp_path / "log") as log:
            until(lambda: read(log) > 0)
            (tmp_path / "batch").unlink()
        there = children(started.pid)
        assert len(there) == 2
        started.kill()
    until(lambda: not any(map(alive, there)))
    (tmp_path / "go on").touch()
    done = ran(tmp_path, environment, "program.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    with mamba.open(tmp_path / "log") as log:
        check(log, factor=3)


# -- what they leave ----------------------------------------------------------------------------------------------------


def descriptors():
    return sorted(
        os.readlink(f"/proc/self/fd/{name}").partition(":[")[0]
        for name in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{name}")
    )


def left(log):
    """What earlier tests left may go meanwhile; nothing may come."""
    return Counter([*descriptors(), *children(os.getpid()), *os.listdir(log.path / "wake")])


@pytest.mark.embedded
@pytest.mark.parametrize("how", ["ended", "cancelled", "killed", "failed"])
def test_nothing_is_left_behind(tmp_path, log, how):
    (tmp_path / "go on").touch()
    drive(slowly(tmp_path), log, workers=1)
    gc.collect()
    threads = threading.active_count()
    before = left(log)
    there = readers(log._shared)

    def watched(frame):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        if how == "failed":
            raise ValueError
        return frame

    rows = bucketed(mamba.stream("in")).map_batches(watched, schema={**ROWS.schema, "bucket": pl.Int64})
    (tmp_path / "go on").unlink()
    with Driven(mamba.pipeline("again", counted(rows).to("again")), log) as job:
        if how == "cancelled":
            job.until(lambda: len(job.executor.heard(Ready)) == 2)
        elif how == "killed":
            job.until(lambda: job.executor.heard(Ready))
            for pid in job.pool.workers.values():
                if pid:
                    os.kill(pid, signal.SIGKILL)
            job.finish()
        elif how == "failed":
            with pytest.raises(StepFailed):
                job.finish()
        else:
            job.finish()
    gc.collect()
    # As many as before are not all of before: where one of an earlier test ended meanwhile, one of this may still end.
    until(lambda: threading.active_count() <= threads)
    with contextlib.suppress(AssertionError):
        until(lambda: not left(log) - before)
    assert not left(log) - before
    assert readers(log._shared) == there
    assert not [pid for pid in _everybody() if "time.sleep(600)" in _command(pid)]


def _everybody():
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() if alive(pid) else ""
    except OSError:
        return ""
