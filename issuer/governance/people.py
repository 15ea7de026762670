# SPDX-License-Identifier: Apache-2.0
"""The people and groups that may own agents, from a list that an identity provider exports.

The file is a SCIM list response (RFC 7644 §3.4.2) of users (RFC 7643 §4.1). Of each user these count:
`externalId`, the claim `sub` of the provider's tokens; `active`; `groups[].value`; and, under
`ACCOUNTS_SCHEMA`, `accounts`: who it is here, as the audit trail names its actors without the process,
e.g. "local:uid=1000" or a SPIFFE ID of an administrator.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from issuer.errors import FailedPreconditionError, NotAuthorizedError
from issuer.model import Owner

logger = logging.getLogger(__name__)

ACCOUNTS_SCHEMA: Final = "urn:ietf:params:scim:schemas:extension:attestor:2.0:User"
MAX_FILE: Final = 64 * 1024 * 1024  # bytes: some 200,000 people


class _Group(msgspec.Struct, frozen=True):
    value: str


class _Accounts(msgspec.Struct, frozen=True):
    accounts: list[str] = []


class _User(msgspec.Struct, frozen=True):
    subject: str = msgspec.field(name="externalId")
    active: bool = True
    groups: list[_Group] = []
    here: _Accounts = msgspec.field(name=ACCOUNTS_SCHEMA, default=_Accounts())


class _List(msgspec.Struct, frozen=True):
    resources: list[_User] = msgspec.field(name="Resources")
    total: int = msgspec.field(name="totalResults")


class _Known(msgspec.Struct, frozen=True):
    people: frozenset[Owner]
    groups: Mapping[Owner, frozenset[Owner]]
    accounts: Mapping[str, Owner]


def account_of(actor: str) -> str:
    """Return the account of an actor of the audit trail: the same for every process of one user."""
    return actor.partition(",pid=")[0]


class People:
    """Who may own agents. Without a file nobody is known, and every owner is taken as it is given.

    Args:
        issuer: The URL of the OIDC provider whose people they are.
    """

    def __init__(self, file: Path | None, issuer: str = "") -> None:
        self._file = file
        self._issuer = issuer
        self._known: _Known | None = None
        self._read_at: tuple[int, int, int] | None = None

    @property
    def listed(self) -> bool:
        """Whether there is a list at all."""
        return self._file is not None

    @property
    def readable(self) -> bool:
        """Whether the list could be read the last time."""
        return self._known is not None

    async def reload(self) -> None:
        """Read the file again if it has changed; while it cannot be read, nobody is known."""
        if self._file is None:
            return
        try:
            await asyncio.to_thread(self._load, self._file)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            if self._known is not None or self._read_at is None:  # said once
                extra = {"file": str(self._file), "reason": str(error)[:200]}
                logger.warning(
                    "people cannot be read: no agent is registered, approved or resumed", extra=extra
                )
            self._known, self._read_at = None, (0, 0, 0)

    def _load(self, file: Path) -> None:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            version = (status.st_mtime_ns, status.st_ino, status.st_size)
            if version == self._read_at:
                return
            content = opened.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise ValueError(f"larger than {MAX_FILE} bytes")
        self._known = self._parse(content)
        self._read_at = version

    def _parse(self, content: bytes) -> _Known:
        """Return what a file says.

        Raises:
            ValueError: It names nobody, or is a page of several; or somebody, or an account, is there twice.
            msgspec.MsgspecError: It is no list of users.
        """
        found = msgspec.json.decode(content, type=_List)
        if found.total != len(found.resources):
            raise ValueError(f"totalResults is {found.total}, but {len(found.resources)} resources are there")
        people: set[Owner] = set()
        groups: dict[Owner, set[Owner]] = {}
        accounts: dict[str, Owner] = {}
        for user in found.resources:
            if not user.active:
                continue
            person = Owner(self._issuer, user.subject)
            if person in people:
                raise ValueError(f"externalId {user.subject!r} is there twice")
            people.add(person)
            for group in user.groups:
                groups.setdefault(Owner(self._issuer, group.value, group=True), set()).add(person)
            for account in user.here.accounts:
                if accounts.setdefault(account, person) != person:
                    raise ValueError(f"account {account!r} is of two people")
        if not people:  # an export that went wrong, rather than that everybody left at once
            raise ValueError("nobody is there")
        return _Known(frozenset(people), {g: frozenset(m) for g, m in groups.items()}, accounts)

    def _now(self) -> _Known:
        if self._known is None:
            raise FailedPreconditionError("owner: the list of people cannot be read")
        return self._known

    def exists(self, owner: Owner) -> bool:
        """Tell whether a person is there and active, or a group has such a member.

        Raises:
            FailedPreconditionError: The list cannot be read.
        """
        if self._file is None:
            return True
        known = self._now()
        return owner in (known.groups if owner.group else known.people)

    def person_of(self, actor: str) -> Owner | str:
        """Return whom an actor of the audit trail is, or its account where nobody says.

        Raises:
            FailedPreconditionError: The list cannot be read.
        """
        account = account_of(actor)
        return account if self._file is None else self._now().accounts.get(account, account)

    def known_as(self, actor: str) -> Owner | None:
        """Return whom an actor is, or None where nobody can say; for the record, not for a decision."""
        return None if self._known is None else self._known.accounts.get(account_of(actor))

    def owns(self, actor: str, owner: Owner) -> bool:
        """Tell whether an actor is an owner, or of the group that is, by the list; without one nobody is.

        Raises:
            FailedPreconditionError: The list cannot be read.
        """
        if self._file is None:
            return False
        person = self.person_of(actor)
        return person == owner or person in self._now().groups.get(owner, frozenset())

    def check_owns(self, actor: str, owner: Owner) -> None:
        """Check that an actor is an owner, or of the group that is; without a list every operator is.

        Raises:
            NotAuthorizedError: It is not.
            FailedPreconditionError: The list cannot be read.
        """
        if self._file is not None and not self.owns(actor, owner):
            raise NotAuthorizedError(f"only the owner may: {owner}, and {account_of(actor)} is not")
