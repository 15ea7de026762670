# SPDX-License-Identifier: Apache-2.0
"""This node's own identity: proved once, kept in the state, renewed at half of its life."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Final, NoReturn, Protocol

from cryptography import x509

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
from spiffekit.daemon.config import ConfigError
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


def authority_of(svid: X509Svid) -> str:
    """Return what names the authority that signed an SVID: its subject key identifier, in lower-case hex."""
    extension = svid.leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return (extension.value.key_identifier or b"").hex()


def _life(svid: X509Svid) -> timedelta:
    """Return how long an SVID lives from when it is issued: issuers of the field backdate it."""
    whole = svid.expires_at - svid.not_before
    return whole - BACKDATE if whole > BACKDATE else whole


def _jitter() -> float:
    return 0.9 + 0.2 * random.random()  # noqa: S311 - spreads load, protects nothing


@contextlib.contextmanager
def _keeping() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"node identity cannot be kept: {error}") from error


class NodeKeys(Protocol):
    """Where the node's private key lives; two of them while one is replaced."""

    def load(self) -> list[PrivateKey]:
        """Return the keys."""

    def add(self, key: PrivateKey) -> None:
        """Keep a key beside the others."""

    def keep_only(self, key: PrivateKey) -> None:
        """Remove all other keys."""


class NodeSession:
    """See the module.

    Args:
        client: Calls the issuer.
        attestor: Proves the node.
        keys: Where its private key is.
        state: What outlives a restart.
        bootstrap: Reads what the first contact trusts; None: whoever names the issuer's ID. It may raise
            `ConfigError`.
        rebootstrap: Whether to read it again when the issuer is not trusted any longer.
        clock: The clock.
    """

    def __init__(
        self,
        client: IssuerClient,
        attestor: NodeAttestor,
        *,
        keys: NodeKeys,
        state: StateFile,
        bootstrap: Callable[[], Bundle | None],
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
        self.issued = 0  # SVIDs that were taken up from the issuer

    @property
    def svid(self) -> X509Svid | None:
        """The node's SVID."""
        return self._client.credentials.svid

    async def start(self) -> None:
        """Take up the state, or prove the node; tried again until the issuer answers.

        Raises:
            NodeAttestationError: The proof was refused.
            NodeBannedError: The node is banned.
            StateError: What has to outlive a restart cannot be read or written.
            ConfigError: What to trust cannot be read.
        """
        credentials = self._client.credentials
        remembered = self._state.load(self._keys.load())
        if remembered is not None and self._clock.now() < remembered.svid.expires_at:
            credentials.svid, credentials.bundle = remembered.svid, remembered.bundle
            self._reattestable = remembered.reattestable
            self._renew_at = self._clock.monotonic() + due_in(remembered.svid, self._clock.now())
            logger.info("node identity taken up", extra={"id": str(remembered.svid.spiffe_id)})
            await self._renew_if_due()
            return
        # What the issuer published last counts before what the operator gave us once.
        credentials.bundle = self._state.bundle() or self._bootstrap()
        backoff = Backoff(*RETRY)
        while True:
            try:
                await self.attest()
            except (IssuerUnavailableError, IssuerUntrustedError) as error:
                await self.recover(error)
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
        async with self._lock, self._client.anonymous(self._client.credentials.bundle) as client:
            await self._attest(client)

    async def _attest(self, client: IssuerClient) -> None:
        # The bundle comes first: a proof may work only once, so nothing that may fail stands after it.
        before, bundle = self._client.credentials.bundle, await client.bundle()
        with _keeping():
            self._state.require_room()
        key = new_key()
        try:
            chain, self._reattestable = await client.attest(self._attestor, make_csr(key))
        except NodeBannedError:
            self._state.forget()
            raise
        now = self._client.credentials.bundle  # something newer than `bundle`, if it was pushed meanwhile
        svid = self._adopt(key, chain, bundle if now is None or now is before else now)
        logger.info("node attested", extra={"id": str(svid.spiffe_id)})

    def _adopt(self, key: PrivateKey, chain: tuple[bytes, ...], bundle: Bundle) -> X509Svid:
        try:
            svid = X509Svid.parse(b"".join(chain), private_key_to_der(key))
        except SpiffeError as error:
            raise NodeAttestationError(f"issuer sent an SVID that cannot be used: {error}") from error
        with _keeping():
            # Until the state is written the old key stays: after a crash the state fits one of them.
            self._keys.add(key)
            self._state.save(NodeState(svid, bundle, self._reattestable))
            self._keys.keep_only(key)
        self.issued += 1
        self._client.credentials.svid = svid
        self._client.credentials.bundle = bundle
        self._client.drop_connections()
        now = self._clock.now()
        self._agreed = agrees(svid, now)
        self._renew_at = self._clock.monotonic() + renewal_in(svid, now)
        return svid

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
                await self._reattest()
            case IssuerUnavailableError() if self._expired():
                # An issuer may refuse the connection of a node whose SVID has expired, and says no more.
                logger.warning("node SVID has expired, attesting again", extra={"reason": str(error)})
                await self._reattest()
            case IssuerUntrustedError() if (given := self._given_again()) is not None:
                logger.warning("issuer is not trusted, bootstrapping again", extra={"reason": str(error)})
                await self._bootstrap_again(given)
            case StateError():
                logger.error(str(error))
            case _:
                logger.warning("issuer cannot be used now", extra={"reason": str(error)})

    def _expired(self) -> bool:
        return self.svid is not None and self.svid.expires_at <= self._clock.now()

    async def _reattest(self) -> None:
        rejected, client = self.svid, self._client
        try:
            async with self._lock, client.anonymous(client.credentials.bundle) as anonymous:
                if self.svid is rejected:  # else another service has seen to it meanwhile
                    await self._attest(anonymous)
        except (IssuerUnavailableError, IssuerUntrustedError, StateError) as error:
            logger.warning("node not attested yet", extra={"reason": str(error)})

    def _given_again(self) -> Bundle | None:
        """Return what the operator tells us to trust now, or None if that is nothing else."""
        if not self._rebootstrap:
            return None
        try:
            given = self._bootstrap()
        except ConfigError as error:
            logger.warning("trust bundle cannot be read", extra={"reason": str(error)})
            return None
        return None if given == self._client.credentials.bundle else given

    async def _bootstrap_again(self, given: Bundle) -> None:
        """Ask whom the operator told us to trust for the bundle of now; till then what we trust stays."""
        rejected = self._client.credentials.bundle
        try:
            async with self._lock, self._client.anonymous(given) as client:
                if self._client.credentials.bundle is not rejected:
                    return
                if self._reattestable:  # who has lost its authorities does not know our SVID either
                    await self._attest(client)
                else:
                    self.adopt_bundle(await client.bundle())
                    self._client.drop_connections()
        except (IssuerUnavailableError, IssuerUntrustedError, NodeAttestationError, StateError) as error:
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
            self._adopt(key, chain, self._client.credentials.bundle or await self._client.bundle())
            logger.info("node identity renewed")
