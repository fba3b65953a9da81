"""A log of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mamba_stream as mamba
from mamba_stream.log import Topic
from tests.runtime.model import SCHEMA


@pytest.fixture
def log(tmp_path: Path) -> Iterator[mamba.Log]:
    with mamba.open(tmp_path / "log") as opened:
        yield opened


@pytest.fixture
def topic(log: mamba.Log) -> Topic:
    """``rows``: two partitions, with ``ts``, ``key`` and ``value``."""
    return log.create_topic("rows", SCHEMA, partitions=2, time="ts")
