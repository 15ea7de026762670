# SPDX-License-Identifier: Apache-2.0
"""The file of the database: whose it is, what happens when it is full, old, new, foreign or read-only."""

import contextlib
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys

import pytest
import sqlalchemy as sa

from issuer.errors import StoreError
from issuer.model import AuditRecord, Outcome
from issuer.store import Database
from tests.fakes.clock import FakeClock
from tests.issuer.strategies import NOW, an_entry, an_id


def refused(message):
    return pytest.raises(StoreError, match=f"^{re.escape(message)}$")


def reopened(path):
    database = Database.open(path, clock=FakeClock())
    database.close()
    return database


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
async def test_the_files_are_ours_alone_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        database = Database.open(tmp_path / "data/issuer.db", clock=FakeClock())
        await database.write(lambda tx: tx.entries.create(an_entry()))
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "data").iterdir()}
        database.close()
    finally:
        os.umask(before)
    assert modes == {"issuer.db": 0o600, "issuer.db-shm": 0o600, "issuer.db-wal": 0o600}
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["a b", "a?mode=ro", "a%41b", "a#b", "a:b@c", "ä", "a'b\"c", "a;b"])
async def test_a_folder_may_have_any_name(tmp_path, name):
    path = tmp_path / name / "issuer.db"
    database = Database.open(path, clock=FakeClock())
    await database.write(lambda tx: tx.entries.create(an_entry()))
    database.close()
    assert path.stat().st_size > 0
    assert [p.name for p in tmp_path.iterdir()] == [name]


async def test_everything_is_there_after_a_restart(tmp_path):
    path = tmp_path / "issuer.db"
    database = Database.open(path, clock=FakeClock())
    epoch = database.epoch
    await database.write(lambda tx: tx.entries.create(an_entry()))
    database.close()
    database = Database.open(path, clock=FakeClock())
    assert database.epoch == epoch
    assert await database.read(lambda tx: tx.entries.get("e")) == an_entry()
    assert (await database.write(lambda tx: tx.entries.create(an_entry("f")))).id == "f"
    assert await database.read(lambda tx: tx.changes.last()) == 2
    database.close()


def open_files(folder):
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [name for name in found if name.startswith(str(folder))]


async def test_a_closed_database_leaves_no_file_open_and_no_log_behind(tmp_path):
    database = Database.open(tmp_path / "issuer.db", clock=FakeClock())
    await database.write(lambda tx: tx.entries.create(an_entry()))
    assert open_files(tmp_path)
    database.close()
    assert open_files(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["issuer.db"]


@pytest.mark.parametrize("what", ["no database", "newer"])
def test_a_database_that_is_refused_leaves_no_file_open(tmp_path, what):
    path = tmp_path / "issuer.db"
    if what == "newer":
        reopened(path)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = '0999'")
    else:
        path.write_bytes(b"x" * 5000)
    with pytest.raises(StoreError):
        Database.open(path, clock=FakeClock())
    assert open_files(tmp_path) == []


def test_each_database_has_an_epoch_of_its_own(tmp_path):
    """So that a follower notices when another one took its place."""
    assert len({reopened(tmp_path / f"{n}.db").epoch for n in range(3)}) == 3


def test_a_database_of_a_newer_schema_is_refused_in_one_line(tmp_path):
    path = tmp_path / "issuer.db"
    reopened(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0999'")
    connection.close()
    before = path.read_bytes()
    with refused(
        f"database {path}: schema 0999 is newer than this issuer knows (0008); use the issuer that wrote it"
    ):
        Database.open(path, clock=FakeClock())
    assert path.read_bytes() == before, "nothing was touched"


@pytest.mark.parametrize(
    "content", [b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000], ids=["text", "damaged"]
)
def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "issuer.db"
    path.write_bytes(content)
    with refused(f"database {path}: file is not a database"):
        Database.open(path, clock=FakeClock())
    assert path.read_bytes() == content


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "issuer.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE entries (something TEXT)")
    connection.close()
    with refused(f"database {path}: table entries already exists"):
        Database.open(path, clock=FakeClock())
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [
            ("entries",)
        ]
    connection.close()


def test_a_folder_in_the_place_of_the_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "issuer.db").mkdir()
    with refused(f"database {tmp_path / 'issuer.db'}: unable to open database file"):
        Database.open(tmp_path / "issuer.db", clock=FakeClock())


def test_a_file_in_the_place_of_the_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(
        StoreError, match=r"^database .*issuer\.db: \[Errno \d+\] (Not a directory|File exists)"
    ):
        Database.open(tmp_path / "data/issuer.db", clock=FakeClock())


@pytest.fixture
def as_nobody():
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def foreign(tmp_path):
    """A database that others may read and not write, in a folder that they may not write either."""
    folder = tmp_path / "data"
    path = folder / "issuer.db"
    reopened(path)
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o555)
    path.chmod(0o644)
    return path


