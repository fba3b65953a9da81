"""A process that commits without touching the index: another one, at the end of a socket, writes it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest

from mamba_stream.errors import CommitUnknown, DiskFull, LogFailed, PreconditionFailed, TopicEnded
from mamba_stream.log import Log, Topic
from mamba_stream.log.registry import Registry
from tests import forking
from tests.log.pictures import picture

pytestmark = pytest.mark.embedded

_COMMITS = """
import json, socket, sys
from pathlib import Path
from mamba_stream.log import Log
from mamba_stream.log.registering import SocketRegistrar
from mamba_stream.log.store import acquire

place, fd = Path(sys.argv[1]), int(sys.argv[2])
through = SocketRegistrar(socket.socket(fileno=fd), place / "files")
log = Log(acquire(place, through=through))
print("ready", flush=True)
for line in sys.stdin:
    try:
        answer = eval(line)
    except Exception as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer, default=str), flush=True)
"""


class _Apart:
    """A process that has the log open, but not its index."""

    def __init__(self, process: forking.Process) -> None:
        self.process = process

    def does(self, expression: str) -> object:
        """The value of an expression over ``log`` there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def _apart(log: Log) -> Iterator[_Apart]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = forking.Process(
            [sys.executable, "-c", _COMMITS, str(log.path), str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[theirs.fileno()],
        )
    registry = Registry(log._store, ours)
    registry.start()
    try:
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield _Apart(process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
    finally:
        process.kill()
    registry.join(30)
    assert not registry.is_alive()


def _numbers(topic: Topic) -> list[int]:
    return [n for batch in topic.read() for n in batch.data.column("n").to_pylist()]


def test_rows_of_both_processes_are_in_the_log(log: Log, plain: Topic):
    with _apart(log) as apart:
        assert apart.does("log['plain'].append([{'n': 1}])") == {"0": [0, 1]}
        plain.append([{"n": 2}])
        assert apart.does("log['plain'].append([{'n': n} for n in range(3, 6)])") == {"0": [2, 5]}
        assert _numbers(plain) == [1, 2, 3, 4, 5]
        assert apart.does("[n for b in log['plain'].read() for n in b.data['n'].to_pylist()]") == [
            1,
            2,
            3,
            4,
            5,
        ]


def test_all_that_a_change_set_holds_is_applied(log: Log):
    with _apart(log) as apart:
        apart.does("log.create_topic('made', {'n': __import__('polars').Int64}, partitions=2) and None")
        script = (
            "(lambda tx: [tx.append('made', [{'n': 7}], partition=1), tx.commit_offsets('g', {('made', 1): 1}),"
            " tx.put_record('space', 'key', b'value'), tx.commit(), tx.lsn][-1])(log.transaction())"
        )
        assert isinstance(apart.does(script), int)
        assert log["made"].offsets() == {0: (0, 0), 1: (0, 1)}
        assert log.group_offsets("g") == {("made", 1): 1}
        assert log.record("space", "key") == b"value"
        apart.does("log['made'].end()")
        with pytest.raises(TopicEnded):
            log["made"].append([{"n": 8}])
        apart.does("log.delete_topic('made')")
        assert "made" not in log


def test_what_is_refused_there_is_refused_here(log: Log, plain: Topic, unchanged: None):
    with _apart(log) as apart:
        kind, message = apart.does("log['plain'].append([{'n': 1}], expect={0: 9})")  # type: ignore[misc]
    with pytest.raises(PreconditionFailed) as here:
        plain.append([{"n": 1}], expect={0: 9})
    assert (kind, message) == ("PreconditionFailed", str(here.value))


def test_a_killed_process_leaves_its_file_to_the_next(log: Log, plain: Topic):
    with _apart(log) as apart:
        apart.does("log['plain'].append([{'n': 1}])")
        apart.process.kill()
    with _apart(log) as apart:
        assert apart.does("log['plain'].append([{'n': 2}])") == {"0": [1, 2]}
    assert _numbers(plain) == [1, 2]
    assert log.seal() >= 1
    assert _numbers(plain) == [1, 2]


def test_sealing_is_done_by_who_writes_the_index(log: Log, plain: Topic):
    plain.append([{"n": 1}])
    with _apart(log) as apart:
        apart.does("log['plain'].append([{'n': 2}])")
        assert apart.does("log.seal()") == 2
        assert apart.does("[n for b in log['plain'].read() for n in b.data['n'].to_pylist()]") == [1, 2]


def test_commits_go_on_while_files_are_sealed(log: Log, plain: Topic):
    """A seal of many files takes minutes; here it takes until commits have gone by."""
    store: Any = log._shared
    began, go, seal = threading.Event(), threading.Event(), store.seal

    def slow() -> int:
        began.set()
        assert go.wait(60)
        sealed: int = seal()
        return sealed

    store.seal = slow
    plain.append([{"n": 1}])
    with _apart(log) as apart:
        pool = "__import__('concurrent.futures').futures.ThreadPoolExecutor(2)"
        apart.does(
            f"[setattr(log, 'sealing', [p.submit(log.seal) for p in [{pool}] for _ in range(2)]), 0][1]"
        )
        assert began.wait(60)
        assert apart.does("log['plain'].append([{'n': 2}])") == {"0": [1, 2]}
        assert apart.does("log['plain'].append([{'n': 3}])") == {"0": [2, 3]}
        assert apart.does("[each.done() for each in log.sealing]") == [False, False]
        go.set()
        sealed = apart.does("[each.result() for each in log.sealing]")
        # Whichever began first took what there was.
        assert isinstance(sealed, list)
        assert sum(sealed) >= 1
        store.seal = seal
        assert apart.does("[n for b in log['plain'].read() for n in b.data['n'].to_pylist()]") == [1, 2, 3]


def test_what_a_seal_raises_is_raised_there(log: Log, plain: Topic):
    store: Any = log._shared

    def full() -> int:
        raise DiskFull("no space left; what was not sealed stays as it is")

    store.seal = full
    with _apart(log) as apart:
        assert apart.does("log.seal()") == ["DiskFull", "no space left; what was not sealed stays as it is"]
        assert apart.does("log['plain'].append([{'n': 2}])") == {"0": [0, 1]}


def test_many_threads_there_share_commits(log: Log, plain: Topic):
    script = (
        "(lambda pool: [list(pool.map(lambda n: log['plain'].append([{'n': n}]), range(400))),"
        " log.statistics().commits][1])(__import__('concurrent.futures').futures.ThreadPoolExecutor(8))"
    )
    with _apart(log) as apart:
        commits = apart.does(script)
    assert sorted(_numbers(plain)) == list(range(400))
    assert isinstance(commits, int)
    assert commits <= 400


def test_without_the_owner_nothing_is_committed_and_that_is_said(log: Log, plain: Topic):
    from mamba_stream.core.changes import ChangeSet
    from mamba_stream.log.registering import SocketRegistrar

    ours, theirs = socket.socketpair()
    through = SocketRegistrar(theirs, log.path / "files")
    threading.Timer(0.05, ours.close).start()
    with pytest.raises(CommitUnknown, match="went away"):
        through.apply([ChangeSet()], 0)
    with pytest.raises(LogFailed, match="open the log again"):
        through.check()
    through.close()


def test_the_log_grows_under_a_process_that_only_reads_its_index(log: Log):
    with _apart(log) as apart:
        apart.does("log.topics()")
        frame = pl.DataFrame({"n": range(10)})
        for number in range(30):
            log.create_topic(f"t{number}", frame.schema).append(frame)
        assert len(apart.does("log.topics()")) == 30  # type: ignore[arg-type]
        before = picture(log)
        assert apart.does("len(list(log['t29'].read()))") == 1
        assert picture(log) == before
