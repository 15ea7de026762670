# SPDX-License-Identifier: Apache-2.0
"""Who may call on a public socket, how often, and with which status a call ends that fails."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import grpc

from attestor.errors import (
    IssuerUnavailableError,
    NoIdentityError,
    PeerGoneError,
    WitUnsupportedError,
    WorkloadAttestationError,
)
from attestor.peer import Process
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.limits import RateLimit, RateLimitedError
from spiffekit.daemon.listener import UnknownPeerError
from spiffekit.errors import SpiffeError
from spiffekit.wire.status import INTERNAL, Status
from spiffekit.wire.workload_api import SECURITY_HEADER

logger = logging.getLogger(__name__)

Context = Any  # grpc.aio.ServicerContext: its stubs cannot be subscripted at run time
Code = grpc.StatusCode

MAX_STREAMS_PER_UID: Final = 1536  # one user must not take all of our memory
CALLS_PER_SECOND: Final = 200.0  # of one user: each is an attestation
CALLS_AT_ONCE: Final = 2000.0  # a whole node of one user may start over at the same moment


class CallRefused(Exception):  # noqa: N818 - a verdict, not a failure
    """Ends a call with a status. `reason` is one of few words, for metrics."""

    def __init__(self, code: grpc.StatusCode, message: str, *, reason: str = "bad_request") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Verdict(NamedTuple):
    """Why a call is refused, in one of few words, and the status that the caller gets."""

    reason: str
    status: Status


class Admission:
    """Admits callers by their users' share of calls and streams, and counts those that are refused.

    Args:
        process_of: Returns the process behind a call; raises `UnknownPeerError`.
        clock: What the limits go by.
    """

    def __init__(self, process_of: Callable[[Context], Process], clock: Clock) -> None:
        self._process_of = process_of
        self._calls = RateLimit(CALLS_PER_SECOND, CALLS_AT_ONCE, monotonic=clock.monotonic)
        self._streams: Counter[int] = Counter()
        self.refusals: Counter[str] = Counter()  # by reason, of which there are few

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._streams.total()

    def refuse(self, error: Exception) -> Verdict:
        """Count a call that ends with an error; return the reason, and what its caller may see of that."""
        verdict = _verdict(error)
        self.refusals[verdict.reason] += 1
        return verdict

    def admit(self, context: Context) -> Process:
        """Return the process behind a call that has the security header, and whose user may call now.

        Raises:
            CallRefused: The header is missing.
            UnknownPeerError: The caller cannot be identified.
            PeerGoneError: It has exited.
            RateLimitedError: Its user calls too often.
        """
        require_header(context)
        process = self._process_of(context)
        process.require_alive()
        self.charge(process)
        return process

    def charge(self, process: Process) -> None:
        """Count a call of the process's user, or raise `RateLimitedError`."""
        self._calls.spend(process.peer.uid)

    @contextlib.contextmanager
    def streaming(self, process: Process) -> Iterator[None]:
        """Count a stream of the process's user while the context lasts, or raise `CallRefused`."""
        uid = process.peer.uid
        if self._streams[uid] >= MAX_STREAMS_PER_UID:
            raise CallRefused(Code.UNAVAILABLE, "too many streams of this user", reason="too_many_streams")
        self._streams[uid] += 1
        try:
            yield
        finally:
            self._streams[uid] -= 1
            if not self._streams[uid]:
                del self._streams[uid]


def require_header(context: Context) -> None:
    """Check the security header (Workload_Endpoint §3): once, and exactly "true"."""
    values = [value for key, value in context.invocation_metadata() or () if key == SECURITY_HEADER[0]]
    if values != [SECURITY_HEADER[1]]:
        raise CallRefused(Code.INVALID_ARGUMENT, "security header missing from request")


def _verdict(error: Exception) -> Verdict:
    match error:
        case CallRefused():
            return Verdict(error.reason, Status(error.code, str(error)))
        case NoIdentityError():
            return Verdict("no_identity", Status(Code.PERMISSION_DENIED, str(error)))
        case PeerGoneError() | UnknownPeerError():
            return Verdict("unknown_caller", Status(Code.PERMISSION_DENIED, "caller cannot be identified"))
        case WorkloadAttestationError():
            return Verdict("attestation_failed", Status(Code.UNAVAILABLE, "workload attestation failed"))
        case RateLimitedError():
            return Verdict("rate_limited", Status(Code.UNAVAILABLE, str(error)))
        case WitUnsupportedError():
            return Verdict("not_ready", Status(Code.UNAVAILABLE, str(error)))
        case IssuerUnavailableError() | SpiffeError():
            return Verdict("not_ready", Status(Code.UNAVAILABLE, "not ready"))
        case _:
            logger.error("call failed", exc_info=error)
            return Verdict("internal", Status(Code.INTERNAL, INTERNAL))
