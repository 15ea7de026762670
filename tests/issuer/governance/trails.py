# SPDX-License-Identifier: Apache-2.0
"""A database with an audit trail, and the log that follows it."""

from issuer.errors import StoreError
from issuer.governance.audit_log import AuditLog, load_signer
from issuer.governance.log_files import LogFiles
from issuer.store.database import Database
from spiffekit.transparency.check import check_log
from spiffekit.transparency.notes import open_checkpoint
from tests.issuer.store.test_events import a_record

ORIGIN = "example.org/audit"


class Trail:
    """A database, and the log that follows it."""

    def __init__(self, folder, clock):
        self.folder = folder
        self.clock = clock
        self.database = Database.open(folder / "issuer.db", clock=clock)
        self.files = LogFiles(folder / "audit")
        self.signer = load_signer(ORIGIN, folder / "audit-key")
        self.log = self.opened()

    def opened(self, *, required=True, signer=None):
        return AuditLog(self.database, self.files, signer or self.signer, self.clock, required=required)

    async def add(self, count):
        if count:
            await self.database.record(*[a_record(detail={"n": n}) for n in range(count)])

    def head(self):
        return open_checkpoint(self.files.checkpoint(), self.signer.key)

    async def leaves(self):
        return [leaf for _, leaf in await self.database.read(lambda tx: tx.audit.leaves(0, 100_000))]

    async def whole(self):
        """Check everything, and return how many events are sealed."""
        seen = []
        size = check_log(self.files.read, self.head(), check_entry=lambda _, leaf: seen.append(leaf))
        assert seen == (await self.leaves())[:size]
        return size

    def tamper(self, *statements):
        """Change the trail as whoever has the database file can."""
        with self.database._engine.begin() as connection:
            for verb in ("update", "delete"):
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS audit_no_{verb}")
            for statement in statements:
                connection.exec_driver_sql(statement)

    async def refused(self):
        """Why nothing is recorded now; "" if something is."""
        try:
            await self.add(1)
        except StoreError as error:
            return str(error).removeprefix("nothing may be done that has to be recorded: ")
        return ""
