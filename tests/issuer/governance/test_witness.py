# SPDX-License-Identifier: Apache-2.0
"""A witness cosigns what only grew, and answers as tlog-witness says."""

import asyncio
import random

import pytest

from issuer.governance.witness import ADD, Witness, kept_at
from spiffekit.errors import LogFormatError, LogMismatchError
from spiffekit.transparency.merkle import EMPTY_ROOT, consistency_proof
from spiffekit.transparency.notes import (
    Checkpoint,
    KeyUse,
    Note,
    cosigned_at,
    open_checkpoint,
    parse_signatures,
)
from spiffekit.transparency.proofs import AddCheckpoint
from tests.fakes.clock import FakeClock
from tests.spiffekit.transparency.logs import NOW, entry, hashes, mth, signer

ORIGIN = "example.org/audit"
LOG, OTHER = signer(ORIGIN), signer("example.org/other")
ENTRIES = [entry(number) for number in range(40)]
FORKED = [*ENTRIES[:10], b"forged", *ENTRIES[11:]]


@pytest.fixture
def clock():
    return FakeClock(NOW)


@pytest.fixture
def witness(tmp_path, clock):
    return Witness(tmp_path, signer("witness.example", KeyUse.COSIGNATURE), [LOG.key], clock)


def note(size, entries=ENTRIES, *, by=LOG, origin=ORIGIN, root=None):
    text = Checkpoint(origin, size, root or mth(entries[:size])).text
    return Note(text, (by.sign(text, now=NOW),)).encode()


def asked(old, size, entries=ENTRIES, **given):
    proof = tuple(consistency_proof(hashes(entries), old, size)) if 0 < old < size else ()
    return AddCheckpoint(old, proof, note(size, entries, **given)).encode()


async def answer(witness, body):
    reply = await witness.take(ADD, body)
    return reply.status.value, reply.body.decode()


async def test_a_checkpoint_that_follows_is_cosigned(witness, tmp_path, clock):
    key = witness._signer.key
    for old, new in [(0, 3), (3, 3), (3, 17), (17, 32), (32, 40)]:
        status, said = await answer(witness, asked(old, new))
        assert status == 200
        (signature,) = parse_signatures(said)
        assert cosigned_at(signature) == clock.now()
        whole = note(new) + said.encode()
        assert open_checkpoint(whole, LOG.key, [key]).size == new
        shown = witness.show(kept_at(ORIGIN))
        assert open_checkpoint(shown.body, LOG.key, [key]).size == new
    again = Witness(tmp_path, witness._signer, [LOG.key], clock)
    again.check()
    assert (await answer(again, asked(0, 3))) == (409, "40\n"), "it remembers after a restart"


REFUSED = {
    "no request": (b"nonsense", 400, "no empty line before a checkpoint"),
    "no checkpoint": (b"old 0\n\nnonsense\n", 400, "note has no text"),
    "an extension": (
        AddCheckpoint(0, (), Note("a\n1\nb\nc\n", (LOG.sign("a", now=NOW),)).encode()).encode(),
        400,
        "checkpoint does not have exactly three lines",
    ),
    "an unknown log": (asked(5, 9, by=OTHER, origin="example.org/other"), 404, "not found"),
    "a foreign signature": (asked(5, 9, by=OTHER), 403, "note is not signed by a known key"),
    "an old size that is larger": (AddCheckpoint(9, (), note(5)).encode(), 400, "old size is larger"),
    "another old size": (asked(4, 9), 409, "5\n"),
    "no old size": (asked(0, 9), 409, "5\n"),
    "a fork": (
        asked(5, 20, [b"forged", *ENTRIES[1:]]),
        422,
        "the log of 20 leaves does not begin with that of 5",
    ),
    "a fork of the same size": (asked(5, 5, [b"forged", *ENTRIES[1:]]), 422, "root of the log of 5 leaves"),
    "no proof": (AddCheckpoint(5, (), note(9)).encode(), 422, "the log of 9 leaves|proof has too few hashes"),
    "a proof of nothing": (
        AddCheckpoint(5, (b"x" * 32,), note(5)).encode(),
        422,
        "root of the log of 5 leaves",
    ),
}


@pytest.mark.parametrize(("body", "status", "message"), REFUSED.values(), ids=REFUSED)
async def test_what_does_not_follow_is_refused(witness, body, status, message):
    await answer(witness, asked(0, 5))
    before = witness.show(kept_at(ORIGIN))
    code, said = await answer(witness, body)
    assert code == status, said
    assert any(said.startswith(each) for each in message.split("|")), said
    assert witness.show(kept_at(ORIGIN)) == before


async def test_the_log_cannot_be_rolled_back_or_forked_whatever_is_tried(witness):
    await answer(witness, asked(0, 20))
    for _ in range(50):
        old, size = sorted(random.choices(range(41), k=2))
        entries = random.choice([ENTRIES, FORKED])
        good = old == 20 and entries is ENTRIES
        status, _ = await answer(witness, asked(old, size, entries))
        assert status in ({200} if good else {409, 422})
        if good:
            break


async def test_a_type_of_its_own_tells_the_size(witness):
    await answer(witness, asked(0, 5))
    assert (await witness.take(ADD, asked(0, 5))).content_type == "text/x.tlog.size"


async def test_a_log_without_entries_has_one_root(witness):
    assert (await answer(witness, AddCheckpoint(0, (), note(0, root=b"x" * 32)).encode()))[0] == 422
    assert (await answer(witness, AddCheckpoint(0, (), note(0, root=EMPTY_ROOT)).encode()))[0] == 200
    assert (await answer(witness, AddCheckpoint(0, (b"x" * 32,), note(5)).encode()))[0] == 422


async def test_of_two_at_once_only_one_goes_on(witness):
    await answer(witness, asked(0, 5))
    answers = await asyncio.gather(*(answer(witness, asked(5, size)) for size in range(6, 40)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 33


async def test_other_targets_are_not_found(witness):
    assert (await witness.take("/other", b"")).status.value == 404
    assert witness.show("/other").status.value == 404
    assert witness.show(kept_at(ORIGIN)).status.value == 404, "nothing was cosigned yet"
    assert witness.show(kept_at("example.org/other")).status.value == 404


@pytest.mark.parametrize("content", [b"", b"x" * 70_000, note(5), note(5, by=OTHER)])
async def test_what_it_keeps_has_to_be_signed_by_both(witness, tmp_path, content):
    await answer(witness, asked(0, 5))
    (file,) = tmp_path.glob("*.checkpoint")
    file.write_bytes(content)
    with pytest.raises((LogFormatError, LogMismatchError)):
        witness.check()
    with pytest.raises((LogFormatError, LogMismatchError)):
        await answer(witness, asked(5, 9))


async def test_only_the_log_itself_is_kept_with_the_checkpoint(witness):
    text = Checkpoint(ORIGIN, 5, mth(ENTRIES[:5])).text
    many = Note(text, tuple(by.sign(text, now=NOW) for by in (OTHER, LOG, OTHER))).encode()
    assert (await answer(witness, AddCheckpoint(0, (), many).encode()))[0] == 200
    kept = Note.parse(witness.show(kept_at(ORIGIN)).body)
    assert [signature.name for signature in kept.signatures] == [ORIGIN, "witness.example"]
