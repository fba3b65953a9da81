"""A job that runs to the end of its topic under a tracer, which has one of its system calls fail.

``python -m tests.crash.failing_job LOG JOB``: stops itself once everything is imported, to be traced.
"""

from __future__ import annotations

import os
import signal
import sys

import mamba_stream as mamba
import mamba_stream.runtime.calling
import mamba_stream.runtime.coroutines
from tests.crash.pipeline_job import build


def main(log: str, job: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    mamba.start(build(job), log=log, commit="5ms").wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
