"""The marks of a disk: from a file, the environment and a program, and what they keep free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mamba_stream.core.diskmarks import DiskMarks, disk_marks, marks_with, told_of
from mamba_stream.errors import InvalidInput


@pytest.mark.parametrize(
    ("size", "soft", "hard"),
    [
        (10 << 30, 1 << 30, 1 << 29),
        (20 << 30, 2 << 30, 1 << 30),
        (4 << 40, 2 << 30, 1 << 30),
        (1000, 100, 50),
    ],
)
def test_a_large_disk_keeps_as_much_as_one_of_twenty_gibibytes(size: int, soft: int, hard: int) -> None:
    marks = DiskMarks()
    assert marks.kept(marks.soft, size) == soft
    assert marks.kept(marks.hard, size) == hard
    assert marks.kept(None, size) == 0


def test_the_environment_goes_before_the_file_and_the_program_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert disk_marks({}) == DiskMarks()
    (tmp_path / "mamba-stream.toml").write_text('[disk]\nsoft = "70%"\nhard = "off"\nballast = "1MiB"\n')
    assert told_of(disk_marks({})) == {"soft": "70%", "hard": None, "largest": "20GiB", "ballast": "1MiB"}
    found = disk_marks({"MAMBA_STREAM_DISK_SOFT": "0.8", "MAMBA_STREAM_DISK_LARGEST": "1TiB"})
    assert told_of(found) == {"soft": "80%", "hard": None, "largest": "1TiB", "ballast": "1MiB"}
    given = marks_with({"soft": None, "hard": "99%", "ballast": "auto"}, found)
    assert told_of(given) == {"soft": None, "hard": "99%", "largest": "1TiB", "ballast": "auto"}
    assert marks_with(told_of(given), DiskMarks()) == given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"soft": "96%"}, r"soft = 96% lies above hard = 95%"),
        ({"soft": 90}, r"disk: soft=90: give a percentage above 0% and below 100%, as 90%, or off"),
        ({"hard": "100%"}, r"disk: hard='100%': give a percentage"),
        ({"soft": "0%"}, "give a percentage"),
        ({"soft": True}, "give a percentage"),
        ({"ballast": -1}, r"disk: ballast=-1: give a size, as 64MiB, 0 or off for none, or auto"),
        ({"largest": "big"}, "give a size"),
        (
            {"sofd": "90%"},
            r"disk: 'sofd' is no setting, did you mean 'soft'\?; there are soft, hard, largest, ballast",
        ),
        ("90%", "give a dict of soft, hard, largest, ballast"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(given: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        marks_with(given, DiskMarks())


def test_what_is_wrong_in_the_environment_names_the_variable() -> None:
    with pytest.raises(InvalidInput, match="MAMBA_STREAM_DISK_SOFT = 'much': give a percentage"):
        disk_marks({"MAMBA_STREAM_DISK_SOFT": "much"})
    with pytest.raises(InvalidInput, match="lies above hard = 50%"):
        disk_marks({"MAMBA_STREAM_DISK_HARD": "50%"})
