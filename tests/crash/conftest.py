"""What the crash tests share: a seed that can be given again, and crews of writing processes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.nursery import Nursery
from tests.crash.processes import Crew, child_environment


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Where all randomness of a test comes from; what is printed is shown when it fails."""
    given = os.environ.get("CRASH_SEED")
    value = int(given) if given else zlib.crc32(request.node.nodeid.encode())
    print(f"reproduce: CRASH_SEED={value} python -m pytest -m '' '{request.node.nodeid}'")
    return value


@pytest.fixture(scope="session")
def nursery(environment: dict[str, str]) -> Iterator[Nursery]:
    """Where writers come from."""
    made = Nursery(child_environment(environment))
    yield made
    made.close()


@pytest.fixture
def crew(tmp_path: Path, nursery: Nursery) -> Iterator[Callable[..., Crew]]:
    """Makes crews of writers for a log; at the end nobody is left."""
    crews: list[Crew] = []

    def make(log: Path, *options: str) -> Crew:
        place = tmp_path / f"crew-{len(crews)}"
        place.mkdir()
        crews.append(Crew(nursery, log, place, *options))
        return crews[-1]

    yield make
    for each in crews:
        each.disband()
