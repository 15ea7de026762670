# SPDX-License-Identifier: Apache-2.0
"""The database: one writer, transactions that are all or nothing, and what to tell others afterwards."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from issuer.errors import IssuerError, StoreError
from issuer.model import AuditRecord, Change
from issuer.store import schema
from issuer.store.agents import AgentStore
from issuer.store.attestor_runs import AttestorRunStore
from issuer.store.audit import AuditStore
from issuer.store.authorities import AuthorityStore
from issuer.store.bundles import BundleStore
from issuer.store.changes import ChangeStore
from issuer.store.entries import EntryStore
from issuer.store.events import Event, encode
from issuer.store.join_tokens import JoinTokenStore
from issuer.store.nodes import NodeStore
from issuer.store.policies import PolicyStore
from issuer.store.revocations import RevocationStore
from spiffekit.daemon.clock import Clock

logger = logging.getLogger(__name__)

T = TypeVar("T")

PER_COMMIT: Final = 100  # acts of a batch; more would keep other writers waiting
BUSY_TIMEOUT: Final = 5000  # milliseconds that another process may hold the database
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
OnCommit = Callable[[Sequence[Change]], None]


class Transaction:
    """The stores, in one transaction. `now` is the one instant that everything in it happens at."""

    def __init__(self, connection: sa.Connection, clock: Clock, *, no_records: str = "") -> None:
        self._connection = connection
        self._no_records = no_records
        self.now = clock.now()
        self.changes = ChangeStore(connection)

    def attempt(self, act: Callable[["Transaction"], T]) -> T | IssuerError:
        """Run a part of the transaction; when it refuses, only the part is undone and its error returned.

        What the database itself refuses is raised on: then nothing of the transaction stays.
        """
        changes = self.changes.mark()
        try:
            with self._connection.begin_nested():
                return act(self)
        except IssuerError as error:
            self.changes.back_to(changes)
            return error

    @cached_property
    def entries(self) -> EntryStore:
        """Registration entries."""
        return EntryStore(self._connection, self.changes)

    @cached_property
    def nodes(self) -> NodeStore:
        """Attested nodes."""
        return NodeStore(self._connection, self.changes, self.entries)

    @cached_property
    def agents(self) -> AgentStore:
        """Agents and their classes."""
        return AgentStore(self._connection, self.changes, self.entries)

    @cached_property
    def policies(self) -> PolicyStore:
        """Policies, every version of them."""
        return PolicyStore(self._connection, self.changes)

    @cached_property
    def revocations(self) -> RevocationStore:
        """What was taken back."""
        return RevocationStore(self._connection, self.changes)

    @cached_property
    def join_tokens(self) -> JoinTokenStore:
        """Join tokens."""
        return JoinTokenStore(self._connection)

    @cached_property
    def bundles(self) -> BundleStore:
        """Trust bundles."""
        return BundleStore(self._connection, self.changes, self.entries)

    @cached_property
    def authorities(self) -> AuthorityStore:
        """The journal of authorities."""
        return AuthorityStore(self._connection, self.changes)

    @cached_property
    def attestor_runs(self) -> AttestorRunStore:
        """Runs of attestors."""
        return AttestorRunStore(self._connection)

    @cached_property
    def audit(self) -> AuditStore:
        """The audit trail."""
        return AuditStore(self._connection, self._no_records)


class Database:
    """You get one by `open`. Use it from one event loop."""

    def __init__(self, engine: sa.Engine, clock: Clock, epoch: str) -> None:
        self._engine = engine
        self._clock = clock
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self.epoch = epoch
        self._recording: tuple[list[Event], asyncio.Future[None]] | None = None
        self._flushing: set[asyncio.Task[None]] = set()
        self._one_flush = asyncio.Lock()
        self._no_records = ""
        self.on_commit: list[OnCommit] = []

    @classmethod
    def open(cls, path: Path, *, clock: Clock) -> Self:
        """Open the database file, made if it is not there, and bring its schema up to date.

        Raises:
            StoreError: It cannot be opened or written, or is of a newer schema.
        """
        # The parts are given, not a URL: a folder may have any character in its name.
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)), connect_args={"check_same_thread": False}
        )
        sa.event.listen(engine, "connect", _prepare)
        sa.event.listen(engine, "begin", _begin)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                path.touch(mode=0o600)
            _migrate(engine, path)
            with engine.begin() as connection:
                epoch = _epoch(connection)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            engine.dispose()
            raise StoreError(f"database {path}: {_reason(error)}") from error
        except StoreError:
            engine.dispose()
            raise
        return cls(engine, clock, epoch)

    def refuse_records(self, reason: str) -> None:
        """From now on fail whatever has to be recorded, for a reason; "" ends that."""
        self._no_records = reason

    async def write(self, act: Callable[[Transaction], T]) -> T:
        """Run `act` in a transaction of its own; what it raises undoes all of it.

        When this returns, everything is committed and `on_commit` has been told, in the order of commits.

        Raises:
            StoreError: The database failed; nothing was changed.
        """
        loop = asyncio.get_running_loop()
        # Shielded: a caller that is cancelled must not keep others from hearing of what was committed.
        return await asyncio.shield(loop.create_task(self._write(act)))

    async def write_each(self, acts: Sequence[Callable[[Transaction], T]]) -> list[T | IssuerError]:
        """Run acts that stand for themselves, `PER_COMMIT` to a commit: for each what it returns or raises.

        When the database fails, that is the outcome of every act of the commit.
        """
        results: list[T | IssuerError] = []
        for start in range(0, len(acts), PER_COMMIT):
            some = acts[start : start + PER_COMMIT]
            try:
                results += await self.write(partial(_attempt_all, some))
            except StoreError as error:
                results += [error] * len(some)
        return results

    async def record(self, *records: AuditRecord) -> None:
        """Add audit records that go with no other change; those of the same moment share a commit.

        When this returns, they are committed.

        Raises:
            InvalidRequestError: One of them is longer than an event may be.
            StoreError: The database failed; none of them was added.
        """
        encoded = [encode(record) for record in records]  # what is wrong with ours is nobody else's failure
        if self._recording is None:
            self._recording = ([], asyncio.get_running_loop().create_future())
            task = asyncio.get_running_loop().create_task(self._flush())
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)
        events, done = self._recording
        events += encoded
        await asyncio.shield(done)

    async def _flush(self) -> None:
        async with self._one_flush:  # what comes while one is committed waits for the next
            assert self._recording is not None  # noqa: S101 - made by whoever made this task
            (events, done), self._recording = self._recording, None
            try:
                await self.write(lambda tx: tx.audit.append_all(events))
            except Exception as error:  # noqa: BLE001 - whoever waits would wait for ever
                done.set_exception(error)
                done.exception()  # seen, even if every caller has gone meanwhile
            else:
                done.set_result(None)

    async def _write(self, act: Callable[[Transaction], T]) -> T:
        result, changes = await asyncio.get_running_loop().run_in_executor(self._writer, self._commit, act)
        if changes:
            for tell in self.on_commit:
                tell(changes)
        return result

    def _commit(self, act: Callable[[Transaction], T]) -> tuple[T, list[Change]]:
        try:
            with self._engine.begin() as connection:
                transaction = Transaction(connection, self._clock, no_records=self._no_records)
                result = act(transaction)
                return result, transaction.changes.recorded
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"database failed, nothing was changed: {_reason(error)}") from error

    async def read(self, act: Callable[[Transaction], T], *, aside: bool = False) -> T:
        """Run `act` for what it returns; what it writes is undone.

        Args:
            aside: It may take long: writers do not wait for it, and it may not see what is being committed.

        Raises:
            StoreError: The database failed.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._reader if aside else self._writer, self._read, act
        )

    def _read(self, act: Callable[[Transaction], T]) -> T:
        try:
            with self._engine.connect().execution_options(reads=True) as connection:
                return act(Transaction(connection, self._clock))
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"database failed: {_reason(error)}") from error

    def close(self) -> None:
        """Finish what is being written and close the file."""
        self._writer.shutdown(wait=True)
        self._reader.shutdown(wait=True)
        self._engine.dispose()


