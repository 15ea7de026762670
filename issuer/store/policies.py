# SPDX-License-Identifier: Apache-2.0
"""Policies: every version is kept, and none is ever changed; the database itself refuses anything else."""

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from issuer.errors import FailedPreconditionError, NotFoundError
from issuer.model import ChangeKind, StoredPolicy
from issuer.store.changes import ChangeStore
from issuer.store.schema import policies, stamp, unstamp


class PolicyStore:
    """Policies by name. What ended one is a version of it as well."""

    def __init__(self, connection: sa.Connection, changes: ChangeStore) -> None:
        self._connection = connection
        self._changes = changes

    def add(self, policy: StoredPolicy, *, replaces: int = 0) -> StoredPolicy:
        """Add the next version of a policy and return it with its numbers.

        Args:
            policy: Its `version` and `sequence` do not matter.
            replaces: The version that has to be the newest, or 0 for whichever is.

        Raises:
            FailedPreconditionError: Another version is the newest.
            NotFoundError: It is to end, and there is none.
        """
        newest = self._newest(policy.name)
        version = 0 if newest is None else newest.version
        if replaces and replaces != version:
            raise FailedPreconditionError(f"policy {policy.name!r} is at version {version}, not {replaces}")
        if policy.text is None and (newest is None or newest.text is None):
            raise NotFoundError(f"policy {policy.name!r} does not exist")
        stored = replace(policy, version=version + 1, sequence=self.last() + 1)
        self._connection.execute(
            policies.insert().values(
                sequence=stored.sequence,
                name=stored.name,
                version=stored.version,
                text=stored.text,
                enforced=stored.enforced,
                author=stored.author,
                reason=stored.reason,
                created_at=stamp(stored.created_at),
            )
        )
        self._changes.record(ChangeKind.POLICY, stored.name, stored)
        return stored

    def last(self) -> int:
        """Return how many versions there are of all policies; 0 if none was ever stored."""
        return int(self._connection.execute(sa.select(sa.func.max(policies.c.sequence))).scalar() or 0)

    def enforced(self) -> bool:
        """Tell whether any version of any policy ever had a statement that counts."""
        query = sa.select(policies.c.sequence).where(policies.c.enforced).limit(1)
        return self._connection.execute(query).first() is not None

    def newest(self) -> list[StoredPolicy]:
        """Return the newest version of each policy, by name; those that have ended as well."""
        last = sa.select(sa.func.max(policies.c.sequence)).group_by(policies.c.name)
        query = sa.select(policies).where(policies.c.sequence.in_(last)).order_by(policies.c.name)
        return list(map(_policy, self._connection.execute(query)))

    def get(self, name: str, version: int = 0) -> StoredPolicy:
        """Return a version of a policy, or with 0 the newest.

        Raises:
            NotFoundError: There is none.
        """
        if not version:
            found = self._newest(name)
        else:
            query = sa.select(policies).where(policies.c.name == name, policies.c.version == version)
            row = self._connection.execute(query).first()
            found = None if row is None else _policy(row)
        if found is None:
            suffix = f" has no version {version}" if version else " does not exist"
            raise NotFoundError(f"policy {name!r}{suffix}")
        return found

    def _newest(self, name: str) -> StoredPolicy | None:
        query = sa.select(policies).where(policies.c.name == name).order_by(policies.c.version.desc())
        row = self._connection.execute(query.limit(1)).first()
        return None if row is None else _policy(row)


def _policy(row: Any) -> StoredPolicy:
    return StoredPolicy(
        name=row.name,
        version=row.version,
        sequence=row.sequence,
        text=row.text,
        enforced=row.enforced,
        author=row.author,
        reason=row.reason,
        created_at=unstamp(row.created_at),
    )
