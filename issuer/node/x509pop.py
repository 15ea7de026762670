# SPDX-License-Identifier: Apache-2.0
"""X.509 proof of possession: the node holds the key of a certificate that a configured root vouches for.

SPIRE's payloads: JSON with base64 DER certificates, a nonce each way, and a signature over the SHA-256 of
both nonces.
"""

import base64
import json
import re
import secrets
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID

from issuer.errors import NodeRejectedError
from issuer.node import Challenge, NodeContext, NodeProof, chains
from issuer.node.chains import MAX_INTERMEDIATES, Authorities, read_authorities
from spiffekit.certificates import load_certificate, uris_of
from spiffekit.errors import SelectorError, SpiffeError
from spiffekit.id import TrustDomain
from spiffekit.selector import Selector

MAX_PAYLOAD: Final = 128 * 1024  # bytes
NONCE: Final = 32  # bytes
TYPE: Final = "x509pop"
_CLIENT_PURPOSES: Final = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
# What follows the trust domain in a URI SAN. Nothing is decoded, and no key can be taken for part of another.
_SAN: Final = re.compile(r"([A-Za-z0-9._~-]+)/([^%?#]*[^%?#/])", re.ASCII)
_MALFORMED: Final = (ValueError, KeyError, TypeError, RecursionError)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.x509pop]``.

    Attributes:
        ca_bundle_path: PEM file of the roots that vouch for nodes.
    """

    ca_bundle_path: Path


class X509PopVerifier:
    """See the module."""

    def __init__(self, roots: list[x509.Certificate]) -> None:
        self._authorities = Authorities(roots)

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Verify the chain, then the possession of its key."""
        leaf, intermediates = _certificates(payload)
        chain = self._authorities.verify(leaf, intermediates)
        _check_leaf(leaf)
        node_id = context.node_id(f"/{TYPE}/{chains.fingerprint(leaf)}")
        selectors = chains.selectors(TYPE, chain) | {Selector(TYPE, f"serialnumber:{leaf.serial_number:x}")}
        selectors |= _sans(leaf, node_id.trust_domain)
        await _prove_possession(leaf, challenge)
        return NodeProof(node_id, frozenset(selectors), can_reattest=True)


def _check_leaf(leaf: x509.Certificate) -> None:
    """Refuse what is meant for something else. An extension that is not there forbids nothing (RFC 5280)."""
    for extension in leaf.extensions:
        match extension.value:
            case x509.KeyUsage(digital_signature=False):
                raise NodeRejectedError("certificate's key usage lacks digitalSignature")
            case x509.ExtendedKeyUsage() as purposes if not _CLIENT_PURPOSES & set(purposes):
                raise NodeRejectedError("certificate's extended key usage lacks clientAuth")


def _sans(leaf: x509.Certificate, trust_domain: TrustDomain) -> set[Selector]:
    """Return what URI SANs like ``x509pop://TRUST_DOMAIN/KEY/VALUE`` state, and others do not."""
    prefix = f"{TYPE}://{trust_domain}/"
    stated = (_SAN.fullmatch(uri.removeprefix(prefix)) for uri in uris_of(leaf) if uri.startswith(prefix))
    try:
        return {Selector(TYPE, f"san:{found[1]}:{found[2]}") for found in stated if found}
    except SelectorError as error:
        raise NodeRejectedError(f"certificate's URI SAN: {error}") from error


def _certificates(payload: bytes) -> tuple[x509.Certificate, list[x509.Certificate]]:
    if len(payload) > MAX_PAYLOAD:
        raise NodeRejectedError("payload is too large")
    try:
        encoded = json.loads(payload)["certificates"]
        if not isinstance(encoded, list) or not 1 <= len(encoded) <= 1 + MAX_INTERMEDIATES:
            raise NodeRejectedError(f"payload needs 1 to {1 + MAX_INTERMEDIATES} certificates")
        leaf, *intermediates = [load_certificate(base64.b64decode(c, validate=True)) for c in encoded]
    except (*_MALFORMED, SpiffeError) as error:
        raise NodeRejectedError("payload is malformed") from error
    return leaf, intermediates


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


async def _prove_possession(leaf: x509.Certificate, challenge: Challenge) -> None:
    ours = secrets.token_bytes(NONCE)
    key = leaf.public_key()
    match key:
        case ec.EllipticCurvePublicKey():
            kind = "ecdsa_signature"
        case rsa.RSAPublicKey():
            kind = "rsa_signature"
        case _:
            raise NodeRejectedError("certificate's key has to be EC or RSA")
    answer = await challenge(json.dumps({kind: {"nonce": _encoded(ours)}}).encode())
    if len(answer) > MAX_PAYLOAD:
        raise NodeRejectedError("challenge response is too large")
    try:
        response: dict[str, Any] = json.loads(answer)[kind]
        theirs = base64.b64decode(response["nonce"], validate=True)
        if len(theirs) != NONCE:
            raise NodeRejectedError("challenge response has a nonce of another length")
        digest = hashes.Hash(hashes.SHA256())
        digest.update(ours + theirs)
        _verify(key, response, digest.finalize())
    except _MALFORMED as error:
        raise NodeRejectedError("challenge response is malformed") from error
    except InvalidSignature as error:
        raise NodeRejectedError("challenge response has a bad signature") from error


def _verify(
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, response: dict[str, Any], digest: bytes
) -> None:
    prehashed = Prehashed(hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePublicKey):
        r, s = (int.from_bytes(base64.b64decode(response[part], validate=True)) for part in ("r", "s"))
        key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(prehashed))
    else:
        signature = base64.b64decode(response["signature"], validate=True)
        salted = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
        key.verify(signature, digest, salted, prehashed)


def create(config: Config) -> X509PopVerifier:
    """Make the verifier of a configuration table."""
    return X509PopVerifier(read_authorities(config.ca_bundle_path, "ca_bundle_path"))
