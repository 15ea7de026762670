# SPDX-License-Identifier: Apache-2.0
"""The change log: revision n + 1 follows n, because revisions are given under the writer's lock."""

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from issuer.model import Change, ChangeKind
from issuer.store.schema import changes

_ADD: Final = changes.insert()


class ChangeStore:
    """Rows of the change log. `recorded` is what this transaction added."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._last: int | None = None
        self.recorded: list[Change] = []

    def record(self, kind: ChangeKind, key: str, value: object | None) -> None:
        """Add a row; `value` is the thing as it is now, None when it is gone."""
        self.record_all(kind, [(key, value)])

    def record_all(self, kind: ChangeKind, some: Iterable[tuple[str, object | None]]) -> None:
        """Add a row for each pair of a key and a value."""
        first = (self.last() if self._last is None else self._last) + 1
        made = [
            Change(revision=n, kind=kind, key=key, value=value) for n, (key, value) in enumerate(some, first)
        ]
        if made:
            self._last = made[-1].revision
            self._connection.execute(
                _ADD, [{"revision": c.revision, "kind": kind, "key": c.key} for c in made]
            )
            self.recorded += made

    def mark(self) -> int:
        """Return how many changes are recorded by now; see `back_to`."""
        return len(self.recorded)

    def back_to(self, mark: int) -> None:
        """Forget what was recorded since `mark`: its rows were undone, and its revisions are free again."""
        del self.recorded[mark:]
        self._last = None

    def last(self) -> int:
        """Return the newest revision; 0 if there is none."""
        return int(self._connection.execute(sa.select(sa.func.max(changes.c.revision))).scalar() or 0)

    def since(self, revision: int, limit: int) -> list[Change]:
        """Return up to `limit` rows after `revision`, without their values."""
        query = (
            sa.select(changes).where(changes.c.revision > revision).order_by(changes.c.revision).limit(limit)
        )
        return [
            Change(revision=row.revision, kind=ChangeKind(row.kind), key=row.key)
            for row in self._connection.execute(query)
        ]
