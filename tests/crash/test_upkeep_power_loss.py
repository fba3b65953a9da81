"""The power fails while a log is sealed, merged, compacted and trimmed, altered, backed up and restored."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.processes import child_environment
from tests.crash.recording import Recording, examined

pytestmark = pytest.mark.compiler


@pytest.fixture
def record(
    recorder: Path, place: Path, tmp_path: Path, environment: dict[str, str], seed: int
) -> Callable[..., Recording]:
    """Has a log filled and kept up under the recorder."""

    def run(plant: str = "") -> Recording:
        root, trace = place / "recorded", tmp_path / "trace"
        root.mkdir()
        recorded = child_environment(
            environment, LD_PRELOAD=str(recorder), RECORDER_ROOT=str(root), RECORDER_TRACE=str(trace)
        )
        command = [
            *(sys.executable, "-m", "tests.crash.upkeep_run"),
            str(root / "log"),
            "fill",
            str(seed),
            plant,
        ]
        done = subprocess.run(command, env=recorded, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Recording(
            trace, root, seed, place, child_environment(environment), "tests.crash.upkeep_powerloss"
        )

    return run


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(24, id="24"),
        pytest.param(1500, id="1500", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_a_power_loss_during_upkeep_loses_nothing(count: int, record: Callable[..., Recording]) -> None:
    recording = record()
    wrong = examined(recording, recording.states(count, recording.marked("filled")))
    assert not wrong, "\n".join(wrong[:5])


PLANTS = {
    "manifest first": ("filled", 150),
    "retention removes files first": ("backed up", 40),
    "deletion first": ("backed up", None),
    "files unsynced": ("maintained", None),
    "no-directory-sync": ("maintained", None),
    "commit-waits": ("appended", 20),
}
"""What each shows behind, and within how many calls of the disk."""
_OFTEN = ("files unsynced", "commit-waits")


@pytest.mark.parametrize(
    "plant", [pytest.param(plant, marks=() if plant in _OFTEN else pytest.mark.slow) for plant in PLANTS]
)
def test_what_is_wrong_with_upkeep_shows_after_a_power_loss(
    plant: str, record: Callable[..., Recording]
) -> None:
    recording = record(plant)
    mark, calls = PLANTS[plant]
    since = recording.marked(mark)
    states = recording.states(80, since, None if calls is None else since + calls)
    assert examined(recording, states, stop=True), f"80 states, and nobody noticed: {plant}"
