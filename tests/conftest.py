"""What tests of several rooms use: a command in this process, and one in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import forking
from tests.children import CHILDREN
from tests.served import pytest_addoption, pytest_collection_modifyitems, pytest_configure  # noqa: F401
from tests.sizes import examples

ROOT = Path(__file__).parent.parent
collect_ignore = ["children"]

# How long an example takes says how busy the machine is, and nothing about what is tested.
settings.register_profile(
    "mamba", deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mamba")


def pytest_collection_finish() -> None:
    """What the collection made stays to the end: whoever looks for garbage need not go through all of it each time.

    From now on processes that are started are those of tests.
    """
    gc.collect()
    gc.freeze()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHILDREN), os.environ.get("PYTHONPATH")]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything that a test may lack is installed: there, a test that skips is one that failed."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CI lets no test skip: {reason}"
    return report


@pytest.fixture(autouse=True)
def workers_as_told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that ask for workers are about workers: that one would be faster is no reason to have one there.

    Those of this choice itself are marked ``planned``.
    """
    if request.node.get_closest_marker("planned") is None:
        monkeypatch.setattr("mamba_stream.runtime.starting.one_is_better", lambda *_: "")


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs ``mamba-stream`` in this process."""
    from mamba_stream.cli import invoke

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = invoke([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return Outcome(code, written.out, written.err)

    return run


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """For processes of their own: finds the packages, and no log that is the developer's."""
    path = os.pathsep.join(
        [str(ROOT), str(ROOT / "connectors"), str(ROOT / "pipelines"), os.environ.get("PYTHONPATH", "")]
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAMBA_STREAM_")}
    return {**kept, "PYTHONPATH": path}


@pytest.fixture
def spawn_command(environment: dict[str, str], tmp_path: Path) -> Callable[..., Outcome]:
    """Runs ``mamba-stream`` in a process of its own, with ``stdin`` as its standard input."""

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        done = forking.run(
            [sys.executable, "-m", "mamba_stream.cli", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env=environment,
            cwd=tmp_path,
            timeout=120,
            check=False,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
