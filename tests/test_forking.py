"""Processes that are forked are to tests what those are that ``subprocess`` starts."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forking

SAYS = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['SAID'], sys.stdin.read(), __name__)"


@pytest.mark.parametrize("start", [subprocess.run, forking.run], ids=["started", "forked"])
def test_a_process_has_its_arguments_directory_environment_and_input_and_gives_its_output(
    start, tmp_path, environment
):
    (tmp_path / "said.py").write_text(SAYS)
    for what in (["-c", SAYS], ["said.py"]):
        done = start(
            [sys.executable, *what, "one", "two"],
            cwd=tmp_path,
            env={**environment, "SAID": "yes"},
            input="given",
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"['one', 'two'] {tmp_path} yes given __main__\n"


@pytest.mark.parametrize("start", [subprocess.Popen, forking.Process], ids=["started", "forked"])
@pytest.mark.parametrize(
    ("code", "expected", "told"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import atexit, sys; atexit.register(print, 'over', file=sys.stderr)", 0, "over"),
        ("import warnings; warnings.warn('now')", 1, "UserWarning: now"),
    ],
)
def test_it_ends_as_it_would_and_can_be_asked_again(start, code, expected, told):
    with start([sys.executable, "-W", "error", "-c", code], stderr=subprocess.PIPE, text=True) as process:
        lines = process.communicate(timeout=60)[1].splitlines()
        assert lines[-1:] == ([told] if told else [])
        process.kill()
        assert (process.wait(), process.poll(), process.returncode) == (expected,) * 3


def test_one_that_takes_too_long_is_killed_or_waited_for_again():
    forever = [sys.executable, "-c", "import time; time.sleep(600)"]
    with forking.Process(forever) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    with pytest.raises(subprocess.TimeoutExpired):
        forking.run(forever, timeout=0.01)


def test_it_has_the_files_that_it_is_passed(tmp_path: Path):
    with (tmp_path / "file").open("w+b") as file:
        code = f"import os; os.write({file.fileno()}, b'here')"
        forking.run([sys.executable, "-c", code], pass_fds=[file.fileno()], check=True)
        file.seek(0)
        assert file.read() == b"here"


@pytest.mark.parametrize(
    "options", [["-I", "-c", ""], ["-X", "dev", "-c", ""], ["-W", "ignore", "-m", "this"]]
)
def test_what_cannot_be_forked_is_refused(options):
    with pytest.raises(ValueError, match="can be forked"):
        forking.Process([sys.executable, *options])
    with pytest.raises(ValueError, match="can be forked"):
        forking.Process(["bash", "-c", "true"])
