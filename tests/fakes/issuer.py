# SPDX-License-Identifier: Apache-2.0
"""An issuer that is a Python object, on a clock that tests move; its clients are like `IssuerClient`."""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field, replace
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestor.connection import Credentials
from attestor.errors import (
    IssuerUnavailableError,
    IssuerUntrustedError,
    MustReattestError,
    NodeAttestationError,
    NodeBannedError,
    ReportRejectedError,
    WitUnsupportedError,
)
from attestor.issuer_client import make_csr, new_key
from attestor.updates import Update
from spiffekit.id import SpiffeId
from spiffekit.keys import private_key_to_der, public_key_from_der
from spiffekit.testing import TestCA
from spiffekit.x509svid import X509Svid

BACKDATE = timedelta(seconds=10)


@dataclass
class Node:
    """What the issuer knows of a node: a renewed SVID counts beside the old one until it is used."""

    serial: int
    new_serial: int | None = None
    reattestable: bool = False
    banned: bool = False


@dataclass
class FakeIssuer:
    """What is registered, and how the issuer behaves: tests set it."""

    clock: object
    lifetime: timedelta = timedelta(hours=1)
    entries: dict = field(default_factory=dict)  # by ID
    federated: dict = field(default_factory=dict)  # bundles by trust domain
    tokens: set = field(default_factory=set)
    nodes: dict = field(default_factory=dict)  # by SPIFFE ID
    error: Exception | None = None  # what every call meets
    failing: dict = field(default_factory=dict)  # what calls of one name meet
    refused: set = field(default_factory=set)  # entries without SVIDs
    spoiled: set = field(default_factory=set)  # entries and nodes whose SVIDs are malformed
    pushes: bool = True  # or it is a stock server
    signs_wit: bool = True
    takes_reports: bool = True
    reports: dict = field(default_factory=dict)  # by node and run: events by number
    ended: dict = field(default_factory=dict)  # by node and run: the last number
    opens_with_snapshot: bool = True
    revision: int = 1
    epoch: str = "epoch"
    calls: list = field(default_factory=list)  # names
    batches: list = field(default_factory=list)  # entries of calls for X.509-SVIDs
    evidence: list = field(default_factory=list)  # of calls for SVIDs
    watches: list = field(default_factory=list)  # (revision, epoch) that streams were opened with
    resumed_policies: list = field(default_factory=list)  # and the number of the policies

    def __post_init__(self):
        self.streams = []
        self.rebuild()

    def rebuild(self):
        """Start from nothing: other authorities, and no node is known."""
        self.ca = TestCA("example.org", now=self.clock.now())
        self.nodes.clear()
        self.signed = set()  # serial numbers

    @property
    def bundle(self):
        return self.ca.bundle

    def grant(self, *entries):
        self.entries |= {entry.id: entry for entry in entries}

    def client(self, svid=None):
        """A client that trusts this issuer, with the SVID of a node or with none."""
        return FakeClient(self, Credentials(self.bundle, svid))

    def node(self, name="n1", *, lifetime=None):
        """The SVID of an attested node."""
        spiffe_id = SpiffeId.parse(f"spiffe://example.org/spire/agent/test/{name}")
        key = new_key()
        chain = self.sign(spiffe_id, make_csr(key), lifetime=lifetime or self.lifetime)
        svid = X509Svid.parse(b"".join(chain), private_key_to_der(key))
        self.nodes[spiffe_id] = Node(svid.serial_number)
        return svid

    def sign(self, spiffe_id, csr, *, lifetime=None, **changes):
        """A chain for what a request asks for, from the clock's now on."""
        request = x509.load_der_x509_csr(csr)
        assert request.is_signature_valid
        begin = {
            "not_before": self.clock.now() - BACKDATE,
            "lifetime": (lifetime or self.lifetime) + BACKDATE,
        }
        leaf = self.ca.certify(request.public_key(), **{"uris": [str(spiffe_id)], **begin, **changes})
        self.signed.add(leaf.serial_number)
        return (leaf.public_bytes(serialization.Encoding.DER),)

    def update(self, **changes):
        """A message of the push stream, as yet of the next revision."""
        fields = dict.fromkeys(("entries", "removed", "bundles", "removed_bundles", "tainted"), ())
        flags = {"snapshot": False, "more": False, "heartbeat": False}
        return Update(**{"revision": self.revision, "epoch": self.epoch, **fields, **flags, **changes})

    def snapshot(self):
        bundles = (self.bundle, *self.federated.values())
        return self.update(snapshot=True, entries=tuple(self.entries.values()), bundles=bundles)

    def push(self, *messages):
        """Say it on every open stream; an error ends them."""
        for stream in self.streams:
            for message in messages:
                stream.put_nowait(message)


