# SPDX-License-Identifier: Apache-2.0
"""SSH proof of possession: the node holds the key of a host certificate that a configured authority signed.

SPIRE's payloads: JSON with the certificate as SSH has it on the wire, a nonce each way, and an SSH signature
over the SHA-256 of both nonces.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
    load_ssh_public_key,
)

from issuer.errors import NodeRejectedError
from issuer.node import Challenge, NodeContext, NodeProof
from spiffekit.daemon.config import ConfigError
from spiffekit.errors import SelectorError
from spiffekit.selector import Selector

TYPE: Final = "sshpop"
MAX_PAYLOAD: Final = 64 * 1024  # bytes
MAX_RSA_BITS: Final = 8192  # a larger key costs seconds to verify with
MAX_AUTHORITIES: Final = 100
NONCE: Final = 32  # bytes
_ECDSA: Final[dict[str, hashes.HashAlgorithm]] = {
    "ecdsa-sha2-nistp256": hashes.SHA256(),
    "ecdsa-sha2-nistp384": hashes.SHA384(),
    "ecdsa-sha2-nistp521": hashes.SHA512(),
}
# Stock agents sign with the old kind. What is signed is a hash of two fresh nonces, for which a collision is
# of no use.
_RSA: Final[dict[str, hashes.HashAlgorithm]] = {
    "rsa-sha2-512": hashes.SHA512(),
    "rsa-sha2-256": hashes.SHA256(),
    "ssh-rsa": hashes.SHA1(),  # noqa: S303 - see above
}
_MALFORMED: Final = (ValueError, KeyError, TypeError, RecursionError, UnsupportedAlgorithm)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.sshpop]``.

    Attributes:
        cert_authorities: Public keys that sign host certificates, each a line as in authorized_keys.
        cert_authorities_path: A file of such lines, besides or instead.
        canonical_domain: The first principal has to be a host of this domain; any is good if left out.
    """

    cert_authorities: tuple[str, ...] = ()
    cert_authorities_path: Path | None = None
    canonical_domain: str = ""


