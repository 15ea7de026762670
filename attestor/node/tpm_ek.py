# SPDX-License-Identifier: Apache-2.0
"""Proof by this machine's TPM 2.0: its endorsement key, a new attestation key, and a quote of its registers.

The TPM is driven by the commands of tpm2-tools, each within a folder of its own that is gone afterwards.
"""

import asyncio
import base64
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from attestor.errors import NodeAttestationError
from attestor.node import read_file
from spiffekit.daemon.config import ConfigError

COMMANDS: Final = (
    *("createek", "createak", "nvread", "startauthsession"),
    *("policysecret", "activatecredential", "quote", "flushcontext"),
)
PATIENCE: Final = 60  # seconds for one command; a slow TPM takes many to make an RSA key
MAX_FILE: Final = 8 * 1024  # bytes that a command leaves us
MAX_CHALLENGE: Final = 32 * 1024  # bytes
# Where the certificates of the default endorsement keys are (TCG EK Credential Profile, section 2.2.1.4).
_CERTIFICATE: Final = {"rsa": "0x01c00002", "ecc": "0x01c0000a"}
_SCHEME: Final = {"rsa": "rsassa", "ecc": "ecdsa"}
_MALFORMED: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


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


class TpmEk:
    """See the module. What a TPM saves of its keys between the calls only it can read."""

    type = "tpm_ek"

    def __init__(self, config: Config) -> None:
        self._config = config
        self._contexts: dict[str, bytes] = {}

    async def payload(self) -> bytes:
        """Make an attestation key, and return both public keys.

        Raises:
            NodeAttestationError: The TPM cannot be used.
        """
        kind = self._config.key
        with _folder() as name:
            tools = Tools(Path(name), self._config.tcti)
            await tools.run("createek", "-G", kind, "-c", "ek.ctx", "-u", "ek.pub")
            await tools.run(
                *("createak", "-C", "ek.ctx", "-c", "ak.ctx", "-u", "ak.pub"),
                *("-G", kind, "-g", "sha256", "-s", _SCHEME[kind]),
            )
            self._contexts = {file: tools.read(file) for file in ("ek.ctx", "ak.ctx")}
            document = {
                "ek_public": _encoded(tools.read("ek.pub")),
                "ak_public": _encoded(tools.read("ak.pub")),
                "ek_certificate": _encoded(await self._certificate(tools)),
            }
        return json.dumps(document).encode()

    async def _certificate(self, tools: "Tools") -> bytes:
        """Return the endorsement key's certificate, or nothing if the TPM has none."""
        if path := self._config.ek_certificate_path:
            return read_file(path, MAX_FILE)
        index = _CERTIFICATE[self._config.key]
        try:
            await tools.run("nvread", "-C", index, "-o", "certificate", index)
        except NodeAttestationError:
            return b""  # whether it needs one is the issuer's decision
        certificate = tools.read("certificate")
        return certificate[: 4 + int.from_bytes(certificate[2:4])]  # what follows the DER pads the index

    async def respond(self, challenge: bytes) -> bytes:
        """Open the issuer's secret, and quote the registers that it asks for.

        Raises:
            NodeAttestationError: The challenge is malformed, or the TPM does not do it.
        """
        credential, nonce, pcrs = _question(challenge)
        with _folder() as name:
            tools = Tools(Path(name), self._config.tcti)
            for file, content in (self._contexts | {"credential": credential}).items():
                (Path(name) / file).write_bytes(content)
            secret = await self._open(tools)
            await tools.run(
                *("quote", "-c", "ak.ctx", "-g", "sha256", "-l", pcrs, "-q", nonce.hex()),
                *("-m", "quote", "-s", "signature", "-o", "pcrs", "-F", "values"),
            )
            parts = {part: _encoded(tools.read(part)) for part in ("quote", "signature", "pcrs")}
        return json.dumps(parts | {"secret": _encoded(secret)}).encode()

    async def _open(self, tools: "Tools") -> bytes:
        await tools.run("startauthsession", "--policy-session", "-S", "session")
        try:
            await tools.run("policysecret", "-S", "session", "-c", "endorsement")
            await tools.run(
                *("activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential"),
                *("-o", "secret", "-P", "session:session"),
            )
        finally:
            await tools.run("flushcontext", "session")
        return tools.read("secret")


class Tools:
    """The commands of tpm2-tools, in a folder."""

    def __init__(self, folder: Path, tcti: str) -> None:
        self._folder = folder
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "TPM2TOOLS_TCTI": tcti}

    async def run(self, command: str, *arguments: str) -> None:
        """Run a command, and then have the TPM forget the keys that were loaded for it.

        Raises:
            NodeAttestationError: It fails, or takes too long.
        """
        await self._run(command, *arguments)
        if command != "flushcontext":  # a TPM without a resource manager has room for three keys
            await self._run("flushcontext", "--transient-object")

    async def _run(self, command: str, *arguments: str) -> None:
        with (self._folder / "messages").open("wb") as messages:
            process = await asyncio.create_subprocess_exec(
                *(f"tpm2_{command}", *arguments),
                cwd=self._folder,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=messages,
            )
            try:
                async with asyncio.timeout(PATIENCE):
                    status = await process.wait()
            except TimeoutError as error:
                raise NodeAttestationError(f"tpm2_{command} took more than {PATIENCE} seconds") from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if status:
            said = read_file(self._folder / "messages", MAX_FILE)[-200:].decode("utf-8", "replace").strip()
            raise NodeAttestationError(f"tpm2_{command} failed: {said!r}")

    def read(self, name: str) -> bytes:
        """Return what a command left in a file."""
        return read_file(self._folder / name, MAX_FILE)


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="attestor-tpm-")  # only we may enter it


def _question(challenge: bytes) -> tuple[bytes, bytes, str]:
    """Return a credential as tpm2-tools have it in a file, a nonce, and a selection of registers."""
    if len(challenge) > MAX_CHALLENGE:
        raise NodeAttestationError("issuer's challenge is too large")
    try:
        document: dict[str, Any] = json.loads(challenge)
        blob, secret, nonce = (
            base64.b64decode(document[field], validate=True) for field in ("credential", "secret", "nonce")
        )
        pcrs = re.fullmatch(r"sha[0-9]{1,3}:[0-9]{1,2}(,[0-9]{1,2}){0,23}", document["pcrs"])
    except _MALFORMED as error:
        raise NodeAttestationError("issuer's challenge is malformed") from error
    if pcrs is None or not 0 < len(nonce) <= 32:
        raise NodeAttestationError("issuer's challenge is malformed")
    return bytes.fromhex("badcc0de00000001") + blob + secret, nonce, pcrs[0]


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def create(config: Config) -> TpmEk:
    """Make the attestor of a configuration table."""
    if missing := [f"tpm2_{command}" for command in COMMANDS if not shutil.which(f"tpm2_{command}")]:
        raise ConfigError(f"node attestor tpm_ek needs tpm2-tools: {missing[0]} is not installed")
    return TpmEk(config)
