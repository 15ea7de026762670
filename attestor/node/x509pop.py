# SPDX-License-Identifier: Apache-2.0
"""X.509 proof of possession: this node holds the key of a certificate that the issuer's operator trusts."""

import base64
import json
import secrets
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from attestor.errors import NodeAttestationError
from spiffekit.certificates import certificates_from_pem
from spiffekit.errors import SpiffeError
from spiffekit.keys import private_key_from_pem

NONCE: Final = 32  # bytes


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.x509pop]``.

    Attributes:
        certificate_path: PEM file of the node's certificate, intermediates after it.
        private_key_path: PEM file of its private key.
        intermediates_path: PEM file of further intermediates.
    """

    certificate_path: Path
    private_key_path: Path
    intermediates_path: Path | None = None


class X509Pop:
    """See the module. The files are read for each proof, so that a renewed certificate counts."""

    type = "x509pop"

    def __init__(self, config: Config) -> None:
        self._config = config

    async def payload(self) -> bytes:
        """Return the chain."""
        paths = [self._config.certificate_path]
        if self._config.intermediates_path is not None:
            paths.append(self._config.intermediates_path)
        try:
            ders = [der for path in paths for der in certificates_from_pem(path.read_bytes())]
        except (OSError, SpiffeError) as error:
            raise NodeAttestationError(f"node certificate cannot be read: {error}") from error
        return json.dumps({"certificates": [_encoded(der) for der in ders]}).encode()

    async def respond(self, challenge: bytes) -> bytes:
        """Sign the SHA-256 of the issuer's nonce and one of ours."""
        try:
            key = private_key_from_pem(self._config.private_key_path.read_bytes())
            ((kind, body),) = json.loads(challenge).items()
            theirs = base64.b64decode(body["nonce"], validate=True)
        except (OSError, SpiffeError) as error:
            raise NodeAttestationError(f"node key cannot be read: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise NodeAttestationError("issuer's challenge is malformed") from error
        if len(theirs) != NONCE:
            raise NodeAttestationError("issuer's challenge has a nonce of another length")
        ours = secrets.token_bytes(NONCE)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(theirs + ours)
        answer = {"nonce": _encoded(ours), **_sign(kind, key, digest.finalize())}
        return json.dumps({kind: answer}).encode()


def _sign(kind: str, key: Any, digest: bytes) -> dict[str, str]:
    prehashed = Prehashed(hashes.SHA256())
    match kind, key:
        case "ecdsa_signature", ec.EllipticCurvePrivateKey():
            r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(prehashed)))
            return {name: _encoded(n.to_bytes((n.bit_length() + 7) // 8)) for name, n in (("r", r), ("s", s))}
        case "rsa_signature", rsa.RSAPrivateKey():
            salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
            return {"signature": _encoded(key.sign(digest, salted, prehashed))}
        case _:
            raise NodeAttestationError("issuer's challenge does not fit the node's key")


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def create(config: Config) -> X509Pop:
    """Make the attestor of a configuration table."""
    return X509Pop(config)
