# SPDX-License-Identifier: Apache-2.0
"""Between entries and nodes and their messages; parsing names the field and the rule that it breaks."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from issuer.ca.requests import check_dns_names
from issuer.errors import InvalidRequestError
from issuer.model import Node, RegistrationEntry
from issuer.selection import Comparison
from issuer.store.nodes import SERVER_PATH
from spiffekit.errors import SelectorError, SpiffeIdError, TemplateError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from spiffekit.template import Template
from spiffekit.wire.convert import (
    instant,
    seconds,
    selector_from_proto,
    selector_to_proto,
    spiffe_id_from_proto,
    spiffe_id_to_proto,
)
from spiffekit.wire.pb.spire.api import types_pb2

MAX_SELECTORS: Final = 100
MAX_FEDERATIONS: Final = 100
MAX_HINT_BYTES: Final = 1024  # Workload_API §8
MAX_TTL: Final = timedelta(days=3650)
_ENTRY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)


def entry_to_proto(entry: RegistrationEntry) -> types_pb2.Entry:
    """Return the message of an entry."""
    message = types_pb2.Entry(
        id=entry.id,
        spiffe_id=spiffe_id_to_proto(entry.spiffe_id),
        parent_id=spiffe_id_to_proto(entry.parent_id),
        selectors=[selector_to_proto(selector) for selector in sorted(entry.selectors)],
        x509_svid_ttl=_whole(entry.x509_svid_ttl),
        jwt_svid_ttl=_whole(entry.jwt_svid_ttl),
        federates_with=[trust_domain.name for trust_domain in entry.federates_with],
        admin=entry.admin,
        downstream=entry.downstream,
        store_svid=entry.store_svid,
        dns_names=entry.dns_names,
        hint=entry.hint,
        expires_at=seconds(entry.expires_at),
        created_at=seconds(entry.created_at),
        revision_number=entry.revision,
        evidence_required=entry.evidence_required,
        svid_per_process=entry.svid_per_process,
        spiffe_id_template=str(entry.template or ""),
    )
    if entry.template is not None:
        message.ClearField("spiffe_id")
    if entry.disable_x509_svid_prefetch or entry.jwt_svid_include_jti:
        message.additional_attributes.disable_x509_svid_prefetch = entry.disable_x509_svid_prefetch
        message.additional_attributes.jwt_svid_include_jti = entry.jwt_svid_include_jti
    return message


def _whole(ttl: timedelta | None) -> int:
    return 0 if ttl is None else int(ttl.total_seconds())


def entry_from_proto(
    message: types_pb2.Entry, trust_domain: TrustDomain, *, entry_id: str, now: datetime
) -> RegistrationEntry:
    """Return the entry of a message, checked against every rule.

    Raises:
        InvalidRequestError: A field breaks a rule; the message names both.
    """
    if not _ENTRY_ID.fullmatch(entry_id):
        raise InvalidRequestError("id: use 1 to 255 of A-Z a-z 0-9 . _ -")
    template = _template(message, trust_domain)
    spiffe_id = template.base if template else id_field("spiffe_id", message.spiffe_id, trust_domain)
    parent_id = id_field("parent_id", message.parent_id, trust_domain)
    if template is not None and parent_id.path == SERVER_PATH:
        raise InvalidRequestError("spiffe_id_template: not for an alias of nodes")
    if spiffe_id.path == SERVER_PATH:
        raise InvalidRequestError("spiffe_id: is that of the issuer itself")
    if len(message.hint.encode()) > MAX_HINT_BYTES:
        raise InvalidRequestError(f"hint: longer than {MAX_HINT_BYTES} bytes")
    dns_names = tuple(message.dns_names)
    check_dns_names(dns_names)
    try:
        expires_at = instant(message.expires_at)
    except ValueError as error:
        raise InvalidRequestError(f"expires_at: {error}") from error
    attributes = message.additional_attributes
    return RegistrationEntry(
        id=entry_id,
        spiffe_id=spiffe_id,
        parent_id=parent_id,
        selectors=selectors_field(message.selectors),
        x509_svid_ttl=_ttl("x509_svid_ttl", message.x509_svid_ttl),
        jwt_svid_ttl=_ttl("jwt_svid_ttl", message.jwt_svid_ttl),
        federates_with=_federates_with(message.federates_with, trust_domain),
        dns_names=dns_names,
        hint=message.hint,
        admin=message.admin,
        downstream=message.downstream,
        store_svid=message.store_svid,
        disable_x509_svid_prefetch=attributes.disable_x509_svid_prefetch,
        jwt_svid_include_jti=attributes.jwt_svid_include_jti,
        evidence_required=message.evidence_required,
        svid_per_process=message.svid_per_process,
        template=template,
        expires_at=expires_at,
        created_at=now.replace(microsecond=0),
    )


def _template(message: types_pb2.Entry, trust_domain: TrustDomain) -> Template | None:
    if not message.spiffe_id_template:
        return None
    try:
        template = Template.parse(message.spiffe_id_template)
    except (TemplateError, SpiffeIdError) as error:
        raise InvalidRequestError(f"spiffe_id_template: {error}") from error
    if template.trust_domain != trust_domain:
        raise InvalidRequestError(f"spiffe_id_template: is not of trust domain {trust_domain}")
    if message.HasField("spiffe_id"):
        raise InvalidRequestError("spiffe_id_template: spiffe_id is given as well")
    for name in ("admin", "downstream", "store_svid"):
        if getattr(message, name):
            raise InvalidRequestError(f"{name}: not for a template, which stands for many identities")
    return template


def id_field(name: str, message: types_pb2.SPIFFEID, trust_domain: TrustDomain) -> SpiffeId:
    """Return an ID of our trust domain that has a path.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        spiffe_id = spiffe_id_from_proto(message)
    except SpiffeIdError as error:
        raise InvalidRequestError(f"{name}: {error}") from error
    if not spiffe_id.is_member_of(trust_domain):
        raise InvalidRequestError(f"{name}: {spiffe_id} is not a member of trust domain {trust_domain}")
    if not spiffe_id.path:
        raise InvalidRequestError(f"{name}: {spiffe_id} has no path")
    return spiffe_id


