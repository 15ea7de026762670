# SPDX-License-Identifier: Apache-2.0
"""Who calls: decided once for each connection by the listener, and judged again on every call."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography import x509

from issuer.errors import DenialReason, NodeDeniedError, NotAuthorizedError
from issuer.governance.people import People
from issuer.governance.revocation import Revocations
from issuer.model import AgentState, Node
from issuer.registration import Registrations
from issuer.store import Database, Transaction
from spiffekit.bundle import BundleSet, BundleSource
from spiffekit.certificates import load_certificate
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.listener import TlsPeer
from spiffekit.daemon.peer import PeerProcess, PeerUnknownError
from spiffekit.errors import SpiffeError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.x509svid import verify

NODE_PREFIX = "/spire/agent/"


class Kind(StrEnum):
    """Kinds of caller; the authorisation table speaks of nothing finer. A caller can be of several."""

    LOCAL = "local"  # on the admin socket
    ADMIN = "admin"  # an X.509-SVID of an administrator
    DOWNSTREAM = "downstream"  # an issuer below us, in the same trust domain
    GATEWAY = "gateway"  # one of those that may ask for decisions
    NODE = "node"  # an attestor
    ANONYMOUS = "anonymous"  # everybody else


OPERATORS: Final = frozenset((Kind.LOCAL, Kind.ADMIN))
_LOCAL: Final = frozenset((Kind.LOCAL,))
_GATEWAY: Final = frozenset((Kind.GATEWAY,))
_NODE: Final = frozenset((Kind.NODE,))
_ANONYMOUS: Final = frozenset((Kind.ANONYMOUS,))


@dataclass(frozen=True, slots=True)
class Connection:
    """What the listener learnt: a local process, or an address with or without a verified SVID."""

    address: str
    process: PeerProcess | None = None
    spiffe_id: SpiffeId | None = None
    serial: str = ""
    expires_at: datetime | None = None
    authorities: frozenset[str] = frozenset()  # subject key identifiers that the chain says it rests on


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, for authorisation, limits and the audit trail. `node` is set for nodes only."""

    kinds: frozenset[Kind]
    actor: str
    source: str
    node: Node | None = None
    person: str = ""  # who an operator's account is, where the list of people knows it

    @property
    def node_id(self) -> SpiffeId:
        """The SPIFFE ID of a node that calls."""
        return self.known_node.id

    @property
    def known_node(self) -> Node:
        """The node that calls."""
        if self.node is None:
            raise NotAuthorizedError("only a node may call this")
        return self.node


def local_connection(process: PeerProcess) -> Connection:
    """Return the connection of a process on the admin socket."""
    return Connection("local", process)


def tls_connection(peer: TlsPeer, bundles: BundleSource, clock: Clock) -> Connection:
    """Return the connection of a TLS peer.

    Raises:
        PeerUnknownError: It showed a certificate that its own trust domain does not vouch for.
    """
    if not peer.chain_der:
        return Connection(peer.address)
    try:
        spiffe_id = verify(peer.chain_der, bundles, now=clock.now())
        chain = [load_certificate(der) for der in peer.chain_der]
    except SpiffeError as error:
        raise PeerUnknownError(f"client certificate refused: {error}") from error
    leaf = chain[0]
    if not _says_what_for(leaf):
        raise PeerUnknownError("client certificate refused: it has no extended key usage")
    return Connection(
        peer.address,
        None,
        spiffe_id,
        serial=str(leaf.serial_number),
        expires_at=leaf.not_valid_after_utc,
        authorities=frozenset(filter(None, map(_authority_of, chain))),
    )


def _authority_of(certificate: x509.Certificate) -> str:
    """Return the subject key identifier of what signed a certificate, or "" if it does not say."""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.AuthorityKeyIdentifier):
            return (extension.value.key_identifier or b"").hex()
    return ""


def _says_what_for(leaf: x509.Certificate) -> bool:
    """Tell whether a leaf has an extended key usage; which ones, `verify` has judged.

    The standard lets a leaf go without (X509-SVID §4.4). Every SVID of ours has it, so that a certificate
    made for something else is never a caller.
    """
    return any(isinstance(extension.value, x509.ExtendedKeyUsage) for extension in leaf.extensions)


