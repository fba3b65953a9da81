"""Jobs over simulated workers: whatever happens to them and to the coordinator, the rows are those of others."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from mamba_stream.log import Transaction
from tests.runtime.workers.scenarios import SCENARIOS
from tests.runtime.workers.simulated import run, troubled

SEEDS = int(os.environ.get("WORKERS_SIMULATED_SEEDS", "100"))
"""Of the slow test, for each pipeline."""
BUSY = 33
"""A seed with which workers die and stand still, the coordinator dies, and the job is rescaled."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_who_dies_and_who_stands_still_changes_nothing(name):
    happened: set[str] = set()
    for seed in range(BUSY, BUSY + 10):
        told = run(name, seed)
        happened |= {what for line in told for what in ("died", "stands still", "Release(") if what in line}
        if len(happened) > 1:
            break
    assert len(happened) > 1


def decided(name: str) -> list[str]:
    """What a seed decides: which rows a step works on is told by their bytes, whose order Polars leaves open."""
    return [line for line in run(name, seed=BUSY) if "says Trying(" not in line]


def digest() -> str:
    return hashlib.blake2b("\n".join(decided("q5")).encode()).hexdigest()


def test_a_seed_decides_everything():
    assert decided("clickstream") == decided("clickstream")


def test_a_seed_decides_everything_in_any_process(environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.runtime.workers.test_simulated"],
        env={**environment, "PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{digest()}\n"


def test_workers_that_were_taken_for_dead_try_to_commit_and_cannot():
    told = [line for seed in range(BUSY, BUSY + 3) for line in run("q4", seed)]
    assert any("another runner has taken over task" in line for line in told)


def test_without_the_fence_rows_are_wrong(monkeypatch):
    monkeypatch.setattr(Transaction, "require_record", lambda *_: None)
    for seed in range(12):
        with troubled("q4", seed) as job:
            try:
                job.run()
                job.check()
            except AssertionError:
                return
    pytest.fail("nobody noticed")


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_thousands_of_seeds_change_nothing(name):
    lives = 0
    for seed in range(SEEDS):
        with troubled(name, seed) as job:
            try:
                job.run()
                job.check()
            except Exception as error:
                error.add_note(f"run({name!r}, seed={seed})")
                raise
            lives += job.lives
    # Coordinators died, too.
    assert lives > SEEDS


if __name__ == "__main__":
    print(digest())
