# SPDX-License-Identifier: Apache-2.0
"""Signed notes and checkpoints: the documents' examples, and everything that is no note."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.errors import LogFormatError, LogMismatchError
from spiffekit.transparency import notes
from spiffekit.transparency.notes import (
    Checkpoint,
    KeyUse,
    Note,
    Signature,
    VerifierKey,
    cosigned_at,
    open_checkpoint,
    parse_signatures,
)
from tests.spiffekit.transparency.logs import NOW, signer

# signed-note, section "Example"
KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYj"
    "OBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
# tlog-cosignature, the checkpoint at its beginning
CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
    "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2"
    "oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
).encode()
LOG = signer("example.com/log")
WITNESS = signer("example.com/witness", KeyUse.COSIGNATURE)
HEAD = Checkpoint("example.com/log", 7, b"r" * 32)


def signed(*signers, text=HEAD.text, now=NOW):
    return Note(text, tuple(by.sign(text, now=now) for by in signers)).encode()


def test_the_example_of_a_note_verifies():
    key, note = VerifierKey.parse(KEY), Note.parse(NOTE)
    assert str(key) == KEY
    assert note.encode() == NOTE
    assert note.text == "This is an example message.\n"
    assert note.verified_by([LOG.key, key]) == (key,)


def test_the_example_of_a_checkpoint_is_read():
    note = Note.parse(CHECKPOINT)
    checkpoint = Checkpoint.parse(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text == note.text
    assert note.encode() == CHECKPOINT
    assert [signature.name for signature in note.signatures] == [
        "example.com/behind-the-sofa",
        "witness.example.com/w1",
    ]
    assert cosigned_at(note.signatures[1]) == datetime.fromtimestamp(1679315147, UTC)  # the time it shows


@pytest.mark.parametrize("at", range(0, len(NOTE) - 1, 3))
def test_a_note_with_a_byte_changed_does_not_verify(at):
    spoilt = NOTE[:at] + bytes([NOTE[at] ^ 1]) + NOTE[at + 1 :]
    with pytest.raises((LogFormatError, LogMismatchError)):
        Note.parse(spoilt).verified_by([VerifierKey.parse(KEY)])


@pytest.mark.parametrize("by", [LOG, WITNESS], ids=["log", "witness"])
def test_a_key_comes_out_of_its_text_as_it_went_in(by):
    assert VerifierKey.parse(str(by.key)) == by.key
    assert by.key.name in repr(by)


def test_a_checkpoint_is_opened_by_the_keys_of_its_log_and_witnesses():
    data = signed(LOG, WITNESS)
    assert open_checkpoint(data, LOG.key) == HEAD
    assert open_checkpoint(data, LOG.key, [WITNESS.key]) == HEAD
    assert cosigned_at(Note.parse(data).signatures[1]) == NOW


def test_what_is_signed_by_others_besides_is_as_good():
    assert open_checkpoint(signed(signer("other"), LOG), LOG.key) == HEAD


@pytest.mark.parametrize(
    ("data", "witnesses", "message"),
    [
        (signed(signer("other")), [], "note is not signed by a known key"),
        (signed(LOG), [WITNESS.key], "checkpoint is not signed by example.com/witness"),
        (signed(WITNESS), [WITNESS.key], "checkpoint is not signed by example.com/log"),
        (
            signed(LOG, text=Checkpoint("other", 7, b"r" * 32).text),
            [],
            "checkpoint is of 'other', not of",
        ),
    ],
)
def test_a_checkpoint_without_a_signature_that_is_asked_for_is_refused(data, witnesses, message):
    with pytest.raises(LogMismatchError, match=f"^{message}"):
        open_checkpoint(data, LOG.key, witnesses)


def test_a_bad_signature_of_a_known_key_spoils_the_note():
    good, bad = LOG.sign(HEAD.text, now=NOW), WITNESS.sign(HEAD.text + "x", now=NOW)
    with pytest.raises(LogMismatchError, match=r"^signature of example\.com/witness does not verify$"):
        open_checkpoint(Note(HEAD.text, (good, bad)).encode(), LOG.key, [WITNESS.key])
    assert open_checkpoint(Note(HEAD.text, (good, bad)).encode(), LOG.key) == HEAD


def test_a_cosignature_vouches_for_its_time():
    line = WITNESS.sign(HEAD.text, now=NOW)
    later = line._replace(data=(int(NOW.timestamp()) + 1).to_bytes(8) + line.data[8:])
    with pytest.raises(LogMismatchError):
        Note(HEAD.text, (later,)).verified_by([WITNESS.key])
    assert Note(HEAD.text, (line,)).verified_by([WITNESS.key]) == (WITNESS.key,)


def test_a_signature_for_one_use_is_none_for_another():
    same = signer("example.com/witness")  # the same private key and name
    assert same.key.public_key == WITNESS.key.public_key
    assert same.key.id != WITNESS.key.id
    with pytest.raises(LogMismatchError, match="not signed by a known key"):
        Note.parse(signed(same)).verified_by([WITNESS.key])


def test_a_time_beyond_the_calendar_is_refused():
    with pytest.raises(LogFormatError, match="beyond the calendar"):
        cosigned_at(Signature("w", b"1234", b"\x7f" + b"\xff" * 71))
    far = WITNESS.sign(HEAD.text, now=NOW + timedelta(days=365_000))
    assert cosigned_at(far).year == 3025


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "note has no text"),
        (b"text\n", "note has no text"),
        (b"text\n\n", "note has no text"),
        (b"\n\n\xe2\x80\x94 n AAAAAAA=\n", "note has no text"),
        (b"\xff\n\n", "note is not UTF-8"),
        (b"a\tb\n\n\xe2\x80\x94 n AAAAAAA=\n", "note has a control character"),
        (b"text\n\n\xe2\x80\x94 n AAAAAAA=", "signatures do not end in a newline"),
        (b"text\n\n- n AAAAAAA=\n", "signature: the line does not"),
        (b"text\n\n\xe2\x80\x94 n AAAAAA==\n", "signature: is shorter than"),
        (b"text\n\n\xe2\x80\x94 n\n", "signature: is shorter than"),
        (b"text\n\n\xe2\x80\x94 n AAAAAAA\n", "signature: 'AAAAAAA' is not base64"),
        (b"text\n\n\xe2\x80\x94 n AAAAAAB=\n", "signature: 'AAAAAAB=' is not canonical base64"),
        (b"text\n\n\xe2\x80\x94 n AAAA-AA=\n", "signature: 'AAAA-AA=' is not base64"),
        ("text\n\n— n é\n".encode(), "signature: 'é' is not base64"),
        (b"text\n\n\xe2\x80\x94  AAAAAAA=\n", "key name '' has not"),
        (b"text\n\n\xe2\x80\x94 a+b AAAAAAA=\n", r"key name 'a\+b' has a space, a plus"),
        ("text\n\n— a\u00a0b AAAAAAA=\n".encode(), "key name 'a.xa0b' has a space, a plus"),
        (b"text\n\n\xe2\x80\x94 " + b"n" * 256 + b" AAAAAAA=\n", "key name 'n+' has not 1 to 255"),
        (b"text\n\n" + b"\xe2\x80\x94 n AAAAAAA=\n" * 65, "signatures do not end in a newline, or are more"),
        (b"x" * (notes.MAX_NOTE + 1), "note of 65537 bytes: 65536 are allowed"),
    ],
)
def test_what_is_no_note_is_refused(data, message):
    with pytest.raises(LogFormatError, match=f"^{message}"):
        Note.parse(data)


def test_a_note_may_have_empty_lines_and_many_signatures():
    data = b"one\n\ntwo\n\n" + b"\xe2\x80\x94 n AAAAAAA=\n" * 64
    note = Note.parse(data)
    assert note.text == "one\n\ntwo\n"
    assert note.encode() == data
    assert parse_signatures("— n AAAAAAA=\n") == note.signatures[:1]


ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "checkpoint does not have exactly three lines"),
        (f"o\n1\n{ROOT}", "checkpoint does not have exactly three lines"),
        (f"o\n1\n{ROOT}\nextension\n", "checkpoint does not have exactly three lines"),
        (f"\n1\n{ROOT}\n", "key name '' has not 1 to 255"),
        (f"o o\n1\n{ROOT}\n", "key name 'o o' has a space"),
        (f"o\n\n{ROOT}\n", "tree size: '' is no number"),
        (f"o\n01\n{ROOT}\n", "tree size: '01' is no number"),
        (f"o\n-1\n{ROOT}\n", "tree size: '-1' is no number"),
        (f"o\n\u0661\n{ROOT}\n", "tree size: '\u0661' is no number"),
        (f"o\n9223372036854775808\n{ROOT}\n", "tree size: '9223372036854775808' is no number"),
        ("o\n1\nAAAA\n", "root hash: has 3 bytes instead of 32"),
        ("o\n1\nnone\n\n", "checkpoint does not have exactly three lines"),
    ],
)
def test_what_is_no_checkpoint_is_refused(text, message):
    with pytest.raises(LogFormatError, match=f"^{message}"):
        Checkpoint.parse(text)


@given(size=st.integers(0, 2**63 - 1), root=st.binary(min_size=32, max_size=32))
def test_a_checkpoint_comes_out_of_its_text_as_it_went_in(size, root):
    head = Checkpoint("example.com/log", size, root)
    assert Checkpoint.parse(head.text) == head


NAME, ID, MATERIAL = KEY.split("+")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "verifier key: key ID '' is not 8"),
        (NAME, "verifier key: key ID '' is not 8"),
        (f"{NAME}+{ID.upper()}+{MATERIAL}", "verifier key: key ID '530D903A' is not 8"),
        (f"{NAME}+530d903b+{MATERIAL}", "verifier key: key ID 530d903b is not that of the key, 530d903a"),
        (f"x{KEY}", "verifier key: key ID 530d903a is not that of the key"),
        (f"{NAME}+{ID}+AukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", "verifier key: is not of Ed25519"),
        (f"{NAME}+{ID}+AekyeRrm", "verifier key: is not of Ed25519"),
        (f"{NAME}+{ID}+", "verifier key: is not of Ed25519"),
        (f"{NAME}+{ID}+!", "verifier key: '!' is not base64"),
        (f"a b+{ID}+{MATERIAL}", "key name 'a b' has a space"),
    ],
)
def test_what_is_no_verifier_key_is_refused(text, message):
    with pytest.raises(LogFormatError, match=f"^{message}"):
        VerifierKey.parse(text)


def test_a_private_key_is_not_shown():
    assert repr(LOG) == "Signer('example.com/log')"
