# SPDX-License-Identifier: Apache-2.0
"""What the issuer says of this node's entries, from its messages into our values.

An entry or a bundle that is malformed is withheld, and what is well-formed beside it counts: else whoever
gets one poisoned entry into the registry would keep every other identity of the node from being given,
changed or taken back. It is withheld even where an earlier form of it was good, for what the issuer says of
it now may be less than that, and we cannot tell.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from attestor.cache import Entry
from attestor.policies import SaidPolicies
from attestor.revocation import Said
from spiffekit.bundle import Bundle
from spiffekit.errors import SelectorError, SpiffeError, SpiffeIdError
from spiffekit.id import TrustDomain
from spiffekit.selector import Selector
from spiffekit.template import Template
from spiffekit.wire.convert import bundle_from_proto, instant, spiffe_id_from_proto
from spiffekit.wire.pb.issuer.v1 import updates_pb2
from spiffekit.wire.pb.spire.api import types_pb2

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_NAME: Final = 80  # characters of a malformed thing's name that are logged


@dataclass(frozen=True, slots=True)
class Update:
    """One message of the push stream. What is malformed in it is among what is removed."""

    revision: int
    epoch: str
    snapshot: bool
    more: bool
    entries: tuple[Entry, ...]
    removed: tuple[str, ...]
    bundles: tuple[Bundle, ...]
    removed_bundles: tuple[TrustDomain, ...]
    tainted: tuple[str, ...]
    heartbeat: bool
    revocations: Said | None = None
    policies: SaidPolicies | None = None


def entry_from_proto(message: types_pb2.Entry) -> Entry:
    """Return the entry of a message.

    Raises:
        SpiffeError: Its ID, a selector or a trust domain is invalid; or it has no selectors, and would match
            every process.
        ValueError: It has no ID, or a point in time that cannot be.
    """
    if not message.id:
        raise ValueError("entry has no ID")
    if not message.selectors:
        raise SelectorError(f"entry {message.id[:80]!r} has no selectors")
    template = Template.parse(message.spiffe_id_template) if message.spiffe_id_template else None
    return Entry(
        id=message.id,
        spiffe_id=template.base if template is not None else spiffe_id_from_proto(message.spiffe_id),
        template=template,
        needs_evidence=message.evidence_required or message.svid_per_process or template is not None,
        selectors=frozenset(Selector(s.type, s.value) for s in message.selectors),
        hint=message.hint,
        federates_with=tuple(TrustDomain.parse(name) for name in message.federates_with),
        revision=message.revision_number,
        created_at=instant(message.created_at) or datetime.fromtimestamp(0, UTC),
        store_svid=message.store_svid,
        jwt_svid_include_jti=message.additional_attributes.jwt_svid_include_jti,
        expires_at=instant(message.expires_at),
    )


def entries_from_proto(messages: Iterable[types_pb2.Entry]) -> tuple[tuple[Entry, ...], frozenset[str]]:
    """Return the entries of messages, and the IDs of those that are malformed: these are to be withheld."""
    entries, malformed = _well_formed(messages, entry_from_proto, name=lambda message: message.id)
    return tuple(entry for entry in entries if entry.id not in malformed), malformed


def bundles_from_proto(messages: Iterable[types_pb2.Bundle]) -> tuple[tuple[Bundle, ...], frozenset[str]]:
    """Return the bundles of messages, and the trust domains, by name, of those that are malformed."""
    return _well_formed(messages, bundle_from_proto, name=lambda message: message.trust_domain)


def update_from_proto(message: updates_pb2.WatchResponse) -> Update:
    """Return one message of the push stream."""
    entries, malformed = entries_from_proto(message.entries)
    bundles, untrusted = bundles_from_proto(message.bundles)
    return Update(
        revision=message.revision,
        epoch=message.epoch,
        snapshot=message.snapshot,
        more=message.more,
        entries=entries,
        removed=(*message.removed_entry_ids, *sorted(malformed)),
        bundles=bundles,
        removed_bundles=_trust_domains([*message.removed_bundles, *sorted(untrusted)]),
        tainted=tuple(message.tainted_x509_authorities),
        heartbeat=message.heartbeat,
        revocations=Said(message.revocations.status, tuple(message.revocations.crls))
        if message.HasField("revocations")
        else None,
        policies=SaidPolicies(message.policies.number, message.policies.bundle)
        if message.HasField("policies")
        else None,
    )


def _well_formed(
    messages: Iterable[Any], parse: Callable[[Any], T], *, name: Callable[[Any], str]
) -> tuple[tuple[T, ...], frozenset[str]]:
    """Return what can be parsed, and the names of what cannot."""
    found: list[T] = []
    malformed: dict[str, str] = {}
    for message in messages:
        try:
            found.append(parse(message))
        except (SpiffeError, ValueError) as error:
            malformed[name(message)] = str(error)
    if malformed:
        # One line, however many there are: they come again with every snapshot.
        first, reason = next(iter(malformed.items()))
        logger.warning(
            "issuer sent what is malformed, it is withheld",
            extra={"count": len(malformed), "first": first[:MAX_NAME], "reason": reason},
        )
    return tuple(found), frozenset(malformed)


def _trust_domains(names: Iterable[str]) -> tuple[TrustDomain, ...]:
    """Return those that are names of trust domains; of any other one we have no bundle."""
    found = []
    for name in names:
        with contextlib.suppress(SpiffeIdError):
            found.append(TrustDomain.parse(name))
    return tuple(found)
