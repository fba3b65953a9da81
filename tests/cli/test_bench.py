"""The benchmarks of the command run: what they measure is for a quiet machine."""

from __future__ import annotations

from pathlib import Path

from mamba_stream.cli.bench import pipeline


def test_the_benchmark_of_a_pipeline_gives_its_figures_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    pipeline.main(tmp_path, rows=20_000)
    shown = capsys.readouterr().out
    assert "A pipeline over 20,000 rows" in shown
    assert shown.count("target") == 2
    assert not list(tmp_path.iterdir())
