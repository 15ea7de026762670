# SPDX-License-Identifier: Apache-2.0
"""The policies that an attestor holds: what does not verify is refused and told, and what was there stays."""

from datetime import timedelta

import pytest

from attestor.policies import PolicyShelf, SaidPolicies
from spiffekit.policy.bundle import LIFETIME, MAX_BYTES, MAX_SKEW
from spiffekit.testing import TestCA
from tests.attestor.factory import START
from tests.spiffekit.policy.asked import ALL, NONE

SECOND = timedelta(seconds=1)


class Hearing:
    """A shelf at a time, which hears an issuer."""

    def __init__(self):
        self.ca = TestCA("example.org", now=START)
        self.bundle = self.ca.bundle
        self.shelf = PolicyShelf()
        self.woken = 0

    def hear(self, *texts, token=None, number=9, **fields):
        """Take what is said, or policies of these fields; return whether they are there now."""
        token = self.ca.policies(*texts, **fields) if token is None else token
        with self.shelf.watching() as watcher:
            self.shelf.take(SaidPolicies(number, token), self.bundle, self.ca.now)
            self.woken += watcher._event.is_set()
        return self.shelf.token == token


@pytest.fixture
def hearing():
    return Hearing()


def test_what_is_newer_is_held_and_told(hearing):
    assert (hearing.shelf.token, hearing.shelf.number) == ("", 0)
    assert hearing.hear(ALL, sequence=7)
    assert hearing.hear(NONE, sequence=8, number=10)
    assert (hearing.shelf.number, hearing.shelf.issued_at, hearing.woken) == (10, START, 2)
    hearing.ca.now += SECOND
    assert hearing.hear(NONE, sequence=8, number=11), "the same, good for longer"


def test_the_same_once_more_is_no_news_but_its_number_counts(hearing):
    hearing.hear(ALL)
    assert not hearing.hear(ALL, number=10), "signed anew it is another token"
    assert (hearing.woken, hearing.shelf.number, hearing.shelf.refused) == (1, 10, 0)


REFUSED = {
    "rolled back": {"sequence": 6},
    "of another trust domain": {"token": TestCA("other.org", now=START).policies(ALL, sequence=8)},
    "by an unknown key": {"token": TestCA("example.org", now=START).policies(ALL, sequence=8)},
    "too large": {"token": "a" * (MAX_BYTES + 1)},
    "empty": {"token": ""},
    "expired": {"sequence": 8, "issued_at": START - LIFETIME, "expires_at": START},
    "of the future": {
        "sequence": 8, "issued_at": START + MAX_SKEW + SECOND, "expires_at": START + LIFETIME
    },
    "a status": {"token": None, "kind": "status"},
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED.values(), ids=REFUSED)
def test_what_does_not_verify_or_is_older_is_refused_and_what_was_there_stays(hearing, said, caplog):
    hearing.hear(ALL, sequence=7)
    before = hearing.shelf.token
    if "kind" in said:
        said = {"token": hearing.ca.status(sequence=8)}
    assert not hearing.hear(NONE, **said, number=10)
    assert (hearing.shelf.token, hearing.shelf.number) == (before, 9), "it is asked for again"
    assert (hearing.woken, hearing.shelf.refused) == (1, 1)
    assert [record.message for record in caplog.records] == ["issuer's policies refused"]


def test_a_truncated_bundle_is_refused(hearing):
    hearing.hear(ALL, sequence=7)
    token = hearing.ca.policies(NONE, sequence=8)
    for cut in (1, 10, len(token) // 2, len(token) - 1):
        assert not hearing.hear(token=token[:-cut])
    assert hearing.shelf.refused == 4


def test_without_a_bundle_of_our_own_nothing_is_believed(hearing):
    hearing.bundle = None
    assert not hearing.hear(ALL)
    assert hearing.shelf.refused == 1
