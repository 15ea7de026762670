# SPDX-License-Identifier: Apache-2.0
"""What the trust domain has taken back, kept fresh: for peers of mTLS, and for bearers of tokens."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from spiffekit import jwtsvid
from spiffekit.bundle import BundleSet, BundleSource
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.errors import StatusError, VerificationError
from spiffekit.id import TrustDomain
from spiffekit.jwtsvid import JwtSvid
from spiffekit.status import AgentStatus
from spiffekit.witsvid import WitSvid
from spiffekit.workload.client import WorkloadApi
from spiffekit.workload.live import LiveConnection, Peer, PeerStatus, PeerWatch
from spiffekit.workload.source import READY_WITHIN, _Follower, _following

logger = logging.getLogger(__name__)


class StatusSource:
    """The newest status of the own trust domain. You get one by `open`; it may be read from any thread.

    A status is good for 90 seconds. When nobody renews it, because the attestor or the issuer is away, every
    peer and token is refused with `StatusUnknownError`; connections that are open already stay so, for an
    outage of the issuer should not end all work at once.
    """

    def __init__(self, follower: "_Follower[AgentStatus]", watch: PeerWatch) -> None:
        self._follower = follower
        self._watch = watch

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        address: str | None = None,
        *,
        without_status: Collection[TrustDomain] = (),
        ready_within: timedelta = READY_WITHIN,
        on_update: Callable[[AgentStatus], None] | None = None,
        clock: Clock | None = None,
    ) -> AsyncIterator["StatusSource"]:
        """Yield a source once it has a verified status, and keep it fresh until the context is left.

        This process needs an identity, because only then is it given the keys to verify a status with.

        Args:
            address: See `WorkloadApi.connect`.
            without_status: Other trust domains whose peers and tokens are accepted although nobody here says
                what they take back. All others are refused: we know the status of our own only.
            ready_within: How long to wait for the first status.
            on_update: Called with every newer status, on the event loop; it must not block.
            clock: Another clock, for tests.

        Raises:
            AddressError: The address is malformed or missing.
            WorkloadApiUnavailableError: No good status within `ready_within`; the message says why.
            WorkloadApiError: The endpoint has no status: it is not our attestor.
        """
        clock = clock or SystemClock()
        watch = PeerWatch(without_status=without_status, clock=clock)
        reader = _Reader(watch, clock)
        follower: _Follower[AgentStatus] = _Follower(clock, lambda _: True, lambda: reader.excuse)
        async with (
            WorkloadApi.connect(address, clock=clock) as api,
            _following(reader.read(api), follower=follower, within=ready_within, on_update=on_update),
        ):
            yield cls(follower, watch)

    @property
    def updated_at(self) -> datetime:
        """When the last newer status came."""
        return self._follower.latest[1]

    def agent_status(self, trust_domain: TrustDomain) -> AgentStatus:
        """Return what a trust domain has taken back.

        Raises:
            StatusUnknownError: Nobody knows, or what is known is too old.
        """
        return self._watch.agent_status(trust_domain)

    def admit(self, connection: LiveConnection, peer: Peer) -> None:
        """See `PeerStatus.admit`. Connections of peers that are listed later are cut off."""
        self._watch.admit(connection, peer)

    def check_token(self, svid: JwtSvid | WitSvid) -> None:
        """See `PeerStatus.check_token`."""
        self._watch.check_token(svid)

    async def changed(self) -> AgentStatus:
        """Return the next newer status.

        Raises:
            WorkloadApiError: The endpoint has refused for good; there will be none.
        """
        await self._follower.next()
        return self._follower.latest[0]


class _Reader:
    """Verifies what the endpoint says, and again when the keys are others; what fails is told, not heeded."""

    def __init__(self, watch: PeerWatch, clock: Clock) -> None:
        self._watch = watch
        self._clock = clock
        self._bundles = BundleSet()
        self._token = ""
        self._refusal = ""

    @property
    def excuse(self) -> str:
        """Why there is no status yet."""
        if not self._token:
            return "no status of agents: the endpoint has none"
        return f"no status of agents: {self._refusal or 'this process is granted no keys to verify one with'}"

    async def read(self, api: WorkloadApi) -> AsyncIterator[AgentStatus]:
        async for news in _merged(api.watch_jwt_bundles(), api.watch_status()):
            if isinstance(news, BundleSet):
                self._bundles = news
            else:
                self._token = news
            if self._token and self._bundles and (status := self._newer()) is not None:
                yield status

    def _newer(self) -> AgentStatus | None:
        try:
            status = AgentStatus.verify(self._token, self._bundles, now=self._clock.now())
            return status if self._watch.put(status) else None
        except (StatusError, VerificationError) as error:
            self._refusal = str(error)
            logger.error("status of agents refused", extra={"reason": self._refusal})  # noqa: TRY400
            return None


async def _merged(*streams: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield what several endless streams yield, as it comes."""
    waiting = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while True:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = waiting.pop(task)
                news = task.result()
                waiting[asyncio.ensure_future(anext(stream))] = stream
                yield news
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def verify_jwt_svid(
    token: str,
    bundles: BundleSource,
    *,
    audience: Collection[str],
    status: PeerStatus,
    clock: Clock | None = None,
) -> JwtSvid:
    """Verify a token as `spiffekit.jwtsvid.verify` does, and that it is not taken back.

    Args:
        token: Compact serialization.
        bundles: A `JwtSource`, or whatever has the bundle of the subject's trust domain.
        audience: The names that the validator goes by.
        status: A `StatusSource`.
        clock: Another clock, for tests.

    Raises:
        RevokedError: The token, or its subject, is taken back.
        StatusUnknownError: Nobody knows now.
        SpiffeError: As `spiffekit.jwtsvid.verify`.
    """
    svid = jwtsvid.verify(token, bundles, audience=audience, now=(clock or SystemClock()).now())
    status.check_token(svid)
    return svid
