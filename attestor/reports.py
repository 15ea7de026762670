# SPDX-License-Identifier: Apache-2.0
"""Say for the audit trail what was handed to which process, who was refused, and what changed of a process.

Nobody waits for that, and nothing here can fail a call. No token, selector's value or argument of a process
is told: they may be secrets.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from attestor.cache import Entry
from attestor.errors import PeerGoneError
from attestor.peer import Process
from attestor.spool import Spool
from attestor.workload.examination import Examination
from attestor.workload.postures import PostureChange
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.limits import RateLimit, RateLimitedError
from spiffekit.jwtsvid import JwtSvid
from spiffekit.selector import KINDS, Selector
from spiffekit.wire.convert import seconds
from spiffekit.wire.pb.attestor.v1 import verifications_pb2
from spiffekit.wire.pb.issuer.v1 import audit_reports_pb2
from spiffekit.witsvid import WitSvid
from spiffekit.x509svid import X509Svid

MAX_REMEMBERED: Final = 8192  # hand-outs and refusals that are not told again
# Bytes as JSON, where one may become six: what a process chooses must not make an event too long.
MAX_TEXT: Final = 2048
MAX_NAMES: Final = 100  # entries, or kinds of selectors, of one event; as many as the issuer takes
_JTI: Final = re.compile(r"[!-~]{1,255}", re.ASCII)  # what the issuer takes as one
# Refusals that are told, a second and at once: who has no identity must not fill the issuer's disk.
REFUSALS_OF_USER: Final = (0.1, 20)
REFUSALS: Final = (2, 200)


AnySvid = X509Svid | JwtSvid | WitSvid
Svid_co = TypeVar("Svid_co", bound=AnySvid, covariant=True)


class Handed(NamedTuple, Generic[Svid_co]):
    """An SVID that a process is handed by an entry; `instance_uid` is "" if others have the same one."""

    entry: Entry
    svid: Svid_co
    instance_uid: str = ""


class Reports:
    """See the module. Used from one event loop."""

    def __init__(self, spool: Spool, clock: Clock) -> None:
        self._spool = spool
        self._told: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._refusals_of_user = RateLimit(*REFUSALS_OF_USER, monotonic=clock.monotonic)
        self._refusals = RateLimit(*REFUSALS, monotonic=clock.monotonic)

    @property
    def wanted(self) -> bool:
        """Whether anybody takes what is said."""
        return self._spool.enabled

    def started(self, version: str) -> None:
        """Say that the attestor of a version begins."""
        self._spool.add(started=audit_reports_pb2.AttestorStarted(version=version))

    def handed(self, process: Process, examination: Examination, svids: Iterable[Handed[AnySvid]]) -> None:
        """Say that a process is handed SVIDs; of each once, however often it gets the same one."""
        if not self._is_wanted():
            return
        for entry, svid, instance_uid in svids:
            name = _name(svid)
            if self._is_news(process, *name.values()):
                fetched = audit_reports_pb2.SvidFetched(
                    spiffe_id=str(svid.spiffe_id),
                    expires_at=seconds(svid.expires_at),
                    entry_id=entry.id,
                    instance_uid=instance_uid,
                    audience=_audience(svid) if isinstance(svid, JwtSvid) else (),
                    **name,
                )
                self._spool.add(described(process, examination), fetched=fetched)

    def refused(self, process: Process, examination: Examination | None, *, reason: str, call: str) -> None:
        """Say that a process is refused, by the reason in a word and the number that it was told.

        For the same reason it is told once; that, and more than a few, is counted only.
        """
        if not self._is_wanted():
            return
        try:
            if not self._is_news(process, reason):
                raise RateLimitedError
            self._refusals_of_user.spend(process.peer.uid)
            self._refusals.spend(None)
        except RateLimitedError:
            self._spool.omit_refusal()
            return
        refused = audit_reports_pb2.SvidRefused(reason=reason, call=call)
        self._spool.add(described(process, examination), refused=refused)

    def verified(
        self,
        process: Process,
        examination: Examination,
        *,
        verifier: Entry,
        run: bytes,
        missing: int,
        verification: verifications_pb2.Verification,
    ) -> None:
        """Say what a process made of a peer.

        Args:
            process: Whose word it is.
            examination: What is true of the process.
            verifier: The entry by which it speaks.
            run: Names the run in which it counts.
            missing: How many numbers before this one never came.
            verification: What it says; every field keeps its rule.
        """
        verified = audit_reports_pb2.PeerVerified(
            verifier=str(verifier.spiffe_id),
            entry_id=verifier.id,
            run=run,
            missing=missing,
            verification=verification,
        )
        self._spool.add(described(process, examination), verified=verified)

    def posture_changed(self, process: Process, change: PostureChange) -> None:
        """Say that a process lost identities; of selectors only the kinds."""
        changed = audit_reports_pb2.PostureChanged(
            entry_ids=_fitting(change.entries), gone=_kinds(change.gone), new=_kinds(change.new)
        )
        self._spool.add(described(process, None), posture_changed=changed)

    def _is_wanted(self) -> bool:
        if not self.wanted:
            self._told.clear()
        return self.wanted

    def _is_news(self, process: Process, *what: str) -> bool:
        """Tell whether a process was not told of in these words before; of many, the oldest are forgotten."""
        try:
            key = (process.pid, process.birth()[1], *what)
        except PeerGoneError:
            return True
        known = key in self._told
        self._told[key] = None
        self._told.move_to_end(key)
        if len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        return not known


def described(process: Process, examination: Examination | None) -> audit_reports_pb2.ReportedProcess:
    """Return what is told of a process."""
    found = audit_reports_pb2.ReportedProcess(pid=process.pid, uid=process.peer.uid)
    if examination is not None:
        path = examination.stated("unix", "path")
        found.path = path if _fits([path]) else ""
        found.sha256 = examination.stated("unix", "sha256")
    return found


def _name(svid: AnySvid) -> dict[str, Any]:
    """Return the kind of an SVID and what it is known by; none of it is the SVID."""
    if isinstance(svid, X509Svid):
        return {"kind": "x509-svid", "serial": str(svid.serial_number)}
    kind = "wit-svid" if isinstance(svid, WitSvid) else "jwt-svid"
    jti = svid.claims.get("jti")
    if isinstance(jti, str) and _JTI.fullmatch(jti):
        return {"kind": kind, "jti": jti}
    return {"kind": kind, "token_sha256": hashlib.sha256(svid.token.encode()).hexdigest()}


def _audience(svid: JwtSvid) -> tuple[str, ...]:
    return svid.audience if _fits(svid.audience) else ()


def _fits(texts: Iterable[str]) -> bool:
    return sum(len(json.dumps(text, ensure_ascii=False).encode()) for text in texts) <= MAX_TEXT


def _fitting(names: Iterable[str]) -> list[str]:
    """Return as many of the names as an event has room for."""
    found: list[str] = []
    for name in names:
        if len(found) == MAX_NAMES or not _fits([*found, name]):
            break
        found.append(name)
    return found


def _kinds(selectors: Iterable[Selector]) -> list[str]:
    return _fitting(sorted({_kind(selector) for selector in selectors}))


def _kind(selector: Selector) -> str:
    """Return the type of a selector and, of types that are ours, the kind of fact."""
    kinds = [kind for kind in KINDS.get(selector.type, ()) if selector.value.startswith(f"{kind}:")]
    return f"{selector.type}:{max(kinds, key=len)}" if kinds else selector.type
