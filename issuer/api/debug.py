# SPDX-License-Identifier: Apache-2.0
"""spire.api.server.debug.v1, for operators on the same host."""

from issuer.api.dispatch import Call
from issuer.ca.rotation import ServerIdentity
from issuer.registration import Registrations
from spiffekit.daemon.clock import Clock
from spiffekit.wire.convert import seconds, spiffe_id_to_proto
from spiffekit.wire.pb.spire.api.server.debug.v1 import debug_pb2


class DebugService:
    """What the issuer is doing."""

    def __init__(self, *, registrations: Registrations, identity: ServerIdentity, clock: Clock) -> None:
        self._registrations = registrations
        self._identity = identity
        self._clock = clock
        self._started = clock.monotonic()

    async def GetInfo(self, request: debug_pb2.GetInfoRequest, call: Call) -> debug_pb2.GetInfoResponse:  # noqa: N802 - the method's name on the wire
        """Return uptime, counts, and the issuer's own SVID."""
        del request, call
        entries, nodes = self._registrations.count()
        svid = self._identity.x509_svid()
        return debug_pb2.GetInfoResponse(
            svid_chain=[
                debug_pb2.GetInfoResponse.Cert(
                    id=spiffe_id_to_proto(svid.spiffe_id),
                    expires_at=seconds(svid.expires_at),
                    subject=svid.leaf.subject.rfc4514_string(),
                )
            ],
            uptime=int(self._clock.monotonic() - self._started),
            agents_count=nodes,
            entries_count=entries,
            federated_bundles_count=max(len(self._registrations.bundles()) - 1, 0),
        )
