# SPDX-License-Identifier: Apache-2.0
"""Who may sign images: by a certificate that names them exactly, or by their key."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from attestor.errors import SignatureRejectedError
from attestor.workload.image_statements import PAYLOAD_TYPE
from spiffekit.daemon.config import ConfigError
from spiffekit.errors import UnsupportedKeyError
from spiffekit.keys import PublicKey, check_public_key

MAX_SIGNERS: Final = 64  # each is tried
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_SHA256: Final = hashes.SHA256()

Level = Annotated[int, msgspec.Meta(ge=1, le=3)]
"""A build level of SLSA; 0 would say nothing."""


class Signer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[workload_attestor.NAME.signatures.signers.SIGNER]``.

    Attributes:
        issuer: Who vouches for the signer: the OIDC issuer that its certificate names.
        subject: Whom the certificate names: a URI or an e-mail address, exactly.
        subject_regexp: Instead of it: a regular expression that the whole subject has to match.
        public_key: Instead of these three: a file with the signer's public key (PEM).
        slsa_level: The SLSA build level, 1 to 3, of what it builds itself: of provenance whose builder is the
            subject of its certificate.
        builders: The IDs of other builders that it may speak for, each with its SLSA build level.
    """

    issuer: str = ""
    subject: str = ""
    subject_regexp: str = ""
    public_key: Path | None = None
    slsa_level: Level | None = None
    builders: dict[str, Level] = {}

    def is_named_by(self, issuer: str, subject: str) -> bool:
        """Tell whether a certificate with these names is the signer's."""
        if self.public_key is not None or issuer != self.issuer:
            return False
        if self.subject:
            return subject == self.subject
        return re.fullmatch(self.subject_regexp, subject) is not None

    def level(self, builder: str, subject: str) -> int | None:
        """Return the level of a builder that it may speak for; None if it may not.

        Args:
            builder: The builder's ID, as the provenance has it.
            subject: Of the certificate that the provenance was signed with; "" for a key.
        """
        if builder in self.builders:
            return self.builders[builder]
        return self.slsa_level if builder == subject else None


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement, and by whom it was signed.

    Attributes:
        payload: The statement, JSON.
        signers: Their names in the configuration: of one certificate it may be several.
        subject: Whom the certificate names; "" for a key.
        repository: What the certificate says of the source, a URL; "" if it says nothing.
        details: Kinds of selectors and their values, of the signature, the certificate and the log.
    """

    payload: bytes
    signers: frozenset[str]
    subject: str = ""
    repository: str = ""
    details: tuple[tuple[str, str], ...] = ()


class Signature(msgspec.Struct, frozen=True):
    """Of an envelope."""

    sig: bytes


class Envelope(msgspec.Struct, frozen=True, rename="camel"):
    """A DSSE envelope (version 1.0.2)."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]


class KeyHolders:
    """Signers by key. Their signatures need no log: a key that is not to be believed is taken out."""

    def __init__(self, keys: Mapping[str, PublicKey]) -> None:
        self._keys = keys

    @classmethod
    def of(cls, signers: Mapping[str, Signer]) -> "KeyHolders":
        """Read the keys of those signers that have one.

        Raises:
            ConfigError: One cannot be read, or is of no kind that we verify with.
        """
        paths = {name: signer.public_key for name, signer in signers.items() if signer.public_key is not None}
        return cls({name: _load(f"signers.{name}.public_key", path) for name, path in paths.items()})

    def verify(self, envelope: Envelope) -> Signed:
        """Return what an envelope says.

        Raises:
            SignatureRejectedError: Not exactly one signature, or by nobody known, or of something else.
        """
        if envelope.payload_type != PAYLOAD_TYPE:
            raise SignatureRejectedError("is no envelope of an in-toto statement")
        if len(envelope.signatures) != 1:
            raise SignatureRejectedError("has not exactly one signature")
        signature, message = envelope.signatures[0].sig, pae(envelope)
        for name, key in self._keys.items():
            try:
                _verify(key, signature, message)
            except InvalidSignature:
                continue
            return Signed(envelope.payload, frozenset({name}))
        raise SignatureRejectedError("is signed by no key that is known")


def pae(envelope: Envelope) -> bytes:
    """Return the bytes that are signed (DSSE, "pre-authentication encoding")."""
    kind, body = envelope.payload_type.encode(), envelope.payload
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def problems(signers: Mapping[str, Signer]) -> Iterator[str]:
    """Return what is wrong with signers, each as ``key: rule``."""
    if not 0 < len(signers) <= MAX_SIGNERS:
        yield f"signers: from 1 to {MAX_SIGNERS} are needed, not {len(signers)}"
    for name, signer in signers.items():
        if not _NAME.fullmatch(name):
            yield f"signers: {name!r} is no name: use 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-'"
        yield from (f"signers.{name}.{problem}" for problem in _problems(signer))


def _problems(signer: Signer) -> Iterator[str]:
    if "" in signer.builders:
        yield "builders: an ID cannot be empty"
    if signer.public_key is not None:
        others = ("issuer", "subject", "subject_regexp", "slsa_level")
        yield from (f"{name}: cannot be given with public_key" for name in others if getattr(signer, name))
        return
    if not signer.issuer:
        yield "issuer: is required without public_key"
    if bool(signer.subject) == bool(signer.subject_regexp):
        yield "subject: exactly one of subject and subject_regexp is needed without public_key"
    try:
        re.compile(signer.subject_regexp)
    except re.error as error:
        yield f"subject_regexp: {error}"


def _load(where: str, path: Path) -> PublicKey:
    try:
        key = check_public_key(serialization.load_pem_public_key(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from error
    except (ValueError, UnsupportedKeyError) as error:
        raise ConfigError(f"{where}: not a PEM public key of a kind that is supported") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{where}: of elliptic curves only P-256 is supported")
    return key


def _verify(key: PublicKey, signature: bytes, message: bytes) -> None:
    match key:
        case ec.EllipticCurvePublicKey():
            key.verify(signature, message, ec.ECDSA(_SHA256))
        case rsa.RSAPublicKey():
            key.verify(signature, message, padding.PKCS1v15(), _SHA256)
        case ed25519.Ed25519PublicKey():  # pragma: no branch - the last kind there is, mypy checks
            key.verify(signature, message)
