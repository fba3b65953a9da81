from __future__ import annotations

import signal
import subprocess
import sys

import polars as pl
import pytest

import mamba_stream as mamba
from tests import forking

PIPELINE = """
import mamba_stream as mamba
import polars as pl

doubled = mamba.stream("numbers").select(double=pl.col("n") * 2)
pipeline = mamba.pipeline("doubling", doubled.to("doubled"))
"""


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        opened.create_topic("numbers", {"n": pl.Int64}).append(pl.DataFrame({"n": [1, 2, 3]}))
    return tmp_path / "log"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "doubling.py"
    path.write_text(PIPELINE)
    return path


def doubles(log):
    with mamba.open(log) as opened:
        return opened["doubled"].scan().collect()["double"].to_list()


def test_a_file_runs_and_is_resumed_by_running_it_again(run_command, log, file):
    first = run_command("run", file, "--until", "now", "--log", log)
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("doubling stopped: 3 rows in, 3 out")
    with mamba.open(log) as opened:
        opened["numbers"].append([{"n": 4}])
    assert run_command("run", file, "--until", "now", "--log", log).code == 0
    assert doubles(log) == [2, 4, 6, 8]
    assert run_command("run", file, "--until", "now", "--state", "new", "--log", log).code == 0
    assert doubles(log) == [2, 4, 6, 8]


def test_one_of_several_is_run_by_its_name(run_command, log, tmp_path):
    both = PIPELINE + 'other = mamba.pipeline("other", doubled.to("also_doubled"))\n'
    (tmp_path / "both.py").write_text(both)
    unnamed = run_command("run", tmp_path / "both.py", "--until", "now", "--log", log)
    assert unnamed.code == 1
    assert "both.py:pipeline" in unnamed.err
    named = run_command("run", f"{tmp_path}/both.py:other", "--until", "now", "--log", log)
    assert named.out.startswith("other stopped")


def test_a_file_may_build_its_pipeline_in_a_function(run_command, log, tmp_path):
    indented = PIPELINE.replace("\npipeline = ", "\ndef build():\n    return ")
    (tmp_path / "built.py").write_text(indented)
    assert run_command("run", tmp_path / "built.py", "--until", "now", "--log", log).code == 0
    assert doubles(log) == [2, 4, 6]


def test_a_module_is_run_by_its_name(spawn_command, log, file, tmp_path):
    assert spawn_command("run", "doubling:pipeline", "--until", "now", "--log", log).code == 0
    assert doubles(log) == [2, 4, 6]


@pytest.mark.parametrize(
    ("target", "text", "code", "said"),
    [
        ("nowhere.py", None, 3, "there is no file"),
        ("no.such.module", None, 3, "there is no file, module or ready-made pipeline 'no.such.module'"),
        ("empty.py", "x = 1\n", 1, "holds no pipeline at module level"),
        ("empty.py:y", "yy = 1\n", 3, "has no 'y', did you mean 'yy'?"),
        ("empty.py:x", "x = 1\n", 1, "is int, not a Pipeline"),
        (
            "wrong.py",
            PIPELINE.replace('pl.col("n") * 2', 'pl.col("m") * 2'),
            1,
            "'m'",
        ),
    ],
)
def test_what_cannot_be_run_is_said_in_words(
    run_command, log, tmp_path, monkeypatch, target, text, code, said
):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / target.partition(":")[0]).write_text(text)
    done = run_command("run", target, "--until", "now", "--log", log)
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("option", [("--until", "later"), ("--state", "old"), ("--commit", "often")])
def test_a_wrong_option_is_refused(run_command, log, file, option):
    assert run_command("run", file, *option, "--log", log).code in (1, 2, 3)
    assert "doubled" not in mamba.open(log)


def test_an_interrupted_run_has_committed_what_it_did_and_goes_on_there(run_command, environment, log, file):
    command = [sys.executable, "-m", "mamba_stream.cli", "run", file, "--commit", "1h", "--log", log]
    with (
        forking.Process(command, env=environment, stderr=subprocess.PIPE) as running,
        mamba.open(log) as opened,
    ):
        # It is at work once it has its name and its topic; what it does then is not committed for an hour.
        while "doubled" not in opened:
            opened.wait(opened.lsn(), 1.0)
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
    assert run_command("run", file, "--until", "now", "--log", log).code == 0
    assert doubles(log) == [2, 4, 6]


def test_jobs_are_listed_and_reset(run_command, log, file):
    assert run_command("job", "list", "-o", "json", "--log", log).json == []
    run_command("run", file, "--until", "now", "--log", log)
    (job,) = run_command("job", "list", "-o", "json", "--log", log).json
    assert (job["job"], job["state"], job["topics"]) == ("doubling", "stopped", ["doubled"])
    assert "doubling" in run_command("job", "list", "--log", log).out
    assert run_command("job", "reset", "doubling", "--yes", "--log", log).code == 0
    assert doubles(log) == []
    run_command("run", file, "--until", "now", "--log", log)
    assert doubles(log) == [2, 4, 6]


def test_a_reset_says_what_becomes_of_topics_and_sinks(run_command, log, file, tmp_path):
    more = f"doubled.to('doubled'), doubled.to(files.sink({str(tmp_path / 'out')!r}, name='archive'))"
    text = PIPELINE.replace('doubled.to("doubled")', more)
    file.write_text(f"from mamba_connectors import files\n{text}")
    run_command("run", file, "--until", "now", "--log", log)
    run_command("job", "savepoint", "doubling", "before", "--log", log)
    said = run_command("job", "reset", "doubling", "--yes", "--log", log).out.splitlines()
    assert said[:3] == [
        "reset doubling: its state and offsets are forgotten",
        "gone are its savepoints before",
        "emptied topics doubled",
    ]
    assert said[3].startswith("sink archive has what the job wrote until its next run, which has it removed")
    (first,) = (tmp_path / "out").iterdir()
    run_command("run", file, "--until", "now", "--log", log)
    (second,) = (tmp_path / "out").iterdir()
    assert first != second and doubles(log) == [2, 4, 6]


def test_an_unknown_job_is_not_found(run_command, log, file):
    run_command("run", file, "--until", "now", "--log", log)
    missing = run_command("job", "reset", "doublin", "--yes", "--log", log)
    assert missing.code == 3
    assert "did you mean 'doubling'?" in missing.err


@pytest.mark.parametrize("workers", ["0", "two", "auto:3", "exactly:"])
def test_a_number_of_workers_that_cannot_be_is_a_mistake_of_use(run_command, tmp_path, workers):
    done = run_command("run", "flights", "--workers", workers, "--log", tmp_path / "log")
    assert done.code == 2
    assert "exactly:2" in done.err
