"""A server that is killed under load, and a network that breaks: what was acknowledged is there, once, and nothing else."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from mamba_stream.core.settings import Address
from mamba_stream.log import open_log
from mamba_stream.log.remote import committing
from mamba_stream.server.sockets import bind
from tests.server.lives import Lives
from tests.server.load import Load, client_of
from tests.server.proxy import Fault, Proxy, anything
from tests.server.running import Serving, until

FEW = [pytest.param(seed, 2, id=f"seed{seed}") for seed in (1,)]
MANY = [pytest.param(seed, 12, id=f"seed{seed}", marks=pytest.mark.slow) for seed in range(2, 6)]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a minute for an answer that does not come."""
    monkeypatch.setattr(committing, "DEADLINE", 5.0)


def _over(directory: Path, load: Load) -> None:
    """The log as its files have it, without any server."""
    with open_log(directory) as log:
        load.check(log)


@pytest.mark.parametrize(("seed", "kills"), FEW + MANY)
def test_a_server_that_is_killed_keeps_what_it_acknowledged(tmp_path: Path, seed: int, kills: int):
    chance = random.Random(seed)
    # Answers take a while, and are lost with the server: most commits that are under way have happened by then.
    slow = Fault(answers=0.05)
    with Lives(tmp_path / "log") as server, Proxy(server.port, lambda number: slow) as proxy:
        load = Load(f"localhost:{proxy.port}")
        with client_of(server.address) as log:
            load.create(log)
        load.start()
        for _ in range(kills):
            load.wait_for(chance.randrange(5, 60))
            time.sleep(chance.random() * 0.02)
            server.kill()
            proxy.break_all()
            server.begin()
        load.wait_for(20)
        with client_of(server.address) as log:
            load.finish(log)
    assert server.kills == kills
    _over(tmp_path / "log", load)


@pytest.mark.parametrize(("seed", "kills"), FEW + MANY)
def test_a_server_of_processes_keeps_what_it_acknowledged_whichever_of_them_is_killed(
    tmp_path: Path, environment: dict[str, str], seed: int, kills: int
):
    chance = random.Random(seed)
    # Nobody else gets the address between two lives.
    kept = bind(Address("localhost", 0), "listen", listening=False)
    address = f"localhost:{kept[0].getsockname()[1]}"
    serving = Serving(tmp_path / "log", environment, "--listen", address)
    try:
        load = Load(address)
        with client_of(address) as log:
            load.create(log)
        load.start()
        for number in range(kills):
            load.wait_for(chance.randrange(5, 60))
            time.sleep(chance.random() * 0.02)
            if number % 2:
                serving.end(signal.SIGKILL)
                serving.close()
                serving = Serving(tmp_path / "log", environment, "--listen", address)
            else:
                listener = serving.listener()
                os.kill(listener, signal.SIGKILL)
                until(lambda now=serving, gone=listener: now.listener() != gone, "the next listener")
        load.wait_for(20)
        with client_of(address) as log:
            load.finish(log)
    finally:
        serving.close()
        for each in kept:
            each.close()
    _over(tmp_path / "log", load)


@pytest.mark.parametrize(("seed", "faults"), FEW + MANY)
def test_a_network_that_breaks_loses_and_repeats_nothing(tmp_path: Path, seed: int, faults: int):
    with Lives(tmp_path / "log") as server, Proxy(server.port, anything(seed)) as proxy:
        load = Load(f"localhost:{proxy.port}")
        with client_of(server.address) as log:
            load.create(log)
        load.start()
        while proxy.faults < 4 * faults:
            before = proxy.faults
            load.wait_for(30)
            if proxy.faults == before:
                # All clients have come to lines that are left in peace.
                proxy.break_all()
        proxy.script = lambda number: Fault()
        proxy.stop()
        proxy.start()
        load.wait_for(20)
        with client_of(server.address) as log:
            load.finish(log)
    _over(tmp_path / "log", load)


@pytest.mark.parametrize(("seed", "kills"), MANY)
def test_a_server_that_is_killed_behind_a_network_that_breaks(tmp_path: Path, seed: int, kills: int):
    chance = random.Random(seed)
    with Lives(tmp_path / "log") as server, Proxy(server.port, anything(seed)) as proxy:
        load = Load(f"localhost:{proxy.port}")
        with client_of(server.address) as log:
            load.create(log)
        load.start()
        for _ in range(kills):
            load.wait_for(chance.randrange(5, 40))
            server.kill()
            server.begin()
        proxy.script = lambda number: Fault()
        proxy.break_all()
        load.wait_for(20)
        with client_of(server.address) as log:
            load.finish(log)
    _over(tmp_path / "log", load)