class SshPopVerifier:
    """See the module. `authorities` are public keys as SSH has them on the wire."""

    def __init__(self, authorities: frozenset[bytes], domain: str = "") -> None:
        self._authorities = authorities
        self._domain = domain

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Verify the certificate, then the possession of its key."""
        raw, certificate = _certificate(payload)
        host = self._judge(certificate, datetime.now(UTC))
        await _prove_possession(certificate.public_key(), challenge)
        fingerprint = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode("ascii").rstrip("=")
        try:
            selectors = frozenset({Selector(TYPE, f"hostname:{host}")})
        except SelectorError as error:
            raise NodeRejectedError(f"certificate's principal: {error}") from error
        return NodeProof(context.node_id(f"/{TYPE}/{fingerprint}"), selectors, can_reattest=True)

    def _judge(self, certificate: SSHCertificate, now: datetime) -> str:
        """Return the host that the certificate is for, or raise on the first rule that it breaks."""
        # (1): it is a host's.
        if certificate.type is not SSHCertificateType.HOST:
            raise NodeRejectedError("certificate is not a host's")
        # (2): a critical option that we do not know may forbid this (PROTOCOL.certkeys); hosts have none.
        if certificate.critical_options:
            raise NodeRejectedError("certificate has critical options")
        # (3): now is within its validity.
        if not certificate.valid_after <= now.timestamp() < certificate.valid_before:
            raise NodeRejectedError("certificate is not valid now")
        # (4): sizes are judged before anything is verified.
        for key in (certificate.public_key(), certificate.signature_key()):
            if isinstance(key, rsa.RSAPublicKey) and key.key_size > MAX_RSA_BITS:
                raise NodeRejectedError(f"certificate has an RSA key of more than {MAX_RSA_BITS} bits")
        # (5): one of our authorities signed it.
        signer = certificate.signature_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        if _wire(signer) not in self._authorities:
            raise NodeRejectedError("no configured authority signed the certificate")
        try:
            certificate.verify_cert_signature()
        except (InvalidSignature, *_MALFORMED) as error:
            raise NodeRejectedError("certificate has a bad signature") from error
        # (6): it says which host, and of our domain.
        if not certificate.valid_principals:
            raise NodeRejectedError("certificate has no principal")
        host = certificate.valid_principals[0].decode("ascii", "replace")
        if self._domain and not host.endswith(f".{self._domain}"):
            raise NodeRejectedError(f"certificate's principal is no host of {self._domain}")
        return host


def _certificate(payload: bytes) -> tuple[bytes, SSHCertificate]:
    """Return a certificate, and as it is on the wire."""
    if len(payload) > MAX_PAYLOAD:
        raise NodeRejectedError("payload is too large")
    try:
        raw = base64.b64decode(json.loads(payload)["Certificate"], validate=True)
        kind = raw[4 : 4 + int.from_bytes(raw[:4])]
        identity = load_ssh_public_identity(kind + b" " + base64.b64encode(raw))
    except _MALFORMED as error:
        raise NodeRejectedError("payload is malformed") from error
    if not isinstance(identity, SSHCertificate):
        raise NodeRejectedError("payload is a key without a certificate")
    return raw, identity


async def _prove_possession(key: Any, challenge: Challenge) -> None:
    ours = secrets.token_bytes(NONCE)
    answer = await challenge(json.dumps({"Nonce": base64.b64encode(ours).decode("ascii")}).encode())
    if len(answer) > MAX_PAYLOAD:
        raise NodeRejectedError("challenge response is too large")
    try:
        response = json.loads(answer)
        theirs = base64.b64decode(response["Nonce"], validate=True)
        kind = response["Signature"]["Format"]
        blob = base64.b64decode(response["Signature"]["Blob"], validate=True)
        if len(theirs) != NONCE:
            raise NodeRejectedError("challenge response has a nonce of another length")
        _verify(key, kind, blob, hashlib.sha256(ours + theirs).digest())
    except _MALFORMED as error:
        raise NodeRejectedError("challenge response is malformed") from error
    except InvalidSignature as error:
        raise NodeRejectedError("challenge response has a bad signature") from error


def _verify(key: Any, kind: str, blob: bytes, data: bytes) -> None:
    """Verify an SSH signature; its format has to be one of the key's own."""
    match key:
        case ed25519.Ed25519PublicKey() if kind == "ssh-ed25519":
            key.verify(blob, data)
        case rsa.RSAPublicKey() if kind in _RSA:
            key.verify(blob, data, padding.PKCS1v15(), _RSA[kind])
        case ec.EllipticCurvePublicKey() if kind in _ECDSA:
            r, rest = _string(blob)
            s, rest = _string(rest)
            if rest:
                raise ValueError("bytes after the signature")
            signature = encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
            key.verify(signature, data, ec.ECDSA(_ECDSA[kind]))
        case _:
            raise NodeRejectedError("challenge response has a signature of another kind than the key")


def _string(data: bytes) -> tuple[bytes, bytes]:
    """Split off a string of RFC 4251 §5."""
    end = 4 + int.from_bytes(data[:4])
    if len(data) < end or end < 5:
        raise ValueError("signature is cut short")
    return data[4:end], data[end:]


def _wire(line: bytes) -> bytes:
    """Return a public key as it is on the wire, from a line of text; a comment does not count."""
    return base64.b64decode(line.split()[1], validate=True)


def _authorities(lines: Sequence[str]) -> frozenset[bytes]:
    found = set()
    for line in lines:
        try:
            load_ssh_public_key(line.encode())
            found.add(_wire(line.encode()))
        except (*_MALFORMED, IndexError) as error:
            raise ConfigError(f"cert_authorities: {line[:40]!r} is no public key") from error
    if not 0 < len(found) <= MAX_AUTHORITIES:
        raise ConfigError(f"cert_authorities: 1 to {MAX_AUTHORITIES} are needed, not {len(found)}")
    return frozenset(found)


def create(config: Config) -> SshPopVerifier:
    """Make the verifier of a configuration table."""
    lines = list(config.cert_authorities)
    if config.cert_authorities_path is not None:
        try:
            text = config.cert_authorities_path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cert_authorities_path: {config.cert_authorities_path} cannot be read"
            ) from error
        lines += [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    return SshPopVerifier(_authorities(lines), config.canonical_domain)
