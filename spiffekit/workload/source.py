# SPDX-License-Identifier: Apache-2.0
"""Sources: the current identity and bundles of this process, never half-ready and kept fresh.

A source publishes one frozen snapshot by assignment, so it may be read from any thread without a lock.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import ClassVar, Final, Generic, Self, TypeVar

from spiffekit.bundle import Bundle, BundleSet
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.errors import WorkloadApiError, WorkloadApiUnavailableError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jwtsvid import JwtSvid
from spiffekit.witsvid import Bound, Presentation, Replays, WitSvid, verify
from spiffekit.workload.client import ValidatedToken, WorkloadApi
from spiffekit.workload.live import PeerStatus
from spiffekit.workload.updates import X509Update
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)

T = TypeVar("T")

READY_WITHIN: Final = timedelta(seconds=30)


class _Follower(Generic[T]):
    """Holds the latest of a stream of updates, and who waits for the next."""

    def __init__(
        self, clock: Clock, is_granted: Callable[[T], bool], excuse: Callable[[], str] | None = None
    ) -> None:
        self._clock = clock
        self._is_granted = is_granted
        self._excuse = excuse or self._why_no_identity  # why there is nothing yet
        self._latest: tuple[T, datetime] | None = None
        self._changed = asyncio.Event()
        self._granted = asyncio.Event()
        self.failure: WorkloadApiError | None = None

    @property
    def latest(self) -> tuple[T, datetime]:
        assert self._latest is not None  # noqa: S101 - a source is handed out once it is ready
        return self._latest

    async def follow(self, stream: AsyncIterator[T], on_update: Callable[[T], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:  # a watch ends by an error only
                update = await anext(stream)
                self._latest = (update, self._clock.now())
                loop.call_soon(on_update, update)  # what it raises the loop reports, and it ends nothing here
                if self._is_granted(update):
                    self._granted.set()
                changed, self._changed = self._changed, asyncio.Event()
                changed.set()
        except WorkloadApiError as error:
            logger.error("source is no longer kept fresh", extra={"reason": str(error)})  # noqa: TRY400 - no traceback
            self.failure = error
            self._granted.set()
            self._changed.set()

    async def first(self, within: timedelta) -> None:
        try:
            async with asyncio.timeout(within.total_seconds()):
                await self._granted.wait()
        except TimeoutError as error:
            raise WorkloadApiUnavailableError(f"{self._excuse()} within {within}") from error
        if self.failure is not None:
            raise self.failure

    def _why_no_identity(self) -> str:
        return f"no identity: {'nothing is granted' if self._latest else 'the endpoint does not answer'}"

    async def next(self) -> None:
        await self._changed.wait()
        if self.failure is not None:
            raise self.failure


@asynccontextmanager
async def _following(
    stream: AsyncIterator[T],
    *,
    follower: _Follower[T],
    within: timedelta,
    on_update: Callable[[T], None] | None,
) -> AsyncIterator[_Follower[T]]:
    task = asyncio.create_task(follower.follow(stream, on_update or (lambda _: None)), name="source")
    try:
        await follower.first(within)
        yield follower
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class X509Source:
    """The current X.509-SVID and bundles. You get one by `open`."""

    def __init__(self, follower: "_Follower[X509Update]") -> None:
        self._follower = follower

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        address: str | None = None,
        *,
        ready_within: timedelta = READY_WITHIN,
        on_update: Callable[[X509Update], None] | None = None,
        clock: Clock | None = None,
    ) -> AsyncIterator["X509Source"]:
        """Yield a source once it has an identity, and keep it fresh until the context is left.

        Args:
            address: See `WorkloadApi.connect`.
            ready_within: How long to wait for the first identity.
            on_update: Called with every update, on the event loop; it must not block. What it raises is
                reported as that of any callback of the loop.
            clock: Another clock, for tests.

        Raises:
            AddressError: The address is malformed or missing.
            WorkloadApiUnavailableError: No identity within `ready_within`.
            WorkloadApiError: The endpoint refuses for good.
        """
        clock = clock or SystemClock()
        follower: _Follower[X509Update] = _Follower(clock, lambda update: bool(update.svids))
        async with (
            WorkloadApi.connect(address, clock=clock) as api,
            _following(api.watch_x509(), follower=follower, within=ready_within, on_update=on_update),
        ):
            yield cls(follower)

    @property
    def updated_at(self) -> datetime:
        """When the endpoint last spoke."""
        return self._follower.latest[1]

    def x509_update(self) -> X509Update:
        """Return everything that is granted now, as one snapshot."""
        return self._follower.latest[0]

    def x509_svid(self, hint: str = "") -> X509Svid:
        """Return the default identity, or the one with this hint.

        Raises:
            NoIdentityIssuedError: It is no longer granted.
        """
        return self.x509_update().x509_svid(hint)

    def bundle_for(self, trust_domain: TrustDomain) -> Bundle:
        """Return the bundle of a trust domain.

        Raises:
            UnknownTrustDomainError: There is none, or it is no longer granted.
        """
        return self.x509_update().bundle_for(trust_domain)

    async def changed(self) -> X509Update:
        """Return the next update.

        Raises:
            WorkloadApiError: The endpoint has refused for good; there will be none.
        """
        await self._follower.next()
        return self.x509_update()


class _TokenSource:
    """What sources of tokens have alike: bundles to verify those of others with, kept fresh."""

    _watch: ClassVar[Callable[[WorkloadApi], AsyncIterator[BundleSet]]]

    def __init__(self, api: WorkloadApi, follower: "_Follower[BundleSet]", clock: Clock) -> None:
        self._api = api
        self._follower = follower
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        address: str | None = None,
        *,
        ready_within: timedelta = READY_WITHIN,
        on_update: Callable[[BundleSet], None] | None = None,
        clock: Clock | None = None,
    ) -> AsyncIterator[Self]:
        """Yield a source once it has bundles, and keep them fresh. See `X509Source.open`."""
        clock = clock or SystemClock()
        follower: _Follower[BundleSet] = _Follower(clock, lambda bundles: len(bundles) > 0)
        async with (
            WorkloadApi.connect(address, clock=clock) as api,
            _following(cls._watch(api), follower=follower, within=ready_within, on_update=on_update),
        ):
            yield cls(api, follower, clock)

    @property
    def updated_at(self) -> datetime:
        """When the endpoint last sent bundles."""
        return self._follower.latest[1]

    @property
    def bundles(self) -> BundleSet:
        """The bundles that are granted now."""
        return self._follower.latest[0]

    def bundle_for(self, trust_domain: TrustDomain) -> Bundle:
        """Return the bundle of a trust domain.

        Raises:
            UnknownTrustDomainError: There is none, or it is no longer granted.
        """
        return self.bundles.bundle_for(trust_domain)


class JwtSource(_TokenSource):
    """JWT-SVIDs on demand, and the current bundles to verify those of others. You get one by `open`."""

    _watch = WorkloadApi.watch_jwt_bundles

    async def fetch(self, audience: Collection[str], *, subject: SpiffeId | None = None) -> JwtSvid:
        """Return a JWT-SVID of the default identity, or of `subject`, for all of `audience`.

        Raises:
            NoIdentityIssuedError: It is not granted.
            WorkloadApiUnavailableError: The endpoint cannot answer now.
            WorkloadApiError: It refuses for good.
        """
        return (await self._api.fetch_jwt_svids(audience, subject=subject))[0]

    async def validate(self, token: str, audience: str) -> ValidatedToken:
        """Let the endpoint verify a peer's token. See `WorkloadApi.validate_jwt_svid`."""
        return await self._api.validate_jwt_svid(token, audience)


