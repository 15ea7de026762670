# SPDX-License-Identifier: Apache-2.0
"""What the Workload API grants at one instant, as frozen values made of its messages."""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol, Self, TypeVar

from spiffekit.bundle import Bundle, BundleSet
from spiffekit.crl import RevocationList
from spiffekit.errors import (
    NoIdentityIssuedError,
    SpiffeError,
    StatusError,
    UntrustedError,
    X509SvidError,
)
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jwtsvid import JwtSvid
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)


class Hinted(Protocol):
    """Whatever carries a hint."""

    @property
    def hint(self) -> str:
        """The operator's word for what the SVID is for; "" for none."""


H = TypeVar("H", bound=Hinted)


@dataclass(frozen=True)
class X509Update:
    """The X.509-SVIDs and bundles granted at one instant: the full set, never a difference.

    `svids` come in the order of the Workload API, the default identity first; empty when nothing is
    granted. `crls` are DER, and not verified. It is also a source of itself, so a fixed value fits where a
    source is wanted.
    """

    svids: tuple[X509Svid, ...]
    bundles: BundleSet
    crls: tuple[bytes, ...] = field(repr=False)
    received_at: datetime

    @cached_property
    def revocation_lists(self) -> Mapping[TrustDomain, tuple[RevocationList, ...]]:
        """Those of `crls` that an authority of `bundles` signed, by its trust domain; others are not heeded.

        One that has not been renewed in time still counts for what it names.
        """
        found: dict[TrustDomain, tuple[RevocationList, ...]] = {}
        for crl_der in self.crls:
            try:
                trust_domain, verified = _revocation_list(crl_der, self.bundles)
            except (StatusError, UntrustedError) as error:
                logger.warning("revocation list ignored", extra={"reason": str(error)})
                continue
            found[trust_domain] = (*found.get(trust_domain, ()), verified)
        return found

    def x509_update(self) -> Self:
        """Return itself."""
        return self

    def x509_svid(self, hint: str = "") -> X509Svid:
        """Return the default identity, or the one with this hint (Workload_API §8).

        Raises:
            NoIdentityIssuedError: Nothing is granted, or nothing with this hint.
        """
        for svid in self.svids:
            if not hint or svid.hint == hint:
                return svid
        raise NoIdentityIssuedError(
            f"no identity issued with hint {hint!r}" if hint else "no identity issued"
        )

    def bundle_for(self, trust_domain: TrustDomain) -> Bundle:
        """Return the bundle of a trust domain.

        Raises:
            UnknownTrustDomainError: There is none.
        """
        return self.bundles.bundle_for(trust_domain)


class X509UpdateSource(Protocol):
    """Whatever has a current `X509Update`: one consistent snapshot, never parts of two."""

    def x509_update(self) -> X509Update:
        """Return the current snapshot."""


def x509_update(message: Any, now: datetime) -> X509Update:
    """Make an update of an X509SVIDResponse.

    Raises:
        SpiffeError: A mandatory field is empty or malformed; the whole message is to be discarded
            (Workload_API §4.5).
    """
    svids = []
    bundles: dict[TrustDomain, Bundle] = {}
    for item in message.svids:
        svid = X509Svid.parse(item.x509_svid, item.x509_svid_key, hint=item.hint)
        if str(svid.spiffe_id) != item.spiffe_id:
            raise X509SvidError(f"message says {item.spiffe_id[:256]!r}, its SVID says {svid.spiffe_id}")
        svids.append(svid)
        own = svid.spiffe_id.trust_domain
        bundles[own] = Bundle.from_x509_der(own, item.bundle)
    if not svids:
        raise X509SvidError("response without SVIDs")
    for bundle in _x509_bundles(message.federated_bundles):
        bundles.setdefault(bundle.trust_domain, bundle)
    return X509Update(first_of_each_hint(svids), BundleSet(bundles.values()), tuple(message.crl), now)


def x509_bundles(message: Any) -> BundleSet:
    """Make the bundles of an X509BundlesResponse.

    Raises:
        SpiffeError: A trust domain or bundle is malformed.
    """
    return BundleSet(_x509_bundles(message.bundles))


def jwt_bundles(message: Any) -> BundleSet:
    """Make the bundles of a JWTBundlesResponse.

    Raises:
        SpiffeError: A trust domain or bundle is malformed.
    """
    return BundleSet(Bundle.from_jwks(_trust_domain(name), doc) for name, doc in message.bundles.items())


def wit_bundles(message: Any) -> BundleSet:
    """Make the bundles of a WITBundlesResponse.

    Raises:
        SpiffeError: A trust domain or bundle is malformed.
    """
    return BundleSet(
        Bundle.from_wit_jwks(_trust_domain(name), document.encode())
        for name, document in message.bundles.items()
    )


def jwt_svids(message: Any, audience: Iterable[str]) -> tuple[JwtSvid, ...]:
    """Make the tokens of a JWTSVIDResponse, each for all of `audience`; it does not verify signatures.

    Raises:
        SpiffeError: A token is malformed or for others, or there is none.
    """
    wanted = tuple(audience)
    svids = [JwtSvid.parse_unverified(item.svid, wanted, hint=item.hint) for item in message.svids]
    if not svids:
        raise NoIdentityIssuedError("response without SVIDs")
    return first_of_each_hint(svids)


def _revocation_list(crl_der: bytes, bundles: BundleSet) -> tuple[TrustDomain, RevocationList]:
    for bundle in bundles:
        with suppress(UntrustedError):
            return bundle.trust_domain, RevocationList.verify(crl_der, bundle)
    raise UntrustedError("no authority of any bundle signed it")


def first_of_each_hint(items: Iterable[H]) -> tuple[H, ...]:
    """Keep the first of those with the same hint; those without a hint are all kept (Workload_API §5.2.1)."""
    seen: set[str] = set()
    kept = []
    for item in items:
        if item.hint and item.hint in seen:
            logger.warning("hint given twice, keeping the first", extra={"hint": item.hint[:256]})
            continue
        seen.add(item.hint)
        kept.append(item)
    return tuple(kept)


def _x509_bundles(federated: Mapping[str, bytes]) -> list[Bundle]:
    found = []
    for name, der in federated.items():
        try:
            found.append(Bundle.from_x509_der(_trust_domain(name), der))
        except SpiffeError as error:
            # Unload only this trust domain: its peers are refused, all others stay reachable.
            logger.warning(
                "federated bundle ignored", extra={"trust_domain": name[:256], "reason": str(error)}
            )
    return found


def _trust_domain(name: str) -> TrustDomain:
    """Return the trust domain of a map's key: its SPIFFE ID, or its bare name as some peers send it."""
    return SpiffeId.parse(name).trust_domain if name.startswith("spiffe://") else TrustDomain(name)
