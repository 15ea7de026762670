# SPDX-License-Identifier: Apache-2.0
"""A TPM 2.0 proves its machine: a known endorsement key, an attestation key beside it, and a fresh quote.

One round: the node sends both keys. It gets a secret that only a TPM with both can open, and a nonce; it
answers with the secret and with a quote of its registers over the nonce, signed by the attestation key.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.x509 import verification

from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node import Challenge, NodeContext, NodeProof, tpm, tpm_credential
from spiffekit.certificates import certificates_from_pem, check_strength, load_certificate
from spiffekit.daemon.config import ConfigError
from spiffekit.errors import SpiffeError
from spiffekit.selector import Selector

TYPE: Final = "tpm_ek"
MAX_PAYLOAD: Final = 32 * 1024  # bytes
SECRET: Final = 32  # bytes of the secret and of the nonce
_SIZES: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}  # bytes of a register, by bank
_MANUFACTURER: Final = x509.ObjectIdentifier("2.23.133.2.1")  # EK Credential Profile, section 3.1.2
_EK_PURPOSE: Final = x509.ObjectIdentifier("2.23.133.8.1")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_MALFORMED: Final = (ValueError, KeyError, TypeError, RecursionError, AttributeError)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.tpm_ek]``.

    Attributes:
        ek_ca_path: PEM file of the authorities that sign endorsement key certificates themselves, which are
            mostly a manufacturer's intermediates.
        ek_hashes: Endorsement keys that are good without a certificate, each as the SHA-256 of its public
            area in hex.
        pcr_bank: The bank of registers to be quoted.
        pcrs: The registers to be quoted; each becomes a selector.
        pcr_digests: By the number of a register, the digests in hex that it may have; a register that is
            not here may have any.
    """

    ek_ca_path: Path | None = None
    ek_hashes: tuple[str, ...] = ()
    pcr_bank: str = "sha256"
    pcrs: tuple[int, ...] = (0, 7)
    pcr_digests: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True)
class Policy:
    """Which registers are quoted, in ascending order, and the contents that some of them have to have."""

    bank: str
    pcrs: tuple[int, ...]
    allowed: dict[int, frozenset[bytes]]


class TpmEkVerifier:
    """See the module."""

    def __init__(self, authorities: list[x509.Certificate], hashes: frozenset[str], policy: Policy) -> None:
        self._authorities = authorities
        self._hashes = hashes
        self._policy = policy

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Verify whose TPM it is, that both keys are in it, and what its registers have."""
        document = _document(payload, "payload")
        endorsement = tpm.endorsement_key(_decoded(document, "ek_public", "payload"))
        attestation = tpm.attestation_key(_decoded(document, "ak_public", "payload"))
        fingerprint = hashlib.sha256(endorsement.area).hexdigest()
        found = {Selector(TYPE, f"ek-hash:{fingerprint}")}
        if certificate := _decoded(document, "ek_certificate", "payload"):
            found |= self._vouched(certificate, endorsement, known=fingerprint in self._hashes)
        elif fingerprint not in self._hashes:
            raise NodeRejectedError("endorsement key has no certificate and is not in ek_hashes")
        found |= await self._prove(endorsement, attestation, challenge)
        return NodeProof(
            context.node_id(f"/{TYPE}/{fingerprint}"),
            frozenset(found),
            can_reattest=True,
            level=AttestationLevel.TPM,
        )

    def _vouched(self, der: bytes, endorsement: tpm.Public, *, known: bool) -> set[Selector]:
        """Return what a certificate says of the TPM; that of a key in our list counts only if it is good."""
        try:
            return _judge(der, endorsement, self._authorities)
        except NodeRejectedError:
            if known:
                return set()
            raise

    async def _prove(
        self, endorsement: tpm.Public, attestation: tpm.Public, challenge: Challenge
    ) -> set[Selector]:
        secret, nonce = secrets.token_bytes(SECRET), secrets.token_bytes(SECRET)
        credential = tpm_credential.make(endorsement, attestation.name, secret)
        selection = f"{self._policy.bank}:{','.join(map(str, self._policy.pcrs))}"
        question = {
            "credential": _encoded(credential.blob),
            "secret": _encoded(credential.secret),
            "nonce": _encoded(nonce),
            "pcrs": selection,
        }
        what = "challenge response"
        response = _document(await challenge(json.dumps(question).encode()), what)
        # (1): one TPM holds both keys.
        if not hmac.compare_digest(_decoded(response, "secret", what), secret):
            raise NodeRejectedError("challenge response has another secret")
        # (2): the attestation key signed the quote, which it does only for what its TPM made.
        quoted = _decoded(response, "quote", what)
        tpm.verify_signature(attestation.key, _decoded(response, "signature", what), quoted)
        # (3): it is of now, and of the registers that were asked for.
        quote = tpm.quote(quoted)
        if not hmac.compare_digest(quote.nonce, nonce):
            raise NodeRejectedError("quote is over another nonce")
        if (quote.bank, quote.pcrs) != (self._policy.bank, self._policy.pcrs):
            raise NodeRejectedError("quote is of other registers")
        # (4): their contents are those that it is over, and the policy has them.
        return _registers(_decoded(response, "pcrs", what), quote.digest, self._policy)


def _registers(contents: bytes, digest: bytes, policy: Policy) -> set[Selector]:
    size = _SIZES[policy.bank]
    if len(contents) != size * len(policy.pcrs) or hashlib.sha256(contents).digest() != digest:
        raise NodeRejectedError("quote is over other contents of the registers")
    found = set()
    for position, pcr in enumerate(policy.pcrs):
        content = contents[position * size : (position + 1) * size]
        if pcr in policy.allowed and content not in policy.allowed[pcr]:
            raise NodeRejectedError(f"register {pcr} has {content.hex()}, which pcr_digests does not have")
        found.add(Selector(TYPE, f"pcr:{policy.bank}:{pcr}:{content.hex()}"))
    return found


def _judge(der: bytes, endorsement: tpm.Public, authorities: list[x509.Certificate]) -> set[Selector]:
    """Return the selectors of an endorsement key's certificate, or raise on the first rule that it breaks."""
    if not authorities:
        raise NodeRejectedError("endorsement key is not in ek_hashes, and there is no ek_ca_path")
    try:
        certificate = load_certificate(der)
        check_strength(certificate)  # sizes are judged before anything is verified
        if certificate.public_key() != endorsement.key:
            raise NodeRejectedError("certificate is of another endorsement key")
        _check_purpose(certificate)
        # RFC 5280 rather than the web's rules: these certificates may name no subject, and none has a host.
        permit, any_case = verification.ExtensionPolicy.permit_all, verification.Criticality.AGNOSTIC
        ca_policy = permit().require_present(x509.BasicConstraints, any_case, None)
        (
            verification.PolicyBuilder()
            .store(verification.Store(authorities))
            .time(datetime.now(UTC))
            .max_chain_depth(0)
            .extension_policies(ca_policy=ca_policy, ee_policy=permit())
            .build_client_verifier()
            .verify(certificate, [])
        )
        return _manufacturer(certificate)
    except verification.VerificationError as error:
        raise NodeRejectedError(f"no authority of ek_ca_path signed the certificate: {error}") from error
    except SpiffeError as error:
        raise NodeRejectedError(f"endorsement key's {error}") from error