class WitSource(_TokenSource):
    """Proofs of who this process is, and the current bundles to verify those of others.

    You get one by `open`. The key stays with the endpoint: see `WorkloadApi.sign_proof`.
    """

    _watch = WorkloadApi.watch_wit_bundles

    async def prove(
        self, audience: str, *, subject: SpiffeId | None = None, bound: Bound | None = None
    ) -> Presentation:
        """Return what to send with one request to `audience`. See `WorkloadApi.sign_proof`.

        Raises:
            NoIdentityIssuedError: No identity is granted.
            WorkloadApiUnavailableError: The endpoint cannot answer now.
            WorkloadApiError: It refuses for good.
        """
        return await self._api.sign_proof(audience, subject=subject, bound=bound)

    def verify(
        self,
        presented: Presentation,
        *,
        audience: Collection[str],
        replays: Replays | None,
        status: PeerStatus | None,
    ) -> WitSvid:
        """Verify what came with a request, as `witsvid.verify` does, by the bundles that are granted now.

        Args:
            presented: SVID, proof, and what they have to fit.
            audience: The URIs that the request may have been sent to.
            replays: What was here before; None lets a proof count as often as it comes.
            status: A `StatusSource`; None believes what has been taken back.

        Raises:
            RevokedError: The SVID, or its subject, is taken back.
            StatusUnknownError: Nobody knows now.
            SpiffeError: As `witsvid.verify`.
        """
        svid = verify(presented, self, audience=audience, now=self._clock.now(), replays=replays)
        if status is not None:
            status.check_token(svid)
        return svid
