# SPDX-License-Identifier: Apache-2.0
"""spire.api.server.bundle.v1: our own bundle, and those of federated trust domains."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from issuer.api.dispatch import Call, item_status, masked, page_size, pages_of
from issuer.ca.published import check, publish
from issuer.errors import AlreadyExistsError, InvalidRequestError, IssuerError, NotFoundError
from issuer.model import AuthorityKind
from issuer.registration import Registrations
from issuer.store import Database, Transaction
from issuer.store.bundles import DeleteMode
from spiffekit.bundle import Bundle, JwtAuthority, X509Authority
from spiffekit.daemon.limits import RateLimit
from spiffekit.errors import SpiffeError, SpiffeIdError
from spiffekit.id import TrustDomain
from spiffekit.wire.convert import (
    bundle_from_proto,
    bundle_to_proto,
    jwt_authority_from_proto,
    key_from_proto,
    seconds,
    x509_authority_from_proto,
)
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2

MAX_PAGE: Final = 500
MAX_BATCH: Final = 100
MAX_OWN: Final = (
    500  # authorities of our own bundle; far below what a reader accepts, so that rotation has room
)
# Keys of one source address: a downstream issuer has another one every few hours, and each is a transaction.
PUBLISHED_PER_SECOND: Final = 10.0
PUBLISHED_AT_ONCE: Final = 100.0
MAX_SEQUENCE: Final = 2**63 - 1  # so that the next one can still be written
_MODES: Final = {0: DeleteMode.RESTRICT, 1: DeleteMode.DELETE, 2: DeleteMode.DISSOCIATE}


class BundleService:
    """See the module."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        database: Database,
        registrations: Registrations,
        publish_limit: RateLimit,
    ) -> None:
        self._trust_domain = trust_domain
        self._publish_limit = publish_limit
        self._database = database
        self._registrations = registrations

    async def GetBundle(self, request: bundle_pb2.GetBundleRequest, call: Call) -> types_pb2.Bundle:  # noqa: N802 - the method's name on the wire
        """Return our own bundle; anybody may ask."""
        del call
        return _masked(self._known(self._trust_domain), request)

    async def GetFederatedBundle(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.GetFederatedBundleRequest, call: Call
    ) -> types_pb2.Bundle:
        """Return the bundle of a federated trust domain."""
        del call
        return _masked(self._known(self._foreign(request.trust_domain)), request)

    async def CountBundles(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.CountBundlesRequest, call: Call
    ) -> bundle_pb2.CountBundlesResponse:
        """Count all bundles."""
        del request, call
        return bundle_pb2.CountBundlesResponse(count=len(self._registrations.bundles()))

    async def AppendBundle(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.AppendBundleRequest, call: Call
    ) -> types_pb2.Bundle:
        """Add authorities to our own bundle."""
        if request.wit_authorities:
            raise InvalidRequestError("wit_authorities: are not supported")
        x509_authorities = tuple(
            x509_authority_from_proto(i, a) for i, a in enumerate(request.x509_authorities)
        )
        jwt_authorities = tuple(jwt_authority_from_proto(i, a) for i, a in enumerate(request.jwt_authorities))

        def act(tx: Transaction) -> Bundle:
            before = tx.bundles.get(self._trust_domain)
            after = _once(
                replace(
                    before,
                    x509_authorities=before.x509_authorities + x509_authorities,
                    jwt_authorities=before.jwt_authorities + jwt_authorities,
                )
            )
            if after.size > MAX_OWN:
                raise InvalidRequestError(f"the bundle would have more than {MAX_OWN} authorities")
            tx.audit.append(
                call.record(self._trust_domain.name, authorities=len(x509_authorities + jwt_authorities))
            )
            return tx.bundles.put(after)

        return _masked(await self._database.write(act), request)

    async def PublishJWTAuthority(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.PublishJWTAuthorityRequest, call: Call
    ) -> bundle_pb2.PublishJWTAuthorityResponse:
        """Take the key of a downstream issuer into our own bundle."""
        bundle = await self._publish(AuthorityKind.JWT, request, call)
        return bundle_pb2.PublishJWTAuthorityResponse(jwt_authorities=bundle_to_proto(bundle).jwt_authorities)

    async def _publish(self, kind: AuthorityKind, request: Any, call: Call) -> Bundle:
        self._publish_limit.spend(call.caller.source)
        field = f"{kind}_authority"
        if not request.HasField(field):
            raise InvalidRequestError(f"{field}: is missing")
        key = check(key_from_proto(field, getattr(request, field)), call.now)

        def act(tx: Transaction) -> Bundle:
            after = publish(tx, self._trust_domain, kind, key)
            record = call.record(
                self._trust_domain.name,
                kind=kind,
                key_id=key.key_id,
                sha256=hashlib.sha256(key.public_key_der).hexdigest(),
                expires_at=seconds(key.expires_at),
            )
            tx.audit.append(record)
            return after

        return await self._database.write(act)

    async def ListFederatedBundles(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.ListFederatedBundlesRequest, call: Call
    ) -> bundle_pb2.ListFederatedBundlesResponse:
        """List the bundles of federated trust domains."""
        del call
        messages = (
            _masked(bundle, request)
            for bundle in self._registrations.bundles()
            if bundle.trust_domain != self._trust_domain and bundle.trust_domain.name > request.page_token
        )
        found, more = next(pages_of(messages, page_size(request.page_size, MAX_PAGE)))
        return bundle_pb2.ListFederatedBundlesResponse(
            bundles=found, next_page_token=found[-1].trust_domain if more else ""
        )

    async def BatchCreateFederatedBundle(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.BatchCreateFederatedBundleRequest, call: Call
    ) -> bundle_pb2.BatchCreateFederatedBundleResponse:
        """Add bundles that are not known yet."""

        def act(tx: Transaction, bundle: Bundle) -> Bundle:
            if tx.bundles.find(bundle.trust_domain) is not None:
                raise AlreadyExistsError(f"bundle of {bundle.trust_domain} already exists")
            return tx.bundles.put(bundle)

        kind = bundle_pb2.BatchCreateFederatedBundleResponse
        return kind(results=await self._each(kind.Result, request, call, act))

    async def BatchUpdateFederatedBundle(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.BatchUpdateFederatedBundleRequest, call: Call
    ) -> bundle_pb2.BatchUpdateFederatedBundleResponse:
        """Replace what the input mask names of bundles that are known."""
        mask = request.input_mask if request.HasField("input_mask") else None

        def act(tx: Transaction, bundle: Bundle) -> Bundle:
            before = tx.bundles.get(bundle.trust_domain)
            if mask is not None:
                bundle = replace(
                    bundle,
                    x509_authorities=(bundle if mask.x509_authorities else before).x509_authorities,
                    jwt_authorities=(bundle if mask.jwt_authorities else before).jwt_authorities,
                    wit_authorities=(bundle if mask.wit_authorities else before).wit_authorities,
                    refresh_hint=(bundle if mask.refresh_hint else before).refresh_hint,
                )
            return tx.bundles.put(bundle)

        kind = bundle_pb2.BatchUpdateFederatedBundleResponse
        return kind(results=await self._each(kind.Result, request, call, act))

    async def BatchSetFederatedBundle(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.BatchSetFederatedBundleRequest, call: Call
    ) -> bundle_pb2.BatchSetFederatedBundleResponse:
        """Add or replace bundles."""
        kind = bundle_pb2.BatchSetFederatedBundleResponse
        return kind(results=await self._each(kind.Result, request, call, lambda tx, b: tx.bundles.put(b)))

    async def BatchDeleteFederatedBundle(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.BatchDeleteFederatedBundleRequest, call: Call
    ) -> bundle_pb2.BatchDeleteFederatedBundleResponse:
        """Remove bundles."""
        mode = _MODES.get(request.mode)
        if mode is None:
            raise InvalidRequestError(f"mode: {request.mode} is not known")
        _bounded(request.trust_domains)
        results = []
        for name in request.trust_domains:
            result = bundle_pb2.BatchDeleteFederatedBundleResponse.Result(
                trust_domain=name, status=types_pb2.Status(message="OK")
            )
            try:
                trust_domain = self._foreign(name)

                def act(tx: Transaction, trust_domain: TrustDomain = trust_domain) -> None:
                    tx.bundles.delete(trust_domain, mode)
                    tx.audit.append(call.record(trust_domain.name, mode=mode))

                await self._database.write(act)
            except IssuerError as error:
                result.status.CopyFrom(item_status(error))
            results.append(result)
        return bundle_pb2.BatchDeleteFederatedBundleResponse(results=results)

    async def _each(
        self, kind: Any, request: Any, call: Call, change: Callable[[Transaction, Bundle], Bundle]
    ) -> list[Any]:
        _bounded(request.bundle)
        results = []
        for message in request.bundle:
            try:
                self._foreign(message.trust_domain)
                if message.sequence_number > MAX_SEQUENCE:
                    raise InvalidRequestError(f"sequence_number: larger than {MAX_SEQUENCE}")
                given = _once(bundle_from_proto(message))

                def act(tx: Transaction, given: Bundle = given) -> Bundle:
                    tx.audit.append(call.record(given.trust_domain.name))
                    return change(tx, given)

                bundle = await self._database.write(act)
            except (IssuerError, SpiffeError) as error:
                results.append(kind(status=item_status(error)))
                continue
            results.append(kind(status=types_pb2.Status(message="OK"), bundle=_masked(bundle, request)))
        return results

    def _known(self, trust_domain: TrustDomain) -> Bundle:
        bundle = self._registrations.bundle(trust_domain)
        if bundle is None:
            raise NotFoundError(f"no bundle for trust domain {trust_domain}")
        return bundle

    def _foreign(self, name: str) -> TrustDomain:
        try:
            trust_domain = TrustDomain.parse(name)
        except SpiffeIdError as error:
            raise InvalidRequestError(f"trust_domain: {error}") from error
        if trust_domain == self._trust_domain:
            raise InvalidRequestError("trust_domain: is the issuer's own")
        return trust_domain