def test_a_read_only_database_is_refused_in_one_line(foreign, as_nobody):
    with pytest.raises(StoreError) as caught:
        Database.open(foreign, clock=FakeClock())
    assert str(caught.value) in (
        f"database {foreign}: attempt to write a readonly database",
        f"database {foreign}: unable to open database file",
    )


async def test_a_database_that_becomes_read_only_says_so_and_changes_nothing(tmp_path):
    database = Database.open(tmp_path / "issuer.db", clock=FakeClock())
    sa.event.listen(database._engine, "connect", lambda c, _: c.execute("PRAGMA query_only = ON"))
    database._engine.dispose()
    with refused("database failed, nothing was changed: attempt to write a readonly database"):
        await database.write(lambda tx: tx.entries.create(an_entry()))
    assert await database.read(lambda tx: list(tx.entries.all())) == []
    database.close()


async def test_a_full_disk_says_so_and_loses_nothing_that_was_acknowledged(tmp_path):
    database = Database.open(tmp_path / "issuer.db", clock=FakeClock())
    told = []
    database.on_commit.append(told.extend)
    pages = await database.read(lambda tx: tx._connection.exec_driver_sql("PRAGMA page_count").scalar())
    limit = lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages + 20}")
    sa.event.listen(database._engine, "begin", limit)
    acknowledged = []

    def add(number):
        def act(tx):
            tx.entries.create(an_entry(f"e{number}", spiffe_id=an_id(f"/{number}"), hint="x" * 2000))
            tx.audit.append(AuditRecord(at=NOW, actor="", act="", type="", subject="", outcome=Outcome.OK))

        return act

    with refused("database failed, nothing was changed: database or disk is full"):
        for number in range(1000):
            await database.write(add(number))
            acknowledged.append(f"e{number}")
    assert len(acknowledged) > 5
    found = await database.read(lambda tx: [entry.id for entry in tx.entries.all()])
    assert sorted(found) == sorted(acknowledged) == sorted(change.key for change in told)
    assert await database.read(lambda tx: tx.changes.last()) == len(acknowledged)
    assert len(await database.read(lambda tx: tx.audit.since(0, 1000))) == len(acknowledged)
    sa.event.remove(database._engine, "begin", limit)
    sa.event.listen(database._engine, "begin", lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000"))
    await database.write(add(len(acknowledged)))  # there is room again
    database.close()


async def test_a_database_that_another_process_holds_says_so(tmp_path):
    path = tmp_path / "issuer.db"
    database = Database.open(path, clock=FakeClock())
    sa.event.listen(database._engine, "connect", lambda c, _: c.execute("PRAGMA busy_timeout = 20"))
    database._engine.dispose()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with refused("database failed, nothing was changed: database is locked"):
        await database.write(lambda tx: tx.entries.create(an_entry()))
    assert await database.read(lambda tx: list(tx.entries.all())) == [], "who only reads need not wait"
    other.execute("ROLLBACK")
    other.close()
    await database.write(lambda tx: tx.entries.create(an_entry()))
    database.close()


WRITE_UNTIL_KILLED = """
import asyncio, pathlib, sys
from issuer.model import AuditRecord, Outcome
from issuer.store import Database
from tests.fakes.clock import FakeClock
from tests.issuer.strategies import NOW, an_entry

async def main():
    database = Database.open(pathlib.Path(sys.argv[1]), clock=FakeClock())

    async def one(number):
        def act(tx):
            for part in "ab":
                tx.entries.create(an_entry(f"{number}{part}"))
            tx.audit.append(AuditRecord(at=NOW, actor="", act="", type="", subject="", outcome=Outcome.OK))
        await database.write(act)
        print(number, flush=True)

    for start in range(0, 100_000, 8):
        await asyncio.gather(*(one(number) for number in range(start, start + 8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 37])
def test_a_kill_loses_nothing_that_was_acknowledged_and_leaves_no_half(tmp_path, lines):
    path = tmp_path / "issuer.db"
    program = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        acknowledged = {int(process.stdout.readline()) for _ in range(lines)}
        process.send_signal(signal.SIGKILL)
        acknowledged |= {int(line) for line in process.stdout.readlines() if line.endswith("\n")}
    database = Database.open(path, clock=FakeClock())
    with database._engine.connect() as connection:
        ids = connection.exec_driver_sql("SELECT id FROM entries").scalars().all()
        revisions = connection.exec_driver_sql("SELECT revision FROM changes ORDER BY 1").scalars().all()
        audits = connection.exec_driver_sql("SELECT count(*) FROM audit").scalar()
    database.close()
    assert {f"{number}{part}" for number in acknowledged for part in "ab"} <= set(ids)
    assert {name[:-1] + "a" for name in ids} | {name[:-1] + "b" for name in ids} == set(ids), "no halves"
    assert revisions == list(range(1, len(ids) + 1))
    assert audits * 2 == len(ids)
