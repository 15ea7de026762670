# SPDX-License-Identifier: Apache-2.0
"""A device identity (IEEE 802.1AR) proves its machine: its key is in a TPM 2.0 of a maker that we know.

SPIRE's payloads. One round: the node sends its DevID certificate, its endorsement and attestation keys, and
what the attestation key certifies of the DevID key. It gets a nonce to sign with the DevID key, and a secret
that only a TPM with endorsement and attestation key can open.
"""

import hmac
import secrets
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography import x509

from issuer.errors import NodeRejectedError
from issuer.model import AttestationLevel
from issuer.node import (
    Challenge,
    NodeContext,
    NodeProof,
    chains,
    payloads,
    tpm,
    tpm_certificate,
    tpm_credential,
)
from issuer.node.chains import MAX_INTERMEDIATES, Authorities, read_authorities
from spiffekit.certificates import load_certificate, public_key_of
from spiffekit.errors import SpiffeError

TYPE: Final = "tpm_devid"
SECRET: Final = 32  # bytes of the secret and of the nonce


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.tpm_devid]``.

    Attributes:
        devid_ca_path: PEM file of the authorities that vouch for DevID certificates.
        endorsement_ca_path: PEM file of the authorities that sign endorsement key certificates themselves,
            which are mostly a manufacturer's intermediates.
    """

    devid_ca_path: Path
    endorsement_ca_path: Path


class Payload(msgspec.Struct, frozen=True):
    """What a node sends first: DER, TPMT_PUBLIC, a TPMS_ATTEST and its TPMT_SIGNATURE."""

    chain: Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=1 + MAX_INTERMEDIATES)] = (
        msgspec.field(name="DevIDCert")
    )
    device: bytes = msgspec.field(name="DevIDPub")
    endorsement_certificate: bytes = msgspec.field(name="EKCert")
    endorsement: bytes = msgspec.field(name="EKPub")
    attestation: bytes = msgspec.field(name="AKPub")
    certification: bytes = msgspec.field(name="CertifiedDevID")
    signature: bytes = msgspec.field(name="CertificationSignature")


class Response(msgspec.Struct, frozen=True):
    """What it answers: the signature over the nonce, DER if it is of an elliptic curve, and the secret."""

    signature: bytes = msgspec.field(name="DevID")
    secret: bytes = msgspec.field(name="CredActivation")


class TpmDevIdVerifier:
    """See the module."""

    def __init__(self, devices: Authorities, endorsements: Authorities) -> None:
        self._devices = devices
        self._endorsements = endorsements

    async def verify(self, payload: bytes, challenge: Challenge, context: NodeContext) -> NodeProof:
        """Verify whose machine it is, and that its key is in a TPM that was made by whom we know.

        1. An authority vouches for the DevID certificate.
        2. A maker vouches for the endorsement key.
        3. The attestation key signs only what its TPM made, and certifies that the DevID key is in there too
           and cannot leave.
        4. The certificate is of that DevID key.
        5. The TPM with the attestation key is the one with the endorsement key.
        6. The node can use the DevID key now.
        """
        sent = payloads.read(payload, Payload, "payload")
        chain = self._vouched(sent.chain)  # (1)
        endorsement = tpm.endorsement_key(sent.endorsement)
        tpm_certificate.verify(sent.endorsement_certificate, endorsement, self._endorsements)  # (2)
        attestation, device = tpm.attestation_key(sent.attestation), tpm.device_key(sent.device)
        tpm.verify_signature(attestation.key, sent.signature, sent.certification)  # (3)
        if tpm.certified_name(sent.certification) != device.name:
            raise NodeRejectedError("certification is of another DevID key")
        if public_key_of(chain[0]) != device.key:  # (4)
            raise NodeRejectedError("DevID certificate is of another DevID key")
        await _prove(endorsement, attestation, device, challenge)  # (5), (6)
        found = chains.selectors(TYPE, chain) | chains.common_name(TYPE, "issuer", chain[0].issuer)
        return NodeProof(
            context.node_id(f"/{TYPE}/{chains.fingerprint(chain[0])}"),
            frozenset(found),
            can_reattest=True,
            level=AttestationLevel.TPM,
        )

    def _vouched(self, ders: tuple[bytes, ...]) -> list[x509.Certificate]:
        try:
            leaf, *intermediates = map(load_certificate, ders)
        except SpiffeError as error:
            raise NodeRejectedError(f"DevIDCert: {error}") from error
        for extension in leaf.extensions:
            if isinstance(extension.value, x509.KeyUsage) and not extension.value.digital_signature:
                raise NodeRejectedError("DevID certificate's key usage lacks digitalSignature")
        return self._devices.verify(leaf, intermediates)


async def _prove(
    endorsement: tpm.Public, attestation: tpm.Public, device: tpm.Public, challenge: Challenge
) -> None:
    secret, nonce = secrets.token_bytes(SECRET), secrets.token_bytes(SECRET)
    credential = tpm_credential.make(endorsement, attestation.name, secret)
    # SPIRE's challenge has both parts of the credential without their sizes.
    activation = {"Credential": credential.blob[2:], "Secret": credential.secret[2:]}
    question = msgspec.json.encode({"DevID": nonce, "CredActivation": activation})
    answer = payloads.read(await challenge(question), Response, "challenge response")
    if not hmac.compare_digest(answer.secret, secret):
        raise NodeRejectedError("challenge response has another secret")
    tpm.verify(device.key, answer.signature, nonce, "DevID key")


def create(config: Config) -> TpmDevIdVerifier:
    """Make the verifier of a configuration table."""
    return TpmDevIdVerifier(
        Authorities(read_authorities(config.devid_ca_path, "devid_ca_path")),
        # Without intermediates: those who sign these certificates are to be named themselves.
        Authorities(read_authorities(config.endorsement_ca_path, "endorsement_ca_path"), intermediates=0),
    )
