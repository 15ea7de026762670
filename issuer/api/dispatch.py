# SPDX-License-Identifier: Apache-2.0
"""What happens around every call: who calls, may they, how did it end; one place for all services."""

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry, Counter, Histogram

from issuer import errors
from issuer.api.authorization import authorize
from issuer.api.caller import OPERATORS, Caller, Callers, Connection
from issuer.api.event_types import event_type
from issuer.keys import KeyManagerError
from issuer.model import (
    AgentFacts,
    AttestFacts,
    AuditRecord,
    CredentialFacts,
    Outcome,
    PeerFacts,
    PolicyFacts,
)
from issuer.store import Database
from spiffekit.daemon import health_service
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.limits import RateLimitedError
from spiffekit.daemon.listener import UnknownPeerError
from spiffekit.wire import services
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.status import Status, StatusTable, abort

logger = logging.getLogger(__name__)

Context = Any  # grpc.aio.ServicerContext: its stubs cannot be subscripted at run time
Code = grpc.StatusCode
M = TypeVar("M", bound=Message)

PAGE_BYTES: Final = 3 * 1024 * 1024  # bytes; clients of the field accept 4 MiB, gRPC's default


def _detail(error: Exception) -> Message | None:
    if isinstance(error, errors.NodeDeniedError):
        return types_pb2.PermissionDeniedDetails(
            reason=types_pb2.PermissionDeniedDetails.Reason.Name(_reason(error.reason))
        )
    return None


def _reason(reason: errors.DenialReason) -> types_pb2.PermissionDeniedDetails.Reason:
    return cast("types_pb2.PermissionDeniedDetails.Reason", int(reason))  # the numbers are the same


STATUS: Final = StatusTable(
    {
        errors.InvalidRequestError: Code.INVALID_ARGUMENT,
        errors.NotFoundError: Code.NOT_FOUND,
        errors.AlreadyExistsError: Code.ALREADY_EXISTS,
        errors.NotAuthorizedError: Code.PERMISSION_DENIED,
        errors.NodeRejectedError: Code.PERMISSION_DENIED,
        errors.EvidenceRejectedError: Code.PERMISSION_DENIED,
        RateLimitedError: Code.RESOURCE_EXHAUSTED,
        errors.TooSlowError: Code.DEADLINE_EXCEEDED,
        errors.FailedPreconditionError: Code.FAILED_PRECONDITION,
        errors.AuthorityNotReadyError: Code.UNAVAILABLE,
        errors.AuditLogError: Code.DATA_LOSS,
        errors.PlatformUnavailableError: Code.UNAVAILABLE,
        errors.StoreError: Code.UNAVAILABLE,
        KeyManagerError: Code.UNAVAILABLE,
        UnknownPeerError: Code.PERMISSION_DENIED,
        **health_service.CODES,
    },
    detail=_detail,
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: who, which method, when; handed to every method of a service."""

    method: str
    caller: Caller
    connection: Connection
    now: datetime
    id: str

    def record(
        self,
        subject: str,
        outcome: Outcome = Outcome.OK,
        *,
        reason: str = "",
        agent: AgentFacts | None = None,
        attest: AttestFacts | None = None,
        policy: PolicyFacts | None = None,
        credential: CredentialFacts | None = None,
        **detail: object,
    ) -> AuditRecord:
        """Return the audit record of this call about `subject`."""
        here = self.connection.process is not None
        return AuditRecord(
            at=self.now,
            actor=self.caller.actor,
            act=self.method,
            subject=subject,
            outcome=outcome,
            type=event_type(self.method, outcome),
            reason=reason,
            agent=agent,
            attest=attest,
            policy=policy,
            credential=credential,
            peer=None if here else PeerFacts(ip=self.connection.address),
            detail={
                "call": self.id,
                **({"person": self.caller.person} if self.caller.person else {}),
                **detail,
            },
        )


class Metrics:
    """Counts and times of all calls."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = Counter(
            "issuer_calls", "Calls by method and code.", ("method", "code"), registry=registry
        )
        self.seconds = Histogram(
            "issuer_call_seconds", "Time of unary calls.", ("method",), registry=registry
        )


