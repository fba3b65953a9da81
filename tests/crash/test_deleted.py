"""Any single file of a log is deleted: it opens, holds everything that did not lie there, and what is missing is told.

Segments, tables of contents, commit files and the index are those of ``test_repair.py``; these are all the others.
"""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest

from mamba_stream.log import open_log
from mamba_stream.log.doctor import examine
from mamba_stream.log.repair import repair
from tests import forking
from tests.log.pictures import rows_of, unsound

_WRITTEN = """
import os, signal
from mamba_stream.log import backing, open_log
log = open_log({log!r})
topic = log.create_topic("t", {{"n": int}})
topic.append([{{"n": 1}}])
log.seal()
topic.append([{{"n": 2}}])
log.maintain(0)
log.scrub(1)
log.lock("jobs", "job")
backing._Backup._copy = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
topic.append([{{"n": 3}}], durability="os")
with log.transaction(durability="os") as tx:
    tx.append(topic, [{{"n": 4}}])
if {backs_up}:
    log.backup({kept!r})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=[False, True], ids=["", "in a backup"])
def log(place: Path, environment: dict[str, str], request: pytest.FixtureRequest) -> Path:
    """A log whose process was killed: with locks, and with commits that wait for the disk or a half-made backup."""
    code = _WRITTEN.format(log=str(place / "log"), kept=str(place / "kept"), backs_up=request.param)
    done = forking.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return place / "log"


def test_a_log_without_any_one_of_its_other_files_opens_and_says_what_is_missing(
    log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [path.relative_to(log) for path in sorted(log.rglob("*")) if path.is_file()]
    others = [name for name in names if name.parts[0] != "files" and str(name) != "index/data.mdb"]
    assert {"recent", "upkeep", "jobs", "index"} <= {name.parts[0] for name in others}
    copy = log.with_name("copy")
    for name in others:
        shutil.copytree(log, copy, ignore=shutil.ignore_patterns("wake"))
        (copy / name).unlink()
        caplog.clear()
        gone = name.parts[0] == "recent" and name.name == "data.mdb"
        # A backup begins with a flush.
        left = 2 if gone and not (log / "backup").exists() else 4
        told = [finding.what for finding in unsound(copy)]
        assert ["without waiting for the disk" in what for what in told] == [True] * gone
        with open_log(copy) as opened:
            assert rows_of(opened["t"]) == [(0, n, (n + 1,)) for n in range(left)], name
            assert opened["t"].append([{"n": 5}])[0][1] == left + 1
        assert [record.getMessage().count("lost") for record in caplog.records] == [1] * gone
        assert unsound(copy) == []
        shutil.rmtree(copy)


@pytest.mark.parametrize("log", [False], indirect=True)
def test_what_waited_for_the_disk_and_is_gone_is_nothing_to_repair(log: Path) -> None:
    [above] = (log / "recent").glob("*/data.mdb")
    above.unlink()
    assert not examine(log).sound
    assert repair(log).after.sound
    with open_log(log) as opened:
        assert len(rows_of(opened["t"])) == 2
