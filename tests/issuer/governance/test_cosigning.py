# SPDX-License-Identifier: Apache-2.0
"""The audit log before a witness, over real connections: it knows what a whole disk has forgotten."""

import asyncio
import contextlib
import shutil
from datetime import timedelta
from http import HTTPStatus

import pytest

from deploy.local import free_port
from issuer.governance import cosigning
from issuer.governance.cosigning import RemoteWitness, Witnesses
from issuer.governance.witness import ADD, MAX_BODY, Witness, kept_at
from spiffekit.daemon.http_server import NOT_FOUND, Reply, Take, serve
from spiffekit.transparency.notes import Checkpoint, KeyUse, Note, open_checkpoint
from tests.fakes.clock import FakeClock
from tests.issuer.governance.trails import ORIGIN, Trail
from tests.spiffekit.transparency.logs import NOW, signer

COSIGNER = signer("witness.example", KeyUse.COSIGNATURE)


@contextlib.asynccontextmanager
async def served(show, take, port=None):
    port, ready = port or free_port(), asyncio.Event()
    task = asyncio.create_task(serve("127.0.0.1", port, show, post=Take(take, MAX_BODY))(ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    yield f"http://127.0.0.1:{port}"
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class Witnessed(Trail):
    """A trail whose log is before a witness."""

    def __init__(self, folder, clock, url):
        self.url = url
        super().__init__(folder, clock)

    def opened(self, **given):
        log = super().opened(**given)
        self.witnesses = Witnesses([RemoteWitness(self.url, COSIGNER.key, self.signer.key)], self.clock)
        log._witnesses = self.witnesses
        return log

    def reopen(self):
        """As a restart does: the database, and what the log knows."""
        from issuer.store.database import Database

        self.database.close()
        self.database = Database.open(self.folder / "issuer.db", clock=self.clock)
        self.log = self.opened()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "issuer").mkdir()
    return tmp_path / "issuer"


@pytest.fixture
def clock():
    return FakeClock(NOW)


@pytest.fixture
def judge(folder, tmp_path, clock):
    from issuer.governance.audit_log import load_signer

    (tmp_path / "witness").mkdir()
    key = load_signer(ORIGIN, folder / "audit-key").key
    return Witness(tmp_path / "witness", COSIGNER, [key], clock)


@pytest.fixture
async def trail(folder, clock, judge):
    async with served(judge.show, judge.take) as url:
        made = Witnessed(folder, clock, url)
        yield made
        made.database.close()


def cosigned(trail):
    return open_checkpoint(trail.files.checkpoint(), trail.signer.key, [COSIGNER.key]).size


async def test_every_head_is_cosigned(trail):
    for count in (0, 3, 300, 1):
        await trail.add(count)
        await trail.log.seal()
        assert cosigned(trail) == trail.log.sealed
        assert trail.witnesses.cosigned == 1
    trail.reopen()
    await trail.add(5)
    await trail.log.seal()
    assert cosigned(trail) == 309


async def test_an_issuer_whose_whole_disk_was_rolled_back_does_nothing_any_more(trail, folder, tmp_path):
    """Database and log go together: only the witness knows better."""
    await trail.add(10)
    await trail.log.seal()
    trail.database.close()
    shutil.copytree(folder, tmp_path / "copy")
    trail.reopen()
    await trail.add(5)
    await trail.log.seal()
    trail.database.close()
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "copy", folder)
    trail.reopen()
    await trail.log.seal()
    reason = "witness witness.example has cosigned 15 events and the log has 10: it was rolled back"
    for _ in range(3):  # however often it looks
        assert (await trail.refused()).endswith(reason)
        await trail.log.seal()


async def test_an_issuer_whose_history_was_rewritten_does_nothing_any_more(trail, folder):
    await trail.add(10)
    await trail.log.seal()
    trail.tamper(
        "DELETE FROM audit WHERE sequence = 4", "UPDATE audit SET sequence = sequence - 1 WHERE sequence > 4"
    )
    await trail.add(20)
    shutil.rmtree(trail.files.folder)
    trail.reopen()
    await trail.log.seal()
    reason = "witness witness.example has cosigned other 10 events: the log was rewritten"
    assert (await trail.refused()).endswith(reason)


async def test_a_log_of_the_same_size_and_other_events_is_found(trail):
    await trail.add(10)
    await trail.log.seal()
    trail.tamper("UPDATE audit SET event = CAST('{}' AS BLOB) WHERE sequence = 4")
    shutil.rmtree(trail.files.folder)
    trail.reopen()
    await trail.log.seal()
    assert "the log was rewritten" in await trail.refused()


async def test_a_witness_that_is_down_holds_nothing_up_and_is_asked_again_later(folder, clock, judge, caplog):
    port = free_port()
    trail = Witnessed(folder, clock, f"http://127.0.0.1:{port}")
    for _ in range(3):
        await trail.add(3)
        await trail.log.seal()
        assert await trail.refused() == ""
        await trail.log.seal()
    assert (trail.head().size, trail.witnesses.cosigned) == (12, 0)
    assert [r.levelname for r in caplog.records if r.message == "witness does not cosign"] == ["WARNING"]
    async with served(judge.show, judge.take, port):
        await trail.clock.advance(timedelta(minutes=2))
        await trail.add(1)
        await trail.log.seal()
        assert cosigned(trail) == 13
    trail.database.close()


