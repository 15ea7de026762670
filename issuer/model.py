# SPDX-License-Identifier: Apache-2.0
"""The issuer's nouns: frozen values that the store keeps and the services hand around."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

import msgspec

from spiffekit.delegation.tools import Tools
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from spiffekit.template import Template


def new_entry_id(now_ns: int) -> str:
    """Return a UUID of version 7 (RFC 9562 §5.7), finer than a millisecond: later entries sort later.

    A workload's identities come in the order of their entries, the oldest first: time on the wire has whole
    seconds, and a stock SPIRE agent sorts by ID.

    Args:
        now_ns: Nanoseconds since 1970.
    """
    milliseconds, rest = divmod(now_ns, 1_000_000)
    fraction = (rest << 12) // 1_000_000  # RFC 9562 §6.2, method 3
    value = (milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationEntry:
    """Selectors that earn a SPIFFE ID below a parent (a node, an alias, or another entry's ID)."""

    id: str  # at most 255 of A-Z a-z 0-9 . _ -
    spiffe_id: SpiffeId
    parent_id: SpiffeId
    selectors: frozenset[Selector]
    x509_svid_ttl: timedelta | None = None  # None: the issuer's default
    jwt_svid_ttl: timedelta | None = None
    federates_with: tuple[TrustDomain, ...] = ()  # sorted
    dns_names: tuple[str, ...] = ()  # in the order given: the first one is also the common name
    hint: str = ""
    admin: bool = False
    downstream: bool = False
    store_svid: bool = False
    disable_x509_svid_prefetch: bool = False
    jwt_svid_include_jti: bool = False
    evidence_required: bool = False  # SVIDs are signed only with evidence that the selectors hold now
    svid_per_process: bool = False  # each process has a key and SVIDs of its own
    template: Template | None = (
        None  # gives the ID from selector values; `spiffe_id` is what stands before them
    )
    expires_at: datetime | None = None
    created_at: datetime
    revision: int = 0  # counts the updates of this entry

    @property
    def needs_evidence(self) -> bool:
        """Whether SVIDs are signed only with evidence: what belongs to one process needs that process's."""
        return self.evidence_required or self.svid_per_process or self.template is not None

    @property
    def name(self) -> str:
        """The SPIFFE ID, or the template of many."""
        return str(self.spiffe_id if self.template is None else self.template)


class AttestationLevel(IntEnum):
    """What a node's proof is worth; greater is better. The numbers are on the wire and in the database."""

    UNKNOWN = 0
    JOIN_TOKEN = 1  # whoever had the token
    PLATFORM = 2  # a platform, or an authority that the operator trusts, vouches for the machine
    TPM = 3  # keys that cannot leave the machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine that an attestor has proved. An empty `serial` says that it is banned."""

    id: SpiffeId
    attestation_type: str
    serial: str  # decimal, of the SVID in use; "" = banned
    expires_at: datetime  # of that SVID
    new_serial: str = ""  # of a renewed SVID that has not been used yet
    new_expires_at: datetime | None = None
    can_reattest: bool = False
    selectors: frozenset[Selector] = frozenset()
    version: str = ""  # of the attestor, as it says of itself; at most 255 bytes
    level: AttestationLevel = AttestationLevel.UNKNOWN

    @property
    def banned(self) -> bool:
        """Whether an operator banned the node."""
        return not self.serial


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestorRun:
    """One run of a node's attestor, as far as its events are recorded."""

    node: SpiffeId
    boot: str  # what names the run, in hex
    last: int = 0  # number of the last event
    ended: bool = False  # it said that nothing follows


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A secret that proves one node, once. `agent_id` is an alias that the node gets besides."""

    value: str = field(repr=False)
    expires_at: datetime


class AgentState(StrEnum):
    """Where an agent is in its life. Whatever else a database says counts as suspended."""

    REGISTERED = "registered"  # nobody has approved it yet
    ACTIVE = "active"
    SUSPENDED = "suspended"
    RETIRED = "retired"  # for ever: its SPIFFE ID is never given again

    @property
    def followers(self) -> frozenset["AgentState"]:
        """The states that may come next."""
        return _FOLLOWERS[self]


_FOLLOWERS = {
    AgentState.REGISTERED: frozenset((AgentState.ACTIVE, AgentState.RETIRED)),
    AgentState.ACTIVE: frozenset((AgentState.SUSPENDED, AgentState.RETIRED)),
    AgentState.SUSPENDED: frozenset((AgentState.ACTIVE, AgentState.RETIRED)),
    AgentState.RETIRED: frozenset[AgentState](),
}


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """A person or a group, as an OIDC provider names it."""

    issuer: str  # of the provider: an https URL, without "|"
    subject: str  # the claim `sub`, or the group's name; does not start with "group:"
    group: bool = False

    def __str__(self) -> str:
        return f"{self.issuer}|{'group:' if self.group else ''}{self.subject}"

    @classmethod
    def from_text(cls, text: str) -> "Owner":
        """Return the owner that `str` wrote; what people write is checked in `issuer.governance`."""
        issuer, _, name = text.partition("|")
        return cls(issuer, name.removeprefix("group:"), group=name.startswith("group:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an agent may have at most; None leaves it to the class, and there to the issuer's defaults."""

    tools: Tools | None = None
    audiences: tuple[str, ...] | None = None  # of JWT-SVIDs and WIT-SVIDs' proofs; sorted
    max_depth: int | None = None  # of delegations
    x509_ttl: timedelta | None = None
    jwt_ttl: timedelta | None = None
    wit_ttl: timedelta | None = None
    delegation_ttl: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentClass:
    """What agents of one kind have in common. They may narrow its limits and never widen them."""

    name: str
    limits: Limits = Limits()
    two_people: bool = False  # who registers an agent may not approve it
    review_every: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An AI agent: whose it is, what it is for, and whether it may have an identity now.

    Entries belong to it by `spiffe_id`. `version` counts the changes of all agents of the trust domain:
    the greater one is the later one.
    """

    spiffe_id: SpiffeId  # for ever: no other agent ever gets it
    id: str  # UUIDv7
    state: AgentState
    version: int = 0
    owner: Owner
    sponsor: str = ""  # who is on call
    team: str = ""
    agent_class: str = ""  # the class's name, or "" for none
    purpose: str
    limits: Limits = Limits()
    review_by: datetime | None = None
    registered_by: str  # the actor, as the audit trail names it
    created_at: datetime
    changed_at: datetime  # of the state
    reason: str = ""  # of the last change of the state
    orphaned_at: datetime | None = None  # when its owner was first found to be gone
    successor: SpiffeId | None = None  # of one that is retired

    @property
    def facts(self) -> "AgentFacts":
        """What the audit trail says of it."""
        return AgentFacts(spiffe_id=str(self.spiffe_id), owner=str(self.owner), class_=self.agent_class)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPolicy:
    """One version of a policy. Whatever is stored stays as it is; a change is another version."""

    name: str
    version: int = 0  # of this name, from 1
    sequence: int = 0  # counts the versions of all policies, from 1
    text: str | None  # Cedar statements; None: this version ended it
    enforced: bool = False  # whether a statement is not in shadow mode
    author: str  # the actor, as the audit trail names it
    reason: str
    created_at: datetime


class RevocationKind(StrEnum):
    """What is taken back."""

    CERTIFICATE = "certificate"  # key: the serial number, decimal
    TOKEN = "token"  # noqa: S105 - key: its `jti`
    ROOT = "root"  # key: the `jti` of a delegation's root
    BEFORE = "before"  # key: the SPIFFE ID whose credentials from before `at` are void
    RETIRED = "retired"  # key: the SPIFFE ID of a retired agent


class RevocationReason(StrEnum):
    """Why it is taken back; RFC 5280 §5.3.1 has a number for each."""

    KEY_COMPROMISE = "key_compromise"
    CESSATION_OF_OPERATION = "cessation_of_operation"
    CERTIFICATE_HOLD = "certificate_hold"  # until the agent is resumed


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """Something that was taken back. After `until` it would have ended by itself, and is forgotten."""

    kind: RevocationKind
    key: str
    spiffe_id: SpiffeId
    at: datetime
    until: datetime
    reason: RevocationReason


class AuthorityKind(StrEnum):
    """What an authority signs."""

    X509 = "x509"
    JWT = "jwt"
    WIT = "wit"


class AuthorityState(StrEnum):
    """Where an authority is in its life; see `issuer.ca.slots`."""

    PREPARED = "prepared"
    ACTIVE = "active"
    OLD = "old"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityRecord:
    """One line of the authority journal: enough to sign again after a restart, if the key is there."""

    id: str  # X.509: subject key identifier, lower-case hex; JWT and WIT: key ID
    kind: AuthorityKind
    state: AuthorityState
    key_id: str  # under which the key manager keeps the private key
    issued_at: datetime
    not_after: datetime
    certificate_der: bytes = b""  # X.509 only
    public_key_der: bytes = b""  # SubjectPublicKeyInfo
    tainted: bool = False


class ChangeKind(StrEnum):
    """What a row of the change log is about."""

    ENTRY = "entry"  # key: the entry's ID
    NODE = "node"  # key: the node's SPIFFE ID
    BUNDLE = "bundle"  # key: the trust domain's name
    AGENT = "agent"  # key: the agent's SPIFFE ID; its entries change with it
    AGENT_CLASS = "agent_class"  # key: the class's name
    POLICY = "policy"  # key: the policy's name
    REVOCATION = "revocation"  # key: "certificate/<serial>", and so on
    AUTHORITY = "authority"  # key: "x509/<id>" or "jwt/<id>"; tainted or revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row of the change log. Revisions are dense: n + 1 follows n.

    `value` is the thing as it is now, None when it is gone; it is filled for changes made in this
    process and empty in rows read back.
    """

    revision: int
    kind: ChangeKind
    key: str
    value: object | None = None


class Outcome(StrEnum):
    """How an audited act ended."""

    OK = "allow"
    DENIED = "deny"
    FAILED = "error"


class Severity(StrEnum):
    """How much an event is worth looking at."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of an event: what is not known is left out of it."""


class AgentFacts(Facts, frozen=True, kw_only=True, rename={"class_": "class"}):
    """The agent that an event is about, as the registry knew it then."""

    spiffe_id: str
    instance_uid: str = ""
    owner: str = ""
    class_: str = ""


class AttestFacts(Facts, frozen=True, kw_only=True):
    """What an identity was earned by."""

    node: str = ""
    level: str = ""  # of the node's proof
    selectors_sha256: str = ""  # of the workload's selectors, which may themselves hold secrets


class PolicyFacts(Facts, frozen=True, kw_only=True):
    """What policy decided by. No IDs: nothing permitted it, or no policy was ever enforced."""

    bundle: str = ""  # hash of the policies and the schema
    ids: tuple[str, ...] = ()  # the statements that decided
    eval_id: str = ""  # of the evaluation; those that were answered from memory have the same


class CredentialFacts(Facts, frozen=True, kw_only=True):
    """What was handed out. A token is known by its hash, even if it has no ID."""

    kind: str  # "x509-svid", "jwt-svid", …
    serial: str = ""  # decimal
    jti: str = ""
    sha256: str = ""  # of a token, in hex
    exp: str = ""  # RFC 3339


class PeerFacts(Facts, frozen=True, kw_only=True):
    """Where a call over the network came from."""

    ip: str


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One event before it has its place in the trail. Never holds a key, token or CSR."""

    at: datetime
    actor: str  # SPIFFE ID, or "local:uid=0,pid=42", or "anonymous:<address>"
    act: str  # the full method, e.g. "/spire.api.server.entry.v1.Entry/BatchCreateEntry"
    subject: str  # the ID acted upon, or ""
    outcome: Outcome
    type: str  # a noun and what became of it, e.g. "svid.issued"
    reason: str = ""  # why it did not end well
    severity: Severity | None = None  # None: as the outcome says
    agent: AgentFacts | None = None
    attest: AttestFacts | None = None
    policy: PolicyFacts | None = None
    credential: CredentialFacts | None = None
    peer: PeerFacts | None = None
    detail: Mapping[str, object] = {}  # strings, integers and booleans, nested
