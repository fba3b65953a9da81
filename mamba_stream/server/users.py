"""Users: their tokens, certificates, access and quotas; and who somebody is who shows a token or a certificate."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec

from mamba_stream.core.names import check_name
from mamba_stream.errors import InvalidInput
from mamba_stream.server.access import AccessList, Entry
from mamba_stream.server.quotas import NO_QUOTA, Quota

Reason = Literal["missing", "malformed", "unknown", "expired"]
"""Why somebody is not known: for the audit topic, never for him who asks."""
Moment = Annotated[datetime, msgspec.Meta(tz=True)]

_TOKEN: Final = re.compile(r"mamba_([0-9a-f]{12})_[0-9a-f]{64}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ID: Final = re.compile(r"[0-9a-f]{12}", re.ASCII)
_NOBODY: Final = "0" * 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A token as it is kept: never itself, only what it hashes to.

    Attributes:
        id: The part of it that may be known.
        sha256: The SHA-256 of the whole, in hexadecimal. A slow hash protects words that people think of: 256 random
            bits need none.
        created: When it was made.
        expires: When it is over; ``None``: never.
    """

    id: str
    sha256: str
    created: Moment
    expires: Moment | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id) or not _DIGEST.fullmatch(self.sha256):
            raise InvalidInput(
                f"token {self.id!r:.40}: an id is 12, a hash 64 hexadecimal digits in lower case"
            )

    def __repr__(self) -> str:
        return f"Token({self.id!r}, created={self.created.isoformat()}, expires={self.expires})"

    def over(self, now: int) -> bool:
        """Whether it expired, at a time in microseconds since the epoch."""
        return self.expires is not None and _micros(self.expires) <= now


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A user.

    Attributes:
        name: Letters, digits, ``.``, ``_`` and ``-``.
        tokens: Those that authenticate him.
        certificates: Identities that do so without a token, in certificates that the server's client CA signed.
        access: What he may do.
        quota: How much.
    """

    name: str
    tokens: tuple[Token, ...] = ()
    certificates: tuple[str, ...] = ()
    access: tuple[Entry, ...] = ()
    quota: Quota = NO_QUOTA

    def __post_init__(self) -> None:
        check_name(self.name, "user")
        if not all(self.certificates):
            raise InvalidInput(f"user {self.name!r}: the identity in a certificate is not empty")


def new_token(
    now: int, lifetime: timedelta | None = None, random: Callable[[int], bytes] = os.urandom
) -> tuple[str, Token]:
    """A new token, which is shown once, and what is kept of it.

    Args:
        now: Microseconds since the epoch.
        lifetime: How long it is good for; ``None``: until it is revoked.
        random: Gives so many random bytes.
    """
    text = f"mamba_{random(6).hex()}_{random(32).hex()}"
    created = (_EPOCH + timedelta(microseconds=now)).replace(microsecond=0)
    return text, Token(
        id=text.split("_")[1],
        sha256=_digest(text),
        created=created,
        expires=None if lifetime is None else created + lifetime,
    )


@dataclass(frozen=True, slots=True)
class Known:
    """Somebody who was recognised.

    Attributes:
        user: Who.
        credential: By what: ``token:ID``, or ``certificate:IDENTITY``.
    """

    user: User
    credential: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Somebody who was not.

    Attributes:
        reason: Why.
        token: The id of the token that was shown, where there is one of that id.
    """

    reason: Reason
    token: str = ""


class Roster:
    """All users as of one moment, to be asked often. It does not change: another takes its place.

    Raises:
        InvalidInput: Two users have one name, one token or one certificate.
    """

    def __init__(self, users: Iterable[User] = ()) -> None:
        self.users: dict[str, User] = {}
        self.access: dict[str, AccessList] = {}
        self._tokens: dict[str, tuple[User, Token]] = {}
        self._certificates: dict[str, User] = {}
        for user in users:
            if user.name in self.users:
                raise InvalidInput(f"two users are called {user.name!r}")
            self.users[user.name] = user
            self.access[user.name] = AccessList(user.access)
            for token in user.tokens:
                other = self._tokens.setdefault(token.id, (user, token))
                if other[0] is not user or other[1] is not token:
                    raise InvalidInput(
                        f"users {other[0].name!r} and {user.name!r}: both have token {token.id}"
                    )
            for identity in user.certificates:
                holder = self._certificates.setdefault(identity, user)
                if holder is not user:
                    raise InvalidInput(
                        f"users {holder.name!r} and {user.name!r}: both have the certificate of {identity!r}"
                    )

    def by_token(self, text: str, now: int) -> Known | Unknown:
        """Whose token this is. Whatever it is, as much is computed, and nothing depends on how much of it is right.

        Args:
            text: What was shown.
            now: Microseconds since the epoch.
        """
        shaped = _TOKEN.fullmatch(text)
        id_ = shaped[1] if shaped else ""
        user, token = self._tokens.get(id_, (None, None))
        right = hmac.compare_digest(_digest(text), _NOBODY if token is None else token.sha256)
        if shaped is None:
            return Unknown("malformed")
        if user is None or token is None or not right:
            # An id that nobody has is whatever a stranger thought of.
            return Unknown("unknown", "" if token is None else id_)
        return Unknown("expired", id_) if token.over(now) else Known(user, f"token:{id_}")

    def by_certificate(self, identity: str) -> Known | Unknown:
        """Whose certificate has this identity; it was verified before."""
        user = self._certificates.get(identity)
        return Unknown("unknown") if user is None else Known(user, f"certificate:{identity}")

    def stands(self, name: str, credential: str, now: int) -> bool:
        """Whether this user is still to be believed by what he was recognised by."""
        kind, _, what = credential.partition(":")
        if kind == "certificate":
            holder = self._certificates.get(what)
            return holder is not None and holder.name == name
        user, token = self._tokens.get(what, (None, None))
        return user is not None and token is not None and user.name == name and not token.over(now)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
