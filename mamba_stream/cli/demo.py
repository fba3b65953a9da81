"""``mamba-stream demo``: finds the demo by its name, as any user's is found, and has it show itself."""

from __future__ import annotations

import click

from mamba_stream.cli.options import log_option


@click.command()
@click.argument("name", default="demo")
@click.option("--fresh", is_flag=True, help="Start over: delete the demo's topics and forget its jobs.")
@click.option(
    "--kill",
    "kills",
    type=click.IntRange(min=1, max=100),
    metavar="N",
    help="Start over, kill the worker process at N random moments, and compare the result with Polars.",
)
@click.option("--seed", type=int, help="With --kill: makes the random moments the same again.")
@log_option
def demo(name: str, fresh: bool, kills: int | None, seed: int | None, place: str | None) -> int:
    """Run a year of real flights through the log and a pipeline.

    Appends the 336,776 departures from New York's airports in 2013 to a topic, in the order in which they
    left, and computes departures and delays by hour, airport and airline. Run again, it resumes and adds
    nothing twice.

    With the name of another demo it runs that one: `mamba-stream demo nexmark` runs queries of the benchmark
    Nexmark over a million events of an auction.
    """
    from mamba_stream.cli.loading import load_module
    from mamba_stream.errors import NotFound

    module = load_module(name)
    if not hasattr(module, "show"):
        raise NotFound(f"{name!r} is a pipeline and no demo: run it with `mamba-stream run {name}`")
    code: int = module.show(place, fresh=fresh, kills=kills, seed=seed)
    return code
