# SPDX-License-Identifier: Apache-2.0
"""SPIFFE IDs with selector values in them: one entry for all service accounts of a cluster, say.

``spiffe://example.org/ns/{k8s:ns}/sa/{k8s:sa}`` becomes the ID of a workload for which ``k8s:ns:shop`` and
``k8s:sa:web`` hold. Issuer and attestor expand alike; the issuer's result is the one that is signed.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Final, Self

from spiffekit.errors import SpiffeIdError, TemplateError
from spiffekit.id import SCHEME_PREFIX, SpiffeId, TrustDomain
from spiffekit.selector import DECLARED, Selector

MAX_PLACEHOLDERS: Final = 8  # each costs a look at every selector of a workload
MAX_VALUE: Final = 128  # characters that one value may bring into an ID

_PLACEHOLDER: Final = re.compile(r"\{([a-zA-Z0-9_.-]{1,64}):([a-zA-Z0-9_./:-]{1,253})\}", re.ASCII)
_SLASH: Final = re.compile(r"/(?![^{}]*\})")  # one within braces is part of a kind, e.g. of a label's name
_VALUE: Final = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)  # SPIFFE-ID §2.2: what a path segment may hold


@dataclass(frozen=True, slots=True)
class Template:
    """A SPIFFE ID of which some path segments are selector values. You get one by `parse`."""

    text: str
    trust_domain: TrustDomain
    segments: tuple[str | Selector, ...]  # a Selector stands for "type:kind" of a placeholder

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a template; a placeholder ``{type:kind}`` is a whole segment.

        Raises:
            TemplateError: It is no template, or would take what a workload says of itself.
            SpiffeIdError: What stands around the placeholders breaks SPIFFE-ID §2.
        """
        if not text.startswith(SCHEME_PREFIX):
            raise SpiffeIdError(f"scheme of {text[:80]!r} is not 'spiffe'")
        name, _, path = text[len(SCHEME_PREFIX) :].partition("/")
        segments = tuple(map(_segment, _SLASH.split(path)))
        placeholders = [segment for segment in segments if isinstance(segment, Selector)]
        if not 0 < len(placeholders) <= MAX_PLACEHOLDERS:
            raise TemplateError(f"template {text[:80]!r} needs 1 to {MAX_PLACEHOLDERS} placeholders")
        template = cls(text, TrustDomain(name), segments)
        template.with_values(dict.fromkeys(placeholders, "x"))  # judges the rest
        return template

    @property
    def base(self) -> SpiffeId:
        """The ID of what stands before the first placeholder; it may be that of the trust domain itself."""
        fixed = itertools.takewhile(lambda segment: isinstance(segment, str), self.segments)
        return SpiffeId(self.trust_domain, "".join(f"/{segment}" for segment in fixed))

    @property
    def types(self) -> frozenset[str]:
        """The selector types that it takes values of."""
        return frozenset(segment.type for segment in self.segments if isinstance(segment, Selector))

    def with_values(self, values: dict[Selector, str]) -> SpiffeId:
        """Return the ID in which each placeholder is its value."""
        parts = (values[segment] if isinstance(segment, Selector) else segment for segment in self.segments)
        return SpiffeId(self.trust_domain, "/" + "/".join(parts))

    def expand(self, selectors: frozenset[Selector]) -> SpiffeId:
        """Return the ID of a workload for which `selectors` hold.

        Raises:
            TemplateError: A value is missing, ambiguous, over-long, or no path segment.
            SpiffeIdError: The whole is longer than an ID may be.
        """
        placeholders = {segment for segment in self.segments if isinstance(segment, Selector)}
        return self.with_values({placeholder: _value(placeholder, selectors) for placeholder in placeholders})

    def __str__(self) -> str:
        return self.text


def _segment(text: str) -> str | Selector:
    if "{" not in text and "}" not in text:
        return text
    match = _PLACEHOLDER.fullmatch(text)
    if match is None:
        raise TemplateError(
            f"segment {text[:80]!r}: a placeholder is a whole segment of the form {{type:kind}}"
        )
    placeholder = Selector(match[1], match[2])
    if DECLARED in f":{placeholder.value}:":
        raise TemplateError(f"segment {text[:80]!r}: what a workload declares of itself makes no identity")
    return placeholder


def _value(placeholder: Selector, selectors: frozenset[Selector]) -> str:
    prefix = placeholder.value + ":"
    found = {
        selector.value[len(prefix) :]
        for selector in selectors
        if selector.type == placeholder.type and selector.value.startswith(prefix)
    }
    if len(found) != 1:
        reason = "has no value" if not found else f"has {len(found)} values"
        raise TemplateError(f"placeholder {{{placeholder}}} {reason}")
    (value,) = found
    if len(value) > MAX_VALUE or not _VALUE.fullmatch(value) or value in (".", ".."):
        raise TemplateError(f"placeholder {{{placeholder}}}: value {value[:80]!r} is no path segment")
    return value
