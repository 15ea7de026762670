# SPDX-License-Identifier: Apache-2.0
"""Peers of live connections: judged by the newest status as they connect, and cut off when they are listed.

Used from any thread.
"""

import asyncio
import contextlib
import gc
import logging
import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.errors import RevokedError, VerificationError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jwtsvid import JwtSvid
from spiffekit.status import AgentStatus, StatusBook
from spiffekit.witsvid import WitSvid

logger = logging.getLogger(__name__)

_OF_TRANSPORTS: Final = ("abort", "get_extra_info", "is_closing")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, and by which certificate."""

    spiffe_id: SpiffeId
    serial_number: int
    not_before: datetime
    expires_at: datetime


class LiveConnection(Protocol):
    """A connection whose peer is verified."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop whose transport it belongs to, if it does."""

    def cut(self, reason: RevokedError) -> None:
        """Pass no byte any more, in either direction. Called from any thread; it must not block."""


class PeerStatus(Protocol):
    """Whatever knows what was taken back. A `StatusSource` does."""

    def admit(self, connection: LiveConnection, peer: Peer) -> None:
        """Judge the verified peer of a connection, now and as long as the connection lasts.

        Raises:
            RevokedError: The peer, or its certificate, is taken back.
            StatusUnknownError: Nobody knows now.
        """

    def check_token(self, svid: JwtSvid | WitSvid) -> None:
        """Judge a verified token. Raises as `admit`."""


class PeerWatch:
    """Judges peers by the newest status of their trust domain.

    Connections are known by weak references: who drops one need not tell.

    Args:
        without_status: Trust domains whose peers are accepted although nobody says what they take back.
        clock: Another clock, for tests.
    """

    def __init__(self, *, without_status: Collection[TrustDomain] = (), clock: Clock | None = None) -> None:
        self._without_status = frozenset(without_status)
        self._clock = clock or SystemClock()
        self._book = StatusBook()
        # By identity, so that adding, listing and dropping are one step each, whichever thread does it.
        self._live: dict[int, tuple[weakref.ref[LiveConnection], Peer]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def put(self, status: AgentStatus) -> bool:
        """Go by a verified status from now on, and cut off whom it lists; tell whether it is any newer.

        Raises:
            StatusUnknownError: A newer one was here before.
        """
        if not self._book.put(status):
            return False
        listed = []
        for key, (reference, peer) in list(self._live.items()):
            if peer.spiffe_id.trust_domain != status.trust_domain:
                continue
            try:
                _check(status, peer)
            except RevokedError as error:
                self._live.pop(key, None)
                if (connection := reference()) is not None:
                    logger.warning("connection cut", extra={"reason": str(error)})
                    connection.cut(error)
                    listed.append(connection)
        for loop in {connection.loop for connection in listed} - {None}:
            assert loop is not None  # noqa: S101 - it was taken out
            ours = tuple(connection for connection in listed if connection.loop is loop)
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its transports with it
                loop.call_soon_threadsafe(abort_transports, ours)
        return True

    def agent_status(self, trust_domain: TrustDomain) -> AgentStatus:
        """Return what counts for a trust domain now.

        Raises:
            StatusUnknownError: Nothing is known, or it is too old.
        """
        return self._book.current(trust_domain, self._clock.now())

    def admit(self, connection: LiveConnection, peer: Peer) -> None:
        """See `PeerStatus.admit`."""
        trust_domain = peer.spiffe_id.trust_domain
        if trust_domain in self._without_status:
            return
        live, key = self._live, id(connection)
        # It is listed before it is judged: a status that comes between the two finds it.
        live[key] = weakref.ref(connection, lambda _: live.pop(key, None)), peer
        try:
            _check(self.agent_status(trust_domain), peer)
        except VerificationError:
            live.pop(key, None)
            raise

    def check_token(self, svid: JwtSvid | WitSvid) -> None:
        """See `PeerStatus.check_token`."""
        if svid.spiffe_id.trust_domain not in self._without_status:
            status = self.agent_status(svid.spiffe_id.trust_domain)
            status.check_token(svid.spiffe_id, str(svid.claims.get("jti", "")), svid.issued_at)


def _check(status: AgentStatus, peer: Peer) -> None:
    status.check_certificate(peer.spiffe_id, peer.serial_number, peer.not_before)


def abort_transports(connections: Iterable[LiveConnection]) -> None:
    """Abort the transports of TLS objects; call it on their event loop.

    A TLS object does not know its transport, and no loop lists the transports that it has. So all objects
    of the process are looked through: some 150 ms for a million, and only when a peer is listed that is
    connected. No byte passes in the meantime, or where no transport is found.
    """
    wanted = {id(connection) for connection in connections}
    kinds: dict[type, bool] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if kind not in kinds:
            kinds[kind] = _is_transport(kind)
        if kinds[kind]:
            transport: Any = thing
            with contextlib.suppress(AttributeError):  # one that is not whole, or no longer
                if id(transport.get_extra_info("ssl_object")) in wanted:
                    transport.abort()


def _is_transport(kind: type) -> bool:
    """Tell whether a class is like `asyncio.Transport`, be it uvloop's; without running any code of it."""
    return all(any(name in vars(base) for base in kind.__mro__) for name in _OF_TRANSPORTS)
