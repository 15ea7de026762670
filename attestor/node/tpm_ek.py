# SPDX-License-Identifier: Apache-2.0
"""Proof by this machine's TPM 2.0: endorsement key, a new attestation key, and a quote of its registers."""

import re
from pathlib import Path
from typing import Final, Literal

import msgspec

from attestor.errors import NodeAttestationError
from attestor.node import read_file, tpm

_REGISTERS: Final = re.compile(r"sha[0-9]{1,3}:[0-9]{1,2}(,[0-9]{1,2}){0,23}")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.tpm_ek]``.

    Attributes:
        tcti: Where the TPM is, as tpm2-tools spell it; the default is the kernel's resource manager.
        key: The kind of the endorsement key, `rsa` or `ecc`.
        ek_certificate_path: DER file of its certificate; without it, the TPM is asked for its own.
    """

    tcti: str = "device:/dev/tpmrm0"
    key: Literal["rsa", "ecc"] = "rsa"
    ek_certificate_path: Path | None = None


class Question(msgspec.Struct, frozen=True):
    """What the issuer asks: to open a secret, and to quote registers over a nonce."""

    credential: bytes
    secret: bytes
    nonce: bytes
    pcrs: str


class TpmEk:
    """See the module."""

    type = "tpm_ek"

    def __init__(self, config: Config) -> None:
        self._config = config
        self._contexts: dict[str, bytes] = {}

    async def payload(self) -> bytes:
        """Make an attestation key, and return both public keys.

        Raises:
            NodeAttestationError: The TPM cannot be used.
        """
        kind, path = self._config.key, self._config.ek_certificate_path
        with tpm.machine(self._config.tcti) as machine:
            await machine.make_keys(kind)
            self._contexts = {file: machine.read(file) for file in ("ek.ctx", "ak.ctx")}
            document = {
                "ek_public": machine.read("ek.pub"),
                "ak_public": machine.read("ak.pub"),
                "ek_certificate": read_file(path, tpm.MAX_FILE) if path else await machine.certificate(kind),
            }
        return msgspec.json.encode(document)

    async def respond(self, challenge: bytes) -> bytes:
        """Open the issuer's secret, and quote the registers that it asks for.

        Raises:
            NodeAttestationError: The challenge is malformed, or the TPM does not do it.
        """
        asked = tpm.question(challenge, Question)
        if not _REGISTERS.fullmatch(asked.pcrs) or not 0 < len(asked.nonce) <= 32:
            raise NodeAttestationError("issuer's challenge is malformed: pcrs or nonce")
        with tpm.machine(self._config.tcti, files=self._contexts) as machine:
            secret = await machine.open(asked.credential, asked.secret)
            await machine.run(
                *("quote", "-c", "ak.ctx", "-g", "sha256", "-l", asked.pcrs, "-q", asked.nonce.hex()),
                *("-m", "quote", "-s", "signature", "-o", "pcrs", "-F", "values"),
            )
            parts = {part: machine.read(part) for part in ("quote", "signature", "pcrs")}
        return msgspec.json.encode(parts | {"secret": secret})


def create(config: Config) -> TpmEk:
    """Make the attestor of a configuration table."""
    tpm.need(TpmEk.type, "quote")
    return TpmEk(config)
