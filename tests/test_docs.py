"""The documents' Python runs as it stands there, block after block, in an empty directory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
WITH_CODE = [path for path in sorted(DOCS.glob("*.md")) if "```python\n" in path.read_text()]


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.stem)
def test_the_code_of_a_document_runs(document, tmp_path, environment):
    blocks = re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "document.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-W", "error", "document.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
