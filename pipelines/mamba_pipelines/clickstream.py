"""Clicks on a shop's pages, made into visits: who came, what they looked at, whether they bought.

Clicks come a little out of order, and a few come hours late, from phones that were offline. A visit is what one user
does without a pause of half an hour. It is joined with what was known of the user when it ended, and counted by the
plan that the user had then.

:func:`feed` appends made-up users and clicks to topics, :func:`build` makes the pipeline over them, and
:func:`expected` computes the same without the engine.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

import mamba_stream as mamba

JOB = "clickstream"
USERS, CLICKS = "users", "clicks"
VISITS, PLANS, LATE = "visits", "visits_by_plan", "late_clicks"
LATENESS, PAUSE = "2m", "30m"

_SEED: Final = 20_260_301
_USERS, _UPGRADES, _VISITS, _DAYS = 3_000, 600, 12_000, 3
_DAY: Final = 86_400_000_000
_FIRST_DAY: Final = np.datetime64("2026-03-01", "us")
_PAGES = ("home", "list", "item", "cart", "paid")
_BATCH = 4_096

Ints = npt.NDArray[np.int64]


@cache
def users() -> pl.DataFrame:
    """What became known of users, in the order of time: ``since``, ``user``, ``country`` and ``plan``.

    Most signed up in the month before; some take another plan during the three days, and of one in fifty nothing is
    known.

    Example:
        >>> users().columns
        ['since', 'user', 'country', 'plan']
    """
    random = np.random.default_rng(_SEED)
    known = np.flatnonzero(random.random(_USERS) >= 0.02)
    who = np.concatenate([known, random.choice(known, _UPGRADES, replace=False)])
    since = random.integers(-30 * _DAY, 0, len(who))
    since[len(known) :] = random.integers(0, _DAYS * _DAY, _UPGRADES)
    plan = random.choice(["free", "basic", "pro"], len(who), p=[0.7, 0.2, 0.1])
    plan[len(known) :] = "pro"
    frame = pl.DataFrame(
        {
            "since": _FIRST_DAY + since.astype("timedelta64[us]"),
            "user": pl.Series([_user(number) for number in range(_USERS)]).gather(who),
            "country": random.choice(["BR", "DE", "FR", "IN", "US"], _USERS)[who],
            "plan": plan,
        }
    )
    return frame.sort("since")


@cache
def clicks() -> pl.DataFrame:
    """Three days of clicks in the order in which they arrive: ``at``, ``user`` and ``page``.

    Most arrive within seconds; one in five hundred comes up to four hours after it was made.

    Example:
        >>> clicks().columns
        ['at', 'user', 'page']
    """
    random = np.random.default_rng(_SEED + 1)
    lengths = random.geometric(0.16, _VISITS)
    visit = np.repeat(np.arange(_VISITS), lengths)
    # Some users come more often than others.
    user = (random.random(_VISITS) ** 2 * _USERS).astype(np.int64)
    begins = random.integers(0, _DAYS * _DAY, _VISITS)
    pauses = np.minimum(random.exponential(45e6, len(visit)), 1_500e6).astype(np.int64)
    # From click to click a visitor goes on to the next page, or looks at more of the same kind.
    further = random.random(len(visit)) < 0.3
    at = begins[visit] + _within(visit, pauses)
    page = np.minimum(_within(visit, further), len(_PAGES) - 1)
    delay = random.exponential(3e6, len(visit))
    delay[random.random(len(visit)) < 0.002] *= 3_000
    arrives = at + np.minimum(delay, 4 * 3_600e6).astype(np.int64)
    frame = pl.DataFrame(
        {
            "at": _FIRST_DAY + at.astype("timedelta64[us]"),
            "user": pl.Series([_user(number) for number in range(_USERS)]).gather(user[visit]),
            "page": pl.Series(_PAGES).gather(page),
        }
    )
    return frame[np.argsort(arrives, kind="stable")]


def build() -> mamba.Pipeline:
    """Visits with their users; a table of how the visits of each plan went; and clicks that came too late."""
    windows = (
        mamba.stream(CLICKS, time="at", lateness=LATENESS)
        .window(mamba.session(PAUSE), by="user")
        .agg(**_visit())
    )
    # As it was when the visit ended.
    known = mamba.stream(USERS, time="since").table("user")
    visits = windows.join(known, on="user", how="left")
    plans = visits.group_by("plan").agg(**_plan())
    return mamba.pipeline(JOB, visits.to(VISITS), plans.to(PLANS, key="plan"), windows.late.to(LATE))


def feed(log: mamba.Log) -> None:
    """Append users and clicks to their topics and end these. However often it is repeated, each row lands once."""
    for name, time, rows in ((USERS, "since", users()), (CLICKS, "at", clicks())):
        topic = log.create_topic(name, rows, time=time, exist_ok=True)
        if not topic.ended:
            for number, batch in enumerate(rows.iter_slices(_BATCH)):
                topic.append(batch, producer=JOB, sequence=number)
            topic.end()


def expected() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """What must come of the clicks, computed by Polars over all of them, row by row.

    A click is late when the watermark before it, the greatest ``at`` of all clicks before it less the lateness, has
    passed it by more than the pause.

    Returns:
        The visits, the table by plan, and the late clicks.
    """
    watermark = pl.col("at").cum_max().shift(1).dt.offset_by(f"-{LATENESS}")
    late = (pl.col("at").dt.offset_by(PAUSE) < watermark).fill_null(value=False)
    judged = clicks().with_columns(late=late)
    pause = pl.col("at") > pl.col("at").shift(1).over("user").dt.offset_by(PAUSE)
    visits = (
        judged.filter(~pl.col("late"))
        .sort("at", maintain_order=True)
        .with_columns(visit=pause.fill_null(value=True).cum_sum().over("user"))
        .group_by("user", "visit")
        .agg(window_start=pl.col("at").min(), window_end=pl.col("at").max().dt.offset_by(PAUSE), **_visit())
        .drop("visit")
        .with_columns(ended=pl.col("window_end") - pl.duration(microseconds=1))
        .sort("ended")
        .join_asof(
            users(), left_on="ended", right_on="since", by="user", coalesce=False, check_sortedness=False
        )
        .drop("ended")
    )
    return visits, visits.group_by("plan").agg(**_plan()), judged.filter("late").drop("late")


def _visit() -> dict[str, pl.Expr]:
    page = pl.col("page")
    return {
        "clicks": pl.len(),
        "kinds": page.n_unique(),
        "last_page": page.last(),
        "bought": (page == _PAGES[-1]).any(),
    }


def _plan() -> dict[str, pl.Expr]:
    return {
        "visits": pl.len(),
        "clicks": pl.col("clicks").sum(),
        "bought": pl.col("bought").sum(),
        "share": pl.col("bought").mean(),
    }


def _user(number: int) -> str:
    return f"u{number:04}"


def _within(visit: Ints, steps: npt.NDArray[Any]) -> Ints:
    """The running sum of each visit's steps, from 0 at its first click."""
    reached = np.cumsum(steps, dtype=np.int64)
    begins = np.flatnonzero(np.diff(visit, prepend=-1))
    within: Ints = reached - reached[begins][visit]
    return within
