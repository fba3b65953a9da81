"""The checker itself: what it must accept though it looks odd, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crash.checker import Fate, History, Place, Sight, violations
from tests.crash.workload import Operation, Part, inner, own, rows_of

SEED = 7
PARTS = (Part(0, "shared", 0, 3), Part(1, own(1), 0, 4), Part(2, inner(1), 0, 2))


def unanswered(*parts: Part) -> History:
    """A transaction whose writer was killed before it heard of its commit."""
    operation = Operation(1, 5, "transaction", parts)
    history = History(SEED)
    history.fates[1, 5] = Fate(operation, {"offsets": []})
    return history


def sight(found: dict[Place, tuple[int, list[tuple[Any, ...]]]], record: bytes | None = b"5") -> Sight:
    """What a reader sees: by place, where it begins and the rows from there."""
    seen = Sight()
    for place, (begin, rows) in found.items():
        seen.rows[place] = list(enumerate(rows, begin))
        seen.begins[place], seen.ends[place] = begin, begin + len(rows)
    seen.records = {} if record is None else {"1": record}
    seen.groups = {"group-1": {}}
    return seen


def rows(part: Part) -> list[tuple[Any, ...]]:
    return list(rows_of(SEED, 1, 5, part.index, part.rows))


SHARED = ("shared", 0)
OWN, INNER = (own(1), 0), (inner(1), 0)


def trimmed_to(history: History, begins: dict[Place, int]) -> History:
    """A later trim, acknowledged, went so far."""
    trims = [[topic, p, begin] for (topic, p), begin in begins.items()]
    history.fates[1, 6] = Fate(Operation(1, 6, "trim", trims=True), {"trims": trims}, "acked", {}, 0)
    return history


def test_a_transaction_without_an_answer_may_be_there_whole_or_not_at_all() -> None:
    shared, of_its_own, inside = map(rows, PARTS)
    whole = {SHARED: (0, shared), OWN: (0, of_its_own), INNER: (0, inside)}
    assert violations(sight(whole), unanswered(*PARTS)) == []
    none: dict[Place, Any] = {SHARED: (0, []), OWN: (0, []), INNER: (0, [])}
    assert violations(sight(none, None), unanswered(*PARTS)) == []


@pytest.mark.parametrize("left", [0, 1, 3])
def test_rows_that_its_writer_trimmed_later_are_not_missed(left: int) -> None:
    shared, of_its_own, inside = map(rows, PARTS)
    begins = {OWN: 4 - left, INNER: 2}
    found = {SHARED: (0, shared), OWN: (4 - left, of_its_own[4 - left :]), INNER: (2, inside[2:])}
    assert violations(sight(found), trimmed_to(unanswered(*PARTS), begins)) == []


def test_a_transaction_whose_rows_were_all_trimmed_is_known_by_its_record() -> None:
    history = trimmed_to(unanswered(*PARTS[1:]), {OWN: 4, INNER: 2})
    assert violations(sight({SHARED: (0, []), OWN: (4, []), INNER: (2, [])}), history) == []


def test_rows_that_nobody_trimmed_are_missed() -> None:
    shared, of_its_own, inside = map(rows, PARTS)
    half = {SHARED: (0, shared), OWN: (0, []), INNER: (0, inside)}
    assert any("only in part" in wrong for wrong in violations(sight(half), unanswered(*PARTS)))
    # Trimmed were rows before these, so these ought to be there to their end.
    cut = {SHARED: (0, shared), OWN: (3, of_its_own[:2]), INNER: (0, inside)}
    history = trimmed_to(unanswered(*PARTS), {OWN: 3})
    assert any("only in part" in wrong for wrong in violations(sight(cut), history))


def test_rows_of_a_topic_that_is_never_trimmed_are_missed() -> None:
    _, of_its_own, inside = map(rows, PARTS)
    half = {SHARED: (3, []), OWN: (0, of_its_own), INNER: (0, inside)}
    assert any("only in part" in wrong for wrong in violations(sight(half), unanswered(*PARTS)))
    assert any("begin at" in wrong for wrong in violations(sight({OWN: (2, [])}, None), unanswered()))
