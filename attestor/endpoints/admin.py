# SPDX-License-Identifier: Apache-2.0
"""What an operator may ask on the admin socket, whose file permissions are the authorisation."""

import logging
from typing import Any

import grpc

from attestor.cache import Cache
from attestor.errors import PeerGoneError
from attestor.peer import Process
from attestor.workload.examination import Examiner
from spiffekit.daemon.peer import PeerProcess, PeerUnknownError
from spiffekit.wire.convert import seconds
from spiffekit.wire.pb.attestor.v1 import admin_pb2

logger = logging.getLogger(__name__)

Context = Any  # grpc.aio.ServicerContext: its stubs cannot be subscripted at run time


class Admin:
    """See the module."""

    def __init__(self, cache: Cache, examiner: Examiner) -> None:
        self._cache = cache
        self._examiner = examiner

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the gRPC handler of the service."""
        service = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
        explain = grpc.unary_unary_rpc_method_handler(
            self._explain,
            admin_pb2.ExplainRequest.FromString,
            admin_pb2.ExplainResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(service.full_name, {"Explain": explain})

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
        process.require_alive()
        selectors = frozenset().union(*(finding.facts.selectors for finding in findings))
        entries = self._cache.matching(selectors)
        svids = [(entry, self._cache.svid(entry)) for entry in entries]
        return admin_pb2.ExplainResponse(
            findings=[
                admin_pb2.Finding(type=f.type, selectors=sorted(map(str, f.facts.selectors)), error=f.error)
                for f in findings
            ],
            matches=[
                admin_pb2.Match(
                    entry_id=entry.id,
                    spiffe_id=str(entry.spiffe_id),
                    hint=entry.hint,
                    svid_expires_at=seconds(svid.expires_at) if svid is not None else 0,
                )
                for entry, svid in svids
            ],
            misses=[
                admin_pb2.Miss(
                    entry_id=miss.entry.id,
                    spiffe_id=str(miss.entry.spiffe_id),
                    missing=sorted(map(str, miss.missing)),
                )
                for miss in self._cache.nearest(selectors)
            ],
            entries=len(self._cache.entries),
        )
