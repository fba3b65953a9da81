"""What the tests of messaging share: a log that must be sound when the test is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mamba_stream.log import Log, open_log
from tests.log.pictures import unsound


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """An empty log; when the test is over it must be sound."""
    opened = open_log(tmp_path / "log")
    yield opened
    opened.close()
    assert unsound(tmp_path / "log") == []
