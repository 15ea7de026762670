# SPDX-License-Identifier: Apache-2.0
"""The audit trail is sealed every second, and nothing goes on once it was changed behind our back."""

import asyncio
import contextlib
import shutil
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from issuer.governance.audit_log import GRACE, load_signer
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.key_files import KeyFiles
from spiffekit.keys import KeyType, generate_private_key
from spiffekit.transparency.check import check_log
from tests.fakes.clock import FakeClock
from tests.issuer.governance.trails import ORIGIN, Trail


@pytest.fixture
def trail(tmp_path):
    made = Trail(tmp_path, FakeClock())
    yield made
    made.database.close()


@pytest.mark.parametrize(
    "counts", [[0], [1], [255], [256], [257], [1, 255], [255, 1, 1], [300, 300], [1024], [1025], [2500, 1]]
)
@pytest.mark.parametrize("restarts", [False, True])
async def test_what_was_recorded_is_sealed(trail, counts, restarts):
    for count in counts:
        await trail.add(count)
        if restarts:
            trail.log = trail.opened()
        await trail.log.seal()
        assert await trail.whole() == trail.log.sealed == len(await trail.leaves())


async def test_a_log_begins_with_a_checkpoint_of_nothing(trail):
    await trail.log.seal()
    assert trail.head().size == 0


async def test_without_anything_new_nothing_is_written(trail):
    await trail.add(3)
    await trail.log.seal()
    before = {path: path.stat().st_mtime_ns for path in trail.files.folder.rglob("*")}
    await trail.log.seal()
    assert {path: path.stat().st_mtime_ns for path in trail.files.folder.rglob("*")} == before


async def test_an_earlier_checkpoint_is_consistent_with_every_later_one(trail):
    heads = []
    for count in (0, 3, 300, 1, 252, 700):
        await trail.add(count)
        await trail.log.seal()
        heads.append(trail.head())
    for earlier in heads:
        check_log(trail.files.read, heads[-1], since=earlier)


async def test_unfinished_tiles_are_removed_when_they_are_full(trail):
    for count in (100, 100, 100):
        await trail.add(count)
        await trail.log.seal()
    partials = [str(path.relative_to(trail.files.folder)) for path in trail.files.folder.rglob("*.p")]
    assert sorted(partials) == ["tile/0/001.p", "tile/1/000.p", "tile/entries/001.p"]


async def test_only_we_may_read_the_log(trail):
    await trail.add(300)
    await trail.log.seal()
    for path in trail.files.folder.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert (trail.folder / "audit-key" / "log.pem").stat().st_mode & 0o777 == 0o600


