# SPDX-License-Identifier: Apache-2.0
"""This node's own identity: proved once, kept in the state, renewed at half of its life."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Final, NoReturn, Protocol

from attestor.errors import (
    AttestorError,
    IssuerUnavailableError,
    IssuerUntrustedError,
    MustReattestError,
    NodeAttestationError,
    NodeBannedError,
    StateError,
)
from attestor.issuer_client import IssuerClient, make_csr, new_key
from attestor.node import NodeAttestor
from attestor.state import NodeState, StateFile
from spiffekit.bundle import Bundle
from spiffekit.daemon.backoff import Backoff
from spiffekit.daemon.clock import Clock
from spiffekit.errors import SpiffeError
from spiffekit.keys import PrivateKey, private_key_to_der
from spiffekit.x509svid import X509Svid

logger = logging.getLogger(__name__)

CHECK_EVERY: Final = timedelta(seconds=5)
BACKDATE: Final = timedelta(seconds=10)
SOONEST: Final = timedelta(milliseconds=50)
RETRY: Final = (timedelta(milliseconds=200), timedelta(seconds=30))


def in_force(svid: X509Svid, now: datetime) -> bool:
    """Tell whether `now` is within an SVID's validity."""
    return svid.not_before <= now < svid.expires_at


def agrees(svid: X509Svid, now: datetime) -> bool:
    """Tell whether our clock agrees with the issuer's about an SVID that has just been issued."""
    return svid.not_before <= now < svid.expires_at - _life(svid) / 2


def renewal_in(svid: X509Svid, now: datetime) -> float:
    """Return in how many seconds to replace a new SVID: half of what is left, a tenth sooner or later.

    Where our clock and the issuer's disagree, what is left cannot be told; then it is half of the whole, so
    that a node whose clock is wrong goes on and does not ask without end.
    """
    left = svid.expires_at - now if agrees(svid, now) else _life(svid)
    return left.total_seconds() / 2 * _jitter()


def due_in(svid: X509Svid, now: datetime) -> float:
    """Return in how many seconds to replace an SVID that was got at another time; negative if it is late.

    That is at half of its whole life, a tenth sooner or later. Half of what is left would never come for a
    node that is started again and again.
    """
    return (svid.expires_at - now - _life(svid) / 2 * _jitter()).total_seconds()


def _life(svid: X509Svid) -> timedelta:
    """Return how long an SVID lives from when it is issued: issuers of the field backdate it."""
    whole = svid.expires_at - svid.not_before
    return whole - BACKDATE if whole > BACKDATE else whole


def _jitter() -> float:
    return 0.9 + 0.2 * random.random()  # noqa: S311 - spreads load, protects nothing


class NodeKeys(Protocol):
    """Where the node's private key lives; two of them while one is replaced."""

    def load(self) -> list[PrivateKey]:
        """Return the keys."""

    def add(self, key: PrivateKey) -> None:
        """Keep a key beside the others."""

    def keep_only(self, key: PrivateKey) -> None:
        """Remove all other keys."""


