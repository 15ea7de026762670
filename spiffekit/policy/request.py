# SPDX-License-Identifier: Apache-2.0
"""What policy is asked: who wants to do what with which thing, and what is known of the circumstances."""

import hashlib
import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self
from urllib.parse import unquote_to_bytes

from spiffekit.errors import PolicyError
from spiffekit.id import SpiffeId

SVID: Final = "svid.issue"
TOOL: Final = "tool.call"
HTTP: Final = "http.request"
MAX_TARGET: Final = 8192  # bytes of what a request asks for, query included
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")
_SEGMENT: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-F]{2})*")  # RFC 3986 §3.3, without ";"
_ENCODED: Final = re.compile(r"%([0-9A-F]{2})")
# What needs no encoding, so that it would be a second spelling, and what is more than a letter to servers.
_NEVER_ENCODED: Final = frozenset((string.ascii_letters + string.digits + "-._~/\\%;?#").encode()) | {
    *range(0x20),
    0x7F,
}
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An active agent, by the word of its issuer. Nothing is optional: what is left out forbids nothing."""

    spiffe_id: SpiffeId
    owner: str  # "https://idp.example.org|alice", or "…|group:name"
    agent_class: str  # "" for none
    team: str  # "" for none
    review_overdue: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What the action is about."""

    kind: str  # "Audience", "Service", "Tool" or "TrustDomain"
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """What an HTTP request asks a service for. You get a checked one by `parse`."""

    method: str
    path: str  # without the query

    @classmethod
    def parse(cls, method: str, target: str) -> Self:
        """Return what a request asks for, if it can be read in one way only.

        A policy about "/admin" has to hold for whatever the server behind takes for "/admin". So a path that
        servers are known to read differently is refused instead of repaired: "." and ".." and empty segments,
        backslashes, ";", and what is encoded without need, twice, in lower case, or is no UTF-8.

        Args:
            method: In upper case, e.g. "GET".
            target: Path and query as they were sent (RFC 9112 §3.2.1), e.g. "/invoices/7?full=1".

        Raises:
            PolicyError: It can be read in more than one way, or is longer than `MAX_TARGET`.
        """
        if not _METHOD.fullmatch(method):
            raise PolicyError("method: is not 1 to 32 of A-Z and '-'")
        if len(target) > MAX_TARGET:
            raise PolicyError(f"path: is longer than {MAX_TARGET} bytes")
        path = target.partition("?")[0]
        first, *segments = path.split("/")
        if first or not segments:
            raise PolicyError("path: does not begin with '/'")
        if "" in segments[:-1] or not {".", ".."}.isdisjoint(segments):
            raise PolicyError("path: has an empty segment, '.' or '..'")
        if not all(map(_SEGMENT.fullmatch, segments)):
            raise PolicyError("path: has a character that is not allowed there, or one encoded in lower case")
        if not _NEVER_ENCODED.isdisjoint(int(found, 16) for found in _ENCODED.findall(path)):
            raise PolicyError("path: encodes a character that has a meaning, or needs no encoding")
        try:
            unquote_to_bytes(path).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PolicyError("path: encodes what is no UTF-8") from error
        return cls(method=method, path=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attest:
    """What the agent's process earned its identity by."""

    node: str  # the node's SPIFFE ID
    level: int  # of the node's proof: 1 join token, 2 platform, 3 TPM; 0 unknown
    selectors: frozenset[str] | None = None  # None: the node sent no evidence
    image_digest: str = ""  # of the container's image, "sha256:…"; "" if it is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question. Two with the same `key` have the same answer."""

    action: str  # `SVID`, `TOOL` or `HTTP`
    principal: Principal
    resource: Resource
    at: datetime  # policy sees the hour and the day of the week, in UTC
    attest: Attest | None = None  # None: an operator mints an SVID by hand, or it is about no SVID
    http: Http | None = None  # of `HTTP` alone

    def key(self) -> bytes:
        """Return a hash of everything that policy can see."""
        return hashlib.sha256(_ENCODER.encode([self.cedar(), self.entities()]).encode()).digest()

    def cedar(self) -> dict[str, Any]:
        """Return the request in the engine's form; names are given as data and never as program text."""
        return {
            "principal": _uid("Agent", str(self.principal.spiffe_id)),
            "action": _uid("Action", self.action),
            "resource": _uid(self.resource.kind, self.resource.id),
            "context": self._context(),
        }

    def _context(self) -> dict[str, Any]:
        at = self.at.astimezone(UTC)
        context: dict[str, Any] = {"time": {"hour": at.hour, "weekday": at.isoweekday()}}
        if self.attest is not None:
            context["attest"] = attest = {"node": self.attest.node, "level": self.attest.level}
            if self.attest.selectors is not None:
                attest["selectors"] = sorted(self.attest.selectors)
            if self.attest.image_digest:
                attest["image_digest"] = self.attest.image_digest
        if self.http is not None:
            context["http"] = {"method": self.http.method, "path": self.http.path}
        return context

    def entities(self) -> list[dict[str, Any]]:
        """Return what is known of the principal, in the engine's form."""
        who = self.principal
        parents = [_uid("TrustDomain", who.spiffe_id.trust_domain.name)]
        parents += [_uid("AgentClass", who.agent_class)] if who.agent_class else []
        parents += [_uid("Team", who.team)] if who.team else []
        attributes = {"owner": {"__entity": _uid("User", who.owner)}, "review_overdue": who.review_overdue}
        return [{"uid": _uid("Agent", str(who.spiffe_id)), "attrs": attributes, "parents": parents}]

    def recorded(self) -> dict[str, Any]:
        """Return what an audit trail keeps, to ask again: no selectors or paths, which may hold secrets."""
        who, attest = self.principal, self.attest
        found: dict[str, Any] = {
            "action": self.action,
            "resources": [[self.resource.kind, self.resource.id]],
            "owner": who.owner,
            "class": who.agent_class,
            "team": who.team,
            "review_overdue": who.review_overdue,
        }
        if attest is not None:
            found |= {"node": attest.node, "level": attest.level, "image_digest": attest.image_digest}
            found["selectors"] = attest.selectors is not None
        return found

    @classmethod
    def replayed(
        cls, recorded: Mapping[str, Any], spiffe_id: SpiffeId, at: datetime
    ) -> tuple[list["Request"], bool]:
        """Return the requests, one for each resource, and whether they had selectors, which are not known.

        Raises:
            ValueError: It is none.
        """
        try:
            attest = None
            if "node" in recorded:
                attest = Attest(
                    node=recorded["node"], level=recorded["level"], image_digest=recorded["image_digest"]
                )
            principal = Principal(
                spiffe_id=spiffe_id,
                owner=recorded["owner"],
                agent_class=recorded["class"],
                team=recorded["team"],
                review_overdue=recorded["review_overdue"],
            )
            requests = [
                cls(
                    action=recorded["action"],
                    principal=principal,
                    resource=Resource(kind=kind, id=name),
                    at=at,
                    attest=attest,
                )
                for kind, name in recorded["resources"]
            ]
            return requests, bool(recorded.get("selectors"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a recorded request: {error}") from error


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}
