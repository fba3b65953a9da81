"""Measuring as ratios: what is ours and its limit take turns in one run, so that a shared machine's drift cancels."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of a benchmark's table.

    Attributes:
        name: What was measured.
        ours: Our figure, in words with its unit.
        limit: What it is held against, in words with its unit.
        value: The number that the target is about: a ratio, unless ``unit`` says otherwise.
        target: What it has to be; ``None`` for what is only there to compare with.
        at_least: Whether the target is a floor; else it is a ceiling.
        unit: The unit of ``value`` and ``target``; empty for ratios.
        spread: Least and greatest value over the rounds.
    """

    name: str
    ours: str
    limit: str
    value: float
    target: float | None
    at_least: bool = True
    unit: str = ""
    spread: tuple[float, float] | None = None

    @property
    def held(self) -> bool:
        """Whether the target is met, if there is one."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True)
class Pair:
    """Rates (or times) of ours and of the limit, round by round."""

    ours: list[float]
    limit: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.limit, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.ratios), max(self.ratios)


def in_turns(ours: Callable[[], float], limit: Callable[[], float], rounds: int = 7) -> Pair:
    """Calls both once to warm up, then in turns; each returns its own rate or time."""
    limit()
    ours()
    found = Pair([], [])
    for number in range(rounds):
        # The order changes too: whoever goes second may find the disk busy with the first.
        for which, call in ((0, ours), (1, limit)) if number % 2 else ((1, limit), (0, ours)):
            (found.limit if which else found.ours).append(call())
    return found


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def per_second(call: Callable[[], object], times: int) -> float:
    """How many calls a second, over so many."""
    return times / seconds(lambda: [call() for _ in range(times)])


def middle(values: list[float]) -> float:
    return statistics.median(values)


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


def environment() -> dict[str, str]:
    """For processes of their own: they find what this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def show(title: str, figures: Iterator[Figure]) -> bool:
    """Prints the figures as they come; whether all targets are met."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{title}[/]")
    missed = 0
    for figure in figures:
        mark, wanted = "-", ""
        if figure.target is not None:
            mark = "[green]✓[/]" if figure.held else "[red]✗[/]"
            wanted = f", target {'≥' if figure.at_least else '≤'} {figure.target:g}{figure.unit}"
        spread = "" if figure.spread is None else f" ({figure.spread[0]:.2f} to {figure.spread[1]:.2f})"
        console.print(
            f" {mark} {figure.name}: [bold]{figure.value:.3g}{figure.unit}[/]{spread}{wanted}"
            f"\n      {figure.ours}; {figure.limit}",
            soft_wrap=True,
        )
        missed += not figure.held
    console.print("all targets met" if not missed else f"[red]{missed} missed[/]")
    return not missed
