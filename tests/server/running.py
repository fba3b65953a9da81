"""A server in processes of its own, as users start it, and what its clients and watchers see."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 60.0


class Serving:
    """``mamba-stream serve`` on free ports."""

    def __init__(
        self, place: Path, environment: dict[str, str], *arguments: object, cwd: Path | None = None
    ) -> None:
        self.place = place
        ports = ["--listen", "localhost:0", "--http", "localhost:0", "--health", "localhost:0"]
        given = [str(argument) for argument in arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mamba_stream.cli", "serve", "--log", str(place), *ports, *given],
            env=environment,
            cwd=cwd or place.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.line = self.process.stdout.readline().strip()
        found = re.fullmatch(r"serving (\S+) at (\S+) \(http (\S+), health (\S+)\)", self.line)
        assert found, (self.line, self.process.wait(5), self.errors)
        self.address, self.http, self.health = found[2], found[3], found[4]
        self.port = int(self.address.rpartition(":")[2])

    def _read(self):
        for line in self.process.stderr:
            self.errors.append(line.rstrip("\n"))

    @property
    def events(self) -> list[dict]:
        """What it wrote down, as JSON."""
        lines = list(self.errors)
        assert all(line.startswith("{") for line in lines), "\n".join(lines)
        return [json.loads(line) for line in lines]

    def named(self, event: str) -> list[dict]:
        return [each for each in self.events if each["event"] == event]

    def listener(self) -> int:
        """The number of the listener's process that was started last."""
        return self.named("listener started")[-1]["pid"]

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def figures(self) -> dict[str, float]:
        """The samples of /metrics by name and labels."""
        lines = self.get("/metrics")[1].splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.send(number)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self.process.stdout.close()
        self.process.stderr.close()


def until(condition, what: str = "it") -> object:
    """Waits for a condition; what it gave."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    """Whether a process is there, and not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found = []
    for each in os.listdir("/proc"):
        if each.isdecimal():
            try:
                fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(each))
    return found


def opened(pid: int, name: str) -> set[int]:
    """How a process has files of this name open: to read, to write, or both."""
    found = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(each).endswith(f"/{name}"):
            told = Path(f"/proc/{pid}/fdinfo/{each.name}").read_text()
            flags = next(line for line in told.splitlines() if line.startswith("flags:"))
            found.add(int(flags.split()[1], 8) & os.O_ACCMODE)
    return found
