# SPDX-License-Identifier: Apache-2.0
"""Proof by a device identity (IEEE 802.1AR): the key of this machine's certificate is in its TPM 2.0.

SPIRE's payloads. An attestation key beside the endorsement key certifies that the TPM has the key; the
issuer's secret opens only in the TPM with both; and the key signs the issuer's nonce.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec

from attestor.errors import NodeAttestationError
from attestor.node import read_file, tpm
from spiffekit.certificates import certificates_from_pem
from spiffekit.errors import SpiffeError

NONCE: Final = 32  # bytes
MAX_CERTIFICATES: Final = 64 * 1024  # bytes of the file
# The storage keys under which a DevID key of each kind is: templates H-1 and H-2 of the TCG's EK Credential
# Profile, which have an attribute more than what tpm2-tools make by themselves.
_STORAGE_KEY: Final = {b"\x00\x01": "rsa2048", b"\x00\x23": "ecc"}
_STORAGE_ATTRIBUTES: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
_KIND: Final = "rsa"  # of the endorsement and attestation keys: all that a SPIRE server knows


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.tpm_devid]``.

    Attributes:
        devid_cert_path: PEM file of the DevID certificate, intermediates after it.
        devid_priv_path: The private part of its key, as the TPM gave it out: only that TPM can read it.
        devid_pub_path: The public part of its key, as the TPM gave it out.
        tcti: Where the TPM is, as tpm2-tools spell it; the default is the kernel's resource manager.
        ek_certificate_path: DER file of the endorsement key's certificate; without it, the TPM is asked.
        devid_password_file: The password of the DevID key.
        owner_hierarchy_password_file: The password of the owner hierarchy.
        endorsement_hierarchy_password_file: The password of the endorsement hierarchy.
    """

    devid_cert_path: Path
    devid_priv_path: Path
    devid_pub_path: Path
    tcti: str = "device:/dev/tpmrm0"
    ek_certificate_path: Path | None = None
    devid_password_file: Path | None = None
    owner_hierarchy_password_file: Path | None = None
    endorsement_hierarchy_password_file: Path | None = None


class CredentialActivation(msgspec.Struct, frozen=True, rename="pascal"):
    """A TPMS_ID_OBJECT, and what the seed that protects it is encrypted to."""

    credential: bytes
    secret: bytes


class Question(msgspec.Struct, frozen=True):
    """What the issuer asks: to sign a nonce, and to open a secret."""

    nonce: bytes = msgspec.field(name="DevID")
    activation: CredentialActivation = msgspec.field(name="CredActivation")


class TpmDevId:
    """See the module. The files are read for each proof, so that a renewed certificate counts."""

    type = "tpm_devid"

    def __init__(self, config: Config) -> None:
        self._config = config
        self._contexts: dict[str, bytes] = {}

    async def payload(self) -> bytes:
        """Load the DevID key, and have a new attestation key certify that it is there.

        Raises:
            NodeAttestationError: The TPM or the files cannot be used.
        """
        config = self._config
        try:
            chain = certificates_from_pem(read_file(config.devid_cert_path, MAX_CERTIFICATES))
        except SpiffeError as error:
            raise NodeAttestationError(f"DevID certificate cannot be read: {error}") from error
        public, private = (
            _unsized(read_file(path, tpm.MAX_FILE))
            for path in (config.devid_pub_path, config.devid_priv_path)
        )
        with self._machine({"devid.pub": _sized(public), "devid.priv": _sized(private)}) as machine:
            await self._load(machine, public)
            await machine.make_keys(_KIND)
            await machine.run(
                *(
                    "certify",
                    "-c",
                    "devid.ctx",
                    *tpm.password("-P", config.devid_password_file),
                    "-C",
                    "ak.ctx",
                    "-g",
                    "sha256",
                ),
                *("-o", "certification", "-s", "signature"),
            )
            self._contexts = {file: machine.read(file) for file in ("ek.ctx", "ak.ctx", "devid.ctx")}
            path = config.ek_certificate_path
            document = {
                "DevIDCert": chain,
                "DevIDPub": public,
                "EKCert": read_file(path, tpm.MAX_FILE) if path else await machine.certificate(_KIND),
                "EKPub": _unsized(machine.read("ek.pub")),
                "AKPub": _unsized(machine.read("ak.pub")),
                "CertifiedDevID": machine.read("certification"),
                "CertificationSignature": machine.read("signature"),
            }
        return msgspec.json.encode(document)

    def _machine(self, files: dict[str, bytes]) -> AbstractContextManager[tpm.Tpm]:
        return tpm.machine(self._config.tcti, self._config.endorsement_hierarchy_password_file, files)

    async def _load(self, machine: tpm.Tpm, public: bytes) -> None:
        """Load the DevID key under the storage key of its kind."""
        kind = _STORAGE_KEY.get(public[:2])
        if kind is None:
            raise NodeAttestationError("DevID key is neither RSA nor of an elliptic curve")
        owner = tpm.password("-P", self._config.owner_hierarchy_password_file)
        await machine.run(
            *("createprimary", "-C", "owner", *owner, "-G", kind, "-a", _STORAGE_ATTRIBUTES, "-c", "srk.ctx")
        )
        await machine.run("load", "-C", "srk.ctx", "-u", "devid.pub", "-r", "devid.priv", "-c", "devid.ctx")

    async def respond(self, challenge: bytes) -> bytes:
        """Open the issuer's secret, and sign its nonce.

        Raises:
            NodeAttestationError: The challenge is malformed, or the TPM does not do it.
        """
        asked = tpm.question(challenge, Question)
        if len(asked.nonce) != NONCE:
            raise NodeAttestationError("issuer's challenge has a nonce of another length")
        with self._machine(self._contexts | {"nonce": asked.nonce}) as machine:
            secret = await machine.open(_sized(asked.activation.credential), _sized(asked.activation.secret))
            await machine.run(
                *(
                    "sign",
                    "-c",
                    "devid.ctx",
                    *tpm.password("-p", self._config.devid_password_file),
                    "-g",
                    "sha256",
                ),
                *("-f", "plain", "-o", "signed", "nonce"),
            )
            signature = machine.read("signed")
        return msgspec.json.encode({"DevID": signature, "CredActivation": secret})


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data


def _unsized(data: bytes) -> bytes:
    """Return a structure without its size, which tpm2-tools write to their files and SPIRE's tools do not."""
    return data[2:] if int.from_bytes(data[:2]) == len(data) - 2 else data


def create(config: Config) -> TpmDevId:
    """Make the attestor of a configuration table."""
    tpm.need(TpmDevId.type, "createprimary", "load", "certify", "sign")
    return TpmDevId(config)
