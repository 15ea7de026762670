# SPDX-License-Identifier: Apache-2.0
"""Bundles that were signed with a certificate of a Sigstore instance, verified without asking anybody.

The `sigstore` package does it; it costs 20 MiB and is loaded only where it is needed. Of a bundle it checks

1. a time, vouched for by the log's entry timestamp or a timestamp authority,
2. that the certificate was issued by a trusted authority and valid then, and
3. that a certificate log has it;
4. the purpose of the certificate, and here: that it is a configured signer's;
5. that the log has the entry: inclusion proof, checkpoint, and the entry timestamp if there is one;
6. the signature of the envelope; and
7. that the log's entry is of this envelope and certificate.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import msgspec
from cryptography import x509
from cryptography.hazmat import asn1
from sigstore.errors import Error, VerificationError
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier

from attestor.errors import SignatureRejectedError
from attestor.workload.image_signers import Envelope, Signed, Signer
from attestor.workload.image_statements import PAYLOAD_TYPE
from spiffekit.daemon.config import ConfigError

MAX_REASON: Final = 200  # characters of the library's reason, which may quote at length
# Extensions of Fulcio's certificates.
_ISSUER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_ISSUER_V1: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")  # a bare string, of old certificates
_REPOSITORY: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.12")


class _LogId(msgspec.Struct, frozen=True, rename="camel"):
    key_id: bytes


class _Promise(msgspec.Struct, frozen=True, rename="camel"):
    signed_entry_timestamp: bytes


class _Entry(msgspec.Struct, frozen=True, rename="camel"):
    log_index: str
    log_id: _LogId
    integrated_time: str = ""
    inclusion_promise: _Promise | None = None


class _Material(msgspec.Struct, frozen=True, rename="camel"):
    tlog_entries: tuple[_Entry]


class _Bundle(msgspec.Struct, frozen=True, rename="camel"):
    verification_material: _Material
    dsse_envelope: Envelope


class Sigstore:
    """Signers by certificate, under one trusted root."""

    def __init__(self, trusted_root: TrustedRoot, signers: Mapping[str, Signer]) -> None:
        self._verifier = Verifier(trusted_root=trusted_root)
        self._signers = signers

    @classmethod
    def load(cls, path: Path, signers: Mapping[str, Signer]) -> Self:
        """Read the trusted root.

        Raises:
            ConfigError: It cannot be read, or holds no authority, log or certificate log.
        """
        try:
            return cls(TrustedRoot.from_file(str(path)), signers)
        except OSError as error:
            raise ConfigError(f"trusted_root: {error.strerror}") from error
        except (Error, ValueError) as error:
            raise ConfigError("trusted_root: is no trusted root of a Sigstore instance") from error

    def verify(self, bundle_json: bytes) -> Signed:
        """Return what a bundle says.

        Raises:
            SignatureRejectedError: A step failed, or the signer is not configured.
        """
        whose = _Whose(self._signers)
        try:
            bundle = Bundle.from_json(bundle_json)
            kind, payload = self._verifier.verify_dsse(bundle, whose)
        except Error as error:
            raise SignatureRejectedError(_reason(error)) from error
        except Exception as error:  # what the library raises of malformed input is of any class
            raise SignatureRejectedError(f"is malformed ({type(error).__name__})") from error
        if kind != PAYLOAD_TYPE:
            raise SignatureRejectedError("is no envelope of an in-toto statement")
        # Written anew, so that it is the very document that was verified, however the first was spelt.
        verified = msgspec.json.decode(bundle.to_json(), type=_Bundle)
        return Signed(payload, whose.names, whose.subject, whose.repository, _details(verified, whose))


class _Whose:
    """The policy of the verification: the certificate is that of a configured signer."""

    def __init__(self, signers: Mapping[str, Signer]) -> None:
        self._signers = signers
        self.names: frozenset[str] = frozenset()
        self.issuer = self.subject = self.repository = ""

    def verify(self, cert: x509.Certificate) -> None:
        """Find out whose it is.

        Raises:
            VerificationError: Nobody's who is configured.
        """
        names = list(cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier | x509.RFC822Name):
            raise VerificationError("certificate names not exactly one URI or e-mail address")
        self.subject = names[0].value
        self.issuer = _text(cert, _ISSUER) or _extension(cert, _ISSUER_V1).decode("utf-8")
        self.repository = _text(cert, _REPOSITORY)
        signers = self._signers.items()
        self.names = frozenset(n for n, one in signers if one.is_named_by(self.issuer, self.subject))
        if not self.names:
            raise VerificationError(f"{self.subject!r} of {self.issuer!r} is no signer that is configured")


def _extension(cert: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes:
    for extension in cert.extensions:
        if extension.oid == oid and isinstance(extension.value, x509.UnrecognizedExtension):
            return extension.value.value
    return b""


def _text(cert: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    """Return the value of an extension that holds a DER-encoded string; "" if there is none."""
    der = _extension(cert, oid)
    return asn1.decode_der(str, der) if der else ""


def _details(bundle: _Bundle, whose: _Whose) -> tuple[tuple[str, str], ...]:
    """Return what SPIRE states of a signature; of the log only what its entry timestamp vouches for."""
    found = [
        ("image-signature-subject", whose.subject),
        ("image-signature-issuer", whose.issuer),
        ("image-signature-value", _base64(bundle.dsse_envelope.signatures[0].sig)),
    ]
    (entry,) = bundle.verification_material.tlog_entries
    if entry.inclusion_promise is not None and entry.integrated_time:
        found += [
            ("image-signature-log-id", entry.log_id.key_id.hex()),
            ("image-signature-log-index", entry.log_index),
            ("image-signature-integrated-time", entry.integrated_time),
            (
                "image-signature-signed-entry-timestamp",
                _base64(entry.inclusion_promise.signed_entry_timestamp),
            ),
        ]
    return tuple(found)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _reason(error: Error) -> str:
    """Return the first line, bounded: what follows may quote the bundle."""
    lines = str(error).splitlines()
    return lines[0][:MAX_REASON] if lines else type(error).__name__
