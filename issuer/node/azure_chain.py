# SPDX-License-Identifier: Apache-2.0
"""Who signs for Azure's metadata service: a certificate of its name, that a known authority vouches for.

The service sends its own certificate and not the one between it and the authority, which Microsoft
publishes where the certificate says.
"""

import asyncio
import re
from importlib import resources
from typing import Final

from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import AuthorityInformationAccessOID

from issuer.errors import NodeRejectedError
from spiffekit.certificates import certificates_from_pem, check_strength, load_certificate
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.http import HttpError, Peer, request
from spiffekit.errors import SpiffeError

HOST: Final = "www.microsoft.com"
TIMEOUT: Final = 10  # seconds to wait for a certificate
MAX_CERTIFICATE: Final = 16 * 1024  # bytes of an answer
MAX_KEPT: Final = 32  # certificates of Microsoft's that are remembered; there are about ten
MAX_DEPTH: Final = 3  # certificates between Azure's and the authority
_ROOTS: Final = "azure_roots.pem"
_NAME: Final = re.compile(r"[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+", re.ASCII)
# Where we are led is the word of a certificate that nobody vouches for yet.
_PUBLISHED: Final = re.compile(
    r"https?://www\.microsoft\.com(/pki(?:ops)?(?:/[A-Za-z0-9%_-][A-Za-z0-9%._-]{0,120}){1,4})", re.ASCII
)


class AzureChain:
    """Judges the certificates of signers."""

    def __init__(
        self, roots: list[x509.Certificate], domains: tuple[str, ...], microsoft: Peer, clock: Clock
    ) -> None:
        self._roots = frozenset(root.subject for root in roots)
        self._builder = (
            verification.PolicyBuilder().store(verification.Store(roots)).max_chain_depth(MAX_DEPTH)
        )
        self._domains = domains
        self._microsoft = microsoft
        self._clock = clock
        self._kept: dict[str, x509.Certificate] = {}

    async def check(self, signer: x509.Certificate, others: list[x509.Certificate]) -> None:
        """Check a certificate, by the rules for servers on the web.

        1. It has a name of an allowed domain.
        2. Neither it nor what came along is weak.
        3. What vouches for it is known, came along, or is published by Microsoft.
        4. The chain ends in a known authority now, and the certificate may be used by that name.

        Revocation is not looked at: these certificates live for months, and no one asks a node about it.

        Raises:
            NodeRejectedError: It fails one of them.
        """
        name = self._name(signer)  # (1)
        for certificate in (signer, *others):  # (2)
            _strong(certificate)
        known = self._roots.union(other.subject for other in others)
        where = "" if signer.issuer in known else _published(signer)  # (3)
        between = [*others, await self._fetched(where)] if where else others
        verifier = self._builder.time(self._clock.now()).build_server_verifier(x509.DNSName(name))
        try:
            verifier.verify(signer, between)  # (4)
        except verification.VerificationError as error:
            self._kept.pop(where, None)
            raise NodeRejectedError(f"no known authority vouches for the signer: {error}") from error
        if where and len(self._kept) < MAX_KEPT:
            self._kept[where] = between[-1]

    def _name(self, signer: x509.Certificate) -> str:
        try:
            names = signer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound as error:
            raise NodeRejectedError("signer has no name") from error
        for name in names.get_values_for_type(x509.DNSName):
            if _NAME.fullmatch(name) and any(f".{name}".endswith(f".{domain}") for domain in self._domains):
                return name
        raise NodeRejectedError("signer has no name of an allowed metadata domain")

    async def _fetched(self, path: str) -> x509.Certificate:
        if path in self._kept:
            return self._kept[path]
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                request(self._microsoft, "GET", path) as answer,
            ):
                if answer.status != 200:  # a redirect is not followed either
                    raise HttpError(f"status {answer.status}")
                certificate = load_certificate(await answer.body(MAX_CERTIFICATE))
        except (HttpError, TimeoutError, SpiffeError) as error:
            raise NodeRejectedError("certificate of the signer's authority cannot be fetched") from error
        _strong(certificate)
        return certificate


def _strong(certificate: x509.Certificate) -> None:
    try:
        check_strength(certificate)
    except SpiffeError as error:
        raise NodeRejectedError(f"signer: {error}") from error


def _published(signer: x509.Certificate) -> str:
    """Return where at Microsoft the certificate of a signer's authority is."""
    try:
        access = signer.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound as error:
        raise NodeRejectedError("signer does not say which authority vouches for it") from error
    for description in access:
        location = description.access_location
        if description.access_method == AuthorityInformationAccessOID.CA_ISSUERS and isinstance(
            location, x509.UniformResourceIdentifier
        ):
            match = _PUBLISHED.fullmatch(location.value)
            if match is not None:
                return match[1]
    raise NodeRejectedError("signer's authority is not published by Microsoft")


def published() -> list[x509.Certificate]:
    """Return the authorities on which Azure's certificates rest."""
    pem = resources.files("issuer.node").joinpath(_ROOTS).read_bytes()
    return [load_certificate(der) for der in certificates_from_pem(pem)]
