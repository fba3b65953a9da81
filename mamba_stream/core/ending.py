"""What is done as a process ends, however it was begun."""

from __future__ import annotations

import sys
from collections.abc import Callable


def at_end_of_child(owner: object, finish: Callable[[], object], priority: int) -> Callable[[], object]:
    """Has it done at the end of a child of multiprocessing, which ends without what atexit was told.

    Args:
        owner: Whose end it is.
        finish: What is done.
        priority: What has a higher one is done before.

    Returns:
        What calls it off.
    """
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        return Finalize(owner, finish, exitpriority=priority).cancel
    return lambda: None
