"""The memory of a whole job, all its processes together, where its sink takes a hundredth of what its source gives."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import polars as pl

import mamba_stream as mamba
from tests.runtime.workers.slow_sink import Slow
from tests.server.running import alive, children, until

MEMORY = 128 << 20
ROWS, WIDTH, BATCH = 200_000, 1_000, 3_000
TAKEN = 15_000
"""So many rows are taken while it is watched: the source could have given all that there are meanwhile, several times."""


def test_a_sink_that_takes_a_hundredth_of_what_the_source_gives_keeps_the_job_within_its_memory(
    tmp_path, environment
):
    taken = tmp_path / "taken"
    taken.touch()
    with mamba.open(tmp_path / "log") as log:
        topic = log.create_topic("in", {"number": pl.Int64, "text": pl.String}, partitions=2)
        for number in range(10):
            topic.append(rows(number), partition=number % 2)
        rate = speed(log, tmp_path / "fast")
        command = [sys.executable, "-m", "tests.runtime.workers.slow_sink"]
        arguments = [str(tmp_path / "log"), str(rate / 100), f"{MEMORY >> 20}MB", str(taken)]
        # Of a job that is killed, the others end by themselves.
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout.readline() == "ready\n"
            everybody = [process.pid, *children(process.pid)]
            assert len(everybody) == 3
            idle, most = sum(map(resident, everybody)), 0
            # All at once: nothing but the job itself holds up its source.
            with log.transaction() as tx:
                for number in range(10, ROWS // BATCH):
                    tx.append("in", rows(number), partition=number % 2)
            enough = taken.stat().st_size + TAKEN
            while taken.stat().st_size < enough:
                everybody = [process.pid, *children(process.pid)]
                most = max(most, sum(map(resident, everybody)))
                read = sum(log.group_offsets("job.job").values())
                # What was read and not given away lies between the stages, which is bounded as well.
                assert (read - taken.stat().st_size) * WIDTH < MEMORY
                assert process.poll() is None
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        until(lambda: not any(map(alive, everybody)))
    assert read < ROWS
    print(f"{(most - idle) >> 20} MB, the sink took {rate / 100 / 1e6:.1f} MB/s")
    assert most - idle < MEMORY


def rows(number: int) -> pl.DataFrame:
    numbers = pl.int_range(number * BATCH, (number + 1) * BATCH, eager=True)
    return pl.DataFrame({"number": numbers, "text": numbers.cast(pl.String) + "x" * (WIDTH - 16)})


def speed(log: mamba.Log, taken: Path) -> float:
    """How many bytes a second of a processor's time a job takes whose sink holds up nothing."""
    pipeline = mamba.pipeline("fast", mamba.stream("in").to(Slow(math.inf, str(taken))))
    begun = time.process_time()
    summary = mamba.run(pipeline, log=log, until="now")
    return summary.rows_in * WIDTH / (time.process_time() - begun)


def resident(pid: int) -> int:
    """What lies in memory for a process, in bytes, but for pages of files, which the system takes back as it likes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        # Another one has followed it.
        return 0
    told = dict(line.split()[:2] for line in lines)
    return (int(told["Pss_Anon:"]) + int(told["Pss_Shmem:"])) << 10
