"""The pytest plugin: fixtures that import what they need when a test asks for them, and nothing before.

``mamba_log`` is an open log of the test's own, ``mamba_clock`` a clock that the test moves, which that log goes by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mamba_stream.dsl.opening import Log
    from mamba_stream.testing.clocks import Clock


@pytest.fixture
def mamba_clock() -> Clock:
    """A clock that stands still until ``mamba_clock.advance("30s")``."""
    from mamba_stream.testing.clocks import Clock

    return Clock()


@pytest.fixture
def mamba_log(mamba_clock: Clock) -> Iterator[Log]:
    """A log of this test's own, gone afterwards; it goes by ``mamba_clock``."""
    from mamba_stream.testing.playing import private_log

    with private_log(mamba_clock) as log:
        yield log