def lies():
    """What a witness may answer to a request, and to the question what it keeps."""
    other = signer("other", KeyUse.COSIGNATURE)
    foreign = signer(ORIGIN)  # of the log's name, and not its key
    text = Checkpoint(ORIGIN, 99, b"r" * 32).text
    forged = Note(text, (foreign.sign(text, now=NOW), COSIGNER.sign(text, now=NOW))).encode()
    conflict = lambda body: Reply(body, status=HTTPStatus.CONFLICT)
    refusal = Reply(b"no\n", status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return {
        "an error": (Reply(b"out of order\n", status=HTTPStatus.INTERNAL_SERVER_ERROR), NOT_FOUND),
        "another's signature": (Reply(str(other.sign(text, now=NOW)).encode()), NOT_FOUND),
        "a signature of something else": (Reply(str(COSIGNER.sign("x", now=NOW)).encode()), NOT_FOUND),
        "noise": (Reply(b"\xff"), NOT_FOUND),
        "nothing": (Reply(b""), NOT_FOUND),
        "too much": (Reply(b"x" * 100_000), NOT_FOUND),
        "a size that is none": (conflict(b"many\n"), NOT_FOUND),
        "a size that is no text": (conflict(b"\xff"), NOT_FOUND),
        "another size each time": (conflict(b"1\n"), NOT_FOUND),
        "a larger size without evidence": (conflict(b"99\n"), NOT_FOUND),
        "a larger size with forged evidence": (conflict(b"99\n"), Reply(forged)),
        "a refusal without evidence": (refusal, NOT_FOUND),
        "a refusal with noise": (refusal, Reply(b"\xff")),
    }


@pytest.mark.parametrize("lie", lies())
async def test_a_witness_that_lies_cannot_stop_the_issuer(folder, clock, lie, caplog):
    added, kept = lies()[lie]

    async def take(target, body):
        assert target == ADD
        return added

    async with served(lambda target: kept if target == kept_at(ORIGIN) else NOT_FOUND, take) as url:
        trail = Witnessed(folder, clock, url)
        await trail.add(3)
        await trail.log.seal()
        assert (trail.head().size, trail.witnesses.cosigned) == (3, 0)
        assert await trail.refused() == ""
        assert "witness does not cosign" in caplog.text
        trail.database.close()


async def test_a_witness_that_refuses_what_follows_is_asked_again(folder, clock, judge):
    refuse = True

    async def take(target, body):
        if refuse:
            return Reply(b"no\n", status=HTTPStatus.UNPROCESSABLE_ENTITY)
        return await judge.take(target, body)

    async with served(judge.show, take) as url:
        trail = Witnessed(folder, clock, url)
        refuse = False
        await trail.add(3)
        await trail.log.seal()
        refuse = True
        await trail.add(3)
        await trail.log.seal()
        assert (trail.head().size, await trail.refused()) == (6, "")
        refuse = False
        await trail.clock.advance(timedelta(minutes=2))
        await trail.log.seal()
        assert cosigned(trail) == 7
        trail.database.close()


async def test_a_witness_that_is_silent_is_not_waited_for(folder, clock, monkeypatch):
    monkeypatch.setattr(cosigning, "WITHIN", 0.1)

    async def take(target, body):
        await asyncio.sleep(1)
        return NOT_FOUND

    async with served(lambda _: NOT_FOUND, take) as url:
        trail = Witnessed(folder, clock, url)
        await trail.add(3)
        await trail.log.seal()
        assert (trail.head().size, trail.witnesses.cosigned) == (3, 0)
        trail.database.close()


async def test_several_witnesses_cosign_one_head(folder, tmp_path, clock, judge):
    (tmp_path / "second").mkdir()
    second = signer("second.example", KeyUse.COSIGNATURE)
    key = next(iter(judge._logs.values()))
    other = Witness(tmp_path / "second", second, [key], clock)
    async with served(judge.show, judge.take) as one, served(other.show, other.take) as two:
        trail = Witnessed(folder, clock, one)
        pair = [RemoteWitness(one, COSIGNER.key, key), RemoteWitness(f"{two}/", second.key, key)]
        trail.log._witnesses = Witnesses(pair, clock)
        await trail.add(3)
        await trail.log.seal()
        assert open_checkpoint(trail.files.checkpoint(), key, [COSIGNER.key, second.key]).size == 3
        trail.database.close()


@pytest.mark.parametrize(
    ("url", "peer", "prefix", "secure"),
    [
        ("http://w.example", "w.example:80", "", False),
        ("https://w.example", "w.example:443", "", True),
        ("https://w.example:8090/logs/", "w.example:8090", "/logs", True),
        ("http://[::1]:8090", "::1:8090", "", False),
    ],
)
def test_a_witness_is_where_its_url_says(url, peer, prefix, secure):
    witness = RemoteWitness(url, COSIGNER.key, signer(ORIGIN).key)
    assert (str(witness._peer), witness._prefix, witness._peer.tls is not None) == (peer, prefix, secure)
