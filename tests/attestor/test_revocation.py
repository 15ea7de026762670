# SPDX-License-Identifier: Apache-2.0
"""The book of what is taken back: what does not verify is refused and told, and what was known stays."""

from dataclasses import replace
from datetime import timedelta

import pytest

from attestor import revocation
from attestor.revocation import MAX_HANDED_OUT, MAX_LISTS, RevocationBook, Said, TakenBack
from spiffekit.bundle import Bundle
from spiffekit.errors import RevokedError
from spiffekit.id import SpiffeId
from spiffekit.jwtsvid import JwtSvid
from spiffekit.status import LIFETIME, MAX_BYTES, MAX_SKEW
from spiffekit.testing import TestCA
from tests.attestor.factory import START

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
PAYER = "spiffe://example.org/agent/payer"
ID = SpiffeId.parse(PAYER)


@pytest.fixture
def ca():
    return TestCA("example.org", now=START)


class Book:
    """A book at a time, which hears an issuer."""

    def __init__(self, ca):
        self.ca = ca
        self.bundle = ca.bundle
        self.book = RevocationBook()

    def hear(self, status=None, crls=(), **fields):
        """Take what is said, or a status of these fields."""
        token = self.ca.status(**fields) if status is None else status
        return self.book.take(Said(token, tuple(crls)), self.bundle, self.ca.now)


@pytest.fixture
def book(ca):
    return Book(ca)


def test_before_anything_was_said_nothing_is_taken_back(ca):
    nothing = RevocationBook().current
    assert (nothing.status, nothing.token, nothing.crls) == (None, "", ())
    assert not nothing.is_ended(ID)
    assert nothing.reason(ca.issue(PAYER)) == ""
    assert nothing.reason(JwtSvid.parse_unverified(ca.jwt(PAYER))) == ""


def test_who_is_suspended_or_retired_is_ended(book):
    other = SpiffeId.parse(f"{PAYER}2")
    taken = book.hear(suspended=frozenset([ID]))
    assert taken.is_ended(ID)
    assert not taken.is_ended(other)
    assert book.hear(sequence=2, retired=frozenset([other])).is_ended(other)
    assert not book.book.current.is_ended(ID), "a status replaces the one before"


def test_svids_are_judged_by_status_and_list(ca, book):
    one, two, three = ca.issue(PAYER), ca.issue(PAYER), ca.issue(PAYER)
    taken = book.hear(serials=frozenset([one.serial_number]), crls=[ca.crl(two.serial_number)])
    assert taken.reason(one) == f"certificate {one.serial_number:x} of {PAYER} is revoked"
    assert taken.reason(two) == f"certificate {two.serial_number:x} is revoked"
    assert taken.reason(three) == ""
    with pytest.raises(RevokedError):
        taken.check(one)


def test_tokens_are_judged_by_the_status_of_their_own_trust_domain(ca, book):
    other = TestCA("other.org", now=START)
    taken = book.hear(jtis=frozenset(["j"]))
    bad, good, theirs = (
        JwtSvid.parse_unverified(authority.jwt(subject, claims={"jti": name}))
        for authority, subject, name in (
            (ca, PAYER, "j"),
            (ca, PAYER, "k"),
            (other, "spiffe://other.org/x", "j"),
        )
    )
    assert taken.reason(bad) == f"token 'j' of {PAYER} is revoked"
    assert taken.reason(good) == taken.reason(theirs) == ""


def test_what_was_issued_too_early_is_taken_back(ca, book):
    early = ca.issue(PAYER)
    ca.now += SECOND
    taken = book.hear(not_before={ID: ca.now})
    assert taken.reason(early) == f"what {PAYER} got so early is void"
    assert taken.reason(ca.issue(PAYER)) == ""


# What is refused. Each of these is an attack, or an issuer that errs.


def other_key(ca):
    another = TestCA("example.org", now=ca.now)
    another.key_id = "unknown"
    return another.status(sequence=2)