class FakeClient:
    """`IssuerClient`, without a network."""

    def __init__(self, issuer, credentials):
        self.issuer = issuer
        self.credentials = credentials
        self.drops = 0

    def drop_connections(self):
        self.drops += 1
        for stream in self.issuer.streams:
            stream.put_nowait(None)

    @contextlib.asynccontextmanager
    async def anonymous(self, bundle):
        yield FakeClient(self.issuer, Credentials(bundle))

    async def _connect(self, name):
        await asyncio.sleep(0)  # as every call lets others run
        issuer = self.issuer
        issuer.calls.append(name)
        if (error := issuer.failing.get(name, issuer.error)) is not None:
            raise error
        trusted = self.credentials.bundle
        if trusted is not None and not set(trusted.x509_authorities) & set(issuer.bundle.x509_authorities):
            raise IssuerUntrustedError("no authority vouches for the issuer")

    async def _as_node(self, name):
        await self._connect(name)
        svid = self.credentials.svid
        if svid is None:
            raise NodeAttestationError(f"{name}: caller is not a node")
        if svid.serial_number not in self.issuer.signed:
            raise IssuerUnavailableError("connection was refused")
        if self.issuer.clock.now() > svid.expires_at:
            raise MustReattestError("node SVID has expired")
        node = self.issuer.nodes.get(svid.spiffe_id)
        if node is None:
            raise MustReattestError("node is not attested")
        if node.banned:
            raise NodeBannedError("node is banned")
        if svid.serial_number not in (node.serial, node.new_serial):
            raise MustReattestError("node SVID is no longer active")
        if svid.serial_number == node.new_serial:
            self.issuer.nodes[svid.spiffe_id] = node = replace(node, serial=node.new_serial, new_serial=None)
        return svid.spiffe_id, node

    async def attest(self, attestor, csr_der):
        await self._connect("attest")
        payload = await attestor.payload()
        reattestable = attestor.type != "join_token"
        if reattestable:
            challenge = secrets.token_hex(8).encode()
            if await attestor.respond(challenge) != challenge[::-1]:
                raise NodeAttestationError("response does not fit the challenge")
        elif payload.decode() not in self.issuer.tokens:
            raise NodeAttestationError("join token does not exist or has already been used")
        self.issuer.tokens.discard(payload.decode())
        node_id = SpiffeId.parse(f"spiffe://example.org/spire/agent/{attestor.type}/{payload.decode()}")
        known = self.issuer.nodes.get(node_id)
        if known is not None and known.banned:
            raise NodeBannedError("node is banned")
        chain = self._signed(node_id, csr_der)
        self.issuer.nodes[node_id] = Node(_serial(chain), reattestable=reattestable)
        return chain, reattestable

    def _signed(self, node_id, csr_der):
        return (b"spoiled",) if node_id in self.issuer.spoiled else self.issuer.sign(node_id, csr_der)

    async def renew(self, csr_der):
        node_id, node = await self._as_node("renew")
        if node.reattestable:
            raise MustReattestError("node has to attest again")
        chain = self._signed(node_id, csr_der)
        self.issuer.nodes[node_id] = replace(node, new_serial=_serial(chain))
        return chain

    async def post_status(self, version, bundle_serial):
        assert version
        assert bundle_serial >= 0
        await self._as_node("post_status")

    async def bundle(self):
        await self._connect("bundle")
        return self.issuer.bundle

    async def federated_bundle(self, trust_domain):
        await self._as_node("federated_bundle")
        return self.issuer.federated.get(trust_domain)

    async def new_x509_svids(self, requests, evidence=None):
        issuer = self.issuer
        issuer.evidence.append(evidence)
        issuer.batches.append([entry_id for entry_id, _ in requests])
        await self._as_node("new_x509_svids")
        return {
            entry_id: (b"spoiled",)
            if entry_id in issuer.spoiled
            else issuer.sign(_id(issuer.entries[entry_id], evidence), csr)
            for entry_id, csr in requests
            if entry_id not in issuer.refused and entry_id in issuer.entries
        }

    async def new_jwt_svid(self, entry_id, audience, evidence=None):
        await self._as_node("new_jwt_svid")
        self.issuer.evidence.append(evidence)
        entry = self.issuer.entries.get(entry_id)
        if entry is None:
            raise IssuerUnavailableError("there is no such entry")
        if entry_id in self.issuer.refused:
            raise NodeAttestationError("evidence does not satisfy the entry")
        self.issuer.ca.now = self.issuer.clock.now()
        claims = {"jti": secrets.token_hex(8)} if entry.jwt_svid_include_jti else {}
        return self.issuer.ca.jwt(
            str(_id(entry, evidence)), audience, lifetime=timedelta(minutes=5), claims=claims
        )

    async def new_wit_svids(self, entry_ids, public_key_der, evidence):
        issuer = self.issuer
        issuer.evidence.append(evidence)
        issuer.batches.append(list(entry_ids))
        await self._as_node("new_wit_svids")
        if not issuer.signs_wit:
            raise WitUnsupportedError("the issuer signs no WIT-SVIDs")
        issuer.ca.now = issuer.clock.now()
        claims = {"agent_instance_id": evidence.instance_uid}
        return {
            entry_id: "spoiled"
            if entry_id in issuer.spoiled
            else issuer.ca.wit(
                str(_id(issuer.entries[entry_id], evidence)),
                public_key_from_der(public_key_der),
                lifetime=issuer.lifetime,
                claims=claims | {"jti": secrets.token_hex(8)},
            )
            for entry_id in entry_ids
            if entry_id not in issuer.refused and entry_id in issuer.entries
        }

    async def report(self, boot, events, *, ended=0):
        issuer = self.issuer
        if not issuer.takes_reports:
            raise NotImplementedError("issuer takes no reports")
        run = ((await self._as_node("report"))[0], boot)
        for event in events:
            if event.HasField("fetched") and not event.fetched.entry_id:
                raise ReportRejectedError("fetched.entry_id: is missing")
        known = issuer.reports.setdefault(run, {})
        last = max(known, default=0)
        known |= {event.number: event for event in events if event.number > last}
        if ended:
            issuer.ended[run] = ended

    async def sync_entries(self, known):
        await self._as_node("sync_entries")
        return tuple(self.issuer.entries.values())

    async def watch(self, quiet, *, revision=0, epoch="", policies=0):
        await self._as_node("watch")
        assert quiet
        self.issuer.watches.append((revision, epoch))
        self.issuer.resumed_policies.append(policies)
        if not self.issuer.pushes:
            raise NotImplementedError
        stream = asyncio.Queue()
        with contextlib.ExitStack() as stack:
            self.issuer.streams.append(stream)
            stack.callback(self.issuer.streams.remove, stream)
            if (revision, epoch) == (self.issuer.revision, self.issuer.epoch):
                yield self.issuer.update(heartbeat=True)
            elif self.issuer.opens_with_snapshot:
                yield self.issuer.snapshot()
            while (message := await stream.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                yield message


def _id(entry, evidence):
    """What an entry gives to a process; with a template that depends on what holds for it."""
    return entry.spiffe_id if entry.template is None else entry.template.expand(evidence.selectors)


def _serial(chain):
    if chain == (b"spoiled",):
        return 0
    return x509.load_der_x509_certificate(chain[0]).serial_number
