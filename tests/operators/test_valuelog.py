"""Values at places are those that were put there last, however many frames they lie in."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from mamba_stream.operators import valuelog
from mamba_stream.operators.valuelog import ValueLog
from tests.sizes import examples

SCHEMA = {"word": pl.String(), "words": pl.List(pl.String())}


@pytest.mark.parametrize(("small", "large", "many"), [(4, 8, 3), (4_096, 8_192, 64), (1, 1, 1_000)])
@settings(deadline=None, max_examples=examples(60))
@given(
    puts=st.lists(
        st.lists(st.integers(0, 40), min_size=1, max_size=20, unique=True), min_size=1, max_size=40
    ),
    forgets=st.lists(st.integers(0, 40), unique=True),
    seed=st.integers(0, 2**16),
)
def test_what_is_read_is_what_was_put_there_last(small, large, many, puts, forgets, seed):
    random = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_SMALL", small), ("_LARGE", large), ("_MANY", many)):
            patch.setattr(valuelog, name, value)
        log, known = ValueLog(SCHEMA), {}
        for number, places in enumerate(puts):
            words = [f"{number} at {place}, rather long" if place % 3 else None for place in places]
            # A slice of something larger, as rows of a batch are.
            whole = pl.DataFrame({"word": ["", *words, "x"], "words": [[], *([w, ""] for w in words), None]})
            log.put(np.array(places), max(places) + 1, whole.slice(1, len(words)))
            known.update(zip(places, words, strict=True))
            if number % 5 == 4:
                gone = [place for place in forgets if place in known]
                log.forget(np.array(gone, np.int64))
                known = {place: word for place, word in known.items() if place not in gone}
            if known:
                asked = random.choice([*known], int(random.integers(1, 12)))
                there = random.random(len(asked)) < 0.8
                found = log.take(asked, None if number % 2 else there)
                expected = [known[p] if number % 2 or t else None for p, t in zip(asked, there, strict=True)]
                assert found["word"].to_list() == expected
                nested = log.take(asked, None, ["words"])["words"].to_list()
                assert nested == [[known[place], ""] for place in asked]
        assert log.bytes > 0
