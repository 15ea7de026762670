# SPDX-License-Identifier: Apache-2.0
"""What verifiers on this node made of their peers: taken for the audit trail, under the caller's own name.

Whoever calls speaks for itself only. It is examined as for an SVID, and its word stays its word: nothing is
decided by it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import grpc

from attestor.cache import Cache
from attestor.endpoints.admission import Admission, CallRefused, Context
from attestor.endpoints.caller import Caller
from attestor.endpoints.refusals import Refusals
from attestor.endpoints.wit import wanted_of
from attestor.errors import NoIdentityError
from attestor.reports import Reports
from attestor.workload.examination import Examiner
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.limits import RateLimit
from spiffekit.errors import SpiffeIdError
from spiffekit.id import SpiffeId
from spiffekit.wire.pb.attestor.v1 import verifications_pb2
from spiffekit.wire.reports import (
    HASH,
    KINDS,
    MAX_NAMES,
    MAX_NUMBER,
    MAX_TEXT,
    NAME,
    RUN_BYTES,
    SERIAL,
    TOKENS,
)
from spiffekit.wire.status import abort

Code = grpc.StatusCode

MAX_VERIFICATIONS: Final = 50  # of one call
MAX_RUNS: Final = 4096  # whose last number is remembered; of more, the quietest are forgotten
OF_USER: Final = (5, 500)  # verifications a second and at once: as many as leave room for others in the trail


class Verifications:
    """See the module."""

    def __init__(
        self,
        cache: Cache,
        examiner: Examiner,
        *,
        admission: Admission,
        refusals: Refusals,
        reports: Reports,
        clock: Clock,
    ) -> None:
        self._cache = cache
        self._examiner = examiner
        self._admission = admission
        self._refusals = refusals
        self._reports = reports
        self._limit = RateLimit(*OF_USER, monotonic=clock.monotonic)
        self._runs: OrderedDict[tuple[int, int, bytes], int] = OrderedDict()  # the last number of each

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of the service."""
        service = verifications_pb2.DESCRIPTOR.services_by_name["Verifications"]
        report = grpc.unary_unary_rpc_method_handler(
            self._report,
            verifications_pb2.ReportVerificationsRequest.FromString,
            verifications_pb2.ReportVerificationsResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(service.full_name, {"Report": report})

    async def _report(self, request: verifications_pb2.ReportVerificationsRequest, context: Context) -> Any:
        caller: Caller | None = None
        try:
            caller = Caller(self._admission.admit(context), self._examiner, self._cache)
            if not self._reports.wanted:
                raise CallRefused(Code.UNIMPLEMENTED, "no audit trail takes reports", reason="unimplemented")
            _check(request)
            self._limit.spend(caller.process.peer.uid, len(request.verifications))
            await caller.examine()
            return self._taken(request, caller)
        except Exception as error:  # noqa: BLE001 - the RPC boundary: every error becomes a status
            verdict = self._admission.refuse(error)
            await abort(context, self._refusals.told(caller, verdict, error))

    def _taken(
        self, request: verifications_pb2.ReportVerificationsRequest, caller: Caller
    ) -> verifications_pb2.ReportVerificationsResponse:
        entry = wanted_of(caller.entries, request.spiffe_id)[0]
        # Of this process alone: nobody goes on, or fills in, where another one has stopped.
        key = (caller.process.pid, caller.process.birth()[1], request.run)
        caller.process.require_alive()
        if caller.executes_another():
            raise NoIdentityError("no identity issued")
        last = self._runs.pop(key, None)
        before = request.taken if last is None else last
        for verification in request.verifications:
            if verification.number > (last or 0):
                self._reports.verified(
                    caller.process,
                    caller.examination,
                    verifier=entry,
                    run=request.run,
                    missing=max(0, verification.number - before - 1),
                    verification=verification,
                )
                last = before = verification.number
        self._runs[key] = last or 0
        if len(self._runs) > MAX_RUNS:
            self._runs.popitem(last=False)
        return verifications_pb2.ReportVerificationsResponse(taken=last or 0)


def _check(request: verifications_pb2.ReportVerificationsRequest) -> None:
    """Raise unless every field keeps its rule; the message names both."""
    if len(request.run) != RUN_BYTES:
        raise CallRefused(Code.INVALID_ARGUMENT, f"run: needs {RUN_BYTES} bytes")
    if not 0 < len(request.verifications) <= MAX_VERIFICATIONS:
        raise CallRefused(Code.INVALID_ARGUMENT, f"verifications: not 1 to {MAX_VERIFICATIONS}")
    last = request.taken
    for index, verification in enumerate(request.verifications):
        if problem := _problem(verification, last if index else 0):
            raise CallRefused(Code.INVALID_ARGUMENT, f"verifications[{index}].{problem}")
        last = verification.number


def _problem(one: verifications_pb2.Verification, last: int) -> str:
    """Say what is wrong with a verification; "" if nothing is."""
    if not last < one.number <= MAX_NUMBER:
        return "number: is not above the one before, or too large"
    shown = one.WhichOneof("credential")
    if one.kind not in KINDS or (shown == "serial" and one.kind in TOKENS):
        return f"kind: is none of {', '.join(KINDS)}, or a token's, which has no serial number"
    for name in ("reason", "action"):
        text: str = getattr(one, name)
        if len(text.encode()) > MAX_TEXT or not (text.isprintable() or not text):
            return f"{name}: is longer than {MAX_TEXT} bytes, or not one line"
    for name, form in (("serial", SERIAL), ("jti", NAME), ("txn", NAME), ("bundle", HASH)):
        value: str = getattr(one, name)
        if (value or name == shown) and not form.fullmatch(value):
            return f"{name}: is not of the form {form.pattern}"
    if problem := _problem_of(one.policies):
        return f"policies: {problem}"
    try:
        if one.peer:
            SpiffeId.parse(one.peer)
    except SpiffeIdError as error:
        return f"peer: {error}"
    return "" if one.count else "count: is 0"


def _problem_of(policies: Sequence[str]) -> str:
    if len(policies) > MAX_NAMES:
        return f"more than {MAX_NAMES}"
    if sum(map(len, policies)) > MAX_TEXT or not all(map(NAME.fullmatch, policies)):
        return f"longer than {MAX_TEXT} bytes, or one is not of the form {NAME.pattern}"
    return ""
