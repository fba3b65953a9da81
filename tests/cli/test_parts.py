"""Parts of a benchmark: what they are given and find, and that nothing of them is left where one fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mamba_stream.cli.bench.measuring import environment
from mamba_stream.cli.bench.parts import Parts, line_of

PROGRAM = """
import sys
from mamba_stream.cli.bench.parts import Parts

def part_sum(*numbers):
    return {"sum": sum(map(int, numbers))}

def part_waiting():
    print("ready", flush=True)
    return {"read": sys.stdin.read()}

def part_failing():
    sys.exit(3)

assert Parts(__file__, globals()).asked()
"""


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return Parts(str(program), {})


def test_a_part_finds_something_out_in_a_process_of_its_own(parts: Parts) -> None:
    assert parts.found("sum", 1, 2, 39) == {"sum": 42}


def test_a_part_that_fails_ends_the_benchmark(parts: Parts) -> None:
    with pytest.raises(SystemExit, match=r"a part of the benchmark failed: .*'failing'"):
        parts.found("failing")


def test_a_part_that_waits_is_let_go_at_the_end_and_ended_where_something_fails(parts: Parts) -> None:
    with parts.running("waiting") as process:
        assert line_of(process) == "ready\n"
        assert process.poll() is None
    assert process.returncode is not None
    with pytest.raises(ZeroDivisionError), parts.running("waiting") as process:
        assert line_of(process) == "ready\n"
        1 / 0  # noqa: B018
    assert process.returncode < 0


def test_a_process_that_is_no_part_goes_on(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("assert Parts", "assert not Parts"))
    assert subprocess.run([sys.executable, program, "sum"], env=environment(), check=False).returncode == 0
