"""A server looks at what is stored in the background, and tells of damage."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import polars as pl

from mamba_stream.core.clock import SystemClock
from mamba_stream.log import open_log
from mamba_stream.server.events import Events
from mamba_stream.server.scrubber import Scrubber


class Told(io.StringIO):
    """Takes events, and can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.some = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "damaged" in self.getvalue() and self.getvalue().endswith("\n"):
            self.some.set()
        return written


def test_what_is_damaged_is_told_and_counted(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        for name in ("a", "b"):
            log.create_topic(name, {"n": pl.Int64}).append([{"n": n} for n in range(100)])
        [file] = [path for path in (tmp_path / "log" / "files").iterdir() if path.stat().st_size]
        data = bytearray(file.read_bytes())
        data[600] ^= 1
        file.write_bytes(data)
        told = Told()
        scrubber = Scrubber(log, 1, Events(SystemClock(), "json", stream=told), every=0.001)
        scrubber.start()
        assert told.some.wait(30)
        scrubber.stop()
        [event, *_] = [json.loads(line) for line in told.getvalue().splitlines()]
        assert (event["event"], event["level"]) == ("stored bytes are damaged", "error")
        assert (event["topic"], event["partition"], event["offset"]) == ("a", 0, 0)
        assert scrubber.findings >= 1
        assert scrubber.bytes > 0
        assert log.statistics().scrub_findings == scrubber.findings
        scrubber.stop()