def _attempt_all(acts: Sequence[Callable[[Transaction], T]], tx: Transaction) -> list[T | IssuerError]:
    return [tx.attempt(act) for act in acts]


def _prepare(connection: Any, _record: object) -> None:
    # The driver's own transactions begin too late; ours begin with BEGIN IMMEDIATE, see `_begin`.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT}",
        "journal_mode = WAL",
        "synchronous = FULL",  # what is acknowledged survives a power cut
        "foreign_keys = ON",
        "trusted_schema = OFF",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    # A writer takes the lock at once, so that revisions are dense by construction; a reader needs none.
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _migrations() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _migrate(engine: sa.Engine, path: Path) -> None:
    config = _migrations()
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    logging.getLogger("alembic").setLevel(logging.WARNING)  # we say below what an operator needs
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == head:
            return
        if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
            raise StoreError(
                f"database {path}: schema {current} is newer than this issuer knows ({head}); "
                "use the issuer that wrote it"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    logger.info("database schema brought up to date", extra={"version": head})


def _epoch(connection: sa.Connection) -> str:
    """Return what names this database for good, so that followers notice a restored one."""
    query = sa.select(schema.settings.c.value).where(schema.settings.c.name == "epoch")
    found = connection.execute(query).scalar()
    if found is None:
        found = secrets.token_hex(8)
        connection.execute(schema.settings.insert().values(name="epoch", value=found))
    return str(found)


def _reason(error: Exception) -> str:
    if isinstance(error, sa.exc.DBAPIError):
        return str(error.orig)
    return str(error)


__all__ = ["Database", "IssuerError", "Transaction"]
