# SPDX-License-Identifier: Apache-2.0
"""The client of the Workload API: one call, one answer, or one stream that is kept open for ever.

Every request carries the security header (Workload_Endpoint §3). Private keys stay in memory.
"""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeVar

import grpc

from spiffekit.bundle import BundleSet
from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.errors import (
    NoIdentityIssuedError,
    SpiffeError,
    WorkloadApiError,
    WorkloadApiRejectedError,
    WorkloadApiUnavailableError,
)
from spiffekit.id import SpiffeId
from spiffekit.jwtsvid import JwtSvid
from spiffekit.policy.bundle import MAX_BYTES as MAX_POLICIES
from spiffekit.status import MAX_BYTES as MAX_STATUS
from spiffekit.wire.pb.attestor.v1 import policies_pb2, signer_pb2, status_pb2, verifications_pb2
from spiffekit.wire.workload_api import SECURITY_HEADER, Method, method
from spiffekit.witsvid import MAX_PROOF_LIFETIME, Bound, Presentation
from spiffekit.workload import updates
from spiffekit.workload.address import endpoint_address
from spiffekit.workload.updates import X509Update

logger = logging.getLogger(__name__)

T = TypeVar("T")

CALL_WITHIN: Final = timedelta(seconds=30)
RETRY: Final = (timedelta(seconds=0.1), timedelta(seconds=30))  # first and longest wait
MAX_ANSWER: Final = (
    max(MAX_STATUS, MAX_POLICIES) + 4 * 1024 * 1024
)  # bytes; many identities and federated bundles fit
_WATCH_STATUS: Final = Method(
    "Status/Watch", "/attestor.v1.Status/Watch", status_pb2.WatchRequest, status_pb2.WatchResponse, True
)
_WATCH_POLICIES: Final = Method(
    "Policies/Watch",
    "/attestor.v1.Policies/Watch",
    policies_pb2.WatchPoliciesRequest,
    policies_pb2.WatchPoliciesResponse,
    streaming=True,
)
_SIGN_PROOF: Final = Method(
    "SignProof",
    "/attestor.v1.Signer/SignProof",
    signer_pb2.SignProofRequest,
    signer_pb2.SignProofResponse,
    streaming=False,
)
_REPORT: Final = Method(
    "Verifications/Report",
    "/attestor.v1.Verifications/Report",
    verifications_pb2.ReportVerificationsRequest,
    verifications_pb2.ReportVerificationsResponse,
    streaming=False,
)
_FOR_GOOD: Final = {  # Workload_Endpoint §6
    grpc.StatusCode.INVALID_ARGUMENT: WorkloadApiRejectedError,
    grpc.StatusCode.UNIMPLEMENTED: WorkloadApiError,
}


@dataclass(frozen=True, slots=True)
class ValidatedToken:
    """What ValidateJWTSVID says of a token: its subject, and the claims that mean something here."""

    spiffe_id: SpiffeId
    claims: Mapping[str, Any]


