"""What docs/protocol.md says of the protocol, held against a server; its examples are a client without our code."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from pathlib import Path

import msgspec
import pytest

from mamba_stream.log.store import acquire
from mamba_stream.server.actions import ACTIONS
from mamba_stream.server.service import FlightService

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
MARK = "<!-- actions -->\n"


def _fields(kind: type) -> str:
    if not issubclass(kind, msgspec.Struct):
        return ""
    fields = msgspec.structs.fields(kind)
    return ", ".join(f"`{one.name}`" if one.required else f"`{one.name}`?" for one in fields) or "none"


def table() -> str:
    """The table of actions, as the page has it."""
    lines = ["| action | fields (`?`: may be left out) | result |", "|---|---|---|"]
    lines += [f"| `{one.name}` | {_fields(one.request)} | {one.words} |" for one in ACTIONS.values()]
    return "\n".join(lines) + "\n"


def test_the_page_has_every_action():
    assert MARK + "\n" + table() in PAGE.read_text(), f"put this table behind {MARK}:\n{table()}"


def test_the_examples_run_with_nothing_of_ours(tmp_path: Path):
    store = acquire(tmp_path / "log")
    service = FlightService(store, identity=store.meta.uuid)
    blocks = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    code = "\n".join(blocks).replace("localhost:9092", f"localhost:{service.port}")
    assert "mamba" not in code
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        service.shutdown()
        store.release()
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert "[[b'trades']]" in said
    assert "{'lsn': 2, 'offsets': [{1: [0, 2]}]}" in said
    assert [line for line in said if line.startswith("partition")]
    assert said[-1] == "TopicNotFound no topic has the number 999: it was deleted"


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_an_action_says_what_it_needs(action: typing.Any):
    assert callable(action.needs)
    assert action.words
