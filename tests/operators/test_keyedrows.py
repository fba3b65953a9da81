"""Rows by key are a list, whatever is added, matched, overwritten, removed, expired, saved and restored in between."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mamba_stream.errors import InvalidInput, SchemaMismatch
from mamba_stream.operators.blocks import Blocks
from mamba_stream.operators.keycodes import Coding
from mamba_stream.operators.keyed import TOUCHED
from mamba_stream.operators.keyedrows import ROW, KeyedRows
from mamba_stream.operators.keyindex import KeyIndex
from mamba_stream.operators.places import Marks
from tests.sizes import examples

KEYS = {"k": pl.String()}
VALUES = {"n": pl.Int64(), "word": pl.String()}
POOL = ["a", "b", "a rather long key, not inlined", None]


class RowsMachine(RuleBasedStateMachine):
    """Beside a list of (key, n, word, time) that no two rows are equal in."""

    timed = True
    weak = False

    def __init__(self) -> None:
        super().__init__()
        self.state = self.made()
        self.model: list[tuple] = []
        self.saved: list[tuple[str, pl.DataFrame]] = []
        self.durable: list[tuple] = []
        self.made_rows = 0

    def made(self) -> KeyedRows:
        one = Coding(
            lambda keys: np.zeros(keys.height, np.uint64), lambda codes: np.ones(len(codes), np.bool_)
        )
        return KeyedRows(KEYS, VALUES, timed=self.timed, index=KeyIndex(KEYS, one) if self.weak else None)

    @rule(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=12))
    def add(self, rows):
        added = []
        for key, when in rows:
            self.made_rows += 1
            word = None if self.made_rows % 5 == 0 else f"the word of row number {self.made_rows}"
            added.append((POOL[key], self.made_rows, word, when))
        keys = pl.DataFrame({"k": [row[0] for row in added]}, schema=KEYS)
        values = pl.DataFrame([row[1:3] for row in added], schema=VALUES, orient="row")
        times = np.array([row[3] for row in added], np.int64)
        ids = self.state.add(keys, values, times if self.timed else None)
        assert self.state.get(ids).equals(values)
        assert self.state.keys_of(ids).equals(keys)
        self.model += added

    @rule(picks=st.lists(st.integers(0, 3), max_size=5))
    def match(self, picks):
        probe = pl.DataFrame({"k": [POOL[n] for n in picks]}, schema=KEYS)
        found = self.state.matching(probe)
        expected = [(i, *row[1:3]) for i, n in enumerate(picks) for row in self.model if row[0] == POOL[n]]
        rows = self.state.get(found.ids).rows()
        assert [(i, *row) for i, row in zip(found.probe.tolist(), rows, strict=True)] == expected

    def some(self, choice: int) -> tuple[np.ndarray, list[int]]:
        """Ids of some rows, and their numbers."""
        found = self.state.matching(pl.DataFrame({"k": POOL}, schema=KEYS)).ids
        ids = found[np.arange(len(found)) % (2 + choice % 4) == 0]
        return ids, self.state.get(ids).get_column("n").to_list()

    @rule(choice=st.integers(0, 3))
    def remove(self, choice):
        ids, gone = self.some(choice)
        self.state.remove(ids)
        self.model = [row for row in self.model if row[1] not in gone]

    @rule(choice=st.integers(0, 3), word=st.sampled_from(["new", None]))
    def update(self, choice, word):
        ids, chosen = self.some(choice)
        self.state.update(ids, pl.DataFrame({"n": chosen, "word": [word] * len(ids)}, schema=VALUES))
        self.model = [(*row[:2], word, row[3]) if row[1] in chosen else row for row in self.model]

    @rule(before=st.integers(0, 32))
    def expire(self, before):
        if not self.timed:
            return
        gone = [row for row in self.model if row[3] < before]
        assert self.state.expire(before).rows() == sorted(gone, key=lambda row: row[3])
        self.model = [row for row in self.model if row[3] >= before]

    @rule()
    def delta(self):
        self.saved += self.state.delta().items()
        self.durable = list(self.model)
        assert not self.state.delta()

    @rule()
    def snapshot(self):
        self.saved = list(self.state.snapshot().items())
        self.durable = list(self.model)
        assert not self.state.delta()

    @rule()
    def crash(self):
        self.state = self.made()
        for part, frame in self.saved:
            self.state.restore(part, frame)
        assert not self.state.delta()
        self.model = list(self.durable)

    @invariant()
    def is_the_list(self):
        assert self.state.rows == len(self.model)
        assert self.state.keys == len({row[0] for row in self.model})
        assert self.state.frame().rows() == [row[:3] for row in self.model]


RowsMachine.TestCase.settings = settings(max_examples=examples(40), stateful_step_count=30, deadline=None)
TestRows = RowsMachine.TestCase


class CollidingRows(RowsMachine):
    timed, weak = False, True


CollidingRows.TestCase.settings = settings(max_examples=examples(20), stateful_step_count=20, deadline=None)
TestCollidingRows = CollidingRows.TestCase


def test_blocks_move_and_close_holes_without_losing_an_id():
    """Enough of everything that blocks move, are swept and moved together."""
    random = np.random.default_rng(7)
    blocks, marks, truth, slot_of = Blocks(), Marks(), {}, {}
    number = 0
    for _ in range(300):
        slots = random.integers(0, 200, random.integers(1, 300)) ** 2 // 200
        ids = np.arange(number, number + len(slots))
        number += len(slots)
        marks.put(ids)
        blocks.add(slots, ids)
        for slot, row in zip(slots.tolist(), ids.tolist(), strict=True):
            truth.setdefault(slot, []).append(row)
            slot_of[row] = slot
        gone = random.choice(list(slot_of), min(len(slot_of), int(random.integers(1, 290))), replace=False)
        marks.drop(gone)
        _, empty = blocks.drop(np.array([slot_of.pop(row) for row in gone.tolist()]), marks)
        left = set(slot_of)
        truth = {slot: [row for row in rows if row in left] for slot, rows in truth.items()}
        assert set(empty.tolist()) <= {slot for slot, rows in truth.items() if not rows}
        every = np.array(sorted(truth))
        of, found = blocks.of(every)
        lives = marks.lives(found)
        assert found[lives].tolist() == [row for slot in every.tolist() for row in truth[slot]]
        assert of[lives].tolist() == [at for at, slot in enumerate(every.tolist()) for _ in truth[slot]]
    assert blocks.bytes < 12 * (len(slot_of) + 4_096)


def test_memory_does_not_grow_with_rows_that_came_and_went():
    state = KeyedRows(KEYS, VALUES, timed=True)
    sizes = []
    for now in range(60):
        keys = pl.select(pl.format("user {}", pl.int_range(1_000) % 37).alias("k"))
        values = pl.select(
            pl.int_range(1_000).alias("n"), pl.format("a long word of time {}", now).alias("word")
        )
        state.add(keys, values.select("n", pl.col("word")), np.full(1_000, now))
        state.expire(now - 5)
        sizes.append(state.bytes)
    assert state.rows == 6_000
    assert max(sizes[10:]) < 2 * sizes[9]


def test_a_row_that_comes_and_goes_between_two_commits_is_not_written():
    state = KeyedRows(KEYS, VALUES)
    keys = pl.DataFrame({"k": ["a", "b"]})
    ids = state.add(keys, pl.DataFrame({"n": [1, 2], "word": ["x", "y"]}))
    state.remove(ids[:1])
    assert {part: frame.height for part, frame in state.delta().items()} == {"rows": 1}


def test_wrong_columns_are_refused_with_what_is_right():
    state = KeyedRows(KEYS, VALUES)
    with pytest.raises(SchemaMismatch, match="2 rows came with 1 keys"):
        state.add(pl.DataFrame({"k": ["a"]}), pl.DataFrame({"n": [1, 2], "word": ["x", "y"]}))
    with pytest.raises(InvalidInput, match="own"):
        KeyedRows({"k": pl.Int64()}, {ROW: pl.Int64()})
    with pytest.raises(InvalidInput, match="own"):
        KeyedRows({TOUCHED: pl.Int64()}, {})
    assert state.rows == 0
