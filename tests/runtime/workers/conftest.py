"""After every test with workers: nothing of them is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forking
from tests.runtime.workers import leavings


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path: Path) -> Iterator[None]:
    """What earlier tests left may go meanwhile; nothing may come."""
    forking.begin()
    before = leavings.here()
    yield
    leavings.check(before, tmp_path)
