# SPDX-License-Identifier: Apache-2.0
"""Registration entries."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from issuer.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from issuer.model import ChangeKind, RegistrationEntry
from issuer.store.changes import ChangeStore
from issuer.store.schema import bundles, entries, federations, stamp, unstamp
from issuer.store.selectors import decode_selectors, encode_selectors
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.template import Template

_FLAGS = (
    "admin",
    "downstream",
    "store_svid",
    "disable_x509_svid_prefetch",
    "jwt_svid_include_jti",
    "evidence_required",
    "svid_per_process",
)


# Made once: to make a statement costs more than to run it.
_ADD: Final = entries.insert()
_TWIN: Final = (
    sa.select(entries)
    .where(
        sa.or_(
            entries.c.id == sa.bindparam("asked_id"),
            sa.and_(
                entries.c.spiffe_id == sa.bindparam("asked_spiffe_id"),
                entries.c.parent_id == sa.bindparam("asked_parent_id"),
                entries.c.selectors == sa.bindparam("asked_selectors"),
            ),
        )
    )
    .limit(1)
)


class EntryStore:
    """Registration entries, unique by ID, and by SPIFFE ID, parent and set of selectors."""

    def __init__(self, connection: sa.Connection, changes: ChangeStore) -> None:
        self._connection = connection
        self._changes = changes

    def create(self, entry: RegistrationEntry) -> RegistrationEntry:
        """Add an entry.

        Raises:
            AlreadyExistsError: One with the same ID, or the same SPIFFE ID, parent and selectors, exists.
            FailedPreconditionError: It federates with a trust domain whose bundle is not known.
        """
        if (existing := self._twin(entry)) is not None:
            raise AlreadyExistsError("similar entry already exists", existing)
        self._connection.execute(_ADD, _row(entry))
        self._federate(entry)
        self._changes.record(ChangeKind.ENTRY, entry.id, entry)
        return entry

    def _twin(self, entry: RegistrationEntry) -> RegistrationEntry | None:
        asked = {
            "asked_id": entry.id,
            "asked_spiffe_id": entry.name,
            "asked_parent_id": str(entry.parent_id),
            "asked_selectors": encode_selectors(entry.selectors),
        }
        row = self._connection.execute(_TWIN, asked).first()
        return None if row is None else _entry(row)

    def _federate(self, entry: RegistrationEntry) -> None:
        for trust_domain in entry.federates_with:
            known = sa.select(bundles.c.trust_domain).where(bundles.c.trust_domain == trust_domain.name)
            if self._connection.execute(known).first() is None:
                raise FailedPreconditionError(
                    f"federates_with: no bundle is known for trust domain {trust_domain}; set it first"
                )
            values = {"entry_id": entry.id, "trust_domain": trust_domain.name}
            self._connection.execute(federations.insert().values(**values))

    def get(self, entry_id: str) -> RegistrationEntry:
        """Return an entry.

        Raises:
            NotFoundError: There is none of that ID.
        """
        row = self._connection.execute(sa.select(entries).where(entries.c.id == entry_id)).first()
        if row is None:
            raise NotFoundError(f"entry {entry_id[:255]!r} does not exist")
        return _entry(row)

    def update(self, entry: RegistrationEntry) -> RegistrationEntry:
        """Replace the entry of the same ID; its revision counts up, its time of creation stays.

        Raises:
            NotFoundError: There is none of that ID.
            AlreadyExistsError: Another one has the same SPIFFE ID, parent and selectors.
            FailedPreconditionError: See `create`.
        """
        before = self.get(entry.id)
        after = replace(entry, revision=before.revision + 1, created_at=before.created_at)
        if (existing := self._twin_of_other(after)) is not None:
            raise AlreadyExistsError("similar entry already exists", existing)
        self._connection.execute(entries.update().where(entries.c.id == entry.id).values(**_row(after)))
        self._connection.execute(federations.delete().where(federations.c.entry_id == entry.id))
        self._federate(after)
        self._changes.record(ChangeKind.ENTRY, after.id, after)
        return after

    def _twin_of_other(self, entry: RegistrationEntry) -> RegistrationEntry | None:
        query = sa.select(entries).where(
            entries.c.id != entry.id,
            entries.c.spiffe_id == entry.name,
            entries.c.parent_id == str(entry.parent_id),
            entries.c.selectors == encode_selectors(entry.selectors),
        )
        row = self._connection.execute(query).first()
        return None if row is None else _entry(row)

    def delete(self, entry_id: str) -> RegistrationEntry:
        """Remove an entry and return what it was.

        Raises:
            NotFoundError: There is none of that ID.
        """
        entry = self.get(entry_id)
        self._connection.execute(entries.delete().where(entries.c.id == entry_id))
        self._changes.record(ChangeKind.ENTRY, entry_id, None)
        return entry

    def all(self) -> Iterator[RegistrationEntry]:
        """Return every entry, by ID."""
        return map(_entry, self._connection.execute(sa.select(entries).order_by(entries.c.id)))

    def expired(self, now: datetime, limit: int) -> list[RegistrationEntry]:
        """Return up to `limit` entries that ended before `now`."""
        query = sa.select(entries).where(entries.c.expires_at <= stamp(now)).limit(limit)
        return [_entry(row) for row in self._connection.execute(query)]

    def below(self, parent: SpiffeId, spiffe_id_selector: str) -> list[RegistrationEntry]:
        """Return the entries of a parent that have exactly the given selector, as JSON."""
        query = sa.select(entries).where(
            entries.c.parent_id == str(parent), entries.c.selectors == spiffe_id_selector
        )
        return [_entry(row) for row in self._connection.execute(query)]

    def of(self, spiffe_id: SpiffeId) -> list[RegistrationEntry]:
        """Return the entries that give exactly this SPIFFE ID."""
        query = sa.select(entries).where(entries.c.spiffe_id == str(spiffe_id))
        return [_entry(row) for row in self._connection.execute(query)]

    def federating_with(self, trust_domain: TrustDomain) -> list[RegistrationEntry]:
        """Return the entries that federate with a trust domain."""
        query = (
            sa.select(entries)
            .join(federations, federations.c.entry_id == entries.c.id)
            .where(federations.c.trust_domain == trust_domain.name)
        )
        return [_entry(row) for row in self._connection.execute(query)]


def _row(entry: RegistrationEntry) -> dict[str, Any]:
    body: dict[str, Any] = {name: True for name in _FLAGS if getattr(entry, name)}
    for name in ("x509_svid_ttl", "jwt_svid_ttl"):
        if (ttl := getattr(entry, name)) is not None:
            body[name] = ttl.total_seconds()
    if entry.federates_with:
        body["federates_with"] = [td.name for td in entry.federates_with]
    if entry.dns_names:
        body["dns_names"] = list(entry.dns_names)
    if entry.hint:
        body["hint"] = entry.hint
    return {
        "id": entry.id,
        "spiffe_id": entry.name,
        "parent_id": str(entry.parent_id),
        "selectors": encode_selectors(entry.selectors),
        "body": json.dumps(body, separators=(",", ":")),
        "expires_at": None if entry.expires_at is None else stamp(entry.expires_at),
        "created_at": stamp(entry.created_at),
        "revision": entry.revision,
    }


def _entry(row: Any) -> RegistrationEntry:
    body = json.loads(row.body)
    template = Template.parse(row.spiffe_id) if "{" in row.spiffe_id else None
    return RegistrationEntry(
        id=row.id,
        spiffe_id=SpiffeId.parse(row.spiffe_id) if template is None else template.base,
        template=template,
        parent_id=SpiffeId.parse(row.parent_id),
        selectors=decode_selectors(row.selectors),
        x509_svid_ttl=timedelta(seconds=body["x509_svid_ttl"]) if "x509_svid_ttl" in body else None,
        jwt_svid_ttl=timedelta(seconds=body["jwt_svid_ttl"]) if "jwt_svid_ttl" in body else None,
        federates_with=tuple(TrustDomain(name) for name in body.get("federates_with", ())),
        dns_names=tuple(body.get("dns_names", ())),
        hint=body.get("hint", ""),
        expires_at=None if row.expires_at is None else unstamp(row.expires_at),
        created_at=unstamp(row.created_at),
        revision=row.revision,
        **{name: body.get(name, False) for name in _FLAGS},
    )
