"""What the crash tests share: a seed that can be given again, and crews of writing processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.nursery import Nursery
from tests.crash.processes import Crew, child_environment

_RECORDER = Path(__file__).parent / "native" / "recorder.c"
_SHARED_MEMORY = Path("/dev/shm")  # logs come and go by the thousand


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Where all randomness of a test comes from; how to give it again is shown when it fails."""
    given = os.environ.get("CRASH_SEED")
    value = int(given) if given else zlib.crc32(request.node.nodeid.encode())
    again = f"CRASH_SEED={value} python -m pytest -m '' '{request.node.nodeid}'"
    request.node.add_report_section("call", "reproduce", again)
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


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for logs that come and go by the thousand: in memory, where there is room."""
    if not _SHARED_MEMORY.is_dir() or shutil.disk_usage(_SHARED_MEMORY).free < 1 << 30:
        yield tmp_path
        return
    made = _SHARED_MEMORY / f"crash-{tmp_path.parent.name}-{tmp_path.name}"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc to record what is asked of the disk")
    if sys.platform != "linux":
        pytest.skip("the recorder knows Linux only")
    built = tmp_path_factory.mktemp("native") / "recorder.so"
    command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-pthread", "-o", built, _RECORDER, "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built
