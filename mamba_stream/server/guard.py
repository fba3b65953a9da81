"""The gate of a server that has users: who calls, what he may do, how much, and what is written down of it.

The users' file is read again when it changes. What is asked for is judged by one state of it from beginning to end; a
file that cannot be used leaves in place what holds, and is reported.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.errors import InvalidInput, NotAuthenticated, NotAuthorized, QuotaExceeded
from mamba_stream.server.audit import Audit, Outcome
from mamba_stream.server.belongings import of_internal_topic
from mamba_stream.server.gate import Caller, Kind, Need
from mamba_stream.server.quotas import NO_QUOTA, Quotas, check_topics
from mamba_stream.server.userfile import read_users
from mamba_stream.server.users import Known, Roster, Unknown

_LONGEST_IDENTITY: Final = 200
_POLL: Final = 1.0
"""Seconds between looks at the file."""
_REFUSED: Final = (
    "nobody that is known: give a valid token in MAMBA_STREAM_TOKEN or a profile (on the wire it is the header "
    "authorization: Bearer mamba_...), or connect with a certificate of a user; mamba-stream user token new NAME makes "
    "a token"
)
"""One sentence for all who are not known: it gives no hint as to what was wrong."""
_ADMINISTRATIVE: Final = frozenset({"create", "delete", "admin"})
_ADMIN: Final = Need("admin", "log")
_DOES: Final = {"admin": "administer"}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GuardStatistics:
    """What a guard has seen so far.

    Attributes:
        unauthenticated: Calls of nobody that is known.
        denied: Requests that were not allowed.
        throttled: Requests that were more than a quota.
        reloads: How often the users were read again.
        failed_reloads: How often that could not be used.
    """

    unauthenticated: int = 0
    denied: int = 0
    throttled: int = 0
    reloads: int = 0
    failed_reloads: int = 0


class Guard:
    """Lets those in whom the file of users names, and has them do what it says. Any thread may ask.

    Args:
        path: The file of users.
        clock: Tells the time.
        audit: Where refusals and administrative acts are written down.
        made: How many topics a user made, and how many of these names would be more; without, they are not counted.

    Raises:
        InvalidInput: The file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        audit: Audit | None = None,
        made: Callable[[str, Sequence[str]], tuple[int, int]] | None = None,
    ) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._audit = audit
        self._made = made
        self._quotas = Quotas(self._clock)
        self._stamp = _stamp(path)
        self._roster = read_users(path)
        self._looked = self._clock.monotonic()
        self._lock = threading.Lock()
        self._counts = Counter[str]()
        self._counting = threading.Lock()

    def admit(self, headers: Mapping[str, Sequence[str]], peer: str, certificate: str) -> Caller:
        """Who calls: whose token the header ``authorization`` has, and only where there is none, whose certificate.

        Raises:
            NotAuthenticated: Nobody that is known; what was wrong is for the audit topic only.
            QuotaExceeded: The user has as many connections as he may.
        """
        roster = self._current()
        shown = headers.get("authorization", ())
        found: Known | Unknown
        if shown:
            scheme, _, token = shown[0].partition(" ")
            # Several are as good as a wrong one: who is asked should not have to guess which counts.
            right = len(shown) == 1 and scheme.lower() == "bearer"
            found = roster.by_token(token.strip() if right else "", self._clock.now())
        elif certificate:
            found = roster.by_certificate(certificate)
        else:
            found = Unknown("missing")
        if isinstance(found, Unknown):
            self._count("unauthenticated")
            name = found.token or certificate[:_LONGEST_IDENTITY]
            self._note("", peer, "connect", "log", name, "denied", f"NotAuthenticated:{found.reason}")
            raise NotAuthenticated(_REFUSED)
        caller = Caller(found.user.name, peer, found.credential)
        try:
            self._quotas.connect(caller.name, found.user.quota, peer)
        except QuotaExceeded:
            self._count("throttled")
            self._note(caller.name, peer, "connect", "log", "", "denied", "QuotaExceeded")
            raise
        return caller

    def check(self, caller: Caller, needs: Iterable[Need]) -> None:
        """Lets a request pass, also in the midst of a long one: what holds is what the file says now.

        Raises:
            NotAuthenticated: The user is gone, or the token expired or was revoked.
            NotAuthorized: Something is not allowed.
            QuotaExceeded: These would be more topics than the user may make.
        """
        roster = self._current()
        self._believe(roster, caller)
        passed = []
        for asked in needs:
            need = of_internal_topic(asked)
            if not _allows(roster, caller, need):
                self._count("denied")
                name, peer = caller.name, caller.peer
                self._note(name, peer, asked.operation, asked.kind, asked.name, "denied", "NotAuthorized")
                raise NotAuthorized(_sentence(roster, caller, asked, need))
            if need.operation in _ADMINISTRATIVE:
                passed.append(asked)
        self._count_topics(roster, caller, [asked.name for asked in passed if _creates(asked)])
        for asked in passed:
            self._note(caller.name, caller.peer, asked.operation, asked.kind, asked.name, "allowed")

    def spend(self, caller: Caller, received: int = 0, sent: int = 0) -> None:
        """Counts bytes of rows.

        Raises:
            QuotaExceeded: The user has had too many; these do not count.
        """
        user = self._current().users.get(caller.name)
        try:
            self._quotas.spend(caller.name, NO_QUOTA if user is None else user.quota, received, sent)
        except QuotaExceeded:
            self._count("throttled")
            raise

    def visible(self, caller: Caller, kind: Kind, names: Iterable[str]) -> list[str]:
        """Those of the names that the caller may know of."""
        roster = self._current()
        if not roster.stands(caller.name, caller.credential, self._clock.now()):
            return []
        return [
            name for name in names if _allows(roster, caller, of_internal_topic(Need("describe", kind, name)))
        ]

    def statistics(self) -> GuardStatistics:
        """What it has seen so far."""
        with self._counting:
            return GuardStatistics(**self._counts)

    def reload(self) -> bool:
        """Reads the users again, at once; whether they could be used. Nobody's connection is touched."""
        with self._lock:
            return self._read(_stamp(self._path))

    def _current(self) -> Roster:
        """The users as they are now: the file is looked at once a second, by one thread, for which none waits."""
        now = self._clock.monotonic()
        if now - self._looked >= _POLL and self._lock.acquire(blocking=False):
            try:
                self._looked = now
                stamp = _stamp(self._path)
                if stamp != self._stamp:
                    self._read(stamp)
            finally:
                self._lock.release()
        return self._roster

    def _read(self, stamp: tuple[int, ...]) -> bool:
        # Before it is read: what is written meanwhile is looked at again.
        self._stamp = stamp
        try:
            roster = read_users(self._path)
        except InvalidInput as error:
            self._count("failed_reloads")
            _logger.warning("the users stay as they were: %s", error)
            self._note("", "", "admin", "log", "users", "failed", "InvalidInput")
            return False
        self._quotas.keep({name: user.quota for name, user in roster.users.items()})
        self._roster = roster
        self._count("reloads")
        self._note("", "", "admin", "log", "users", "reloaded")
        return True

    def _count_topics(self, roster: Roster, caller: Caller, names: Sequence[str]) -> None:
        quota = roster.users[caller.name].quota
        if not names or quota.topics is None or self._made is None:
            return
        try:
            check_topics(caller.name, quota, *self._made(caller.name, names))
        except QuotaExceeded:
            self._count("throttled")
            self._note(caller.name, caller.peer, "create", "topic", names[0], "denied", "QuotaExceeded")
            raise

    def _believe(self, roster: Roster, caller: Caller) -> None:
        if not roster.stands(caller.name, caller.credential, self._clock.now()):
            self._count("unauthenticated")
            self._note(caller.name, caller.peer, "connect", "log", "", "denied", "NotAuthenticated:ended")
            raise NotAuthenticated(_REFUSED)

    def _count(self, what: str) -> None:
        with self._counting:
            self._counts[what] += 1

    def _note(
        self,
        user: str,
        peer: str,
        operation: str,
        kind: str,
        name: str,
        outcome: Outcome,
        code: str = "",
    ) -> None:
        if self._audit is not None:
            self._audit.note(
                user=user, peer=peer, operation=operation, kind=kind, name=name, outcome=outcome, code=code
            )


