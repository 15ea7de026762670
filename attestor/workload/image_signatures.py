# SPDX-License-Identifier: Apache-2.0
"""Who signed an image, who attested it, and who built it from what: from bundles in a folder, offline.

For an image ``sha256:HEX`` the folder has a file ``sha256-HEX.jsonl`` with a Sigstore bundle in each line.
Whoever may write there can only withhold: a bundle counts by what is signed in it. A bundle that cannot be
believed is logged and says nothing; the others count still.
"""

import asyncio
import logging
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from attestor.errors import SignatureRejectedError
from attestor.workload import image_signers, image_statements
from attestor.workload.image_signers import Envelope, KeyHolders, Signed, Signer
from attestor.workload.image_statements import Statement
from attestor.workload.rootfs import opened
from spiffekit.daemon.config import ConfigError
from spiffekit.jwk import parse_json_object

logger = logging.getLogger(__name__)

MAX_FILE: Final = (
    4 * 1024 * 1024
)  # bytes; a bundle of provenance has about 10 KiB, one of an SBOM may have much
MAX_BUNDLE: Final = 1024 * 1024  # bytes; JSON is parsed in one piece, and holds up the daemon meanwhile
MAX_BUNDLES: Final = 32  # of one image; each costs some 6 ms to verify
MAX_REMEMBERED: Final = 1024  # images: a node runs some dozens
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[workload_attestor.NAME.signatures]``.

    Attributes:
        folder: Where bundles are, a file for each image: `sha256-HEX.jsonl`.
        signers: Who may sign, by the name that selectors have: tables of their own.
        trusted_root: The authorities and logs of the Sigstore instance (JSON), for signers by certificate.
    """

    folder: Path
    signers: dict[str, Signer]
    trusted_root: Path | None = None


class CertificateHolders(Protocol):
    """Verifies bundles that were signed with a certificate."""

    def verify(self, bundle_json: bytes) -> Signed:
        """Return what a bundle says.

        Raises:
            SignatureRejectedError: It cannot be believed, or the signer is not configured.
        """


@dataclass(frozen=True, slots=True, order=True)
class _Built:
    builder: str
    source: str
    level: int


@dataclass(frozen=True, slots=True)
class _Claims:
    """What the bundles of an image say: kinds of selectors with their values, and how it was built."""

    stated: frozenset[tuple[str, str]] = frozenset()
    built: frozenset[_Built] = frozenset()


_NONE: Final = _Claims()


@dataclass(frozen=True, slots=True)
class _Remembered:
    state: tuple[int, ...]  # of the file, or the error instead of one
    claims: _Claims


class ImageSignatures:
    """See the module."""

    def __init__(
        self,
        folder: Path,
        signers: Mapping[str, Signer],
        *,
        keys: KeyHolders,
        certificates: CertificateHolders | None,
    ) -> None:
        """Put it together.

        Args:
            folder: Where bundles are.
            signers: Who may sign, by name.
            keys: Verifies signatures by key.
            certificates: Verifies signatures by certificate; None if no signer has one.
        """
        self._folder = folder
        self._signers = signers
        self._keys = keys
        self._certificates = certificates
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        # One thread: what many ask for at once is verified once, and `_remembered` is its own.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="image-signatures")

    async def stated(self, digests: Iterable[str]) -> list[tuple[str, str]]:
        """Return what is known of an image, each as the kind of a selector with its colon, and the value.

        Args:
            digests: Of the image's manifest, and of indexes that name it: "sha256:…"; others are skipped.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._stated, tuple(digests))

    def _stated(self, digests: tuple[str, ...]) -> list[tuple[str, str]]:
        matches = map(_DIGEST.fullmatch, digests)
        claims = [self._claims(match[1]) for match in matches if match]
        stated = set().union(*(one.stated for one in claims))
        built = set().union(*(one.built for one in claims))
        if len(built) == 1:
            (only,) = built
            stated |= {("image-builder", only.builder), ("image-slsa-level", str(only.level))}
            stated |= {("image-source", only.source)} if only.source else set()
        elif built:
            # Otherwise the builder of one and the source of another could be taken for one build.
            logger.debug("provenances of an image disagree", extra={"images": digests})
        return sorted((f"{kind}:", value) for kind, value in stated)

    def _claims(self, hex_digest: str) -> _Claims:
        known = self._remembered.get(hex_digest)
        state: tuple[int, ...] = ()
        claims = _NONE
        try:
            with self._opened(hex_digest) as fd:
                info = os.fstat(fd)
                state = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
                if known is not None and known.state == state:
                    return known.claims
                claims = self._verified(hex_digest, _bundles(fd, info))
        except FileNotFoundError:
            self._remembered.pop(hex_digest, None)
            return _NONE
        except OSError as error:
            state = (error.errno or 0,)
            if known is None or known.state != state:
                _warn(hex_digest, f"file cannot be read: {error.strerror}")
        except SignatureRejectedError as error:
            _warn(hex_digest, str(error))
        self._remember(hex_digest, _Remembered(state, claims))
        return claims

    @contextmanager
    def _opened(self, hex_digest: str) -> Iterator[int]:
        """Hold an image's file open; links that lead out of the folder lead nowhere."""
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with opened(folder, f"sha256-{hex_digest}.jsonl") as fd:
                yield fd
        finally:
            os.close(folder)

    def _remember(self, hex_digest: str, found: _Remembered) -> None:
        self._remembered[hex_digest] = found
        self._remembered.move_to_end(hex_digest)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _verified(self, hex_digest: str, bundles: list[bytes]) -> _Claims:
        stated: set[tuple[str, str]] = set()
        built: set[_Built] = set()
        for number, bundle in enumerate(bundles, 1):
            try:
                signed = self._verify(bundle)
                statement = image_statements.parse(signed.payload, f"sha256:{hex_digest}", MAX_BUNDLE)
                built |= set(self._built(signed, statement))
                stated |= set(_said(signed, statement))
            except SignatureRejectedError as error:
                _warn(hex_digest, f"bundle {error}", number=number)
        return _Claims(frozenset(stated), frozenset(built))

    def _verify(self, bundle_json: bytes) -> Signed:
        try:
            document = parse_json_object(bundle_json, MAX_BUNDLE)
            material = document.get("verificationMaterial")
            if isinstance(material, dict) and "publicKey" in material:
                return self._keys.verify(msgspec.convert(document.get("dsseEnvelope"), Envelope))
        except ValueError as error:  # msgspec's errors as well; the reason may quote the file
            raise SignatureRejectedError("is no well-formed bundle") from error
        if self._certificates is None:
            raise SignatureRejectedError("is signed with a certificate, and no signer has one")
        return self._certificates.verify(bundle_json)

    def _built(self, signed: Signed, statement: Statement) -> Iterator[_Built]:
        provenance = statement.provenance
        if provenance is None:
            return
        if signed.repository and provenance.source not in (
            "",
            image_statements.repository(signed.repository),
        ):
            raise SignatureRejectedError("names another source than its certificate")
        levels = [self._signers[name].level(provenance.builder, signed.subject) for name in signed.signers]
        allowed = [level for level in levels if level is not None]
        if allowed:
            yield _Built(provenance.builder, provenance.source, min(allowed))


