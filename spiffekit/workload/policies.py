# SPDX-License-Identifier: Apache-2.0
"""Which policies hold in the trust domain, and for which agents, kept fresh: for tool servers."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from spiffekit.bundle import BundleSet
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.policy import Decision, Policies, PolicyBook, PolicyBundle
from spiffekit.policy.bundle import NO_ARGUMENTS
from spiffekit.workload.client import WorkloadApi
from spiffekit.workload.signed import SignedReader
from spiffekit.workload.source import READY_WITHIN, _Follower, _following


class PolicySource:
    """The newest policies of one trust domain. You get one by `open`; it may be asked from any thread.

    Policies are good for five minutes. When nobody renews them, because the attestor or the issuer is away,
    everything is denied; and so it is while the newest cannot be evaluated.
    """

    def __init__(self, follower: "_Follower[PolicyBundle]", book: PolicyBook) -> None:
        self._follower = follower
        self._book = book

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        trust_domain: TrustDomain,
        address: str | None = None,
        *,
        ready_within: timedelta = READY_WITHIN,
        on_update: Callable[[PolicyBundle], None] | None = None,
        clock: Clock | None = None,
    ) -> AsyncIterator["PolicySource"]:
        """Yield a source once it has verified policies, and keep them fresh until the context is left.

        This process needs an identity, because only then is it given the keys to verify policies with.

        Args:
            trust_domain: Whose policies count. It is said here, and not by the endpoint, which has the keys
                of federated trust domains as well: none of those lets its own agents use our tools.
            address: See `WorkloadApi.connect`.
            ready_within: How long to wait for the first policies.
            on_update: Called with every newer bundle, on the event loop; it must not block.
            clock: Another clock, for tests.

        Raises:
            PolicyEngineError: The extra `policy` is not installed.
            AddressError: The address is malformed or missing.
            WorkloadApiUnavailableError: No good policies within `ready_within`; the message says why.
            WorkloadApiError: The endpoint has no policies: it is not our attestor.
        """
        Policies.compile(())  # that there is no engine is told at once
        clock = clock or SystemClock()
        book = PolicyBook(trust_domain)

        def take(token: str, bundles: BundleSet) -> PolicyBundle | None:
            bundle = PolicyBundle.verify(token, bundles, now=clock.now())
            return bundle if book.put(bundle) else None

        reader = SignedReader("policies", take)
        follower: _Follower[PolicyBundle] = _Follower(clock, lambda _: True, reader.excuse)
        async with (
            WorkloadApi.connect(address, clock=clock) as api,
            _following(
                reader.read(api, api.watch_policies()),
                follower=follower,
                within=ready_within,
                on_update=on_update,
            ),
        ):
            yield cls(follower, book)

    @property
    def updated_at(self) -> datetime:
        """When the last newer policies came."""
        return self._follower.latest[1]

    def policy_bundle(self) -> PolicyBundle:
        """Return the newest policies that could be evaluated."""
        return self._follower.latest[0]

    def decide_tool(
        self,
        spiffe_id: SpiffeId,
        tool: str,
        now: datetime,
        arguments: Mapping[str, object] = NO_ARGUMENTS,
    ) -> Decision:
        """See `PolicyBook.decide_tool`. It knows nothing of what was taken back: see `ToolGate`."""
        return self._book.decide_tool(spiffe_id, tool, now, arguments)

    async def changed(self) -> PolicyBundle:
        """Return the next newer policies.

        Raises:
            WorkloadApiError: The endpoint has refused for good; there will be none.
        """
        await self._follower.next()
        return self._follower.latest[0]
