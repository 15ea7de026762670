# SPDX-License-Identifier: Apache-2.0
"""The issuer's nouns, made by hand and by hypothesis."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from issuer.model import Agent, AgentClass, AgentState, Limits, Node, Owner, RegistrationEntry
from spiffekit.delegation.tools import Tools
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from tests.spiffekit.delegation.strategies import tools

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OURS = TrustDomain("example.org")
SERVER = SpiffeId(OURS, "/spire/server")
HOSTILE = (
    "'", '"', "';--", "' OR '1'='1", "%", "_", "a%b_c", "\\", "\\'", "`", "[x]", "NULL", "null", "0", "1e9",
    "%s", "{0}", "$1", ":name", "?", "\u00e9", "e\u0301", "\U0001f511", "\u202e", "ﬁ", "İ", "ß", "x" * 5000,
)  # fmt: skip
WITH_CONTROLS = ("a\0b", "\0", "\n", "\r\n", "\x1b[31m", "\x7f")


def an_id(path="/agent"):
    return SpiffeId(OURS, path)


def selectors(*texts):
    return frozenset(Selector(*text.split(":", 1)) for text in texts)


def an_entry(entry_id="e", **changes):
    values = {
        "id": entry_id,
        "spiffe_id": changes.get("spiffe_id") or an_id(f"/{entry_id}"),
        "parent_id": an_id("/spire/agent/node"),
        "selectors": selectors("unix:uid:0"),
        "created_at": NOW,
    }
    return RegistrationEntry(**{**values, **changes})


def a_node(name="node", **changes):
    values = {
        "id": an_id(f"/spire/agent/{name}"),
        "attestation_type": "join_token",
        "serial": "4711",
        "expires_at": NOW + timedelta(hours=1),
    }
    return Node(**{**values, **changes})


def an_agent(path="/agent/payer", **changes):
    values = {
        "spiffe_id": an_id(path),
        "id": f"id of {path}",
        "state": AgentState.ACTIVE,
        "owner": Owner("https://idp.example.org", "alice"),
        "purpose": "pays the invoices that people approved",
        "registered_by": "local:uid=0,pid=1",
        "created_at": NOW,
        "changed_at": NOW,
    }
    return Agent(**{**values, **changes})


# Surrogates cannot arrive: every string comes from protobuf, TOML or JSON in UTF-8.
texts = st.one_of(
    st.sampled_from(HOSTILE + WITH_CONTROLS), st.text(st.characters(codec="utf-8"), max_size=30)
)
visible = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20),
)
trust_domains = st.from_regex(r"[a-z0-9._-]{1,20}", fullmatch=True).map(TrustDomain)
segments = st.from_regex(r"[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,10}", fullmatch=True)
paths = st.lists(segments, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
spiffe_ids = st.builds(SpiffeId, trust_domains, paths)
any_selectors = st.frozensets(
    st.builds(Selector, st.from_regex(r"[a-zA-Z0-9_.-]{1,8}", fullmatch=True), visible),
    min_size=1,
    max_size=5,
)
instants = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))
whole_seconds = instants.map(lambda instant: instant.replace(microsecond=0))
ttls = st.one_of(st.none(), st.integers(1, 10**9).map(lambda s: timedelta(seconds=s)))
any_entries = st.builds(
    RegistrationEntry,
    id=texts.filter(bool),
    spiffe_id=spiffe_ids,
    parent_id=spiffe_ids,
    selectors=any_selectors,
    x509_svid_ttl=ttls,
    jwt_svid_ttl=ttls,
    dns_names=st.lists(texts, max_size=3).map(tuple),
    hint=texts,
    admin=st.booleans(),
    downstream=st.booleans(),
    store_svid=st.booleans(),
    disable_x509_svid_prefetch=st.booleans(),
    jwt_svid_include_jti=st.booleans(),
    expires_at=st.one_of(st.none(), instants),
    created_at=instants,
    revision=st.integers(0, 2**63 - 1),
)
any_nodes = st.builds(
    Node,
    id=spiffe_ids,
    attestation_type=texts,
    serial=texts,
    expires_at=instants,
    new_serial=texts,
    new_expires_at=st.one_of(st.none(), instants),
    can_reattest=st.booleans(),
    selectors=st.one_of(st.just(frozenset()), any_selectors),
    version=texts,
)
any_limits = st.builds(
    Limits,
    tools=st.none() | tools.map(Tools.from_value),
    audiences=st.one_of(st.none(), st.lists(texts, max_size=3).map(tuple)),
    max_depth=st.one_of(st.none(), st.integers(0, 5)),
    x509_ttl=ttls,
    jwt_ttl=ttls,
    wit_ttl=ttls,
    delegation_ttl=ttls,
)
owners = st.builds(
    Owner, texts.filter(lambda t: "|" not in t), texts.filter(lambda t: "group:" not in t), st.booleans()
)
any_agents = st.builds(
    Agent,
    spiffe_id=spiffe_ids,
    id=texts,
    state=st.sampled_from(AgentState),
    owner=owners,
    sponsor=texts,
    team=texts,
    purpose=texts,
    limits=any_limits,
    review_by=st.one_of(st.none(), instants),
    registered_by=texts,
    created_at=instants,
    changed_at=instants,
    reason=texts,
    orphaned_at=st.one_of(st.none(), instants),
    successor=st.one_of(st.none(), spiffe_ids),
)
any_classes = st.builds(
    AgentClass, name=texts, limits=any_limits, two_people=st.booleans(), review_every=ttls
)
