"""What is recorded of a server's life."""

from __future__ import annotations

import logging

from mamba_stream.core.clock import SystemClock
from mamba_stream.server.events import Events, forwarded


def test_what_libraries_log_is_recorded_as_long_as_a_server_runs(capsys):
    logger = logging.getLogger("a library")
    mine = logging.NullHandler()
    logger.addHandler(mine)
    with forwarded(Events(SystemClock(), "json", "info"), "a library"):
        logger.warning("a %s one", "strange")
    assert '"message": "a strange one"' in capsys.readouterr().err
    logger.warning("nobody serves any more")
    assert capsys.readouterr().err == ""
    assert logger.handlers == [mine]
