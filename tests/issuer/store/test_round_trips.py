# SPDX-License-Identifier: Apache-2.0
"""What is put into the store comes out again, whatever characters it is made of."""

import string
from dataclasses import fields, replace
from datetime import timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from issuer.errors import NotFoundError
from issuer.model import (
    AgentFacts,
    AttestFacts,
    AuditRecord,
    AuthorityKind,
    AuthorityRecord,
    AuthorityState,
    CredentialFacts,
    JoinToken,
    Outcome,
    PeerFacts,
    RegistrationEntry,
    Severity,
)
from issuer.store.selectors import decode_selectors, encode_selectors
from spiffekit.bundle import MAX_REFRESH_HINT, Bundle, JwtAuthority
from spiffekit.keys import KeyType, generate_private_key, public_key_to_der
from spiffekit.testing import TestCA
from tests.issuer.strategies import (
    HOSTILE,
    NOW,
    WITH_CONTROLS,
    a_node,
    an_entry,
    an_id,
    any_entries,
    any_nodes,
    any_selectors,
    instants,
    texts,
    trust_domains,
)

ONE_DATABASE = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
CA = TestCA(now=NOW)
KEY = public_key_to_der(generate_private_key(KeyType.EC_P256).public_key())


class RolledBackError(Exception):
    """Ends a transaction without a trace, so that examples do not see each other."""


async def tried(database, act):
    """Return what `act` returns; what it did is undone."""
    kept = []

    def then_undo(tx):
        kept.append(act(tx))
        raise RolledBackError

    with pytest.raises(RolledBackError):
        await database.write(then_undo)
    return kept[0]


@ONE_DATABASE
@given(entry=any_entries, federates=st.frozensets(trust_domains, max_size=3))
async def test_an_entry_comes_out_as_it_went_in(database, entry, federates):
    entry = replace(entry, federates_with=tuple(sorted(federates)))

    def act(tx):
        for trust_domain in federates:
            tx.bundles.put(Bundle(trust_domain))
        tx.entries.create(entry)
        return (
            tx.entries.get(entry.id),
            list(tx.entries.all()),
            [tx.entries.federating_with(t) for t in federates],
        )

    found, everything, federating = await tried(database, act)
    assert found == entry
    assert everything == [entry]
    assert federating == [[entry]] * len(federates)


@pytest.mark.parametrize(
    "flag",
    [
        "admin",
        "downstream",
        "store_svid",
        "disable_x509_svid_prefetch",
        "jwt_svid_include_jti",
        "evidence_required",
        "svid_per_process",
    ],
)
async def test_one_flag_never_becomes_another(database, flag):
    """SPIRE 1.14.3 (#6636): a clone of an entry had `downstream` where `admin` was."""
    await database.write(lambda tx: tx.entries.create(an_entry(**{flag: True})))
    found = await database.read(lambda tx: tx.entries.get("e"))
    flags = [f.name for f in fields(RegistrationEntry) if isinstance(getattr(found, f.name), bool)]
    assert len(flags) == 7
    assert [name for name in flags if getattr(found, name)] == [flag]


@pytest.mark.parametrize("text", [*HOSTILE, *WITH_CONTROLS])
async def test_names_are_values_and_never_sql(database, text):
    """Two that differ in one field each are two, and the other one stays untouched."""
    first = an_entry(text, spiffe_id=an_id("/first"), hint=text, dns_names=(text, text + text))
    bystander = an_entry("bystander")
    await database.write(lambda tx: [tx.entries.create(first), tx.entries.create(bystander)])
    assert await database.read(lambda tx: tx.entries.get(text)) == first
    await database.write(lambda tx: tx.entries.update(replace(first, hint="other")))
    await database.write(lambda tx: tx.entries.delete(text))
    assert await database.read(lambda tx: list(tx.entries.all())) == [bystander]
    with pytest.raises(NotFoundError):
        await database.write(lambda tx: tx.entries.delete(text))
    await database.write(lambda tx: tx.join_tokens.create(JoinToken(value=text, expires_at=NOW)))
    with pytest.raises(NotFoundError):
        await database.write(lambda tx: tx.join_tokens.redeem(text + "x"))
    assert (await database.write(lambda tx: tx.join_tokens.redeem(text))).value == text


@ONE_DATABASE
@given(node=any_nodes)
async def test_a_node_comes_out_as_it_went_in(database, node):
    def act(tx):
        tx.nodes.put(node)
        return tx.nodes.get(node.id), list(tx.nodes.all())

    assert await tried(database, act) == (node, [node])


@ONE_DATABASE
@given(value=texts, expires_at=instants)
async def test_a_join_token_comes_out_as_it_went_in(database, value, expires_at):
    token = JoinToken(value=value, expires_at=expires_at)

    def act(tx):
        tx.join_tokens.create(token)
        return tx.join_tokens.redeem(value)

    assert await tried(database, act) == token


@ONE_DATABASE
@given(
    trust_domain=trust_domains,
    tainted=st.booleans(),
    kids=st.lists(texts.filter(bool), max_size=3, unique=True),
    expires_at=st.one_of(st.none(), st.integers(1, 253402300799)),
    sequence=st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    hint=st.one_of(st.none(), st.integers(1, MAX_REFRESH_HINT)),
)
@pytest.mark.requirement("BND-06")
async def test_a_bundle_comes_out_as_it_went_in(
    database, trust_domain, tainted, kids, expires_at, sequence, hint
):
    (authority,) = CA.bundle.x509_authorities
    end = None if expires_at is None else NOW.fromtimestamp(expires_at, NOW.tzinfo)
    bundle = Bundle(
        trust_domain,
        (replace(authority, tainted=tainted),),
        tuple(JwtAuthority(kid, KEY, end, not tainted) for kid in kids),
        sequence=sequence,
        refresh_hint=None if hint is None else timedelta(seconds=hint),
    )

    def act(tx):
        put = tx.bundles.put(bundle)
        return put, tx.bundles.get(trust_domain), list(tx.bundles.all())

    put, found, everything = await tried(database, act)
    assert put == found == replace(bundle, sequence=max(1, sequence or 0))
    assert everything == [found]


@ONE_DATABASE
@given(
    ids=st.lists(texts, min_size=1, max_size=4, unique=True),
    kind=st.sampled_from(AuthorityKind),
    state=st.sampled_from(AuthorityState),
    key_id=texts,
    times=st.tuples(instants, instants),
    blobs=st.tuples(st.binary(max_size=50), st.binary(max_size=50)),
    tainted=st.booleans(),
)
async def test_an_authority_comes_out_as_it_went_in(
    database, ids, kind, state, key_id, times, blobs, tainted
):
    records = [
        AuthorityRecord(
            id=authority_id,
            kind=kind,
            state=state,
            key_id=key_id,
            issued_at=times[0],
            not_after=times[1],
            certificate_der=blobs[0],
            public_key_der=blobs[1],
            tainted=tainted,
        )
        for authority_id in ids
    ]

    def act(tx):
        for record in records:
            tx.authorities.save(replace(record, tainted=not tainted))
            tx.authorities.save(record)
        others = {tx.authorities.all(other) == [] for other in AuthorityKind if other is not kind}
        return tx.authorities.all(kind), others

    found, others = await tried(database, act)
    assert sorted(found, key=lambda r: r.id) == sorted(records, key=lambda r: r.id)
    assert others == {True}


names = st.text(st.characters(max_codepoint=127), max_size=8)


words = texts.filter(lambda text: len(text) < 300)  # so that all of them fit into one event


def facts(kind):
    return st.none() | st.builds(kind, **{field.name: words for field in msgspec.structs.fields(kind)})


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(1 - 2**53, 2**53 - 1), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=5,
)


@ONE_DATABASE
@given(
    record=st.builds(
        AuditRecord,
        at=instants,
        actor=words,
        act=words,
        type=words,
        subject=words,
        outcome=st.sampled_from(Outcome),
        reason=words,
        severity=st.sampled_from(Severity),
        agent=facts(AgentFacts),
        attest=facts(AttestFacts),
        credential=facts(CredentialFacts),
        peer=facts(PeerFacts),
        detail=st.dictionaries(names, json_values, max_size=3),
    )
)
async def test_an_audit_record_comes_out_as_it_went_in(database, record):
    def act(tx):
        number = tx.audit.append(record)
        return number, tx.audit.since(number - 1, 10)

    number, found = await tried(database, act)
    assert found == [(number, record)]


@given(any_selectors)
def test_a_set_of_selectors_has_one_text(selectors):
    assert decode_selectors(encode_selectors(selectors)) == selectors
    assert encode_selectors(sorted(selectors, reverse=True)) == encode_selectors(selectors)


@given(any_selectors, any_selectors)
def test_different_sets_of_selectors_have_different_texts(first, second):
    assert (encode_selectors(first) == encode_selectors(second)) is (first == second)


def test_equal_sets_of_selectors_are_one_object():
    """Many entries share a set; memory is per set then."""
    text = encode_selectors(an_entry().selectors)
    assert decode_selectors(text) is decode_selectors(str(text.encode(), "utf-8"))


async def test_lists_are_in_the_order_of_their_names(database):
    names = [*string.ascii_letters, "10", "9", "é", "\U0001f511", "ﬁ"]
    entries = [an_entry(name, spiffe_id=an_id(f"/x{i}")) for i, name in enumerate(names)]
    await database.write(lambda tx: [tx.entries.create(entry) for entry in entries])
    await database.write(lambda tx: [tx.nodes.put(a_node(f"n{i}")) for i in (2, 10, 1)])
    assert [e.id for e in await database.read(lambda tx: list(tx.entries.all()))] == sorted(names)
    nodes = await database.read(lambda tx: [n.id.path[-3:] for n in tx.nodes.all()])
    assert nodes == ["/n1", "n10", "/n2"]
