# SPDX-License-Identifier: Apache-2.0
"""A TLS connection to the issuer: who answers is verified by SPIFFE ID before a byte is sent."""

import asyncio
from dataclasses import dataclass
from typing import Final

from spiffekit.bundle import Bundle
from spiffekit.certificates import load_certificate
from spiffekit.daemon.clock import Clock
from spiffekit.errors import VerificationError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.wire import tls
from spiffekit.x509svid import X509Svid, spiffe_id_of, verify

SERVER_PATH: Final = "/spire/server"


@dataclass(slots=True)
class Credentials:
    """What connections are made with; each new one takes what is here now."""

    bundle: Bundle | None = None  # None: the first contact, with insecure_bootstrap
    svid: X509Svid | None = None


async def dial(
    host: str, port: int, trust_domain: TrustDomain, credentials: Credentials, clock: Clock
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and verify that whoever answers is the issuer before a byte is sent.

    Raises:
        SpiffeError: It is not the issuer of our trust domain.
        OSError: Nobody answers, or not with TLS; TimeoutError among them.
    """
    bundle, svid = credentials.bundle, credentials.svid
    # The chain is judged below, by our own rules and clock; OpenSSL's verdict names no reason.
    context = tls.unverified_client_context()
    if svid is not None:
        tls.load_identity(context, svid)
    async with asyncio.timeout(tls.CONNECT_WITHIN.total_seconds()):
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    try:
        chain = tls.peer_chain(writer.get_extra_info("ssl_object"))
        if bundle is None:
            found = spiffe_id_of(load_certificate(chain[0]))
        else:
            found = verify(chain, bundle, now=clock.now())
        if found != SpiffeId(trust_domain, SERVER_PATH):
            raise VerificationError(
                f"the server at {host}:{port} is {found}, not the issuer of {trust_domain}"
            )
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer
