"""Rates of a job's stages, from what it says of itself at several moments."""

from __future__ import annotations

import pytest

from mamba_stream.cli.live import Rates
from mamba_stream.runtime.describing import JobDescription
from mamba_stream.runtime.facts import JobStatus, StageStatus, TaskStatus


def description(*tasks, workers=2):
    """Of tasks as (stage, number, rows, busy seconds, held back seconds, seconds)."""
    found = tuple(
        TaskStatus(
            stage, number, 0, rows, 0, 1, {}, 0, busy / all_, 1 - (busy + held) / all_, held / all_, all_
        )
        for stage, number, rows, busy, held, all_ in tasks
    )
    status = JobStatus(
        "job", "running", 0, 0, 0, 0, 0, {}, {}, {}, {}, 1, 1, (StageStatus(0, "", None),), found
    )
    return JobDescription(status, dict.fromkeys(range(workers), 1), {})


def test_a_stage_has_the_rows_of_its_tasks_and_its_share_of_all_workers():
    rates = Rates()
    rates.add(
        100.0, description((0, 0, 50, 1.0, 0.0, 10.0), (0, 1, 50, 1.0, 2.0, 10.0), (1, 0, 5, 0.5, 0.0, 10.0))
    )
    rates.add(
        102.0,
        description((0, 0, 250, 2.0, 0.0, 12.0), (0, 1, 150, 2.0, 3.0, 12.0), (1, 0, 9, 0.5, 2.0, 12.0)),
    )
    found = rates.of(0)
    assert found.rows == pytest.approx(150)
    assert found.busy == pytest.approx(0.5)
    assert found.backpressured == pytest.approx(0.25)
    assert rates.of(1).backpressured == pytest.approx(1.0)


def test_a_task_that_another_worker_took_over_has_no_negative_rates():
    rates = Rates()
    rates.add(0.0, description((0, 0, 500, 5.0, 1.0, 10.0)))
    rates.add(1.0, description((0, 0, 400, 0.1, 0.0, 0.5)))
    found = rates.of(0)
    assert (found.rows, found.busy, found.backpressured) == (0.0, 0.0, 0.0)


def test_rates_are_those_of_the_last_seconds():
    rates = Rates()
    for second in range(20):
        rates.add(float(second), description((0, 0, 1_000 * min(second, 10), 0.0, 0.0, 1.0 + second)))
    assert rates.of(0).rows == 0.0
