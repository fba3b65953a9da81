"""The benchmark of the server runs to its end; what it measures here is nobody's figure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "server.py"


@pytest.mark.slow
def test_it_measures_everything_and_leaves_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    small = "--scale 0.02 --seconds 0.2".split()
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--directory", tmp_path, *small],
        env={name: value for name, value in environment.items() if name != "KAFKA_HOME"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.stderr == ""
    assert ran.stdout.count(" ✓ ") + ran.stdout.count(" ✗ ") == 14
    assert "Kafka beside it: left out" in ran.stdout
    assert ran.stdout.rstrip().endswith(("all targets met", "missed"))
    assert list(tmp_path.iterdir()) == []