class NodeSession:
    """See the module. `bootstrap` is what the first contact trusts; None: whoever names the issuer's ID."""

    def __init__(
        self,
        client: IssuerClient,
        attestor: NodeAttestor,
        *,
        keys: NodeKeys,
        state: StateFile,
        bootstrap: Bundle | None,
        rebootstrap: bool,
        clock: Clock,
    ) -> None:
        self._client = client
        self._attestor = attestor
        self._keys = keys
        self._state = state
        self._bootstrap = bootstrap
        self._rebootstrap = rebootstrap
        self._clock = clock
        self._reattestable = False
        self._renew_at = 0.0
        self._agreed = True  # our clock and the SVID's, when we got it
        self._lock = asyncio.Lock()

    @property
    def svid(self) -> X509Svid | None:
        """The node's SVID."""
        return self._client.credentials.svid

    async def start(self) -> None:
        """Take up the state, or prove the node; tried again until the issuer answers.

        Raises:
            NodeAttestationError: The proof was refused.
            NodeBannedError: The node is banned.
        """
        remembered = self._state.load(self._keys.load())
        if remembered is not None and self._clock.now() < remembered.svid.expires_at:
            credentials = self._client.credentials
            credentials.svid, credentials.bundle = remembered.svid, remembered.bundle
            self._reattestable = remembered.reattestable
            self._renew_at = self._clock.monotonic() + due_in(remembered.svid, self._clock.now())
            logger.info("node identity taken up", extra={"id": str(remembered.svid.spiffe_id)})
            await self._renew_if_due()
            return
        self._client.credentials.bundle = self._bootstrap
        backoff = Backoff(*RETRY)
        while True:
            try:
                await self.attest()
            except (IssuerUnavailableError, IssuerUntrustedError) as error:
                logger.warning("node not attested yet", extra={"reason": str(error)})
                await self._clock.sleep(backoff.next())
            else:
                return

    async def _renew_if_due(self) -> None:
        """Renew what was taken up before anybody uses it: there may be little time left."""
        try:
            if self._due(self._clock.now()):
                await self._renew()
        except AttestorError as error:
            await self.recover(error)

    async def attest(self) -> None:
        """Prove the node and take up what comes of it."""
        async with self._lock:
            credentials = self._client.credentials
            before = credentials.svid
            credentials.svid = None  # attestation is made without a client certificate
            self._client.drop_connections()
            key = new_key()
            try:
                chain, self._reattestable = await self._client.attest(self._attestor, make_csr(key))
                self._adopt(key, chain, await self._client.bundle())
            except BaseException:
                credentials.svid = before
                raise
            logger.info("node attested", extra={"id": str(self.svid.spiffe_id) if self.svid else ""})

    def _adopt(self, key: PrivateKey, chain: tuple[bytes, ...], bundle: Bundle) -> None:
        try:
            svid = X509Svid.parse(b"".join(chain), private_key_to_der(key))
        except SpiffeError as error:
            raise NodeAttestationError(f"issuer sent an SVID that cannot be used: {error}") from error
        try:
            # Until the state is written the old key stays: after a crash the state fits one of them.
            self._keys.add(key)
            self._state.save(NodeState(svid, bundle, self._reattestable))
            self._keys.keep_only(key)
        except OSError as error:
            raise StateError(f"node identity cannot be kept: {error}") from error
        self._client.credentials.svid = svid
        self._client.credentials.bundle = bundle
        self._client.drop_connections()
        now = self._clock.now()
        self._agreed = agrees(svid, now)
        self._renew_at = self._clock.monotonic() + renewal_in(svid, now)

    def adopt_bundle(self, bundle: Bundle) -> None:
        """Trust what the issuer publishes now, from the next connection on and over a restart."""
        credentials = self._client.credentials
        if credentials.bundle == bundle:
            return
        credentials.bundle = bundle
        if credentials.svid is None:
            return
        try:
            self._state.save(NodeState(credentials.svid, bundle, self._reattestable))
        except OSError as error:  # it counts until a restart
            logger.error("bundle cannot be kept", extra={"reason": str(error)})  # noqa: TRY400 - says it all

    async def recover(self, error: AttestorError) -> None:
        """Do what mends `error`, or raise it when nothing here can.

        Raises:
            NodeBannedError: The node is banned; its identity is forgotten.
            NodeAttestationError: The node has to prove itself again and cannot.
        """
        match error:
            case NodeBannedError():
                self._state.forget()
                raise error
            case MustReattestError():
                logger.warning("node has to attest again", extra={"reason": str(error)})
                try:
                    await self.attest()
                except (IssuerUnavailableError, IssuerUntrustedError, StateError) as later:
                    logger.warning("node not attested yet", extra={"reason": str(later)})
            case IssuerUntrustedError() if self._rebootstrap:
                # The authorities that we know are gone; what the operator gave us at the start may do.
                logger.warning("issuer is not trusted, bootstrapping again", extra={"reason": str(error)})
                self._client.credentials.bundle = self._bootstrap
                self._client.drop_connections()
            case StateError():
                logger.error(str(error))
            case _:
                logger.warning("issuer cannot be used now", extra={"reason": str(error)})

    def _due(self, now: datetime) -> bool:
        svid = self.svid
        stepped = svid is not None and self._agreed and not in_force(svid, now)
        return stepped or self._clock.monotonic() >= self._renew_at

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Keep the node's SVID fresh."""
        ready()
        backoff = Backoff(*RETRY)
        told = False
        while True:
            try:
                if self._due(self._clock.now()):
                    await self._renew()
                if not told:
                    bundle = self._client.credentials.bundle
                    serial = bundle.sequence if bundle and bundle.sequence else 0
                    await self._client.post_status(version("spiffe-attestor"), serial)
                    told = True
                backoff.reset()
                due = timedelta(seconds=self._renew_at - self._clock.monotonic())
                await self._clock.sleep(min(CHECK_EVERY, max(due, SOONEST)))
            except AttestorError as error:
                await self.recover(error)
                await self._clock.sleep(backoff.next())

    async def _renew(self) -> None:
        if self._reattestable:
            await self.attest()
            return
        async with self._lock:
            key = new_key()
            chain = await self._client.renew(make_csr(key))
            bundle = self._client.credentials.bundle
            if bundle is None:
                bundle = await self._client.bundle()
            self._adopt(key, chain, bundle)
            logger.info("node identity renewed")
