# SPDX-License-Identifier: Apache-2.0
"""What an operator may ask on the admin socket, whose file permissions are the authorisation."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc

from attestor.cache import Cache
from attestor.endpoints.refusals import Refusals
from attestor.errors import PeerGoneError
from attestor.peer import Process, ancestors
from attestor.workload.examination import Examiner
from spiffekit.daemon.peer import PeerProcess, PeerUnknownError
from spiffekit.id import SpiffeId
from spiffekit.selector import Selector
from spiffekit.wire.convert import seconds
from spiffekit.wire.evidence import ancestor_to_proto
from spiffekit.wire.pb.attestor.v1 import admin_pb2

logger = logging.getLogger(__name__)

MAX_CHANGES: Final = 20  # of one process that are told
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Context = Any  # grpc.aio.ServicerContext: its stubs cannot be subscripted at run time


class Admin:
    """See the module."""

    def __init__(
        self, cache: Cache, examiner: Examiner, refusals: Refusals, node_id: Callable[[], SpiffeId | None]
    ) -> None:
        self._cache = cache
        self._examiner = examiner
        self._refusals = refusals
        self._node_id = node_id

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of the service."""
        service = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
        explain = grpc.unary_unary_rpc_method_handler(
            self._explain,
            admin_pb2.ExplainRequest.FromString,
            admin_pb2.ExplainResponse.SerializeToString,
        )
        look_up = grpc.unary_unary_rpc_method_handler(
            self._look_up, admin_pb2.LookUpRequest.FromString, admin_pb2.LookUpResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(
            service.full_name, {"Explain": explain, "LookUp": look_up}
        )

    async def _explain(
        self, request: admin_pb2.ExplainRequest, context: Context
    ) -> admin_pb2.ExplainResponse:
        try:
            peer = PeerProcess.from_pid(request.pid)
        except PeerUnknownError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"pid {request.pid}: {error}")
            raise
        try:
            return await self.explain(Process.of(peer))
        except PeerGoneError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"pid {request.pid}: {error}")
            raise
        finally:
            peer.close()

    async def explain(self, process: Process) -> admin_pb2.ExplainResponse:
        """Attest a process, and compare what holds with every entry.

        Raises:
            PeerGoneError: It exited meanwhile.
        """
        findings = await self._examiner.findings(process)
        above = ancestors(process.proc)
        process.require_alive()
        selectors = frozenset().union(*(finding.facts.selectors for finding in findings))
        entries = self._cache.matching(selectors)
        svids = [(entry, self._cache.svid(entry)) for entry in entries]
        return admin_pb2.ExplainResponse(
            findings=[
                admin_pb2.Finding(
                    type=finding.type,
                    selectors=sorted(map(str, finding.facts.selectors)),
                    error=finding.error,
                    collected_at=_microseconds(finding.collected_at),
                    took=finding.took // timedelta(microseconds=1),
                )
                for finding in findings
            ],
            matches=[
                admin_pb2.Match(
                    entry_id=entry.id,
                    spiffe_id=str(entry.spiffe_id),
                    hint=entry.hint,
                    svid_expires_at=seconds(svid.expires_at) if svid is not None else 0,
                    per_process=entry.needs_evidence,
                )
                for entry, svid in svids
            ],
            misses=self._misses(selectors),
            entries=len(self._cache.entries),
            node_id=str(self._node_id() or ""),
            posture_changes=[
                admin_pb2.PostureChange(
                    at=_microseconds(change.at),
                    entries=change.entries,
                    gone=sorted(map(str, change.gone)),
                    new=sorted(map(str, change.new)),
                )
                for change in self._examiner.postures.of(process)[-MAX_CHANGES:]
            ],
            ancestors=map(ancestor_to_proto, above),
        )

    def _misses(self, selectors: frozenset[Selector]) -> list[admin_pb2.Miss]:
        return [
            admin_pb2.Miss(
                entry_id=miss.entry.id,
                spiffe_id=miss.entry.name,
                missing=sorted(map(str, miss.missing)),
                template_error=miss.template_error,
            )
            for miss in self._cache.nearest(selectors)
        ]

    async def _look_up(self, request: admin_pb2.LookUpRequest, context: Context) -> admin_pb2.LookUpResponse:
        refusal = self._refusals.find(request.correlation_id)
        if refusal is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, "no refusal of that number is remembered by this attestor"
            )
            raise AssertionError("abort raises")
        return admin_pb2.LookUpResponse(
            at=_microseconds(refusal.at),
            pid=refusal.pid,
            uid=refusal.uid,
            code=refusal.code,
            reason=refusal.reason,
            selectors=sorted(map(str, refusal.selectors)),
            failed=sorted(refusal.failed),
            misses=self._misses(refusal.selectors),
        )


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