class CertificateGate:
    """Whoever has a certificate of the server's client CA may do everything: for a server with that CA and no users."""

    def admit(self, headers: Mapping[str, Sequence[str]], peer: str, certificate: str) -> Caller:
        """Who calls: the identity in its certificate.

        Raises:
            NotAuthenticated: It has none.
        """
        if not certificate:
            raise NotAuthenticated("this server takes only those whose certificate its client CA signed")
        return Caller(certificate, peer, f"certificate:{certificate}")

    def check(self, caller: Caller, needs: Iterable[Need]) -> None:
        return None

    def spend(self, caller: Caller, received: int = 0, sent: int = 0) -> None:
        return None

    def visible(self, caller: Caller, kind: Kind, names: Iterable[str]) -> list[str]:
        return list(names)


def _allows(roster: Roster, caller: Caller, need: Need) -> bool:
    access = roster.access[caller.name]
    return access.allows(need) or (need.kind == "namespace" and access.allows(_ADMIN))


def _creates(need: Need) -> bool:
    return need.operation == "create" and need.kind == "topic"


def _sentence(roster: Roster, caller: Caller, asked: Need, need: Need) -> str:
    """What was refused, and how it would be allowed."""
    refused = f"user {caller.name!r} may not {_DOES.get(asked.operation, asked.operation)} {_thing(asked)}"
    if roster.access[caller.name].denies(need):
        return (
            f"{refused}: an entry denies it, whatever allows it; whoever runs the server finds it by "
            f"mamba-stream access list {caller.name}"
        )
    of = {"topic": f"--topic {need.name}", "group": f"--group {need.name}", "log": "--whole-log"}.get(
        need.kind, f"--namespace {need.name}"
    )
    takes = "" if asked == need else f", which takes {need.operation} on {_thing(need)}"
    return (
        f"{refused}{takes}; "
        f"whoever runs the server can allow it: mamba-stream access allow {caller.name} {need.operation} {of}"
    )


def _thing(need: Need) -> str:
    return "the log" if need.kind == "log" else f"{need.kind} {need.name!r:.200}"


def _stamp(path: Path) -> tuple[int, ...]:
    """What of a file changes when it does; nothing where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode
