# SPDX-License-Identifier: Apache-2.0
"""What a signed in-toto statement says of an image: that it is signed, or how it was built (SLSA provenance).

Of a statement whose signature was verified. What a builder says of its own level is not read at all.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from attestor.errors import SignatureRejectedError
from spiffekit.jwk import parse_json_object

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
SIGNATURE: Final = "https://sigstore.dev/cosign/sign/v1"  # the predicate of a plain signature
_STATEMENTS: Final = {"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"}
_REPOSITORY: Final = re.compile(r"(?:git\+)?([a-z][a-z0-9+.-]*://[^/\s]+/[^@#?\s]+?)(?:\.git)?/?(?:[@#].*)?")
_SOURCES: Final = (  # where the builders that there are name the repository, in their own parameters
    ("workflow", "repository"),
    ("buildConfigSource", "repository"),
    ("configSource", "uri"),
    ("source", "uri"),
    ("source",),
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an image was built. `source` is the repository's URL without revision; "" if none is named."""

    builder: str
    source: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What is said of an image: `provenance` is None if it is something else than that."""

    predicate_type: str
    provenance: Provenance | None

    @property
    def is_signature(self) -> bool:
        """Tell whether it says no more than that the image is signed."""
        return self.predicate_type == SIGNATURE


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str] = {}


class _Statement(msgspec.Struct, frozen=True, rename="camel"):
    type: str = msgspec.field(name="_type")
    subject: tuple[_Subject, ...]
    predicate_type: str
    predicate: dict[str, Any] | None = None


class _Builder(msgspec.Struct, frozen=True):
    id: str


class _ConfigSource(msgspec.Struct, frozen=True):
    uri: str = ""


class _Invocation(msgspec.Struct, frozen=True, rename="camel"):
    config_source: _ConfigSource = _ConfigSource()


class _ProvenanceV02(msgspec.Struct, frozen=True):
    builder: _Builder
    invocation: _Invocation = _Invocation()


class _BuildDefinition(msgspec.Struct, frozen=True, rename="camel"):
    external_parameters: dict[str, Any] = {}


class _RunDetails(msgspec.Struct, frozen=True):
    builder: _Builder


class _ProvenanceV1(msgspec.Struct, frozen=True, rename="camel"):
    build_definition: _BuildDefinition
    run_details: _RunDetails


def parse(payload: bytes, digest: str, limit: int) -> Statement:
    """Parse a statement about the image of that digest.

    Args:
        payload: The statement, JSON.
        digest: Of the image's manifest or index, "sha256:…".
        limit: Most bytes of `payload`.

    Raises:
        SignatureRejectedError: It is malformed, of an unknown version, or about something else.
    """
    try:
        found = msgspec.convert(parse_json_object(payload, limit), _Statement)
        if found.type not in _STATEMENTS:
            raise SignatureRejectedError("is no in-toto statement of a version that is known")
        if not any(f"sha256:{subject.digest.get('sha256')}" == digest for subject in found.subject):
            raise SignatureRejectedError("is about something else than the image")
        return Statement(found.predicate_type, _provenance(found))
    except ValueError as error:  # msgspec's errors as well; the reason may quote the statement
        raise SignatureRejectedError("is no well-formed statement") from error


def repository(uri: str) -> str:
    """Return a repository's URL as it is compared: without "git+", ".git" and revision; "" for others."""
    match = _REPOSITORY.fullmatch(uri)
    return match[1] if match else ""


def _provenance(statement: _Statement) -> Provenance | None:
    match statement.predicate_type:
        case "https://slsa.dev/provenance/v0.2":
            v02 = msgspec.convert(statement.predicate, _ProvenanceV02)
            return Provenance(v02.builder.id, repository(v02.invocation.config_source.uri))
        case "https://slsa.dev/provenance/v1":
            v1 = msgspec.convert(statement.predicate, _ProvenanceV1)
            sources = {repository(uri) for uri in _named(v1.build_definition.external_parameters)} - {""}
            return Provenance(v1.run_details.builder.id, sources.pop() if len(sources) == 1 else "")
        case _:
            return None


def _named(parameters: Mapping[str, Any]) -> Iterator[str]:
    for path in _SOURCES:
        value: Any = parameters
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            yield value
