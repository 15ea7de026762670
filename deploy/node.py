# SPDX-License-Identifier: Apache-2.0
"""A node without an attestor: an attested client of the issuer, for tests and benchmarks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attestor.connection import Credentials
from attestor.issuer_client import IssuerClient, make_csr, new_key
from attestor.node.join_token import Config, JoinToken
from deploy.local import Local
from spiffekit.bundle import Bundle
from spiffekit.daemon.clock import SystemClock
from spiffekit.id import TrustDomain
from spiffekit.keys import private_key_to_der
from spiffekit.x509svid import X509Svid


@asynccontextmanager
async def attested(local: Local, token: str, bundle_pem: str) -> AsyncIterator[IssuerClient]:
    """Attest with a join token and yield a client that has the node's SVID."""
    trust_domain = TrustDomain(local.trust_domain)
    credentials = Credentials(bundle=Bundle.from_pem(trust_domain, bundle_pem.encode()))
    async with IssuerClient.open("127.0.0.1", local.port, trust_domain, credentials, SystemClock()) as client:
        key = new_key()
        chain, _ = await client.attest(JoinToken(Config(token=token)), make_csr(key))
        credentials.svid = X509Svid.parse(b"".join(chain), private_key_to_der(key))
        client.drop_connections()
        yield client
