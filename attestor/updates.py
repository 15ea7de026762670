# SPDX-License-Identifier: Apache-2.0
"""What the issuer says of this node's entries, from its messages into our values."""

from dataclasses import dataclass
from datetime import UTC, datetime

from attestor.cache import Entry
from spiffekit.bundle import Bundle
from spiffekit.errors import SelectorError
from spiffekit.id import TrustDomain
from spiffekit.selector import Selector
from spiffekit.template import Template
from spiffekit.wire.convert import bundle_from_proto, instant, spiffe_id_from_proto
from spiffekit.wire.pb.issuer.v1 import updates_pb2
from spiffekit.wire.pb.spire.api import types_pb2


@dataclass(frozen=True, slots=True)
class Update:
    """One message of the push stream."""

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


def entry_from_proto(message: types_pb2.Entry) -> Entry:
    """Return the entry of a message.

    Raises:
        SpiffeError: Its ID, a selector or a trust domain is invalid; or it has no selectors, and would match
            every process.
        ValueError: It has a point in time that cannot be.
    """
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


def update_from_proto(message: updates_pb2.WatchResponse) -> Update:
    """Return one message of the push stream.

    Raises:
        SpiffeError: An entry or a bundle is malformed.
        ValueError: An entry has a point in time that cannot be.
    """
    return Update(
        revision=message.revision,
        epoch=message.epoch,
        snapshot=message.snapshot,
        more=message.more,
        entries=tuple(map(entry_from_proto, message.entries)),
        removed=tuple(message.removed_entry_ids),
        bundles=tuple(map(bundle_from_proto, message.bundles)),
        removed_bundles=tuple(TrustDomain.parse(name) for name in message.removed_bundles),
        tainted=tuple(message.tainted_x509_authorities),
        heartbeat=message.heartbeat,
    )