def same_key_id(ca):
    return TestCA("example.org", now=ca.now).status(sequence=2)


def an_svid(ca):
    return ca.jwt(PAYER, claims={"suspended": [], "retired": []})


REFUSED = {
    "rolled back": (lambda ca: ca.status(sequence=0), "status 0 of example.org is older than 1"),
    "of another trust domain": (
        lambda ca: TestCA("other.org", now=ca.now).status(sequence=2),
        "no bundle for trust domain other.org",
    ),
    "signed by an unknown key": (other_key, "no key of example.org signed the status"),
    "forged under a known key's name": (same_key_id, "signature is not good"),
    "a JWT-SVID": (an_svid, "status: typ 'JWT' is not agent-status+jwt"),
    "too large": (lambda ca: "x" * (MAX_BYTES + 1), f"status: token is longer than {MAX_BYTES} bytes"),
    "nothing": (lambda ca: "", "status: token is not a compact JWS of three parts"),
    "of the future": (
        lambda ca: ca.status(sequence=2, issued_at=ca.now + MAX_SKEW + SECOND, expires_at=ca.now + LIFETIME),
        "status of example.org is of the future: clocks disagree",
    ),
    "of the past": (
        lambda ca: ca.status(sequence=2, issued_at=ca.now - LIFETIME, expires_at=ca.now),
        "status of example.org has expired",
    ),
    "good for too long": (
        lambda ca: ca.status(sequence=2, expires_at=ca.now + LIFETIME + SECOND),
        "status: is valid for too long",
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_status_that_does_not_verify_is_refused_and_the_one_before_counts(book, caplog, make, reason):
    known = book.hear(suspended=frozenset([ID]))
    assert book.hear(make(book.ca)) is known
    assert known.is_ended(ID)
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "issuer's status of agents refused")
    assert record.reason.startswith(reason)
    assert book.book.refused == 1


def test_without_a_bundle_nothing_is_believed(book):
    book.bundle = None
    taken = book.hear(suspended=frozenset([ID]), crls=[book.ca.crl(1)])
    assert taken == TakenBack()
    assert book.book.refused == 2


def test_a_status_that_has_expired_still_says_who_is_ended(book):
    """Whoever cuts us off from the issuer must not bring an agent back by that."""
    book.hear(suspended=frozenset([ID]))
    book.ca.now += 10 * LIFETIME
    assert book.hear("nonsense").is_ended(ID)


LISTS_REFUSED = {
    "rolled back": (lambda ca: ca.crl(7, number=4), "revocation list 4 is older than 5"),
    "of another authority": (
        lambda ca: TestCA("example.org", now=ca.now).crl(7, number=6),
        "no authority of example.org signed the revocation list",
    ),
    "malformed": (lambda ca: b"x", "revocation list: "),
    "expired": (lambda ca: ca.crl(7, number=6, lifetime=timedelta(0)), "revocation list has expired"),
}


@pytest.mark.parametrize(("make", "reason"), LISTS_REFUSED.values(), ids=LISTS_REFUSED)
def test_a_list_that_does_not_verify_is_refused_and_the_one_before_counts(book, caplog, make, reason):
    ca = book.ca
    known = ca.crl(1, number=5)
    assert book.hear(crls=[known]).crls == (known,)
    assert book.hear(crls=[make(ca)]).crls == (known,)
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("ERROR", "issuer's revocation list refused")
    assert record.reason.startswith(reason)


def test_a_list_of_the_future_is_refused(book, caplog):
    now, book.ca.now = book.ca.now, book.ca.now + MAX_SKEW + SECOND
    said = Said("", (book.ca.crl(1),))
    assert book.book.take(said, book.bundle, now).crls == ()
    assert caplog.records[-1].reason == "revocation list is of the future: clocks disagree"
    assert book.book.take(said, book.bundle, now + SECOND).crls == said.crls


def test_a_list_that_is_refused_costs_no_other_one(ca, book):
    second = TestCA("example.org", now=START)
    book.bundle = Bundle(
        ca.trust_domain,
        ca.bundle.x509_authorities + second.bundle.x509_authorities,
        ca.bundle.jwt_authorities,
    )
    first, other = ca.crl(1), second.crl(2)
    assert set(book.hear(crls=[first, other]).crls) == {first, other}
    newer = ca.crl(3, number=2)
    assert set(book.hear(crls=[newer, b"x"]).crls) == {newer, other}
    assert book.hear(crls=[newer]).crls == (newer,), "an authority without certificates has no list any more"


def test_more_lists_than_possible_are_not_even_looked_at(book, caplog):
    crl = book.ca.crl(1)
    assert book.hear(crls=[crl] * MAX_LISTS + [book.ca.crl(2, number=2)]).crls == (crl,)
    assert [record.reason for record in caplog.records] == [f"there are 65, at most {MAX_LISTS} are possible"]


# What workloads are told.


def test_a_list_that_is_signed_anew_and_says_the_same_is_no_news_before_half_of_its_life(book):
    ca = book.ca
    first = ca.crl(1, number=1)
    taken = book.hear(crls=[first])
    ca.now += HOUR / 2 - SECOND
    again = book.hear(crls=[ca.crl(1, number=2)])
    assert again.crls == (first,)
    assert not again.differs_from(taken), "a fresh status that says the same is none, either"
    ca.now += SECOND
    later = ca.crl(1, number=3)
    assert book.hear(crls=[later]).crls == (later,)


def test_a_list_that_says_something_else_is_news(book):
    before = book.hear(crls=[book.ca.crl(1)])
    newer = book.ca.crl(1, 2, number=2)
    after = book.hear(crls=[newer])
    assert after.crls == (newer,)
    assert after.differs_from(before)


def test_a_list_counts_even_if_the_status_beside_it_is_refused(book):
    book.hear(suspended=frozenset([ID]))
    crl = book.ca.crl(1)
    taken = book.hear("nonsense", crls=[crl])
    assert taken.crls == (crl,)
    assert taken.is_ended(ID)


def test_while_nothing_is_revoked_there_are_no_lists_and_else_all(ca, book):
    """Some clients want a list of every authority, or of none."""
    second = TestCA("example.org", now=START)
    book.bundle = Bundle(ca.trust_domain, ca.bundle.x509_authorities + second.bundle.x509_authorities)
    assert book.hear(crls=[ca.crl(), second.crl()]).crls == ()
    assert len(book.hear(crls=[ca.crl(1, number=2), second.crl(number=2)]).crls) == 2


def test_lists_that_clients_could_not_take_are_not_handed_out(book, monkeypatch, caplog):
    assert MAX_HANDED_OUT < 4 * 1024 * 1024, "what clients of gRPC take by default"
    crl = book.ca.crl(1)
    monkeypatch.setattr(revocation, "MAX_HANDED_OUT", len(crl))
    assert book.hear(crls=[crl]).crls == (crl,)
    taken = book.hear(crls=[book.ca.crl(1, 2, number=2)])
    assert taken.crls == ()
    assert caplog.records[-1].message == "revocation lists are too large, workloads get none"
    assert taken.lists[0].verified.serials == {1, 2}, "we heed them"


def test_each_part_of_a_status_is_news(book):
    before = book.hear()
    same = book.hear(sequence=2)
    assert not same.differs_from(before)
    for sequence, field in enumerate(("suspended", "retired"), start=3):
        assert book.hear(sequence=sequence, **{field: frozenset([ID])}).differs_from(before)
    assert book.hear(sequence=5, jtis=frozenset(["j"])).differs_from(before)
    assert replace(before, token="another").differs_from(before) is False


def test_nothing_shows_tokens(book):
    taken = book.hear(jtis=frozenset(["secret-jti"]))
    assert "secret-jti" not in repr(taken)
    assert taken.token not in repr(taken)
    assert "eyJ" not in repr(Said(taken.token, (b"x",)))
