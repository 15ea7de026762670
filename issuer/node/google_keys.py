# SPDX-License-Identifier: Apache-2.0
"""The keys with which Google signs identity tokens now, as it publishes them."""

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from issuer.errors import NodeRejectedError
from spiffekit.certificates import certificates_from_pem, load_certificate, public_key_of
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.http import Answer, HttpError, Peer, request
from spiffekit.errors import SpiffeError

HOST: Final = "www.googleapis.com"
PATH: Final = "/oauth2/v1/certs"  # by the ID of a key, a certificate in PEM that has it
MAX_ANSWER: Final = 128 * 1024  # bytes; there are two or three certificates of 1.2 kB
MAX_CERTIFICATES: Final = 32
MAX_KEPT: Final = 24 * 3600  # seconds; what Google withdraws is forgotten by then, whatever it said before
TIMEOUT: Final = 10  # seconds to wait for them
_SECONDS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


class GoogleKeys:
    """Asks for the keys when they are needed, and keeps them for as long as the answer allows."""

    def __init__(self, peer: Peer, clock: Clock) -> None:
        self._peer = peer
        self._clock = clock
        self._asking = asyncio.Lock()  # however many nodes come at once, one question is under way
        self._certificates: Mapping[str, x509.Certificate] = {}
        self._kept_until = clock.monotonic()

    async def key(self, key_id: str, now: datetime) -> rsa.RSAPublicKey:
        """Return a key whose certificate is valid `now`.

        Raises:
            NodeRejectedError: There is none of that ID, it is weak, or Google cannot be asked.
        """
        try:
            async with asyncio.timeout(TIMEOUT), self._asking:
                if self._clock.monotonic() >= self._kept_until:
                    await self._fetch()
        except (HttpError, TimeoutError) as error:
            raise NodeRejectedError("Google's keys cannot be fetched") from error
        # A key that is not there is not asked for again, so that tokens of no key make us ask nobody:
        # Google publishes a key long before it signs with it.
        certificate = self._certificates.get(key_id)
        if certificate is None:
            raise NodeRejectedError("token is signed with a key that Google does not publish")
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise NodeRejectedError("token is signed with a key whose certificate is not valid now")
        try:
            key = public_key_of(certificate)
        except SpiffeError as error:
            raise NodeRejectedError(f"token is signed with a weak key: {error}") from error
        if not isinstance(key, rsa.RSAPublicKey):
            raise NodeRejectedError("token is signed with a key that is not RSA")
        return key

    async def _fetch(self) -> None:
        asked_at = self._clock.monotonic()
        async with request(self._peer, "GET", PATH, headers={"accept": "application/json"}) as answer:
            if answer.status != 200:  # a redirect is not followed either
                raise HttpError(f"status {answer.status}")
            body = await answer.body(MAX_ANSWER)
        self._certificates = certificates(body)
        self._kept_until = asked_at + _seconds_kept(answer)


def certificates(document: bytes) -> dict[str, x509.Certificate]:
    """Return the certificates that Google publishes, by the ID of their key.

    Their own signatures are made with SHA-1 by nobody in particular: what vouches for them is that they
    come from Google over TLS.

    Raises:
        HttpError: It is another document.
    """
    try:
        found = msgspec.json.decode(document, type=dict[str, str])
        if not 0 < len(found) <= MAX_CERTIFICATES:
            raise HttpError(f"answer has {len(found)} certificates")
        return {key_id: _certificate(pem) for key_id, pem in found.items()}
    except (ValueError, RecursionError, SpiffeError) as error:
        raise HttpError(f"answer is no certificates by key ID: {error}") from error


def _certificate(pem: str) -> x509.Certificate:
    (der,) = certificates_from_pem(pem.encode("utf-8"))
    return load_certificate(der)


def _seconds_kept(answer: Answer) -> int:
    """Return for how long an answer may be used (RFC 9111 §5.2.2): max-age less the age it came with."""
    said = [part.strip().lower() for part in answer.header("cache-control").split(",")]
    if "no-store" in said or "no-cache" in said:
        return 0
    ages = [part.removeprefix("max-age=") for part in said if part.startswith("max-age=")]
    age = answer.header("age") or "0"
    if len(ages) != 1 or not _SECONDS.fullmatch(ages[0]) or not _SECONDS.fullmatch(age):
        return 0
    return min(int(ages[0]) - int(age), MAX_KEPT)
