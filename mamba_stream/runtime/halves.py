"""The two halves of a step of a plan: what reduces rows where they are read, and what merges partial results."""

from __future__ import annotations

from typing import Protocol

import polars as pl

from mamba_stream.operators.halves import FirstHalf, SecondHalf
from mamba_stream.operators.running_halves import FirstOfTotals, SecondOfTotals
from mamba_stream.operators.step import StatefulStep
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.changelogs import Totals
from mamba_stream.plan.halves import Halved
from mamba_stream.plan.partials import ROWS
from mamba_stream.runtime.changelog_steps import totals_settings
from mamba_stream.runtime.window_steps import pane_settings


class Reducing(StatefulStep, Protocol):
    """A first half: it holds partial results until it is asked for them, and remembers nothing."""

    def take(self) -> pl.DataFrame | None:
        """The partial results of the rows that came since the last time; ``None`` where there are none."""
        ...


def first_half_of(node: Halved, analysis: Analysis) -> Reducing:
    """What reduces the rows of a step where they are read."""
    if isinstance(node, Totals):
        return FirstOfTotals(totals_settings(node, analysis))
    return FirstHalf(pane_settings(node, analysis))


def second_half_of(node: Halved, analysis: Analysis) -> StatefulStep:
    """What merges what ``first_half_of`` gives; its state is the whole step's."""
    if isinstance(node, Totals):
        return SecondOfTotals(totals_settings(node, analysis))
    return SecondHalf(pane_settings(node, analysis), ROWS)
