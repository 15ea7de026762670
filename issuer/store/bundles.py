# SPDX-License-Identifier: Apache-2.0
"""Trust bundles: our own, and those of federated trust domains."""

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum

import sqlalchemy as sa

from issuer.errors import FailedPreconditionError, NotFoundError
from issuer.model import ChangeKind
from issuer.store.changes import ChangeStore
from issuer.store.entries import EntryStore
from issuer.store.schema import bundles
from spiffekit.bundle import MAX_SEQUENCE, Bundle
from spiffekit.id import TrustDomain
from spiffekit.wire.convert import MAX_AUTHORITIES, bundle_from_proto, bundle_to_proto
from spiffekit.wire.pb.spire.api import types_pb2


class DeleteMode(StrEnum):
    """What happens to the entries that federate with a bundle that goes."""

    RESTRICT = "restrict"  # refuse while there are any
    DISSOCIATE = "dissociate"  # they no longer federate with it
    DELETE = "delete"  # they go too


class BundleStore:
    """Bundles by trust domain."""

    def __init__(self, connection: sa.Connection, changes: ChangeStore, entries: EntryStore) -> None:
        self._connection = connection
        self._changes = changes
        self._entries = entries

    def find(self, trust_domain: TrustDomain) -> Bundle | None:
        """Return a bundle, or None."""
        query = sa.select(bundles.c.body).where(bundles.c.trust_domain == trust_domain.name)
        body = self._connection.execute(query).scalar()
        return None if body is None else bundle_from_proto(types_pb2.Bundle.FromString(body))

    def get(self, trust_domain: TrustDomain) -> Bundle:
        """Return a bundle.

        Raises:
            NotFoundError: There is none for that trust domain.
        """
        bundle = self.find(trust_domain)
        if bundle is None:
            raise NotFoundError(f"no bundle for trust domain {trust_domain}")
        return bundle

    def put(self, bundle: Bundle) -> Bundle:
        """Add or replace a bundle; the sequence number counts up when the content changes, and only then.

        Raises:
            FailedPreconditionError: It has more authorities than a bundle can be read with.
        """
        if bundle.size > MAX_AUTHORITIES:
            raise FailedPreconditionError(
                f"bundle of {bundle.trust_domain}: more than {MAX_AUTHORITIES} authorities"
            )
        before = self.find(bundle.trust_domain)
        if before is not None and before.same_content(bundle):
            return before
        sequence = max((before.sequence or 0) + 1 if before else 1, bundle.sequence or 0)
        sequence = min(sequence, MAX_SEQUENCE)  # a publisher that begins at the end has to stay there
        after = replace(bundle, sequence=sequence)
        body = bundle_to_proto(after).SerializeToString()
        values = {"body": body, "sequence": min(sequence, 2**63 - 1)}
        if before is None:
            self._connection.execute(bundles.insert().values(trust_domain=bundle.trust_domain.name, **values))
        else:
            self._connection.execute(
                bundles.update().where(bundles.c.trust_domain == bundle.trust_domain.name).values(**values)
            )
        self._changes.record(ChangeKind.BUNDLE, bundle.trust_domain.name, after)
        return after

    def delete(self, trust_domain: TrustDomain, mode: DeleteMode) -> Bundle:
        """Remove a bundle.

        Raises:
            NotFoundError: There is none for that trust domain.
            FailedPreconditionError: Entries federate with it, and the mode is to refuse then.
        """
        bundle = self.get(trust_domain)
        federating = self._entries.federating_with(trust_domain)
        if federating and mode is DeleteMode.RESTRICT:
            raise FailedPreconditionError(f"{len(federating)} entries federate with {trust_domain}")
        for entry in federating:
            if mode is DeleteMode.DELETE:
                self._entries.delete(entry.id)
            else:
                left = tuple(td for td in entry.federates_with if td != trust_domain)
                self._entries.update(replace(entry, federates_with=left))
        self._connection.execute(bundles.delete().where(bundles.c.trust_domain == trust_domain.name))
        self._changes.record(ChangeKind.BUNDLE, trust_domain.name, None)
        return bundle

    def all(self) -> Iterator[Bundle]:
        """Return every bundle, by trust domain."""
        rows = self._connection.execute(sa.select(bundles.c.body).order_by(bundles.c.trust_domain))
        return (bundle_from_proto(types_pb2.Bundle.FromString(row.body)) for row in rows)
