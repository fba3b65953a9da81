"""The plugin costs a test run nothing until a fixture is asked for."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_plugin_imports_no_engine():
    code = "import sys, mamba_stream.testing.plugin as _; print([m for m in ('polars', 'pyarrow', 'lmdb') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_the_testing_package_knows_its_names():
    from mamba_stream import testing

    assert all(hasattr(testing, name) for name in testing.__all__)
    assert dir(testing) == sorted(testing.__all__)