class WorkloadApi:
    """Speaks to one endpoint. You get one by `connect`."""

    def __init__(self, channel: grpc.aio.Channel, *, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, address: str | None = None, *, clock: Clock | None = None
    ) -> AsyncIterator["WorkloadApi"]:
        """Yield a client of the endpoint at `address`, or at that of ``SPIFFE_ENDPOINT_SOCKET``.

        The connection is made with the first call.

        Args:
            address: ``unix:///absolute/path`` or ``tcp://IP:PORT``.
            clock: Another clock, for tests.

        Raises:
            AddressError: The address is malformed, or neither is given.
        """
        target = endpoint_address(address).target
        options = [
            ("grpc.max_receive_message_length", MAX_ANSWER),
            ("grpc.use_local_subchannel_pool", 1),
            # The endpoint may be restarted under us: look again soon.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 5000),  # in truth how long an attempt may take
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", 0),
        ]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            yield cls(channel, clock=clock or SystemClock())

    async def fetch_x509(self) -> X509Update:
        """Return the X.509-SVIDs and bundles that this process is granted now.

        Raises:
            NoIdentityIssuedError: Nothing is granted.
            WorkloadApiUnavailableError: The endpoint cannot answer now.
            WorkloadApiError: It refuses for good, or answers nonsense.
        """
        return await self._first("FetchX509SVID", self._x509_update)

    async def fetch_x509_bundles(self) -> BundleSet:
        """Return the bundles to verify X.509-SVIDs with. Raises as `fetch_x509`."""
        return await self._first("FetchX509Bundles", updates.x509_bundles)

    async def fetch_jwt_bundles(self) -> BundleSet:
        """Return the bundles to verify JWT-SVIDs with. Raises as `fetch_x509`."""
        return await self._first("FetchJWTBundles", updates.jwt_bundles)

    async def fetch_jwt_svids(
        self, audience: Collection[str], *, subject: SpiffeId | None = None
    ) -> tuple[JwtSvid, ...]:
        """Return a JWT-SVID of every identity of this process, or of `subject` only, for all of `audience`.

        Raises:
            As `fetch_x509`; an empty audience is refused by the endpoint for good.
        """
        request = method("FetchJWTSVID").request(
            audience=list(audience), spiffe_id=str(subject) if subject else ""
        )
        answer = await self._call(method("FetchJWTSVID"), request)
        return _read(lambda message: updates.jwt_svids(message, audience), answer)

    async def fetch_wit_bundles(self) -> BundleSet:
        """Return the bundles to verify WIT-SVIDs with. Raises as `fetch_x509`."""
        return await self._first("FetchWITBundles", updates.wit_bundles)

    async def sign_proof(
        self,
        audience: str,
        *,
        subject: SpiffeId | None = None,
        lifetime: timedelta = MAX_PROOF_LIFETIME,
        bound: Bound | None = None,
    ) -> Presentation:
        """Let the endpoint prove who this process is, for one request; this process holds no key.

        It asks `attestor.v1.Signer`, which is no part of the standard: endpoints of others refuse for good.

        Args:
            audience: The URI of the request, without query and fragment.
            subject: Which identity to speak for; the default one if left out.
            lifetime: How long the proof counts, in whole seconds.
            bound: Other tokens of the request; only their hashes leave this process.

        Raises:
            As `fetch_x509`; an audience or lifetime that is out of bounds is refused for good.
        """
        bound = bound or Bound()
        request = signer_pb2.SignProofRequest(
            audience=audience,
            spiffe_id=str(subject) if subject else "",
            lifetime=int(lifetime.total_seconds()),
            **bound.claims(),  # type: ignore[arg-type]  # the names are those of the request
        )
        answer = await self._call(_SIGN_PROOF, request)
        return Presentation(answer.wit_svid, answer.proof, bound=bound)

    async def report_verifications(
        self,
        run: bytes,
        verifications: Sequence[verifications_pb2.Verification],
        *,
        taken: int = 0,
        subject: SpiffeId | None = None,
    ) -> int:
        """Tell the audit trail what this process verified; see `Reporter`, which does so by itself.

        Args:
            run: 16 random bytes that name the run of this process.
            verifications: 1 to 50, by growing number.
            taken: The last number of the run that was taken before.
            subject: Which identity verified; the default one if left out.

        Returns:
            The last number of the run that is taken now.

        Raises:
            As `fetch_x509`; `WorkloadApiRejectedError`: one of them breaks a rule, and none is taken.
        """
        request = verifications_pb2.ReportVerificationsRequest(
            run=run, verifications=verifications, taken=taken, spiffe_id=str(subject) if subject else ""
        )
        return int((await self._call(_REPORT, request)).taken)

    async def validate_jwt_svid(self, token: str, audience: str) -> ValidatedToken:
        """Let the endpoint verify a token that a peer presented to us as `audience` (Workload_API §6.2.3).

        Raises:
            WorkloadApiError: The token is not valid, or not for `audience`.
            NoIdentityIssuedError: This process has no identity and may not ask.
            WorkloadApiUnavailableError: The endpoint cannot answer now.
        """
        answer = await self._call(
            method("ValidateJWTSVID"), method("ValidateJWTSVID").request(audience=audience, svid=token)
        )
        return _read(lambda m: ValidatedToken(SpiffeId.parse(m.spiffe_id), _plain(m.claims)), answer)

    def watch_x509(self) -> AsyncIterator[X509Update]:
        """Yield every update, for ever; one without SVIDs when nothing is granted any more.

        Interruptions are bridged: it reconnects by itself with growing waits, and a message that
        breaks the standard is logged and discarded.

        Raises:
            WorkloadApiError: The endpoint refuses for good.
        """
        nothing = BundleSet()
        return self._watch(
            method("FetchX509SVID"), self._x509_update, lambda: X509Update((), nothing, (), self._clock.now())
        )

    def watch_x509_bundles(self) -> AsyncIterator[BundleSet]:
        """Yield the bundles to verify X.509-SVIDs with, and every change of them. See `watch_x509`."""
        return self._watch(method("FetchX509Bundles"), updates.x509_bundles, BundleSet)

    def watch_jwt_bundles(self) -> AsyncIterator[BundleSet]:
        """Yield the bundles to verify JWT-SVIDs with, and every change of them. See `watch_x509`."""
        return self._watch(method("FetchJWTBundles"), updates.jwt_bundles, BundleSet)

    def watch_status(self) -> AsyncIterator[str]:
        """Yield what says which agents, certificates and tokens are taken back; "" while nobody knows.

        It is a JWS, **not verified**: see `spiffekit.status`. The Workload API has no such thing; our
        attestor serves it beside, on the same socket. See `watch_x509`.

        Raises:
            WorkloadApiError: The endpoint has no status of agents.
        """
        return self._watch(_WATCH_STATUS, lambda message: str(message.status), str)

    def watch_policies(self) -> AsyncIterator[str]:
        """Yield what says which policies hold, and for which agents; "" while nobody knows.

        It is a JWS, **not verified**: see `spiffekit.policy`. See `watch_status`.
        """
        return self._watch(_WATCH_POLICIES, lambda message: str(message.bundle), str)

    def watch_wit_bundles(self) -> AsyncIterator[BundleSet]:
        """Yield the bundles to verify WIT-SVIDs with, and every change of them. See `watch_x509`."""
        return self._watch(method("FetchWITBundles"), updates.wit_bundles, BundleSet)

    def _x509_update(self, message: Any) -> X509Update:
        return updates.x509_update(message, self._clock.now())

    async def _watch(
        self, spec: Method, read: Callable[[Any], T], nothing: Callable[[], T]
    ) -> AsyncIterator[T]:
        backoff = Backoff(*RETRY)
        while True:
            try:
                async for message in self._stream(spec, None):
                    backoff.reset()
                    try:
                        update = read(message)
                    except SpiffeError as error:
                        # Workload_API §4.5: report and discard; what was there before stays.
                        logger.warning("update discarded", extra={"method": spec.name, "reason": str(error)})
                        continue
                    yield update
            except NoIdentityIssuedError as error:
                logger.warning("no identity issued", extra={"method": spec.name, "reason": str(error)})
                yield nothing()  # Workload_API §5.2.1: stop using what was redacted
            except WorkloadApiUnavailableError as error:
                logger.info("stream interrupted", extra={"method": spec.name, "reason": str(error)})
            await self._clock.sleep(backoff.next())

    async def _first(self, name: str, read: Callable[[Any], T]) -> T:
        async for message in self._stream(method(name), CALL_WITHIN):
            return _read(read, message)
        raise WorkloadApiUnavailableError(f"{name} ended without an answer")

    async def _stream(self, spec: Method, within: timedelta | None) -> AsyncIterator[Any]:
        open_stream = self._channel.unary_stream(
            spec.path, spec.request.SerializeToString, spec.response.FromString
        )
        call = open_stream(
            spec.request(), metadata=(SECURITY_HEADER,), timeout=within.total_seconds() if within else None
        )
        try:
            async for message in call:
                yield message
        except grpc.RpcError as error:
            _explain(spec.name, error)
        finally:
            call.cancel()

    async def _call(self, spec: Method, request: Any) -> Any:
        call = self._channel.unary_unary(spec.path, spec.request.SerializeToString, spec.response.FromString)
        try:
            return await call(request, metadata=(SECURITY_HEADER,), timeout=CALL_WITHIN.total_seconds())
        except grpc.RpcError as error:
            _explain(spec.name, error)


def _explain(name: str, error: Any) -> NoReturn:
    code: grpc.StatusCode = error.code()
    text = f"{name}: {error.details() or 'no details'} ({code.name})"
    if code is grpc.StatusCode.PERMISSION_DENIED:
        raise NoIdentityIssuedError(text) from error
    raise _FOR_GOOD.get(code, WorkloadApiUnavailableError)(text) from error


def _read(read: Callable[[Any], T], message: Any) -> T:
    try:
        return read(message)
    except WorkloadApiUnavailableError:
        raise
    except SpiffeError as error:
        raise WorkloadApiError(f"malformed answer: {error}") from error


def _plain(struct: Any) -> Mapping[str, Any]:
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415 - only token validators need it

    claims: dict[str, Any] = MessageToDict(struct)
    return claims
