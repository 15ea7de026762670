# SPDX-License-Identifier: Apache-2.0
"""SSH proof of possession: this node holds the key of an OpenSSH host certificate."""

import base64
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from attestor.errors import NodeAttestationError
from attestor.node import read_file

NONCE: Final = 32  # bytes
MAX_FILE: Final = 64 * 1024  # bytes of a key or certificate
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "nistp256": hashes.SHA256(),
    "nistp384": hashes.SHA384(),
    "nistp521": hashes.SHA512(),
}
_CURVES: Final = {"secp256r1": "nistp256", "secp384r1": "nistp384", "secp521r1": "nistp521"}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.sshpop]``.

    Attributes:
        host_key_path: The private host key, OpenSSH, without a passphrase.
        host_cert_path: Its host certificate, the line of a `-cert.pub` file.
    """

    host_key_path: Path = Path("/etc/ssh/ssh_host_rsa_key")
    host_cert_path: Path = Path("/etc/ssh/ssh_host_rsa_key-cert.pub")


class SshPop:
    """See the module. The files are read for each proof, so that a renewed certificate counts."""

    type = "sshpop"

    def __init__(self, config: Config) -> None:
        self._config = config

    async def payload(self) -> bytes:
        """Return the certificate.

        Raises:
            NodeAttestationError: It cannot be read, or is none.
        """
        fields = read_file(self._config.host_cert_path, MAX_FILE).split()
        try:
            if not fields[0].endswith(b"-cert-v01@openssh.com"):
                raise NodeAttestationError(f"host_cert_path {self._config.host_cert_path} has no certificate")
            certificate = base64.b64decode(fields[1], validate=True)
        except (IndexError, ValueError) as error:
            raise NodeAttestationError(
                f"host_cert_path {self._config.host_cert_path} is malformed"
            ) from error
        return json.dumps({"Certificate": _encoded(certificate)}).encode()

    async def respond(self, challenge: bytes) -> bytes:
        """Sign the SHA-256 of the issuer's nonce and one of ours.

        Raises:
            NodeAttestationError: The challenge is malformed, or the key cannot be used.
        """
        try:
            theirs = base64.b64decode(json.loads(challenge)["Nonce"], validate=True)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise NodeAttestationError("issuer's challenge is malformed") from error
        if len(theirs) != NONCE:
            raise NodeAttestationError("issuer's challenge has a nonce of another length")
        ours = secrets.token_bytes(NONCE)
        kind, blob = _sign(self._key(), hashlib.sha256(theirs + ours).digest())
        signature = {"Format": kind, "Blob": _encoded(blob), "Rest": None}
        return json.dumps({"Nonce": _encoded(ours), "Signature": signature}).encode()

    def _key(self) -> Any:
        try:
            return load_ssh_private_key(read_file(self._config.host_key_path, MAX_FILE), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise NodeAttestationError(
                f"host_key_path {self._config.host_key_path} is no key that can be used"
            ) from error


def _sign(key: Any, data: bytes) -> tuple[str, bytes]:
    """Return a signature's format and blob, as SSH has them (RFC 4253 §6.6, RFC 5656 §3.1.2, RFC 8332 §3)."""
    match key:
        case ed25519.Ed25519PrivateKey():
            return "ssh-ed25519", key.sign(data)
        case rsa.RSAPrivateKey():
            return "rsa-sha2-512", key.sign(data, padding.PKCS1v15(), hashes.SHA512())
        case ec.EllipticCurvePrivateKey() if key.curve.name in _CURVES:
            curve = _CURVES[key.curve.name]
            r, s = decode_dss_signature(key.sign(data, ec.ECDSA(_HASHES[curve])))
            return f"ecdsa-sha2-{curve}", _mpint(r) + _mpint(s)
        case _:
            raise NodeAttestationError("host key is of a kind that is not supported")


def _mpint(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1)
    return len(data).to_bytes(4) + data


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def create(config: Config) -> SshPop:
    """Make the attestor of a configuration table."""
    return SshPop(config)