def _said(signed: Signed, statement: Statement) -> Iterator[tuple[str, str]]:
    if not statement.is_signature:
        yield "image-attestations", "verified"
        yield from (("image-attested-by", name) for name in signed.signers)
        return
    yield "image-signature", "verified"
    yield from (("image-signed-by", name) for name in signed.signers)
    yield from signed.details


def _bundles(fd: int, info: os.stat_result) -> list[bytes]:
    """Return the lines of a file that was opened without being read.

    Raises:
        SignatureRejectedError: It is no file, or too much.
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(info.st_mode):
        raise SignatureRejectedError("is no regular file")
    if info.st_size > MAX_FILE:
        raise SignatureRejectedError(f"file is larger than {MAX_FILE} bytes")
    with open(f"/proc/self/fd/{fd}", "rb") as file:  # noqa: PTH123 - a descriptor
        lines = [line for line in file.read(MAX_FILE).split(b"\n") if line.strip()]
    if len(lines) > MAX_BUNDLES:
        raise SignatureRejectedError(f"file has more than {MAX_BUNDLES} bundles")
    return lines


def _warn(hex_digest: str, reason: str, **more: Any) -> None:
    extra = {"image": f"sha256:{hex_digest}", "reason": reason, **more}
    logger.warning("image signature is not believed", extra=extra)


def create(config: Config | None) -> ImageSignatures | None:
    """Make it of its configuration table; None without one.

    Raises:
        ConfigError: Something cannot be used.
    """
    if config is None:
        return None
    if found := list(_problems(config)):
        raise ConfigError(*(f"signatures.{one}" for one in found))
    try:
        keys = KeyHolders.of(config.signers)
        certificates = _certificates(config.trusted_root, config.signers) if config.trusted_root else None
    except ConfigError as error:
        raise ConfigError(*(f"signatures.{one}" for one in error.errors)) from error
    return ImageSignatures(config.folder, config.signers, keys=keys, certificates=certificates)


def _problems(config: Config) -> Iterator[str]:
    yield from image_signers.problems(config.signers)
    if not config.folder.is_dir():
        yield "folder: is no folder"
    if config.trusted_root is None and any(one.public_key is None for one in config.signers.values()):
        yield "trusted_root: is required for signers without public_key"


def _certificates(trusted_root: Path, signers: Mapping[str, Signer]) -> CertificateHolders:
    try:
        from attestor.workload.image_sigstore import Sigstore  # noqa: PLC0415 - 20 MiB that few need
    except ImportError as error:
        raise ConfigError("trusted_root: needs the extra `signatures` to be installed") from error
    return Sigstore.load(trusted_root, signers)
