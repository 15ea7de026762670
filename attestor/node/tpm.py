# SPDX-License-Identifier: Apache-2.0
"""This machine's TPM 2.0, driven by the commands of tpm2-tools, each attestation step in a folder of its own.

What a TPM saves of its keys between the steps only it can read; the folder is gone after the step.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from attestor.errors import NodeAttestationError
from attestor.node import read_file
from spiffekit.daemon.config import ConfigError

COMMANDS: Final = (
    *("createek", "createak", "nvread", "startauthsession"),
    *("policysecret", "activatecredential", "flushcontext"),
)
PATIENCE: Final = 60  # seconds for one command; a slow TPM takes many to make an RSA key
MAX_FILE: Final = 8 * 1024  # bytes that a command leaves us
MAX_CHALLENGE: Final = 32 * 1024  # bytes
# Where the certificates of the default endorsement keys are (TCG EK Credential Profile, section 2.2.1.4).
_CERTIFICATE: Final = {"rsa": "0x01c00002", "ecc": "0x01c0000a"}
_SCHEME: Final = {"rsa": "rsassa", "ecc": "ecdsa"}
_CREDENTIAL: Final = bytes.fromhex("badcc0de00000001")  # how a credential begins in a file of tpm2-tools
Form = TypeVar("Form")


class Tpm:
    """The TPM, and the folder in which commands leave what they make."""

    def __init__(
        self, folder: Path, tcti: str, endorsement_password: Path | None = None, *, patience: float = PATIENCE
    ) -> None:
        self._folder = folder
        self._patience = patience
        self._environment = {"PATH": os.environ.get("PATH", os.defpath), "TPM2TOOLS_TCTI": tcti}
        self._endorsement = password("-P", endorsement_password)

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
                async with asyncio.timeout(self._patience):
                    status = await process.wait()
            except TimeoutError as error:
                raise NodeAttestationError(
                    f"tpm2_{command} took more than {self._patience} seconds"
                ) from error
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

    def write(self, name: str, content: bytes) -> None:
        """Leave something for a command."""
        (self._folder / name).write_bytes(content)

    async def make_keys(self, kind: str) -> None:
        """Make the endorsement key and a new attestation key: ``ek.ctx``, ``ek.pub``, ``ak.ctx``, ``ak.pub``.

        Args:
            kind: `rsa` or `ecc`.
        """
        await self.run("createek", *self._endorsement, "-G", kind, "-c", "ek.ctx", "-u", "ek.pub")
        await self.run(
            *("createak", *self._endorsement, "-C", "ek.ctx", "-c", "ak.ctx", "-u", "ak.pub"),
            *("-G", kind, "-g", "sha256", "-s", _SCHEME[kind]),
        )

    async def certificate(self, kind: str) -> bytes:
        """Return the endorsement key's certificate, DER, or nothing if the TPM has none."""
        index = _CERTIFICATE[kind]
        try:
            await self.run("nvread", "-C", index, "-o", "certificate", index)
        except NodeAttestationError:
            return b""  # whether it needs one is the issuer's decision
        certificate = self.read("certificate")
        return certificate[: 4 + int.from_bytes(certificate[2:4])]  # what follows the DER pads the index

    async def open(self, credential: bytes, secret: bytes) -> bytes:
        """Return what a credential protects: only this TPM can, with both keys that it is for.

        Args:
            credential: TPM2B_ID_OBJECT.
            secret: TPM2B_ENCRYPTED_SECRET.
        """
        self.write("credential", _CREDENTIAL + credential + secret)
        await self.run("startauthsession", "--policy-session", "-S", "session")
        try:
            await self.run("policysecret", "-S", "session", "-c", "endorsement", *self._endorsement[1:])
            await self.run(
                *("activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "credential"),
                *("-o", "secret", "-P", "session:session"),
            )
        finally:
            await self.run("flushcontext", "session")
        return self.read("secret")


def password(option: str, file: Path | None) -> tuple[str, ...]:
    """Return how a command is told a password in a file, which so appears in no list of processes."""
    return (option, f"file:{file.absolute()}") if file else ()


@contextlib.contextmanager
def machine(
    tcti: str, endorsement_password: Path | None = None, files: Mapping[str, bytes] | None = None
) -> Iterator[Tpm]:
    """Yield this machine's TPM with a new folder in which these files are."""
    with tempfile.TemporaryDirectory(prefix="attestor-tpm-") as name:  # only we may enter it
        tpm = Tpm(Path(name), tcti, endorsement_password)
        for file, content in (files or {}).items():
            tpm.write(file, content)
        yield tpm


def question(challenge: bytes, form: type[Form]) -> Form:
    """Read an issuer's challenge.

    Raises:
        NodeAttestationError: It is too large, or has another form.
    """
    if len(challenge) > MAX_CHALLENGE:
        raise NodeAttestationError("issuer's challenge is too large")
    try:
        return msgspec.json.decode(challenge, type=form)
    except (ValueError, RecursionError) as error:  # msgspec's errors, and bytes that are no UTF-8
        raise NodeAttestationError(f"issuer's challenge is malformed: {error}") from error


def need(attestor: str, *commands: str) -> None:
    """Check that tpm2-tools have the commands that all use, and these.

    Raises:
        ConfigError: They have not.
    """
    for command in (*COMMANDS, *commands):
        if not shutil.which(f"tpm2_{command}"):
            raise ConfigError(f"node attestor {attestor} needs tpm2-tools: tpm2_{command} is not installed")
