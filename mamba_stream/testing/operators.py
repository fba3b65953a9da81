"""The contract of a step: however its rows are cut, wherever it is saved and restored, it gives the same.

A test class inherits :class:`StepContract`, says what the step is and which rows it may get, and has the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest

from mamba_stream.dsl.streams import Stream
from mamba_stream.testing.equivalence import assert_equivalent


class StepContract:
    """Inherit, and give :meth:`stream` and :attr:`data`.

    Attributes:
        data: Cases: each the rows of every topic that the step reads, by partition, as :func:`assert_equivalent` takes
            them. Have ties, nulls, disorder, late rows and rows of a single key among them.
        time: The time column of the topics.
        topics: How to create the topics, where that matters.
    """

    data: Sequence[Mapping[str, Any]] = ()
    time: str | None = "ts"
    topics: Mapping[str, Mapping[str, Any]] = {}
    runs = 12

    def stream(self) -> Stream:
        """The step under test, over streams of the topics that :attr:`data` names."""
        raise NotImplementedError

    def expected(self, data: Mapping[str, Any]) -> pl.DataFrame | None:
        """The rows that must come out, found in another way; ``None`` compares runs with each other only."""
        return None

    def test_the_contract_has_cases(self) -> None:
        """A contract over nothing would hold for everything."""
        assert self.data, "give data = [...]: the rows to try"

    def test_any_cut_and_any_crash_gives_the_same(self) -> None:
        """However rows are cut, and wherever the step is dropped and restored."""
        for number, data in enumerate(self.data):
            same = assert_equivalent(
                self.stream(), data, time=self.time, topics=self.topics, runs=self.runs, seed=number
            )
            expected = self.expected(data)
            if expected is not None:
                from polars.testing import assert_frame_equal

                assert_frame_equal(
                    same.played.table(), expected, check_row_order=False, rel_tol=1e-9, abs_tol=1e-9
                )

    def test_it_can_be_explained(self) -> None:
        """The plan has words for it."""
        assert self.stream().explain()

    def test_two_of_one_name_are_refused(self) -> None:
        """State is kept under a step's name, so that no two may share one."""
        import mamba_stream as mamba

        with pytest.raises(mamba.PipelineRefused, match="two steps are called"):
            mamba.pipeline("twice", self.stream().to("one"), self.stream().to("other"))
