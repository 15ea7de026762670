# SPDX-License-Identifier: Apache-2.0
"""Proof files and requests to witnesses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiffekit.errors import LogFormatError, LogMismatchError, SpiffeError
from spiffekit.transparency import merkle, proofs
from spiffekit.transparency.notes import Checkpoint, KeyUse, Note
from spiffekit.transparency.proofs import AddCheckpoint, Proof
from tests.spiffekit.transparency.logs import NOW, entry, hashes, mth, path, proof, signer

SIZE, INDEX = 300, 200
ENTRIES = [entry(number) for number in range(SIZE)]
LOG = signer("example.com/log")
WITNESS = signer("example.com/witness", KeyUse.COSIGNATURE)


def checkpoint(size, *signers):
    text = Checkpoint("example.com/log", size, mth(ENTRIES[:size])).text
    return Note(text, tuple(by.sign(text, now=NOW) for by in signers or (LOG, WITNESS))).encode()


GOOD = Proof(INDEX, tuple(path(INDEX, ENTRIES)), checkpoint(SIZE), ENTRIES[INDEX])


def test_a_proof_verifies_by_the_keys_of_log_and_witness():
    for made in (GOOD, Proof.parse(GOOD.encode())):
        assert made.verify(ENTRIES[INDEX], LOG.key).size == SIZE
        assert made.verify(made.extra, LOG.key, [WITNESS.key]).root == mth(ENTRIES)


def test_a_proof_has_the_lines_of_the_document():
    lines = GOOD.encode().decode().split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra ZW50cnkgMjAw", "index 200"]
    assert lines[3 + len(GOOD.hashes)] == ""
    without = Proof(GOOD.index, GOOD.hashes, GOOD.checkpoint)
    assert without.encode().decode().split("\n")[1] == "index 200"
    assert Proof.parse(without.encode()) == without


@settings(deadline=None)
@given(data=st.data())
def test_a_proof_with_a_byte_changed_is_refused(data):
    whole = bytearray(GOOD.encode())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SpiffeError):
        made = Proof.parse(bytes(whole))
        made.verify(made.extra or b"", LOG.key, [WITNESS.key])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"entry": b"forged"}, "inclusion proof of leaf 200 does not lead to the root"),
        ({"log": signer("example.com/other").key}, "note is not signed by a known key"),
        ({"witnesses": [signer("w", KeyUse.COSIGNATURE).key]}, "checkpoint is not signed by w"),
    ],
)
def test_a_proof_of_something_else_is_refused(what, message):
    with pytest.raises(LogMismatchError, match=f"^{message}"):
        GOOD.verify(**({"entry": ENTRIES[INDEX], "log": LOG.key} | what))


CHECKPOINT = checkpoint(SIZE)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("c2sp.org/tlog-proof@v2\nindex 1", "proof does not begin with"),
        ("c2sp.org/tlog-proof@v1", "proof has no index"),
        ("c2sp.org/tlog-proof@v1\nextra AAAA", "proof has no index"),
        ("c2sp.org/tlog-proof@v1\nextra !\nindex 1", "extra: '!' is not base64"),
        ("c2sp.org/tlog-proof@v1\nindex 1\nextra AAAA", "proof: 'extra AAAA' is not base64"),
        ("c2sp.org/tlog-proof@v1\nindex 01", "index: '01' is no number"),
        ("c2sp.org/tlog-proof@v1\nindex 1\nAAAA", "proof: has 3 bytes instead of 32"),
        ("c2sp.org/tlog-proof@v1\nindex 1" + f"\n{'A' * 43}=" * 64, "proof has more than 63 hashes"),
        ("c2sp.org/tlog-proof@v1\nindex \u0661", "no empty line before a checkpoint, no ASCII"),
    ],
)
def test_what_is_no_proof_is_refused(head, message):
    with pytest.raises(LogFormatError, match=f"^{message}"):
        Proof.parse(head.encode() + b"\n\n" + CHECKPOINT)


def test_a_proof_is_bounded_and_has_a_checkpoint():
    for data in (b"", b"c2sp.org/tlog-proof@v1\nindex 1\n", b"x\n\n" + b"x" * proofs.MAX_TEXT):
        with pytest.raises(LogFormatError, match="no empty line before a checkpoint"):
            Proof.parse(data)


@pytest.mark.parametrize("old", [0, 1, 128, 299, 300])
def test_a_request_to_a_witness_shows_that_the_log_has_grown(old):
    made = AddCheckpoint(old, tuple(merkle.consistency_proof(hashes(ENTRIES), old, SIZE)), CHECKPOINT)
    asked = AddCheckpoint.parse(made.encode())
    assert asked == made
    new = Checkpoint.parse(asked.note.text)
    asked.verify(mth(ENTRIES[:old]), new)
    with pytest.raises(LogMismatchError):
        asked.verify(b"x" * 32, new)


def test_a_request_has_the_lines_of_the_document():
    made = AddCheckpoint(299, tuple(proof(299, ENTRIES)), CHECKPOINT).encode()
    lines = made.decode().split("\n")
    assert lines[0] == "old 299"
    assert made.endswith(b"\n\n" + CHECKPOINT)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("", "request does not begin with the old size"),
        ("old", "request does not begin with the old size"),
        ("old 01", "old size: '01' is no number"),
        ("old 1\nAAAA", "proof: has 3 bytes instead of 32"),
        ("old 1" + f"\n{'A' * 43}=" * 64, "proof has more than 63 hashes"),
    ],
)
def test_what_is_no_request_is_refused(head, message):
    with pytest.raises(LogFormatError, match=f"^{message}"):
        AddCheckpoint.parse(head.encode() + b"\n\n" + CHECKPOINT)
