# SPDX-License-Identifier: Apache-2.0
"""Snapshots of what was taken back: signed, of now, never older than before, and exact."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffekit.bundle import BundleSet
from spiffekit.errors import (
    RevokedError,
    StatusError,
    StatusUnknownError,
    UnknownTrustDomainError,
    UntrustedError,
)
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.status import BACKDATE, LIFETIME, MAX_BYTES, MAX_SKEW, TYP, AgentStatus, StatusBook
from spiffekit.testing import TestCA

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CA, OTHER = TestCA(now=NOW), TestCA("other.org", now=NOW)
BUNDLES = BundleSet([CA.bundle])
SECOND = timedelta(seconds=1)


def an_id(path, trust_domain="example.org"):
    return SpiffeId.parse(f"spiffe://{trust_domain}{path}")


THEIRS = an_id("/a", "other.org")
PAYER, MAILER = an_id("/agent/payer"), an_id("/agent/mailer")


def status(**changes):
    fixed = {
        "trust_domain": CA.trust_domain,
        "sequence": 7,
        "issued_at": NOW,
        "expires_at": NOW + LIFETIME,
    }
    return AgentStatus(**fixed | changes)


def token(claims=None, *, ca=CA, typ=TYP, **changes):
    """A snapshot's token; `changes` replace claims, None leaves one out."""
    said = (status().claims() if claims is None else claims) | changes
    return ca.jwt("", header={"typ": typ}, claims={"sub": None, "aud": None, **said})


def verify(text, now=NOW):
    return AgentStatus.verify(text, BUNDLES, now=now)


def refused(kind, message):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


instants = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(
    lambda instant: instant.replace(microsecond=0)
)
ids = st.from_regex(r"/[a-z0-9]{1,8}", fullmatch=True).map(an_id)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(
    st.builds(
        status,
        sequence=st.integers(0, 2**63),
        suspended=st.frozensets(ids, max_size=4),
        retired=st.frozensets(ids, max_size=4),
        serials=st.frozensets(st.integers(1, 2**160 - 1), max_size=4),
        jtis=st.frozensets(texts, max_size=4),
        roots=st.frozensets(texts, max_size=4),
        not_before=st.dictionaries(ids, instants, max_size=4),
    )
)
def test_what_a_snapshot_says_arrives(said):
    assert verify(token(said.claims())) == said


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("x", StatusError, "status: token is not a compact JWS of three parts"),
        ("x" * (MAX_BYTES + 1), StatusError, f"status: token is longer than {MAX_BYTES} bytes"),
        (token(typ="JWT"), StatusError, f"status: typ 'JWT' is not {TYP}"),
        (token(iss=None), StatusError, "status: iss is missing or no text"),
        (token(iss="example.org"), StatusError, "status: scheme of 'example.org' is not 'spiffe'"),
        (token(iss="spiffe://example.org/x"), StatusError, "status: iss is no trust domain"),
        (token(iss="spiffe://third.org"), UnknownTrustDomainError, None),
        (token(ca=TestCA(now=NOW)), UntrustedError, "signature is not good"),
        (token(seq=None), StatusError, "status: seq is no number"),
        (token(seq=True), StatusError, "status: seq is no number"),
        (token(seq=-1), StatusError, "status: seq is no number"),
        (token(suspended=None), StatusError, "status: suspended is missing or no list of texts"),
        (token(retired="x"), StatusError, "status: retired is missing or no list of texts"),
        (token(jti_revoked=[""]), StatusError, "status: jti_revoked is missing or no list of texts"),
        (token(root_revoked=[1]), StatusError, "status: root_revoked is missing or no list of texts"),
        (
            token(serial_revoked=["-1"]),
            StatusError,
            "status: serial_revoked has a member that is no serial number",
        ),
        (
            token(serial_revoked=["1" * 50]),
            StatusError,
            "status: serial_revoked has a member that is no serial number",
        ),
        (token(suspended=[f"{THEIRS}"]), StatusError, f"status: {THEIRS} is not of example.org"),
        (token(min_iat=None), StatusError, "status: min_iat is missing"),
        (token(min_iat={str(THEIRS): 1}), StatusError, f"status: {THEIRS} is not of example.org"),
        (
            token(min_iat={str(PAYER): 1.5}),
            StatusError,
            f"status: {PAYER} is no point in time",
        ),
        (token(iat=None), StatusError, "status: iat is no point in time"),
        (token(exp=10**12), StatusError, "status: exp is no point in time"),
        (token(exp=int((NOW + LIFETIME + SECOND).timestamp())), StatusError, "status: is valid for too long"),
    ],
)  # fmt: skip
def test_a_snapshot_that_is_not_one_is_refused(text, kind, message):
    with pytest.raises(kind) as caught:
        verify(text)
    assert message is None or str(caught.value) == message


