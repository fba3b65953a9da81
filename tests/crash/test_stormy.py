"""The checker of storms finds each thing that may be wrong with a log, and with what a follower saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mamba_stream.log import Log, open_log
from tests.crash.journal import Journal, Tail
from tests.crash.storm import Follower, create, perform
from tests.crash.stormy import Deed, Seen, Sky, held


@pytest.fixture
def calm(tmp_path: Path) -> Iterator[tuple[Sky, Log]]:
    """What a writer did in peace, and the log, compacted, but for the last few operations."""
    sky, journal = Sky(7), Journal(tmp_path / "journal", 0)
    with open_log(tmp_path / "log") as log:
        create(log)
        for number in range(30):
            if number == 20:
                log.maintain()
            journal.write(k="try", n=number)
            perform(log, journal, 7, 0, number)
        sky.take(Tail(tmp_path / "journal").events())
        yield sky, log


def _again(log: Log, topic: str) -> None:
    """Appends a topic's first row once more."""
    partition, rows = next((p, rows) for (name, p), rows in held(log).items() if name == topic and rows)
    row: dict[str, Any] = dict(zip(log[topic].schema.names, rows[min(rows)], strict=True))
    log[topic].append([row], partition=partition)


WRONGS: dict[str, tuple[Callable[[Log], object], str]] = {
    "a row is there twice": (lambda log: _again(log, "plain"), "is not what was appended there"),
    "an earlier row of a key comes again": (lambda log: _again(log, "latest"), "is not what was appended"),
    "rows are lost at the beginning": (lambda log: log["plain"].trim({0: 1}), "plain begins at"),
    "the latest of a key is lost": (
        lambda log: log["latest"].trim({p: end for p, (_, end) in log["latest"].offsets().items()}),
        "is lost",
    ),
    "a row of nobody": (
        lambda log: log["short"].append([{"w": 5, "n": 5, "i": 0, "text": ""}]),
        "is not what was",
    ),
}


@pytest.mark.parametrize("what", WRONGS)
def test_the_checker_finds_what_is_wrong(calm: tuple[Sky, Log], what: str) -> None:
    sky, log = calm
    spoil, words = WRONGS[what]
    path = log.path
    spoil(log)
    log.close()
    assert words in " ".join(sky.wrong(path))


def test_the_checker_finds_what_is_missing_or_too_much(calm: tuple[Sky, Log]) -> None:
    sky, log = calm
    path = log.path
    lsns = [deed.lsn for deed in sky.deeds.values() if deed.lsn is not None]
    log.close()
    assert sky.wrong(path) == []
    assert "came at" in " ".join(sky.wrong(path, max(lsns) - 3))
    sky.deeds[0, 30] = Deed(max(lsns) + 1, {("plain", 0): (10_000, 10_001), ("latest", 0): (10_000, 10_001)})
    assert "0 of" in " ".join(sky.wrong(path))


def test_the_checker_finds_a_follower_that_saw_something_else(calm: tuple[Sky, Log], tmp_path: Path) -> None:
    sky, log = calm
    follower = Follower(log, Journal(tmp_path / "seen", 0), Seen().positions)
    while follower.poll():
        pass
    events = Tail(tmp_path / "seen").events()
    whole = Seen()
    whole.take(events)
    assert whole.against(log, sky) == []
    missing, twice, other = Seen(), Seen(), Seen()
    at = next(number for number, event in enumerate(events) if event["t"] == "plain")
    missing.take([*events[:at], *events[at + 1 :]])
    twice.take([*events[: at + 1], events[at], *events[at + 1 :]])
    changed = {**events[at], "r": [[*events[at]["r"][0][:3], "?"], *events[at]["r"][1:]]}
    other.take([*events[:at], changed, *events[at + 1 :]])
    for seen in (missing, twice, other):
        assert seen.against(log, sky) != []