class Dispatcher:
    """Makes gRPC handlers of plain services.

    A service has a coroutine method ``Name(request, call)`` for each unary method, and an async
    generator for each one that streams answers: ``Name(request, call)``, or ``Name(requests, call)``
    where the client streams as well. What it lacks answers UNIMPLEMENTED.
    """

    def __init__(
        self,
        callers: Callers,
        *,
        connection_of: Callable[[Context], Connection],
        database: Database,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._callers = callers
        self._connection_of = connection_of
        self._database = database
        self._clock = clock
        self._metrics = metrics

    def handler(self, service: ServiceDescriptor, implementation: object) -> grpc.GenericRpcHandler:
        """Return the handler of one service."""
        return services.handler(service, implementation, unary=self._unary, stream=self._stream)

    async def _begin(self, path: str, context: Context) -> Call:
        connection = self._connection_of(context)
        caller = await self._callers.judge(connection)
        return Call(path, caller, connection, self._clock.now(), secrets.token_hex(8))

    def _unary(self, path: str, behave: Callable[..., Any]) -> Callable[..., Any]:
        timer = self._metrics.seconds.labels(path)
        ok = self._metrics.calls.labels(path, Code.OK.name)

        async def handle(request: Message, context: Context) -> Message:
            call: Call | None = None
            with timer.time():
                try:
                    call = await self._begin(path, context)
                    authorize(path, call.caller.kinds)
                    answer: Message = await behave(request, call)
                except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
                    await abort(context, await self._refuse(path, call, error))
            ok.inc()
            return answer

        return handle

    def _stream(self, path: str, behave: Callable[..., Any]) -> Callable[..., Any]:
        ok = self._metrics.calls.labels(path, Code.OK.name)

        async def handle(sent: Message | AsyncIterator[Message], context: Context) -> AsyncIterator[Message]:
            call: Call | None = None
            try:
                call = await self._begin(path, context)
                authorize(path, call.caller.kinds)
                async with aclosing(behave(sent, call)) as answers:
                    async for answer in answers:
                        yield answer
            except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
                await abort(context, await self._refuse(path, call, error))
            ok.inc()

        return handle

    async def _refuse(self, path: str, call: Call | None, error: Exception) -> Status:
        status = STATUS.status_of(error)
        self._metrics.calls.labels(path, status.code.name).inc()
        extra = {"method": path, "code": status.code.name, "reason": str(error)[:500]}
        if call is not None:
            extra |= {"actor": call.caller.actor, "call": call.id}
        if status.code is Code.INTERNAL:
            logger.error("call failed", extra=extra, exc_info=error)
        else:
            logger.info("call refused", extra=extra)
        if (
            call is not None
            and not call.caller.kinds.isdisjoint(OPERATORS)
            # What the database refuses cannot be recorded; what policy denies, its service has recorded.
            and not isinstance(error, errors.StoreError | errors.PolicyDeniedError)
        ):
            await self._audit_refusal(call, status)
        return status

    async def _audit_refusal(self, call: Call, status: Status) -> None:
        """Record a refused act of an operator; refusals of anybody else could flood the trail."""
        outcome = Outcome.DENIED if status.code is Code.PERMISSION_DENIED else Outcome.FAILED
        record = call.record("", outcome, reason=status.message, code=status.code.name)
        try:
            await self._database.record(record)
        except errors.StoreError:
            logger.exception("refusal could not be recorded", extra={"call": call.id})


def item_status(error: Exception) -> types_pb2.Status:
    """Return the status of one item of a batch."""
    status = STATUS.status_of(error)
    if status.code is Code.INTERNAL:
        raise error
    return types_pb2.Status(code=status.code.value[0], message=status.message)


def masked(message: Any, mask: Any | None) -> Any:
    """Clear the fields that an output mask leaves out; the ID is in no mask and always stays."""
    if mask is not None:
        for field in mask.DESCRIPTOR.fields:
            if not getattr(mask, field.name):
                message.ClearField(field.name)
    return message


def page_size(asked: int, most: int) -> int:
    """Return how many items a page has: what was asked for within 1 to `most`, or `most`."""
    return min(asked, most) if asked > 0 else most


def pages_of(messages: Iterable[M], size: int) -> Iterator[tuple[list[M], bool]]:
    """Yield pages of `size` messages, or fewer of large ones, each with whether another page follows."""
    page: list[M] = []
    weight = 0
    for message in messages:
        more = message.ByteSize()
        if page and (len(page) == size or weight + more > PAGE_BYTES):
            yield page, True
            page, weight = [], 0
        page.append(message)
        weight += more
    yield page, False