def node_id_field(name: str, text: str, trust_domain: TrustDomain) -> SpiffeId:
    """Return an ID of our trust domain, from its text.

    Raises:
        InvalidRequestError: It is none.
    """
    try:
        spiffe_id = SpiffeId.parse(text)
    except SpiffeIdError as error:
        raise InvalidRequestError(f"{name}: {error}") from error
    if not spiffe_id.is_member_of(trust_domain):
        raise InvalidRequestError(f"{name}: {spiffe_id} is not a member of trust domain {trust_domain}")
    return spiffe_id


def selectors_field(messages: Iterable[types_pb2.Selector], name: str = "selectors") -> frozenset[Selector]:
    """Return a set of selectors.

    Raises:
        InvalidRequestError: There is none, there are too many, or one is invalid.
    """
    try:
        found = frozenset(selector_from_proto(message) for message in messages)
    except SelectorError as error:
        raise InvalidRequestError(f"{name}: {error}") from error
    if not found:
        raise InvalidRequestError(f"{name}: at least one is required")
    if len(found) > MAX_SELECTORS:
        raise InvalidRequestError(f"{name}: more than {MAX_SELECTORS}")
    return found


def comparison_field(name: str, value: int) -> Comparison:
    """Return how a filter compares.

    Raises:
        InvalidRequestError: It is a way that we do not know.
    """
    try:
        return Comparison(value)
    except ValueError as error:
        raise InvalidRequestError(f"{name}: match {value} is not known") from error


def _ttl(name: str, value: int) -> timedelta | None:
    if value == 0:
        return None
    if not 0 < value <= MAX_TTL.total_seconds():
        raise InvalidRequestError(f"{name}: not between 1 second and {MAX_TTL.days} days")
    return timedelta(seconds=value)


def _federates_with(names: Iterable[str], own: TrustDomain) -> tuple[TrustDomain, ...]:
    try:
        found = sorted({TrustDomain.parse(name) for name in names})
    except SpiffeIdError as error:
        raise InvalidRequestError(f"federates_with: {error}") from error
    if own in found:
        raise InvalidRequestError("federates_with: has the own trust domain")
    if len(found) > MAX_FEDERATIONS:
        raise InvalidRequestError(f"federates_with: more than {MAX_FEDERATIONS}")
    return tuple(found)


def node_to_proto(node: Node) -> types_pb2.Agent:
    """Return the message of a node."""
    return types_pb2.Agent(
        id=spiffe_id_to_proto(node.id),
        attestation_type=node.attestation_type,
        x509svid_serial_number=node.serial,
        x509svid_expires_at=seconds(node.expires_at),
        selectors=[selector_to_proto(selector) for selector in sorted(node.selectors)],
        banned=node.banned,
        can_reattest=node.can_reattest,
        agent_version=node.version,
        attestation_level=int(node.level),
    )
