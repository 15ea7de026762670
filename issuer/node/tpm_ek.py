# SPDX-License-Identifier: Apache-2.0
"""A TPM 2.0 proves its machine: a known endorsement key, an attestation key beside it, and a fresh quote.

One round: the node sends both keys. It gets a secret that only a TPM with both can open, and a nonce; it
answers with the secret and with a quote of its registers over the nonce, signed by the attestation key.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node import Challenge, NodeContext, NodeProof, payloads, tpm, tpm_certificate, tpm_credential
from issuer.node.chains import Authorities, read_authorities
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import Selector

TYPE: Final = "tpm_ek"
SECRET: Final = 32  # bytes of the secret and of the nonce
_SIZES: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}  # bytes of a register, by bank
_HASH: Final = re.compile(r"[0-9a-f]{64}")


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


class Payload(msgspec.Struct, frozen=True):
    """What a node sends first: TPM2B_PUBLIC of both keys, and DER."""

    ek_public: bytes
    ak_public: bytes
    ek_certificate: bytes = b""


class Question(msgspec.Struct, frozen=True):
    """What it is asked: a TPM2B_ID_OBJECT, its TPM2B_ENCRYPTED_SECRET, and a bank with its registers."""

    credential: bytes
    secret: bytes
    nonce: bytes
    pcrs: str


class Response(msgspec.Struct, frozen=True):
    """What it answers: the secret, a TPMS_ATTEST, its TPMT_SIGNATURE, and the contents of the registers."""

    secret: bytes
    quote: bytes
    signature: bytes
    pcrs: bytes


class TpmEkVerifier:
    """See the module."""

    def __init__(self, authorities: Authorities | None, hashes: frozenset[str], policy: Policy) -> None:
        self._authorities = authorities
        self._hashes = hashes
        self._policy = policy

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Verify whose TPM it is, that both keys are in it, and what its registers have."""
        sent = payloads.read(payload, Payload, "payload")
        endorsement = tpm.endorsement_key(tpm.unsized(sent.ek_public, "endorsement key"))
        attestation = tpm.attestation_key(tpm.unsized(sent.ak_public, "attestation key"))
        fingerprint = hashlib.sha256(endorsement.area).hexdigest()
        found = {Selector(TYPE, f"ek-hash:{fingerprint}")}
        if maker := self._maker(sent.ek_certificate, endorsement, known=fingerprint in self._hashes):
            found.add(Selector(TYPE, f"manufacturer:{maker}"))
        found |= await self._prove(endorsement, attestation, challenge)
        return NodeProof(
            context.node_id(f"/{TYPE}/{fingerprint}"),
            frozenset(found),
            can_reattest=True,
            level=AttestationLevel.TPM,
        )

    def _maker(self, der: bytes, endorsement: tpm.Public, *, known: bool) -> str | None:
        """Return who made the TPM; the certificate of a key in our list counts only if it is good."""
        try:
            if self._authorities is None:
                raise NodeRejectedError("endorsement key is not in ek_hashes, and there is no ek_ca_path")
            if not der:
                raise NodeRejectedError("endorsement key has no certificate and is not in ek_hashes")
            return tpm_certificate.manufacturer(tpm_certificate.verify(der, endorsement, self._authorities))
        except NodeRejectedError:
            if known:
                return None
            raise

    async def _prove(
        self, endorsement: tpm.Public, attestation: tpm.Public, challenge: Challenge
    ) -> set[Selector]:
        secret, nonce = secrets.token_bytes(SECRET), secrets.token_bytes(SECRET)
        credential = tpm_credential.make(endorsement, attestation.name, secret)
        selection = f"{self._policy.bank}:{','.join(map(str, self._policy.pcrs))}"
        question = Question(credential.blob, credential.secret, nonce, selection)
        answer = payloads.read(await challenge(msgspec.json.encode(question)), Response, "challenge response")
        # (1): one TPM holds both keys.
        if not hmac.compare_digest(answer.secret, secret):
            raise NodeRejectedError("challenge response has another secret")
        # (2): the attestation key signed the quote, which it does only for what its TPM made.
        tpm.verify_signature(attestation.key, answer.signature, answer.quote)
        # (3): it is of now, and of the registers that were asked for.
        quote = tpm.quote(answer.quote)
        if not hmac.compare_digest(quote.nonce, nonce):
            raise NodeRejectedError("quote is over another nonce")
        if (quote.bank, quote.pcrs) != (self._policy.bank, self._policy.pcrs):
            raise NodeRejectedError("quote is of other registers")
        # (4): their contents are those that it is over, and the policy has them.
        return _registers(answer.pcrs, quote.digest, self._policy)


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
    authorities = None
    if config.ek_ca_path is not None:
        # Without intermediates: those who sign these certificates are to be named themselves.
        authorities = Authorities(read_authorities(config.ek_ca_path, "ek_ca_path"), intermediates=0)
    return TpmEkVerifier(authorities, frozenset(config.ek_hashes), _policy(config))
