"""What must be so of a log that :mod:`tests.crash.upkeep_run` was keeping up, wherever it was cut short."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Log, backups, restore, restoring
from mamba_stream.log.doctor import Report
from mamba_stream.log.store import acquire
from tests.crash.upkeep_run import ADDED, Rows, kept, restored, rows, small
from tests.log.handclock import HandClock
from tests.log.pictures import unsound

_ADDED = [(row["n"], row["s"], row.get("more")) for row in ADDED]


@dataclass
class Upkept:
    """What is known of it.

    Attributes:
        clock: The time by which it is kept.
        before: Its rows when that began.
        after: And when all was done.
        told: What was said to have happened.
        backed_up: The commits of which there must be a backup.
    """

    clock: HandClock
    before: Rows
    after: Rows
    told: set[str] = field(default_factory=set)
    backed_up: set[int] = field(default_factory=set)

    def wrong(self, path: Path) -> list[str]:
        """What is not as it must be; in the end the log is as it is when all is done, and goes."""
        found = self._backups(path)
        if restored(path).exists():
            found += self._held(restored(path), "restored")
        elif "restored" in self.told:
            found.append("what was restored is not there")
        found += self._held(path, "the log")
        if found:
            return found
        landed = self._landed(path)
        self._maintain(path)
        after = self.after if landed else {**self.after, "plain": self.after["plain"][: -len(_ADDED)]}
        if self._rows(path) != after:
            found.append("the next run comes to something else")
        found += [f"doctor, then: {finding}" for finding in unsound(path)]
        shutil.rmtree(path)
        return found

    def _held(self, path: Path, what: str) -> list[str]:
        """A log holds what it must, of whichever moment since the beginning it is."""
        found = [f"{what}: doctor: {finding}" for finding in unsound(path)]
        if found:
            return found
        now = self._rows(path)
        for topic, there in now.items():
            fresh = [row for row in there if row not in self.before[topic]]
            if fresh and (topic != "plain" or [row for _, _, row in fresh] != _ADDED):
                found.append(f"{what}: {topic}: rows that were never there: {fresh[:3]}")
            lost = [row for row in self.after[topic] if row in self.before[topic] and row not in there]
            if lost:
                found.append(f"{what}: {topic}: rows are lost: {lost[:3]}")
        latest = {row[0]: (offset, row) for _, offset, row in self.before["keyed"]}
        seen = {row[0]: (offset, row) for _, offset, row in now["keyed"]}
        # Of a key that is gone, or has a later row, no earlier row may be there without the later one.
        found += [f"{what}: key {key}: {seen[key]} came back" for key in seen if seen[key] != latest[key]]
        return found

    def _landed(self, path: Path) -> bool:
        """Whether the append is there that came last; it must be if that was said."""
        with Log(acquire(path, self.clock)) as log:
            altered = "more" in log["plain"].schema.names
            landed = [row for _, _, row in rows(log)["plain"][-len(_ADDED) :]] == _ADDED
        assert altered or "altered" not in self.told, "the alteration is undone"
        assert landed or "appended" not in self.told, "the append behind the alteration is undone"
        assert altered or not landed, "rows without their columns"
        return landed

    def _backups(self, path: Path) -> list[str]:
        """Every backup that is there can be restored, and those are there that were said to be."""
        if not kept(path).exists():
            return [f"no backup, and one was made of {self.backed_up}"] if self.backed_up else []
        found = []
        lsns = [one.lsn for one in backups(kept(path))]
        if not self.backed_up <= set(lsns):
            found.append(f"there are backups of {lsns}, and {self.backed_up} were made")
        for lsn in lsns:
            back = path.with_name(f"{path.name}-again")
            try:
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr(restoring, "examine", lambda place: Report(place, (), {}, True))
                    restore(kept(path), back, to=lsn)
            except MambaStreamError as error:
                found.append(f"the backup of {lsn}: {error}")
                continue
            found += self._held(back, f"the backup of {lsn}")
            shutil.rmtree(back)
        return found

    def _rows(self, path: Path) -> Rows:
        with Log(acquire(path, self.clock)) as log:
            return rows(log)

    def _maintain(self, path: Path) -> None:
        with pytest.MonkeyPatch.context() as patched:
            for module, names in small().items():
                for name, value in names.items():
                    patched.setattr(module, name, value)
            with Log(acquire(path, self.clock)) as log:
                while not log.maintain(budget=4_000).done:
                    pass
