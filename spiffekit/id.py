# SPDX-License-Identifier: Apache-2.0
"""SPIFFE IDs and trust domains, exactly as SPIFFE-ID §2 spells them.

Nothing is trimmed, decoded, lowercased or normalised: one identity has one spelling.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from spiffekit.errors import SpiffeIdError

SCHEME_PREFIX: Final = "spiffe://"  # SPIFFE-ID §2
MAX_ID_BYTES: Final = 2048  # bytes, SPIFFE-ID §2.3; bounds memory and certificate size
MAX_TRUST_DOMAIN_BYTES: Final = 255  # bytes, SPIFFE-ID §2.3

# The classes that the standard prints contain the range `.-_`; the hyphen has to stand last.
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT: Final = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)
_SHOWN: Final = 80  # characters of an offending value that a message repeats


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """The name of a trust domain, e.g. "example.org". Never equal to a `str`.

    A name that looks like an IP address or breaks DNS rules is as good as any other
    (SPIFFE-ID §2.1).

    Raises:
        SpiffeIdError: The name breaks SPIFFE-ID §2.1.
    """

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise SpiffeIdError("trust domain is missing")
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise SpiffeIdError(
                f"invalid trust domain {_shown(self.name)}: use only a-z, 0-9, '.', '-' and '_'"
            )
        if len(self.name) > MAX_TRUST_DOMAIN_BYTES:
            raise SpiffeIdError(f"trust domain is longer than {MAX_TRUST_DOMAIN_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name ("example.org") or the ID of a trust domain ("spiffe://example.org").

        Raises:
            SpiffeIdError: It is neither; a path is refused.
        """
        return cls(text.removeprefix(SCHEME_PREFIX))

    @property
    def id(self) -> "SpiffeId":
        """The SPIFFE ID of the trust domain itself, which has no path."""
        return SpiffeId(self)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID: a trust domain and a path, which is empty or starts with a slash.

    Never equal to a `str`. Ordered by trust domain, then path.

    Raises:
        SpiffeIdError: The path or the whole breaks SPIFFE-ID §2.
    """

    trust_domain: TrustDomain
    path: str = ""

    def __post_init__(self) -> None:
        _check_path(self.path)
        if len(SCHEME_PREFIX) + len(self.trust_domain.name) + len(self.path) > MAX_ID_BYTES:
            raise SpiffeIdError(f"SPIFFE ID is longer than {MAX_ID_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a SPIFFE ID exactly as written; nothing is trimmed, decoded or lowercased.

        The standard calls the scheme and the trust domain case-insensitive (SPIFFE-ID §2.4)
        and also requires the trust domain to be lowercase (§2.1). We take the strict
        reading, as go-spiffe does, so that one identity has one spelling.

        Args:
            text: The whole URI, at most 2048 bytes of ASCII, e.g. "spiffe://example.org/web".

        Returns:
            The ID. `str(SpiffeId.parse(text)) == text` always holds.

        Raises:
            SpiffeIdError: `text` breaks SPIFFE-ID §2; the message names the part.
        """
        if not text:
            raise SpiffeIdError("SPIFFE ID is empty")
        if not text.startswith(SCHEME_PREFIX):
            raise SpiffeIdError(f"scheme of {_shown(text)} is not 'spiffe'")
        name, slash, rest = text[len(SCHEME_PREFIX) :].partition("/")
        return cls(TrustDomain(name), slash + rest)

    def with_path(self, path: str) -> Self:
        """Return the ID with another path, in the same trust domain."""
        return type(self)(self.trust_domain, path)

    def is_member_of(self, trust_domain: TrustDomain) -> bool:
        """Tell whether the ID is in `trust_domain`."""
        return self.trust_domain == trust_domain

    def is_below(self, prefix: "SpiffeId") -> bool:
        """Tell whether `prefix` is this ID or a whole-segment prefix of it.

        "/team/a" is above "/team/a" and "/team/a/web", and not above "/team/ab".
        """
        return self.trust_domain == prefix.trust_domain and (self.path + "/").startswith(prefix.path + "/")

    def __str__(self) -> str:
        return f"{SCHEME_PREFIX}{self.trust_domain.name}{self.path}"


def _check_path(path: str) -> None:
    if not path:
        return
    if not path.startswith("/"):
        raise SpiffeIdError("path must start with a slash")
    if path.endswith("/"):
        raise SpiffeIdError("path cannot have a trailing slash")  # SPIFFE-ID §2.2
    for segment in path[1:].split("/"):
        if not segment:
            raise SpiffeIdError("path cannot contain empty segments")
        if segment in (".", ".."):
            raise SpiffeIdError("path cannot contain dot segments")
        if not _SEGMENT.fullmatch(segment):
            raise SpiffeIdError(
                f"invalid path segment {_shown(segment)}: use only a-z, A-Z, 0-9, '.', '-' and '_'"
            )


def _shown(value: str) -> str:
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