def test_a_snapshot_may_be_larger_than_other_documents():
    """Else whoever has very many agents suspended would keep all verifiers from any status."""
    many = frozenset(an_id(f"/{number:0>2000}") for number in range(2500))
    text = token(status(suspended=many).claims())
    assert 5 * 1024 * 1024 < len(text) < MAX_BYTES
    assert verify(text).suspended == many


def test_a_key_that_the_bundle_does_not_have_is_not_trusted():
    other = TestCA(now=NOW)
    other.key_id = "unknown"
    with refused(UntrustedError, "no key of example.org signed the status"):
        verify(token(ca=other))


def test_an_svid_is_no_snapshot_and_a_snapshot_no_svid():
    from spiffekit.errors import JwtSvidError
    from spiffekit.jwtsvid import JwtSvid

    with pytest.raises(JwtSvidError, match="typ 'agent-status\\+jwt' is not JWT or JOSE"):
        JwtSvid.parse_unverified(CA.jwt(str(PAYER), header={"typ": TYP}))


def test_a_snapshot_is_of_now():
    said = token()
    verify(said, NOW + LIFETIME - SECOND)
    with refused(StatusUnknownError, "status of example.org has expired"):
        verify(said, NOW + LIFETIME)
    verify(said, NOW - MAX_SKEW)
    with refused(StatusUnknownError, "status of example.org is of the future: clocks disagree"):
        verify(said, NOW - MAX_SKEW - SECOND)


def test_who_is_suspended_or_retired_is_refused_and_nobody_else():
    said = status(suspended=frozenset([PAYER]), retired=frozenset([MAILER]))
    with refused(RevokedError, f"{PAYER} is suspended"):
        said.check_agent(PAYER)
    with refused(RevokedError, f"{MAILER} is retired"):
        said.check_token(MAILER, "", NOW)
    with refused(RevokedError, f"{PAYER} is suspended"):
        said.check_certificate(PAYER, 1, NOW)
    said.check_agent(an_id("/agent/payer2"))
    said.check_agent(an_id("/agent"))


def test_single_certificates_and_tokens_are_taken_back():
    said = status(serials=frozenset([255]), jtis=frozenset(["j"]))
    with refused(RevokedError, f"certificate ff of {PAYER} is revoked"):
        said.check_certificate(PAYER, 255, NOW)
    said.check_certificate(PAYER, 256, NOW)
    with refused(RevokedError, f"token 'j' of {PAYER} is revoked"):
        said.check_token(PAYER, "j", NOW)
    said.check_token(PAYER, "k", NOW)
    said.check_token(PAYER, "", None)


def test_everything_that_was_issued_before_an_instant_is_void():
    said = status(not_before={PAYER: NOW})
    void = refused(RevokedError, f"what {PAYER} got so early is void")
    for check in (
        lambda: said.check_agent(PAYER, issued_at=NOW - SECOND),
        lambda: said.check_agent(PAYER),  # when it was issued, nobody says
        lambda: said.check_token(PAYER, "j", None),
        lambda: said.check_certificate(PAYER, 1, NOW - BACKDATE - SECOND),
    ):
        with void:
            check()
    said.check_agent(PAYER, issued_at=NOW)
    said.check_certificate(PAYER, 1, NOW - BACKDATE)
    said.check_agent(MAILER)


def test_a_book_keeps_the_newest_and_never_goes_back():
    book = StatusBook()
    with refused(StatusUnknownError, "status of example.org is not known"):
        book.current(CA.trust_domain, NOW)
    assert book.put(status())
    assert not book.put(status())
    later = status(issued_at=NOW + SECOND)
    assert book.put(later)
    assert not book.put(status()), "the same, of another issuer whose clock is behind"
    with refused(StatusUnknownError, "status 6 of example.org is older than 7"):
        book.put(status(sequence=6, issued_at=NOW + 9 * SECOND))
    assert book.current(CA.trust_domain, NOW) is later
    with refused(StatusUnknownError, "status of example.org has expired"):
        book.current(CA.trust_domain, NOW + LIFETIME)


def test_trust_domains_are_kept_apart():
    book = StatusBook()
    theirs = replace(status(sequence=1), trust_domain=OTHER.trust_domain)
    assert book.put(status())
    assert book.put(theirs)
    assert book.current(OTHER.trust_domain, NOW) is theirs
    with refused(StatusUnknownError, "status of third.org is not known"):
        book.current(TrustDomain("third.org"), NOW)


def test_a_snapshot_shows_no_token_ids():
    assert "secret" not in repr(status(jtis=frozenset(["secret"])))
    assert json.dumps(status().claims())