def _check_purpose(certificate: x509.Certificate) -> None:
    """Refuse a certificate that is an authority's, or for another purpose than an endorsement key's."""
    for extension in certificate.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise NodeRejectedError("certificate is a signing certificate")
            case x509.ExtendedKeyUsage() as purposes if _EK_PURPOSE not in purposes:
                raise NodeRejectedError("certificate is not for an endorsement key")


def _manufacturer(certificate: x509.Certificate) -> set[Selector]:
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    names = [name for directory in san.get_values_for_type(x509.DirectoryName) for name in directory]
    values = [str(name.value) for name in names if name.oid == _MANUFACTURER]
    if len(values) == 1 and re.fullmatch(r"id:[0-9A-Fa-f]{8}", values[0]):
        return {Selector(TYPE, f"manufacturer:{values[0][3:].upper()}")}
    return set()


def _document(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MAX_PAYLOAD:
        raise NodeRejectedError(f"{what} is too large")
    try:
        document = json.loads(data)
        document.items()
    except _MALFORMED as error:
        raise NodeRejectedError(f"{what} is malformed") from error
    return document  # type: ignore[no-any-return]


def _decoded(document: dict[str, Any], field: str, what: str) -> bytes:
    try:
        return base64.b64decode(document[field], validate=True)
    except _MALFORMED as error:
        raise NodeRejectedError(f"{what} has no {field}") from error


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _policy(config: Config) -> Policy:
    size = _SIZES.get(config.pcr_bank)
    if size is None:
        raise ConfigError(f"pcr_bank: {config.pcr_bank!r} is none of {', '.join(_SIZES)}")
    pcrs = tuple(sorted(set(config.pcrs)))
    if not pcrs or not all(0 <= pcr < tpm.PCRS for pcr in pcrs):
        raise ConfigError(f"pcrs: needs numbers from 0 to {tpm.PCRS - 1}")
    allowed = {}
    for pcr, digests in config.pcr_digests.items():
        if pcr not in map(str, pcrs):
            raise ConfigError(f"pcr_digests: register {pcr!r} is not in pcrs")
        if not all(re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", digest) for digest in digests):
            raise ConfigError(f"pcr_digests: register {pcr} needs digests of {size} bytes in lowercase hex")
        allowed[int(pcr)] = frozenset(map(bytes.fromhex, digests))
    return Policy(config.pcr_bank, pcrs, allowed)


def create(config: Config) -> TpmEkVerifier:
    """Make the verifier of a configuration table."""
    if not config.ek_hashes and config.ek_ca_path is None:
        raise ConfigError("ek_ca_path or ek_hashes is needed: nothing else says which TPMs are good")
    for digest in config.ek_hashes:
        if not _HASH.fullmatch(digest):
            raise ConfigError(f"ek_hashes: {digest[:80]!r} is no SHA-256 in lowercase hex")
    authorities = []
    if config.ek_ca_path is not None:
        try:
            ders = certificates_from_pem(config.ek_ca_path.read_bytes())
            authorities = [load_certificate(der) for der in ders]
        except OSError as error:
            raise ConfigError(f"ek_ca_path: {config.ek_ca_path}: {error.strerror}") from error
        except SpiffeError as error:
            raise ConfigError(f"ek_ca_path: {config.ek_ca_path}: {error}") from error
    return TpmEkVerifier(authorities, frozenset(config.ek_hashes), _policy(config))