async def test_the_service_seals_every_second(trail):
    ready = asyncio.Event()
    task = asyncio.create_task(trail.log.run(ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    for size in (1, 2, 3):
        await trail.add(1)
        await trail.clock.advance(timedelta(seconds=1))
        while trail.log.sealed < size:
            await asyncio.sleep(0.01)
        assert trail.head().size == size
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_what_is_being_sealed_at_the_end_is_sealed_whole(trail, monkeypatch):
    """Else a copy of the database from before it would pass for all there was."""
    writing, go_on = threading.Event(), threading.Event()
    write = trail.files.write

    def slow(tiles):
        writing.set()
        assert go_on.wait(60)
        write(tiles)

    ready = asyncio.Event()
    task = asyncio.create_task(trail.log.run(ready.set))
    await asyncio.wait_for(ready.wait(), 20)
    await trail.add(2)
    monkeypatch.setattr(trail.files, "write", slow)
    await trail.clock.advance(timedelta(seconds=1))
    assert await asyncio.to_thread(writing.wait, 60)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)  # the end waits for it, however long it takes
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await trail.log.seal()
    assert await trail.whole() == trail.log.sealed == 2


TAMPERED = {
    "rolled back": (["DELETE FROM audit WHERE sequence > 280"], "it was rolled back"),
    "emptied": (["DELETE FROM audit"], "the database has 0 events and the log 300: it was rolled back"),
    "changed": (
        ["UPDATE audit SET event = CAST('{}' AS BLOB) WHERE sequence = 290"],
        "are not those of the log",
    ),
    "a byte flipped": (
        ["UPDATE audit SET event = CAST(replace(CAST(event AS TEXT), 'local', 'locaL') AS BLOB)"],
        "are not those of the log",
    ),
    "swapped": (
        [
            "UPDATE audit SET sequence = 999 WHERE sequence = 290",
            "UPDATE audit SET sequence = 290 WHERE sequence = 291",
            "UPDATE audit SET sequence = 291 WHERE sequence = 999",
        ],
        "are not those of the log",
    ),
    "one taken out": (["DELETE FROM audit WHERE sequence = 290"], "are not those of the log"),
}


@pytest.mark.parametrize(("statements", "reason"), TAMPERED.values(), ids=TAMPERED)
async def test_a_database_that_was_changed_stops_whatever_has_to_be_recorded(trail, statements, reason):
    await trail.add(300)
    await trail.log.seal()
    before = trail.files.checkpoint()
    trail.tamper(*statements)
    trail.log = trail.opened()
    await trail.log.seal()
    assert reason in await trail.refused()
    assert trail.files.checkpoint() == before, "nothing is signed"


async def test_a_database_that_is_rolled_back_under_a_running_issuer_is_noticed(trail):
    await trail.add(300)
    await trail.log.seal()
    trail.tamper("DELETE FROM audit WHERE sequence > 280")
    await trail.log.seal()
    assert (await trail.refused()).endswith("the database has 280 events and the log 300: it was rolled back")


async def test_an_event_that_is_missing_before_it_was_sealed_is_noticed(trail):
    await trail.add(10)
    trail.tamper("DELETE FROM audit WHERE sequence = 5")
    await trail.log.seal()
    assert (await trail.refused()).endswith("event 5 is missing in the database")


async def test_where_the_log_is_not_required_the_issuer_goes_on_and_signs_nothing(trail, caplog):
    await trail.add(300)
    await trail.log.seal()
    before = trail.files.checkpoint()
    trail.tamper("DELETE FROM audit WHERE sequence > 280")
    trail.log = trail.opened(required=False)
    for _ in range(3):
        await trail.log.seal()
        assert await trail.refused() == ""
    assert trail.files.checkpoint() == before
    assert [r.levelname for r in caplog.records if r.message == "audit log cannot be sealed"] == ["CRITICAL"]


DAMAGED = {
    "no checkpoint": lambda folder: (folder / "checkpoint").unlink(),
    "an empty checkpoint": lambda folder: (folder / "checkpoint").write_bytes(b""),
    "an endless checkpoint": lambda folder: (folder / "checkpoint").write_bytes(b"x" * 100_000),
    "no tiles": lambda folder: shutil.rmtree(folder / "tile"),
    "another tile": lambda folder: (folder / "tile/0/001.p/44").write_bytes(b"x" * 44 * 32),
    "a short tile": lambda folder: (folder / "tile/0/001.p/44").write_bytes(b"x"),
    "another tile above": lambda folder: (folder / "tile/1/000.p/1").write_bytes(b"x" * 32),
    "other entries": lambda folder: (folder / "tile/entries/001.p/44").write_bytes(b"\0\0" * 44),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
async def test_a_log_that_was_changed_stops_whatever_has_to_be_recorded(trail, damage):
    await trail.add(300)
    await trail.log.seal()
    damage(trail.files.folder)
    trail.log = trail.opened()
    await trail.log.seal()
    assert "the audit log cannot be sealed" in await trail.refused()


async def test_a_log_of_another_key_is_not_ours(trail, tmp_path):
    await trail.log.seal()
    trail.log = trail.opened(signer=load_signer(ORIGIN, tmp_path / "other"))
    await trail.log.seal()
    assert (await trail.refused()).endswith("note is not signed by a known key")


async def test_a_log_that_cannot_be_written_for_a_while_holds_nothing_up(trail, monkeypatch):
    await trail.log.seal()
    full = OSError(28, "No space left on device")

    def write(_):
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(trail.files, "write", write)
        await trail.add(300)
        await trail.log.seal()
        assert await trail.refused() == ""
        await trail.clock.advance(GRACE)
        await trail.log.seal()
        assert "No space left on device" in await trail.refused()
    await trail.log.seal()
    assert await trail.refused() == ""
    await trail.log.seal()
    assert await trail.whole() == 302


async def test_a_database_that_fails_is_waited_for(trail):
    await trail.log.seal()
    refuse = lambda connection: connection.exec_driver_sql("no such statement")
    sa.event.listen(trail.database._engine, "begin", refuse)
    await trail.log.seal()
    sa.event.remove(trail.database._engine, "begin", refuse)
    trail.database._engine.dispose()
    await trail.add(1)
    await trail.log.seal()
    assert await trail.whole() == 1


async def test_a_crash_between_tiles_and_checkpoint_loses_nothing(trail, monkeypatch):
    await trail.add(300)
    await trail.log.seal()
    await trail.add(300)
    with monkeypatch.context() as patched:
        patched.setattr(trail.files, "publish", lambda _: (_ for _ in ()).throw(OSError(5, "gone")))
        await trail.log.seal()
    assert trail.head().size == 300
    trail.log = trail.opened()
    await trail.add(1)
    await trail.log.seal()
    assert await trail.whole() == 601


async def test_a_log_whose_checkpoint_was_rolled_back_contradicts_the_one_that_was_kept(trail):
    await trail.add(300)
    await trail.log.seal()
    old = trail.files.checkpoint()
    await trail.add(300)
    await trail.log.seal()
    kept = trail.head()
    trail.files.publish(old)
    with pytest.raises(Exception, match="the log has 300 entries, and had 600 before"):
        check_log(trail.files.read, trail.head(), since=kept)


def test_a_key_is_made_once_and_kept(tmp_path):
    key = load_signer(ORIGIN, tmp_path / "k").key
    assert load_signer(ORIGIN, tmp_path / "k").key == key
    (tmp_path / "passphrase").write_text("secret\n")
    sealed = load_signer(ORIGIN, tmp_path / "sealed", tmp_path / "passphrase").key
    assert sealed != key
    assert load_signer(ORIGIN, tmp_path / "sealed", tmp_path / "passphrase").key == sealed
    assert b"ENCRYPTED" in (tmp_path / "sealed" / "log.pem").read_bytes()
    with pytest.raises(
        ConfigError, match=r"audit: key of the log in .*sealed: not a PEM private key, or the pass"
    ):
        load_signer(ORIGIN, tmp_path / "sealed")
    with pytest.raises(ConfigError, match=r"audit: key of the log in .*: passphrase_file: .*: No such file"):
        load_signer(ORIGIN, tmp_path / "sealed", tmp_path / "none")


def test_a_key_of_another_kind_is_refused(tmp_path):
    KeyFiles(tmp_path / "k").save("log", generate_private_key(KeyType.EC_P256))
    with pytest.raises(ConfigError, match=r"is not of Ed25519$"):
        load_signer(ORIGIN, tmp_path / "k")


def test_a_key_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "k").write_text("in the way")
    with pytest.raises(ConfigError, match=r"^audit: .*/k/log.pem: "):
        load_signer(ORIGIN, tmp_path / "k")
