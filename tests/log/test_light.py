"""Who opens a log, writes, reads and runs a pipeline over it waits for nothing to be imported that is not needed."""

from __future__ import annotations

import subprocess
import sys

from tests.log.neighbour import importing

_SAID = "print(sorted({'pandas', 'pyarrow.compute'} & sys.modules.keys()))\n"


def test_what_everybody_does_imports_neither_pandas_nor_the_names_of_all_that_arrow_can_do(tmp_path):
    code = (
        "import sys, polars as pl\n"
        "import mamba_stream as mamba\n"
        "rows = pl.DataFrame({'n': [1, 2], 'k': ['a', 'b']}).with_columns(at=pl.datetime(2024, 1, 1))\n"
        "with mamba.open(sys.argv[1]) as log:\n"
        "    topic = log.create_topic('rows', rows, key='k')\n"
        "    topic.append(rows)\n"
        "    assert topic.scan().collect().height == 2\n"
        "    totals = mamba.stream('rows', time='at').window(mamba.tumbling('1m'), by='k').agg(n=pl.sum('n'))\n"
        "    for _ in range(2):\n"
        "        mamba.run(mamba.pipeline('totals', totals.to('totals')), log=log, until='now')\n"
        f"{_SAID}"
        "import pandas\n"
        f"{_SAID}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "log"],
        env=importing(*sys.path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["[]", "['pandas', 'pyarrow.compute']"]
