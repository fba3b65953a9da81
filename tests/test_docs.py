"""The Python of the documents and the README runs as it stands there, block after block, in an empty directory."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mamba_stream.cli.bench import starting
from tests import forking

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_CODE = [path for path in DOCUMENTS if "```python\n" in path.read_text()]


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.stem)
def test_the_code_of_a_document_runs(document: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "document.py").write_text("\n".join(blocks))
    done = forking.run(
        [sys.executable, "-W", "error", "document.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_benchmark_measures_the_quick_start_of_the_readme() -> None:
    [first, *_] = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert starting.quick_start() == first


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_links_of_a_document_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []
