# SPDX-License-Identifier: Apache-2.0
"""`ssl.SSLContext`s for mTLS between workloads: always the current SVID, and a peer known by its SPIFFE ID.

They work wherever a context is taken: `asyncio.start_server`, `asyncio.open_connection`, `wrap_socket`,
`http.server`, `urllib`, httpx. Each connection takes the snapshot of its moment, so rotation drops none.

A handshake counts as done only when the peer's chain is verified against the bundle of its own trust
domain and the peer is one that we want to talk to. Reading or writing before that does the handshake
first: no byte of the application passes unverified. In TLS 1.3 a client finishes before the server has
judged it; it learns of a refusal by the end of the connection.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Self, cast

from spiffekit import crl, x509svid
from spiffekit.certificates import load_certificate
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.errors import RevokedError, SpiffeError, UnauthorizedPeerError
from spiffekit.id import SpiffeId
from spiffekit.wire import tls
from spiffekit.workload.authorize import Authorize
from spiffekit.workload.live import Peer, PeerStatus
from spiffekit.workload.reporting import Reporter, Verification
from spiffekit.workload.updates import X509Update, X509UpdateSource

Judge = Callable[[tuple[bytes, ...]], Peer]
_ALPN: Final = ("h2", "http/1.1")


class PeerRefusedError(ssl.SSLError, SpiffeError):
    """The peer is not to be trusted, or no longer, or is not whom we want to talk to. The cause says why."""


class _Verified:
    """What both kinds of TLS connection share: a handshake that ends with our own judgement."""

    _judge: Judge | None = None
    _status: PeerStatus | None = None
    _reporter: Reporter | None = None
    _peer: Peer | None = None
    _reason: RevokedError | None = None
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def verified_peer(self) -> Peer:
        if self._peer is None:
            raise UnauthorizedPeerError("the handshake is not finished")
        return self._peer

    @property
    def peer_spiffe_id(self) -> SpiffeId:
        return self.verified_peer.spiffe_id

    def cut(self, reason: RevokedError) -> None:
        self._reason = reason

    def _verify(self) -> None:
        assert self._judge is not None  # noqa: S101 - set by the context before it hands us out
        peer: Peer | None = None
        try:
            peer = self._judge(tls.peer_chain(cast("ssl.SSLObject", self)))
            if self._status is not None:
                self._status.admit(self, peer)
        except SpiffeError as error:
            self._tell(peer, str(error))
            raise PeerRefusedError(f"peer refused: {error}") from error
        self._peer = peer
        self._tell(peer)

    def _tell(self, peer: Peer | None, reason: str = "") -> None:
        if self._reporter is not None:
            spiffe_id, serial = (None, 0) if peer is None else (peer.spiffe_id, peer.serial_number)
            allowed = not reason
            self._reporter.report(
                Verification(kind="mtls", allowed=allowed, reason=reason, peer=spiffe_id, serial=serial)
            )

    def _require(self) -> None:
        """Go on only with a peer that is verified, and not cut off."""
        if self._peer is None:
            cast("ssl.SSLObject", self).do_handshake()
        if self._reason is not None:
            raise PeerRefusedError(f"peer refused: {self._reason}") from self._reason


class SpiffeSSLObject(_Verified, ssl.SSLObject):
    """TLS over memory buffers, as asyncio uses it."""

    def do_handshake(self) -> None:
        """Do the TLS handshake, then judge the peer."""
        super().do_handshake()
        with contextlib.suppress(RuntimeError):  # nobody says that it has to be asyncio that drives us
            self.loop = asyncio.get_running_loop()
        self._verify()

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the standard library's name
        """Read, once the peer is verified, and until it is cut off."""
        self._require()
        return super().read(len, buffer) if buffer is not None else super().read(len)

    def write(self, data: Any) -> int:
        """Write, once the peer is verified, and until it is cut off."""
        self._require()
        return super().write(data)


class SpiffeSSLSocket(_Verified, ssl.SSLSocket):
    """TLS over a socket."""

    do_handshake_on_connect: bool
    _owner: "SpiffeSSLContext | None" = None

    def do_handshake(self, block: bool = False) -> None:
        """Do the TLS handshake, then judge the peer; a refused one is disconnected."""
        super().do_handshake(block)
        try:
            self._verify()
        except PeerRefusedError:
            self.close()
            raise

    def cut(self, reason: RevokedError) -> None:
        """Pass no byte any more, and wake whoever waits for one."""
        super().cut(reason)
        with contextlib.suppress(OSError):  # it has ended already
            # Of the socket below: what ends TLS first may block, and would let plain text pass afterwards.
            super(ssl.SSLSocket, self).shutdown(socket.SHUT_RDWR)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the standard library's name
        """Read, once the peer is verified, and until it is cut off."""
        self._require()
        found = super().read(len, buffer)
        self._require()  # it may have been cut off while we waited
        return found

    def write(self, data: Any) -> int:
        """Write, once the peer is verified, and until it is cut off."""
        self._require()
        return super().write(data)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send, once the peer is verified, and until it is cut off."""
        self._require()
        return super().send(data, flags)

    def accept(self) -> tuple["SpiffeSSLSocket", Any]:
        """Accept a connection with the identity of this moment, not that of when we began to listen."""
        assert self._owner is not None  # noqa: S101 - set by the context before it hands us out
        plain, address = super(ssl.SSLSocket, self).accept()
        secured = self._owner.wrap_socket(
            plain, server_side=True, do_handshake_on_connect=self.do_handshake_on_connect
        )
        return cast("SpiffeSSLSocket", secured), address


class SpiffeSSLContext(ssl.SSLContext):
    """A context that makes a fresh one for each snapshot of its source. Made by the two functions below."""

    _source: X509UpdateSource
    _judge: Judge
    _status: PeerStatus | None
    _reporter: Reporter | None
    _server_side: bool
    _alpn: list[str]
    _made: tuple[X509Update, ssl.SSLContext] | None

    @classmethod
    def _create(
        cls,
        source: X509UpdateSource,
        judge: Judge,
        status: PeerStatus | None,
        *,
        reporter: Reporter | None,
        server_side: bool,
    ) -> Self:
        context = cls(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # SPIFFE IDs are checked, not names
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context._source, context._judge, context._status = source, judge, status
        context._server_side, context._reporter = server_side, reporter
        context._alpn, context._made = list(_ALPN), None
        return context

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Offer these protocols in the handshakes that follow."""
        self._alpn = list(alpn_protocols)
        self._made = None

    def wrap_socket(
        self,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """Wrap a socket. See `ssl.SSLContext.wrap_socket`; sessions are never resumed.

        Raises:
            NoIdentityIssuedError: We have no identity to present.
            PeerRefusedError: The peer is not to be trusted.
        """
        _refuse_session(session)
        wrapped = cast(
            "SpiffeSSLSocket",
            self._current().wrap_socket(
                sock,
                server_side=server_side,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=suppress_ragged_eofs,
                server_hostname=server_hostname,
            ),
        )
        wrapped._owner, wrapped._reporter = self, self._reporter
        wrapped._judge, wrapped._status = self._judge, self._status
        wrapped.do_handshake_on_connect = do_handshake_on_connect
        if do_handshake_on_connect and _connected(wrapped):
            try:
                wrapped.do_handshake()
            except BaseException:
                wrapped.close()
                raise
        return wrapped

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Wrap memory buffers. See `ssl.SSLContext.wrap_bio`; sessions are never resumed.

        Raises:
            NoIdentityIssuedError: We have no identity to present.
        """
        _refuse_session(session)
        wrapped = cast(
            "SpiffeSSLObject",
            self._current().wrap_bio(
                incoming, outgoing, server_side=server_side, server_hostname=server_hostname
            ),
        )
        wrapped._judge, wrapped._status, wrapped._reporter = self._judge, self._status, self._reporter
        return wrapped

    def _current(self) -> ssl.SSLContext:
        """Return the context of the snapshot of this moment; made twice by two threads it is the same."""
        update = self._source.x509_update()
        made = self._made
        if made is not None and made[0] is update:
            return made[1]
        roots = [a.certificate_der for bundle in update.bundles for a in bundle.x509_authorities]
        svid = update.x509_svid()
        if self._server_side:
            context = tls.server_context(svid, roots, alpn=self._alpn)
        else:
            context = tls.client_context(svid, roots, alpn=self._alpn)
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = max(self.minimum_version, ssl.TLSVersion.TLSv1_2)
        context.sslsocket_class = SpiffeSSLSocket
        context.sslobject_class = SpiffeSSLObject
        self._made = (update, context)
        return context


def mtls_server_context(
    source: X509UpdateSource,
    authorize: Authorize,
    *,
    status: PeerStatus | None = None,
    reporter: Reporter | None = None,
    clock: Clock | None = None,
) -> ssl.SSLContext:
    """Return a context for a server that demands a client certificate.

    Args:
        source: Whose SVID to present, and the bundles and revocation lists to verify clients with; an
            `X509Source` or a fixed update.
        authorize: Decides which verified clients may connect; see `spiffekit.workload.authorize`.
        status: What was taken back; a `StatusSource`. With it nobody connects who is listed, or while
            nobody knows; and who is listed later is cut off. Connections that are open stay so while nobody
            knows.
        reporter: Tells the audit trail of each peer that is let in or refused.
        clock: Another clock, for tests.
    """
    judge = _judging(source, authorize, clock or SystemClock())
    return SpiffeSSLContext._create(source, judge, status, reporter=reporter, server_side=True)


def mtls_client_context(
    source: X509UpdateSource,
    authorize: Authorize,
    *,
    status: PeerStatus | None = None,
    reporter: Reporter | None = None,
    clock: Clock | None = None,
) -> ssl.SSLContext:
    """Return a context for a client: the server's names are not checked, its SPIFFE ID is.

    Args: See `mtls_server_context`.
    """
    judge = _judging(source, authorize, clock or SystemClock())
    return SpiffeSSLContext._create(source, judge, status, reporter=reporter, server_side=False)


def verified_peer(connection: object) -> Peer:
    """Return who the verified peer is, and by which certificate.

    Args:
        connection: An `ssl.SSLSocket` or `ssl.SSLObject` made by a context of this module, or an asyncio
            transport or `StreamWriter` over one.

    Raises:
        UnauthorizedPeerError: It is no such connection, or its handshake is not finished.
    """
    get = getattr(connection, "get_extra_info", None)
    found = get("ssl_object") if get is not None else connection
    if not isinstance(found, _Verified):
        raise UnauthorizedPeerError("not a connection of these contexts")
    return found.verified_peer


def peer_spiffe_id(connection: object) -> SpiffeId:
    """Return the SPIFFE ID of the verified peer. See `verified_peer`."""
    return verified_peer(connection).spiffe_id


def _judging(source: X509UpdateSource, authorize: Authorize, clock: Clock) -> Judge:
    def judge(chain_der: tuple[bytes, ...]) -> Peer:
        update = source.x509_update()
        spiffe_id = x509svid.verify(chain_der, update, now=clock.now())
        chain = [load_certificate(der) for der in chain_der]
        for certificate in chain:
            crl.check_all(update.revocation_lists.get(spiffe_id.trust_domain, ()), certificate)
        if not authorize(spiffe_id):
            raise UnauthorizedPeerError(f"{spiffe_id} is not authorised")
        leaf = chain[0]
        return Peer(spiffe_id, leaf.serial_number, leaf.not_valid_before_utc, leaf.not_valid_after_utc)

    return judge


def _refuse_session(session: object) -> None:
    if session is not None:
        raise ValueError("sessions are not resumed: they would outlive the SVID that opened them")


def _connected(connection: ssl.SSLSocket) -> bool:
    with contextlib.suppress(OSError):
        connection.getpeername()
        return True
    return False
