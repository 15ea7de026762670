# SPDX-License-Identifier: Apache-2.0
"""The issuer's configuration file: its tables, their options and defaults."""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from spiffekit.daemon import plugins
from spiffekit.daemon.config import ConfigError, Span
from spiffekit.daemon.kubernetes.access import Access, AccessError, in_cluster, kubeconfig
from spiffekit.daemon.logging import Format, Level
from spiffekit.errors import LogFormatError, SpiffeIdError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.keys import KeyType
from spiffekit.transparency.notes import KeyUse, VerifierKey, check_name

MIN_TTL: Final = timedelta(seconds=1)
MAX_TTL: Final = timedelta(days=36525)  # beyond, instants leave the calendar
MAX_WIT_TTL: Final = timedelta(days=1)  # WIT-SVID §3.4: minutes to hours
MAX_PORT: Final = 65535
MIN_STALE: Final = timedelta(seconds=10)  # a watch lasts for half of it
_CLUSTER: Final = re.compile(r"[A-Za-z0-9._-]{1,63}", re.ASCII)
_URL: Final = re.compile(r"https://[a-z0-9.-]{1,253}(:[0-9]{1,5})?")
_EVERY_ADDRESS: Final = {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
_ENTRY_POINTS: Final = {"key_manager": "issuer.keys", "node_attestor": "issuer.node"}


class IssuerTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[issuer]``.

    Attributes:
        trust_domain: The trust domain that it issues for, e.g. "example.org".
        data_dir: The folder of its database.
        bind_address: The address that attestors and remote administrators reach.
        bind_port: The port there.
        admin_socket: The Unix socket of operators; its file permissions are the authorisation.
        ca_ttl: Lifetime of authorities.
        default_x509_svid_ttl: Lifetime of X.509-SVIDs unless an entry says otherwise.
        default_jwt_svid_ttl: Lifetime of JWT-SVIDs unless an entry says otherwise.
        node_svid_ttl: Lifetime of the nodes' own SVIDs; as `default_x509_svid_ttl` if left out.
        ca_key_type: ec-p256, ec-p384, rsa-2048 or rsa-4096.
        jwt_key_type: Likewise; as `ca_key_type` if left out.
        jwt_issuer: The `iss` of JWT-SVIDs; none if left out.
        wit: Sign WIT-SVIDs, and publish their authorities in the bundle. The standard is incubating, and
            there are readers of bundles that refuse a whole bundle for such a key.
        default_wit_svid_ttl: Lifetime of WIT-SVIDs.
        admin_ids: SPIFFE IDs that may administrate over mTLS.
        prune_nodes_expired_for: Forget nodes whose SVID ended so long ago; never if left out.
        prune_tofu_nodes: Forget as well those that cannot prove themselves again, whose proof then counts
            once more, whoever has it.
        attestations_per_second: Node attestations and renewals of one source address.
        signatures_per_second: SVIDs signed for one source address.
        health_address: Where /live, /ready and /metrics answer; nowhere if left out.
        health_port: The port there.
        log_level: debug, info, warning or error.
        log_format: text or json.
    """

    trust_domain: str
    data_dir: Path
    admin_socket: Path
    bind_address: str = "127.0.0.1"
    bind_port: int = 8081
    ca_ttl: Span = Span(hours=24)
    default_x509_svid_ttl: Span = Span(hours=1)
    default_jwt_svid_ttl: Span = Span(minutes=5)
    node_svid_ttl: Span | None = None
    ca_key_type: KeyType = KeyType.EC_P256
    jwt_key_type: KeyType | None = None
    jwt_issuer: str = ""
    wit: bool = False
    default_wit_svid_ttl: Span = Span(hours=1)
    admin_ids: tuple[str, ...] = ()
    prune_nodes_expired_for: Span | None = None
    prune_tofu_nodes: bool = False
    attestations_per_second: float = 10.0
    signatures_per_second: float = 2000.0
    health_address: str | None = None
    health_port: int = 8080
    log_level: Level = "info"
    log_format: Format = "text"


class KubernetesTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[kubernetes.NAME]``: a cluster whose nodes may attest and whose pods are watched.

    Attributes:
        kubeconfig: How its API server is reached; as every pod of it may, if left out.
        context: The context in that file; its current one if left out.
        stale_after: Pods that have not been seen for so long earn nothing until they are seen again.
        namespace_labels: Watch namespaces as well, for the selectors `k8s:ns-label`.
    """

    kubeconfig: Path | None = None
    context: str = ""
    stale_after: Span = Span(seconds=60)
    namespace_labels: bool = False

    def access(self) -> Access:
        """Return how it is reached.

        Raises:
            AccessError: It cannot be told.
        """
        return in_cluster() if self.kubeconfig is None else kubeconfig(self.kubeconfig, self.context)


class StatusEndpointTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[status_endpoint]``: what was taken back, over HTTPS for whoever asks.

    Attributes:
        address: The address where it answers; its certificate is the issuer's own X.509-SVID.
        port: The port there.
    """

    address: str
    port: int = 8443


class PolicyEndpointTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[policy_endpoint]``: where gateways ask whether an agent may do what it asks them for.

    Attributes:
        address: The address where it answers; its certificate is the issuer's own X.509-SVID.
        authzen_port: The port of the AuthZEN API there, over HTTPS; none if left out.
        ext_authz_port: The port of Envoy's external authorization there, gRPC over TLS; none if left out.
        gateways: The SPIFFE IDs that may ask, each exactly, over mTLS. None of them may administrate.
        url: How gateways reach the AuthZEN API, e.g. "https://policy.example.org:8444", to publish its
            metadata; unpublished if left out.
        decisions_per_second: Decisions of one gateway; at once, twice as many.
        agent_decisions_per_second: Decisions about one agent, whichever gateways ask; at once, twice as many.
    """

    address: str
    authzen_port: int | None = None
    ext_authz_port: int | None = None
    gateways: tuple[str, ...] = ()
    url: str = ""
    decisions_per_second: float = 500.0
    agent_decisions_per_second: float = 50.0

    @property
    def gateway_ids(self) -> frozenset[SpiffeId]:
        """Who may ask."""
        return frozenset(map(SpiffeId.parse, self.gateways))


class AgentsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[agents]``: how agents lose their identity by themselves.

    Attributes:
        people: A SCIM list of the people that may own agents; anybody may if left out.
        people_issuer: The URL of that provider: the `issuer` of every owner in the list.
        orphan_grace: From the moment an owner is missed to the suspension of its agents.
        review_grace: From the date of a review to the suspension of an agent that had none.
    """

    people: Path | None = None
    people_issuer: str = ""
    orphan_grace: Span = Span(hours=24)
    review_grace: Span = Span(days=7)


class WitnessTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[audit.witness.NAME]``: who is asked to cosign the log.

    Attributes:
        url: Where, e.g. "https://witness.example.net:8090".
        key: Its public key, as it prints it at its start.
    """

    url: str
    key: str


class AuditTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[audit]``: how the audit trail is sealed.

    Attributes:
        required: Nothing is done that has to be recorded while the trail cannot be sealed.
        origin: The name of the log, for ever; the trust domain and "/audit" if left out.
        passphrase_file: A file whose first line encrypts the key of the log; without it, it is in the clear.
        witness: Tables ``[audit.witness.NAME]`` of those who are asked to cosign; see the how-to.
        reports_per_second: Events that one attestor may add; at once, 100 times as many.
    """

    required: bool = True
    origin: str = ""
    passphrase_file: Path | None = None
    witness: dict[str, WitnessTable] = {}
    reports_per_second: float = 10.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file: ``[issuer]``, a key manager, and tables for node attestors, clusters, agents, audit."""

    issuer: IssuerTable
    key_manager: dict[str, dict[str, Any]]
    node_attestor: dict[str, dict[str, Any]] = {}
    kubernetes: dict[str, KubernetesTable] = {}
    agents: AgentsTable = AgentsTable()
    status_endpoint: StatusEndpointTable | None = None
    policy_endpoint: PolicyEndpointTable | None = None
    audit: AuditTable = AuditTable()

    def problems(self) -> list[str]:
        """Return what is wrong across fields, each as ``key: rule``."""
        table = self.issuer
        found = [*_bad_ids(table), *_bad_spans(table), *_bad_numbers(table), *_bad_clusters(self.kubernetes)]
        if len(self.key_manager) != 1:
            found.append(f"key_manager: exactly one is needed, not {len(self.key_manager)}")
        if (self.agents.people is None) == bool(self.agents.people_issuer):
            found.append("agents.people_issuer: goes with agents.people")
        found += _bad_audit(self.audit)
        if self.status_endpoint is not None:
            found += _bad_endpoint(self.status_endpoint)
        if self.policy_endpoint is not None:
            found += _bad_policy_endpoint(self.policy_endpoint, table)
        if _overlap(table):
            found.append("issuer.health_port: is already the port of bind_port")
        if len(bytes(table.admin_socket)) > 100:
            found.append("issuer.admin_socket: longer than 100 bytes, the kernel allows 107 for a socket")
        for group, tables in (("key_manager", self.key_manager), ("node_attestor", self.node_attestor)):
            try:
                plugins.load(_ENTRY_POINTS[group], tables, prefix=f"{group}.")
            except ConfigError as error:
                found += error.errors
        return found


def _bad_ids(table: IssuerTable) -> Iterator[str]:
    try:
        TrustDomain(table.trust_domain)
    except SpiffeIdError as error:
        yield f"issuer.trust_domain: {error}"
    for admin_id in table.admin_ids:
        try:
            SpiffeId.parse(admin_id)
        except SpiffeIdError as error:
            yield f"issuer.admin_ids: {error}"


def _bad_clusters(tables: Mapping[str, KubernetesTable]) -> Iterator[str]:
    for name, table in tables.items():
        if not _CLUSTER.fullmatch(name) or name in (".", ".."):
            yield f"kubernetes.{name}: a name has letters, digits, '.', '_' and '-' only: it goes into IDs"
        if table.stale_after < MIN_STALE:
            yield f"kubernetes.{name}.stale_after: shorter than {MIN_STALE.seconds} s"
        try:
            table.access()
        except AccessError as error:
            yield f"kubernetes.{name}: {error}"


def _bad_endpoint(table: StatusEndpointTable) -> Iterator[str]:
    if not _is_address(table.address):
        yield f"status_endpoint.address: {table.address!r} is not an IP address"
    if not 0 <= table.port <= MAX_PORT:
        yield "status_endpoint.port: not a port"


def _bad_policy_endpoint(table: PolicyEndpointTable, issuer: IssuerTable) -> Iterator[str]:
    if not _is_address(table.address):
        yield f"policy_endpoint.address: {table.address!r} is not an IP address"
    ports = {name: getattr(table, name) for name in ("authzen_port", "ext_authz_port")}
    yield from (f"policy_endpoint.{name}: not a port" for name, port in ports.items() if not _is_port(port))
    if ports["authzen_port"] == ports["ext_authz_port"] != 0:
        yield "policy_endpoint.ext_authz_port: either is needed, and not the same for both"
    if table.url and not _URL.fullmatch(table.url):
        yield f"policy_endpoint.url: {table.url[:200]!r} is not https://HOST[:PORT]"
    for name in ("decisions_per_second", "agent_decisions_per_second"):
        if not 0 < getattr(table, name) < math.inf:
            yield f"policy_endpoint.{name}: has to be a positive number"
    yield from _bad_gateways(table.gateways, issuer)


def _is_port(port: int | None) -> bool:
    return port is None or 0 <= port <= MAX_PORT


def _bad_gateways(gateways: tuple[str, ...], issuer: IssuerTable) -> Iterator[str]:
    if not gateways:
        yield "policy_endpoint.gateways: names nobody, so that nobody could ask"
    for gateway in gateways:
        try:
            SpiffeId.parse(gateway)
        except SpiffeIdError as error:
            yield f"policy_endpoint.gateways: {error}"
        if gateway in issuer.admin_ids:
            yield f"policy_endpoint.gateways: {gateway} is among issuer.admin_ids, and cannot be both"


def _bad_audit(table: AuditTable) -> Iterator[str]:
    if not 0 < table.reports_per_second < math.inf:
        yield "audit.reports_per_second: has to be a positive number"
    try:
        check_name(table.origin or "default")
    except LogFormatError as error:
        yield f"audit.origin: {error}"
    for name, witness in table.witness.items():
        try:
            urlsplit(witness.url).port  # noqa: B018 - it raises what is wrong with it
            if urlsplit(witness.url).scheme not in ("http", "https") or not urlsplit(witness.url).hostname:
                yield f"audit.witness.{name}.url: {witness.url[:200]!r} is not http(s)://HOST[:PORT][/PATH]"
        except ValueError as error:
            yield f"audit.witness.{name}.url: {error}"
        try:
            if VerifierKey.parse(witness.key).use is not KeyUse.COSIGNATURE:
                yield f"audit.witness.{name}.key: is that of a log, not of a witness"
        except LogFormatError as error:
            yield f"audit.witness.{name}.key: {error}"


def _overlap(table: IssuerTable) -> bool:
    if table.health_address is None or table.health_port != table.bind_port or not table.bind_port:
        return False
    addresses = {table.health_address, table.bind_address}
    return len(addresses) == 1 or bool(addresses & _EVERY_ADDRESS)


def _bad_spans(table: IssuerTable) -> Iterator[str]:
    defaults = (f"default_{kind}_svid_ttl" for kind in ("x509", "jwt", "wit"))
    for name in ("ca_ttl", *defaults, "node_svid_ttl"):
        ttl = getattr(table, name)
        if ttl is not None and ttl < MIN_TTL:
            yield f"issuer.{name}: shorter than a second"
        if ttl is not None and ttl > MAX_TTL:
            yield f"issuer.{name}: longer than 100 years"
    if table.default_wit_svid_ttl > MAX_WIT_TTL:
        yield "issuer.default_wit_svid_ttl: longer than a day"
    if table.prune_nodes_expired_for is not None and table.prune_nodes_expired_for > MAX_TTL:
        yield "issuer.prune_nodes_expired_for: longer than 100 years"


def _bad_numbers(table: IssuerTable) -> Iterator[str]:
    for name in ("bind_port", "health_port"):
        if not 0 <= getattr(table, name) <= MAX_PORT:
            yield f"issuer.{name}: not a port"
    for name in ("attestations_per_second", "signatures_per_second"):
        if not 0 < getattr(table, name) < math.inf:
            yield f"issuer.{name}: has to be a positive number"
    for name in ("bind_address", "health_address"):
        if (address := getattr(table, name)) is not None and not _is_address(address):
            yield f"issuer.{name}: {address!r} is not an IP address"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
