"""The log beside a model of it in plain Python, driven from two processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.crash.upkeep_run import small
from tests.log.beside_changes import Changes
from tests.log.beside_questions import Questions
from tests.log.beside_upkeep import Copies, Upkeep
from tests.log.handclock import FileClock
from tests.log.neighbour import Neighbour
from tests.served import serving


class LogBesideModel(Changes, Questions, Upkeep):
    """Every step is done by this process or by its neighbour, at the same directory or as clients of one server."""


class DirectoryBesideModel(LogBesideModel, Copies):
    """The same, and what is done where the files are."""


@contextmanager
def _directory(path: Path, clock: FileClock) -> Iterator[str]:
    yield str(path)


PLACES = pytest.mark.parametrize(
    "placed",
    [
        pytest.param(_directory, id="directory", marks=pytest.mark.embedded),
        pytest.param(serving, id="server"),
    ],
)


@pytest.fixture(autouse=True)
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upkeep in this process makes many pieces of a small log; the neighbour makes one."""
    for module, sizes in small().items():
        for name, value in sizes.items():
            monkeypatch.setattr(module, name, value)


def _run(placed: Any, neighbour: Neighbour, examples: int, steps: int) -> None:
    kind = DirectoryBesideModel if placed is _directory else LogBesideModel
    machine = type("Machine", (kind,), {"neighbour": neighbour, "placed": placed})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@PLACES
def test_the_log_is_what_a_model_of_dicts_and_lists_says_whichever_process_does_what(
    placed: Any, neighbour: Neighbour
) -> None:
    _run(placed, neighbour, examples=12 if placed is _directory else 4, steps=40)


@PLACES
@pytest.mark.slow
def test_the_log_is_what_the_model_says_for_a_long_time(placed: Any, neighbour: Neighbour) -> None:
    _run(placed, neighbour, examples=600, steps=80)