class WitBundleService(BundleService):
    """The service of an issuer that is configured to sign WIT-SVIDs."""

    async def PublishWITAuthority(  # noqa: N802 - the method's name on the wire
        self, request: bundle_pb2.PublishWITAuthorityRequest, call: Call
    ) -> bundle_pb2.PublishWITAuthorityResponse:
        """Take the key of a downstream issuer into our own bundle."""
        bundle = await self._publish(AuthorityKind.WIT, request, call)
        return bundle_pb2.PublishWITAuthorityResponse(wit_authorities=bundle_to_proto(bundle).wit_authorities)


def _bounded(items: Any) -> None:
    if len(items) > MAX_BATCH:
        raise InvalidRequestError(f"more than {MAX_BATCH} items in one call")


def _once(bundle: Bundle) -> Bundle:
    """Return the bundle with each authority once: of several the first one counts.

    Raises:
        InvalidRequestError: Two keys have the same ID, so that nobody could tell which one is meant.
    """
    certificates: dict[bytes, X509Authority] = {}
    for authority in bundle.x509_authorities:
        certificates.setdefault(authority.certificate_der, authority)
    return replace(
        bundle,
        x509_authorities=tuple(certificates.values()),
        jwt_authorities=_keys_once("jwt_authorities", bundle.jwt_authorities),
        wit_authorities=_keys_once("wit_authorities", bundle.wit_authorities),
    )


def _keys_once(field: str, authorities: Iterable[JwtAuthority]) -> tuple[JwtAuthority, ...]:
    keys: dict[str, JwtAuthority] = {}
    for key in authorities:
        if keys.setdefault(key.key_id, key).public_key_der != key.public_key_der:
            raise InvalidRequestError(f"{field}: two keys have the ID {key.key_id[:80]!r}")
    return tuple(keys.values())


def _masked(bundle: Bundle, request: Any) -> types_pb2.Bundle:
    mask = request.output_mask if request.HasField("output_mask") else None
    message: types_pb2.Bundle = masked(bundle_to_proto(bundle), mask)
    return message