class Callers:
    """Judges connections anew on each call: expiry, ban, revocation, eviction and renewal count at once.

    A gateway is never an administrator or issuer as well, whatever its entry says: it meets everybody.
    """

    def __init__(  # noqa: PLR0913 - what it judges by
        self,
        trust_domain: TrustDomain,
        registrations: Registrations,
        *,
        database: Database,
        clock: Clock,
        revocations: Revocations,
        people: People,
        admin_ids: frozenset[SpiffeId] = frozenset(),
        gateway_ids: frozenset[SpiffeId] = frozenset(),
    ) -> None:
        self._trust_domain = trust_domain
        self._registrations = registrations
        self._database = database
        self._clock = clock
        self._revocations = revocations
        self._people = people
        self._admin_ids = admin_ids
        self._gateway_ids = gateway_ids

    def identify(self, peer: TlsPeer) -> Connection:
        """Return the connection of a TLS peer, by the bundles of now.

        Raises:
            PeerUnknownError: It showed a certificate that its own trust domain does not vouch for.
        """
        return tls_connection(peer, BundleSet(self._registrations.bundles()), self._clock)

    async def judge(self, connection: Connection) -> Caller:
        """Return who calls now.

        Raises:
            NodeDeniedError: It is a node that may not call; the reason says what it can do.
            NotAuthorizedError: Its certificate has expired or is taken back, or what vouched for it is.
        """
        if (process := connection.process) is not None:
            actor = f"local:uid={process.uid},pid={process.pid}"
            return Caller(_LOCAL, actor, f"uid:{process.uid}", person=self._person(actor))
        spiffe_id = connection.spiffe_id
        if spiffe_id is None:
            return Caller(_ANONYMOUS, f"anonymous:{connection.address}", connection.address)
        is_node = spiffe_id.is_member_of(self._trust_domain) and spiffe_id.path.startswith(NODE_PREFIX)
        if (fault := self._fault(connection, spiffe_id)) is not None:
            text, reason = fault
            if is_node:
                raise NodeDeniedError(text.format("node SVID"), reason)
            raise NotAuthorizedError(text.format("client certificate"))
        if is_node:
            node = await self._node(spiffe_id, connection.serial)
            return Caller(_NODE, str(spiffe_id), connection.address, node)
        actor, kinds = str(spiffe_id), self._kinds(spiffe_id)
        person = self._person(actor) if Kind.ADMIN in kinds else ""
        return Caller(kinds or _ANONYMOUS, actor, connection.address, person=person)

    def _person(self, actor: str) -> str:
        """Return whom an account is, or "" where nobody can say; for the record, not for a decision."""
        person = self._people.known_as(actor)
        return "" if person is None else str(person)

    def _kinds(self, spiffe_id: SpiffeId) -> frozenset[Kind]:
        """Return what configuration and entries make of an ID now that is no node's."""
        now = self._clock.now()
        ours = spiffe_id.is_member_of(self._trust_domain)
        agent = self._registrations.agent(spiffe_id)
        if agent is not None and agent.state is not AgentState.ACTIVE:
            return frozenset()
        if spiffe_id in self._gateway_ids:
            return _GATEWAY
        kinds = {Kind.ADMIN} if spiffe_id in self._admin_ids else set()
        if ours and self._registrations.is_admin(spiffe_id, now):
            kinds.add(Kind.ADMIN)
        if ours and self._registrations.is_downstream(spiffe_id, now):
            kinds.add(Kind.DOWNSTREAM)
        return frozenset(kinds)

    def _fault(self, connection: Connection, spiffe_id: SpiffeId) -> tuple[str, DenialReason] | None:
        """Return what is wrong with a certificate now, with a place for its name, or None."""
        now = self._clock.now()
        if connection.expires_at is not None and now > connection.expires_at:
            return "{} has expired", DenialReason.EXPIRED
        if not self._rests(connection, spiffe_id.trust_domain):
            return "authority of the {} is withdrawn", DenialReason.NOT_ACTIVE
        ours = spiffe_id.is_member_of(self._trust_domain)  # others number their certificates as they like
        if ours and self._revocations.has_certificate(connection.serial, now):
            return "{} is revoked", DenialReason.NOT_ACTIVE
        return None

    def _rests(self, connection: Connection, trust_domain: TrustDomain) -> bool:
        """Tell whether what vouched for a connection when it was made is still in the bundle."""
        bundle = self._registrations.bundle(trust_domain)
        if bundle is None:
            return False
        if not connection.authorities:  # a foreign certificate that does not say; its end will do
            return True
        return any(a.subject_key_id in connection.authorities for a in bundle.x509_authorities)

    async def _node(self, node_id: SpiffeId, serial: str) -> Node:
        node = _standing(self._registrations.node(node_id), serial)
        if serial != node.new_serial:
            return node

        def promote(tx: Transaction) -> Node:
            # Judged again by what the database says: a ban since then must not be undone.
            current = _standing(tx.nodes.get(node_id), serial)
            if serial != current.new_serial:
                return current
            # The renewed SVID is in use: from now on it is the only one that counts.
            expires_at = current.new_expires_at or current.expires_at
            used = replace(current, serial=serial, expires_at=expires_at, new_serial="", new_expires_at=None)
            return tx.nodes.put(used)

        return await self._database.write(promote)


def _standing(node: Node | None, serial: str) -> Node:
    """Return the node if it may call with the SVID of that serial number.

    Raises:
        NodeDeniedError: It may not.
    """
    if node is None:
        raise NodeDeniedError("node is not attested", DenialReason.NOT_ATTESTED)
    if node.banned:
        raise NodeDeniedError("node is banned", DenialReason.BANNED)
    if serial not in (node.serial, node.new_serial):
        raise NodeDeniedError("node SVID is no longer active", DenialReason.NOT_ACTIVE)
    return node
