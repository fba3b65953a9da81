"""``mamba-stream doctor``: checks a whole log, says what it found, and repairs it if it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mamba_stream.cli import FAILED
from mamba_stream.cli.options import output_option

if TYPE_CHECKING:
    from mamba_stream.log.doctor import Finding, Report


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--repair",
    is_flag=True,
    help="Put aside what is damaged, and make the log sound. Nobody may have it open.",
)
@output_option
def doctor(directory: Path, repair: bool, output: str) -> int:
    """Check the log in DIRECTORY: every checksum, and the index against the files.

    Without --repair it changes nothing, and may run beside writers. Exits with 1 if anything is damaged or lost.
    """
    from mamba_stream.cli.printing import encode
    from mamba_stream.log.doctor import examine

    if repair:
        return _repair(directory, output)
    report = examine(directory)
    if output == "json":
        click.echo(encode(_told(report)))
    else:
        _print(report)
    return 0 if report.sound else FAILED


def _repair(directory: Path, output: str) -> int:
    from mamba_stream.cli.printing import encode
    from mamba_stream.log.repair import repair

    done = repair(directory)
    if output == "json":
        told = {
            "before": _told(done.before),
            "after": _told(done.after),
            "changes": [asdict(change) for change in done.changes],
            "aside": None if done.aside is None else str(done.aside),
        }
        click.echo(encode(told))
    elif done.aside is None:
        _print(done.after)
        click.echo("nothing to repair")
    else:
        click.echo("found:")
        _print_findings(done.before.findings)
        click.echo("repaired:")
        _print_findings(done.changes)
        _print(done.after)
        click.echo(f"the old index, and files with damaged bytes, are in {done.aside}")
    return 0 if done.after.sound and not done.lost else FAILED


def _told(report: Report) -> dict[str, object]:
    found = [asdict(finding) for finding in report.findings]
    return {"sound": report.sound, "counts": report.counts, "findings": found}


def _print(report: Report) -> None:
    _print_findings(report.findings)
    looked = ", ".join(f"{count:,} {what}" for what, count in report.counts.items())
    click.echo(f"{'sound' if report.sound else 'NOT SOUND'}: {report.path} ({looked})")
    if not report.structure:
        click.echo("the pages of the index were not walked: that needs lmdb 3 or later, and an index")


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        click.echo(f"{finding.severity}: {_where(finding)}{finding.what}")


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
