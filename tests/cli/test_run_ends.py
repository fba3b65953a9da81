"""How a run ends that is told to by a signal, with nothing left of it; and what it shows at a terminal until then."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.cli.loading import load_pipeline
from mamba_stream.runtime.asking import ask
from mamba_stream.runtime.describing import decode_description
from mamba_stream.runtime.jobs import list_jobs
from mamba_stream.runtime.requests import Describe
from tests import forking
from tests.server.running import alive, children, until
from tests.sizes import crossed

PIPELINE = """
import threading
import mamba_stream as mamba
import polars as pl

def passed(frame):
    if frame["n"].max() >= 100:
        print("it hangs", flush=True)
        threading.Event().wait()
    return frame

rows = mamba.stream("numbers").map_batches(passed, schema={"n": pl.Int64})
pipeline = mamba.pipeline("passing", rows.to("passed"))
"""


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        opened.create_topic("numbers", {"n": pl.Int64}, partitions=2)
        append(opened, 1)
    (tmp_path / "passing.py").write_text(PIPELINE)
    return tmp_path / "log"


def append(log, first):
    for partition in range(2):
        log["numbers"].append(pl.DataFrame({"n": range(first, first + 3)}), partition=partition)


@contextmanager
def running(log, tmp_path, environment, *options):
    """A run in a process of its own that nothing is left of behind this."""
    command = [sys.executable, "-m", "mamba_stream.cli", "run", "passing.py", "--log", log, *options]
    with forking.Process(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        try:
            yield job
        finally:
            job.kill()


def passed(log):
    return sorted(log["passed"].scan().collect()["n"].to_list())


@pytest.mark.parametrize(("workers", "number"), crossed([1, 2], [signal.SIGTERM, signal.SIGINT], every=2))
def test_a_run_that_is_told_to_end_commits_what_it_has(log, tmp_path, environment, workers, number):
    with running(log, tmp_path, environment, "--commit", "1h", "--workers", str(workers)) as job:
        with mamba.open(log) as opened:
            until(lambda: rows_in(job, opened) == 6, "its rows")
            of_it = children(job.pid)
            assert len(of_it) == (0 if workers == 1 else 2)
            job.send_signal(number)
            assert job.wait(100) == 128 + number
            assert "once more cancels it" in job.stderr.read()
            assert job.stdout.read().startswith("passing stopped: 6 rows in, 6 out")
            assert passed(opened) == [1, 1, 2, 2, 3, 3]
            assert not any(map(alive, of_it))


def rows_in(job, log):
    """How many rows the job says that it has read."""
    assert job.poll() is None, job.stderr.read()
    if not [found for found in list_jobs(log) if found.workers]:
        return 0
    return decode_description(ask(log, "passing", Describe())[1]).status.rows_in


@pytest.mark.parametrize(("workers", "again"), crossed([1, 2], [False, True], every=2))
def test_a_run_that_cannot_finish_is_cancelled(log, tmp_path, environment, workers, again):
    grace = "1h" if again else "200ms"
    with running(
        log, tmp_path, environment, "--commit", "10ms", "--workers", str(workers), "--grace", grace
    ) as job:
        with mamba.open(log) as opened:
            until(lambda: "passed" in opened and len(passed(opened)) == 6, "what comes before")
            append(opened, 100)
            hangs = next(line for line in job.stdout if "it hangs" in line)
            assert hangs
            of_it = children(job.pid)
            job.send_signal(signal.SIGTERM)
            assert "is to end" in job.stderr.readline()
            if again:
                job.send_signal(signal.SIGTERM)
            assert job.wait(100) == 143
            said = job.stderr.read()
            assert ("told again to end" if again else "not done within 0.2 s (--grace)") in said
            assert not any(map(alive, of_it))
            # What it had committed is there, and the next run goes on behind it.
            assert passed(opened) == [1, 1, 2, 2, 3, 3]
    (tmp_path / "passing.py").write_text(PIPELINE.replace(">= 100", ">= 1_000"))
    again = load_pipeline(str(tmp_path / "passing.py"))
    assert mamba.run(again, log, until="now").rows_in == 6
    with mamba.open(log) as opened:
        assert passed(opened) == [1, 1, 2, 2, 3, 3, 100, 100, 101, 101, 102, 102]


class Terminal:
    """A terminal that a process is started at, and what it has shown."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
        self._shown = b""

    def shown(self) -> str:
        """All that was shown until now, without what moves the cursor and gives colours."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:
                break
            self._shown += data
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._shown.decode(errors="replace"))

    def close(self) -> None:
        for descriptor in (self._ours, self.theirs):
            os.close(descriptor)


@pytest.mark.parametrize("quiet", [False, True])
def test_at_a_terminal_a_run_shows_its_stages_until_it_ends(log, tmp_path, environment, quiet):
    terminal = Terminal()
    command = [sys.executable, "-m", "mamba_stream.cli", "run", "passing.py", "--log", log]
    command += ["--quiet"] if quiet else []
    try:
        with subprocess.Popen(
            command,
            env={**environment, "TERM": "xterm"},
            cwd=tmp_path,
            stdin=terminal.theirs,
            stdout=terminal.theirs,
            stderr=terminal.theirs,
        ) as job:
            if quiet:
                with mamba.open(log) as opened:
                    until(lambda: "passed" in opened and len(passed(opened)) == 6, "its rows")
            else:
                until(
                    lambda: "passing running: 1 worker, 6 rows in, 6 out" in terminal.shown(), "the picture"
                )
            job.send_signal(signal.SIGINT)
            # A terminal that nobody reads from holds up who writes to it.
            until(lambda: terminal.shown() and job.poll() is not None, "the end")
            assert job.returncode == 130
        shown = terminal.shown()
        assert "passing stopped: 6 rows in, 6 out, 0 late" in shown
        for words in ("held back", "watermark", "0  numbers: map_batches, to"):
            assert (words in shown) == (not quiet)
    finally:
        terminal.close()


def test_elsewhere_a_run_shows_nothing(log, tmp_path, spawn_command):
    done = spawn_command("run", tmp_path / "passing.py", "--until", "now", "--log", log)
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"passing stopped: 6 rows in, .* rows/s\)\n", done.out)


def test_a_wrong_grace_is_refused_before_anything_begins(log, tmp_path, run_command):
    done = run_command("run", tmp_path / "passing.py", "--until", "now", "--grace", "long", "--log", log)
    assert done.code == 1 and "grace" in done.err
    with mamba.open(log) as opened:
        assert "passed" not in opened
