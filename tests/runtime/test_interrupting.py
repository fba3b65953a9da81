"""Ctrl-C ends what a program waits for, whatever Polars has made of the signal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import polars as pl

import mamba_stream as mamba

RUNS = """
import sys
import polars as pl
import mamba_stream as mamba
from mamba_connectors import python

def seen(rows):
    print("at work", flush=True)

numbers = mamba.stream("numbers")
made = mamba.pipeline("job", numbers.to("copy"), numbers.to(python.sink(seen)))
mamba.run(made, log=sys.argv[1])
"""

COLLECTS = """
import sys
import threading
import mamba_stream as mamba

def asks(row):
    print("at work", flush=True)
    threading.Event().wait()

mamba.stream("numbers").map_async(asks, unit="row").collect(sys.argv[1])
"""


def interrupted(script: str, place: Path) -> str:
    """Interrupts a program once it says that it is at work; what it says as it ends."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(place)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "at work\n"
        program.send_signal(signal.SIGINT)
        try:
            return program.communicate(timeout=60)[1]
        finally:
            program.kill()


def test_a_run_that_is_interrupted_commits_and_ends(tmp_path: Path):
    with mamba.open(tmp_path) as log:
        log.create_topic("numbers", {"n": pl.Int64}).append(pl.DataFrame({"n": [1, 2]}))
    said = interrupted(RUNS, tmp_path)
    assert said.splitlines()[-1] == "KeyboardInterrupt", said
    with mamba.open(tmp_path) as log:
        assert log["copy"].scan().collect().rows() == [(1,), (2,)]


def test_collecting_is_interrupted_while_it_waits_for_an_answer(tmp_path: Path):
    with mamba.open(tmp_path) as log:
        log.create_topic("numbers", {"n": pl.Int64}).append(pl.DataFrame({"n": [1]}))
    said = interrupted(COLLECTS, tmp_path)
    assert said.splitlines()[-1] == "KeyboardInterrupt", said
