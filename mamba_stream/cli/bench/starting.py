"""How long it takes until something is there: the help, the import, and the first result of the quick start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from mamba_stream.cli.bench.measuring import Figure, environment, in_turns, middle, seconds

_EMPTY = [sys.executable, "-c", "pass"]
_BESIDE = [sys.executable, "-c", "import polars, pyarrow"]


def quick_start() -> str:
    """The README's quick start, which no wheel has; a test holds the two together."""
    return resources.files("mamba_stream.cli.bench").joinpath("quickstart.txt").read_text(encoding="utf-8")


def figures(where: Path) -> Iterator[Figure]:
    """Times of whole processes, each beside Pythons that do less."""
    yield _help()
    yield _import()
    yield _first_result(where)


def _help() -> Figure:
    pair = in_turns(
        lambda: seconds(lambda: _run([sys.executable, "-m", "mamba_stream.cli", "--help"])),
        lambda: seconds(lambda: _run(_EMPTY)),
        9,
    )
    ours, bare = (middle(times) * 1e3 for times in (pair.ours, pair.limit))
    return _figure("mamba-stream --help", ours, f"an empty Python {bare:.0f} ms, included", ours, 150)


def _import() -> Figure:
    pair = in_turns(
        lambda: seconds(lambda: _run([sys.executable, "-c", "import mamba_stream"])),
        lambda: seconds(lambda: _run(_EMPTY)),
        9,
    )
    ours, bare = (middle(times) * 1e3 for times in (pair.ours, pair.limit))
    return _figure("import mamba_stream", ours, f"an empty Python {bare:.0f} ms, subtracted", ours - bare, 60)


def _first_result(where: Path) -> Figure:
    program = quick_start()
    empty: list[float] = []

    def first() -> float:
        fresh = Path(tempfile.mkdtemp(prefix="quickstart-", dir=where))
        (fresh / "quickstart.py").write_text(program, encoding="utf-8")
        return seconds(lambda: _run([sys.executable, "quickstart.py"], fresh))

    def beside() -> float:
        empty.append(seconds(lambda: _run(_EMPTY)))
        return seconds(lambda: _run(_BESIDE))

    pair = in_turns(first, beside, 9)
    ours, imports, bare = (middle(times) * 1e3 for times in (pair.ours, pair.limit, empty))
    limit = f"importing polars and pyarrow {imports:.0f} ms, an empty Python {bare:.0f} ms, both included"
    return _figure("python quickstart.py, to its first result", ours, limit, ours, 2_000)


def _figure(name: str, ours: float, limit: str, value: float, target: float) -> Figure:
    return Figure(name, f"{ours:.0f} ms as a process", limit, value, target, at_least=False, unit=" ms")


def _run(arguments: list[str], directory: Path | None = None) -> None:
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, env=environment(), cwd=directory)
