"""``mamba-stream doctor``: checks a whole log and says what it found."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mamba_stream.cli import FAILED
from mamba_stream.cli.options import output_option

if TYPE_CHECKING:
    from mamba_stream.log.doctor import Finding


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@output_option
def doctor(directory: Path, output: str) -> int:
    """Check the log in DIRECTORY: every checksum, and the index against the files.

    Changes nothing, and may run beside writers. Exits with 1 if anything is damaged or lost.
    """
    from mamba_stream.cli.printing import encode
    from mamba_stream.log.doctor import examine

    report = examine(directory)
    if output == "json":
        found = [asdict(finding) for finding in report.findings]
        click.echo(encode({"sound": report.sound, "counts": report.counts, "findings": found}))
    else:
        for finding in report.findings:
            click.echo(f"{finding.severity}: {_where(finding)}{finding.what}")
        looked = ", ".join(f"{count:,} {what}" for what, count in report.counts.items())
        click.echo(f"{'sound' if report.sound else 'NOT SOUND'}: {report.path} ({looked})")
        if not report.structure:
            click.echo("the pages of the index were not walked: that needs lmdb 3 or later")
    return 0 if report.sound else FAILED


def _where(finding: Finding) -> str:
    if finding.topic is None:
        return ""
    where = f"topic {finding.topic}"
    if finding.partition is not None:
        where += f", partition {finding.partition}"
    if finding.offset is not None:
        where += f", offset {finding.offset}"
        where += "" if finding.next_offset is None else f" to {finding.next_offset - 1}"
    return f"{where}: "
