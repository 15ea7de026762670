# SPDX-License-Identifier: Apache-2.0
"""What the trust domain has taken back, kept fresh: for peers of mTLS, and for bearers of tokens."""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from spiffekit import jwtsvid
from spiffekit.bundle import BundleSet, BundleSource
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.id import TrustDomain
from spiffekit.jwtsvid import JwtSvid
from spiffekit.status import AgentStatus
from spiffekit.witsvid import WitSvid
from spiffekit.workload.client import WorkloadApi
from spiffekit.workload.live import LiveConnection, Peer, PeerStatus, PeerWatch
from spiffekit.workload.signed import SignedReader
from spiffekit.workload.source import READY_WITHIN, _Follower, _following


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

        def take(token: str, bundles: BundleSet) -> AgentStatus | None:
            status = AgentStatus.verify(token, bundles, now=clock.now())
            return status if watch.put(status) else None

        reader = SignedReader("status of agents", take)
        follower: _Follower[AgentStatus] = _Follower(clock, lambda _: True, reader.excuse)
        async with (
            WorkloadApi.connect(address, clock=clock) as api,
            _following(
                reader.read(api, api.watch_status()),
                follower=follower,
                within=ready_within,
                on_update=on_update,
            ),
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
