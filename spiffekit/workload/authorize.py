# SPDX-License-Identifier: Apache-2.0
"""Whom to talk to: predicates over the SPIFFE ID of a peer that is already verified."""

from collections.abc import Callable

from spiffekit.id import SpiffeId, TrustDomain

Authorize = Callable[[SpiffeId], bool]


def exact(spiffe_id: SpiffeId) -> Authorize:
    """Accept this one ID."""
    return lambda peer: peer == spiffe_id


def below(prefix: SpiffeId) -> Authorize:
    """Accept this ID and every ID under it, on a segment boundary: /web covers /web/1, never /web2."""
    return lambda peer: peer.is_below(prefix)


def member_of(trust_domain: TrustDomain) -> Authorize:
    """Accept every ID of this trust domain."""
    return lambda peer: peer.trust_domain == trust_domain


def any_of(*choices: Authorize) -> Authorize:
    """Accept what any of these accepts; none given accepts nobody."""
    return lambda peer: any(choice(peer) for choice in choices)
