# SPDX-License-Identifier: Apache-2.0
"""The issuer's public API as the commands use it: over the admin socket, one deadline a call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from spiffekit.daemon.terminal import require_listener
from spiffekit.wire.pb.issuer.v1 import (
    agents_pb2_grpc,
    audit_pb2_grpc,
    explain_pb2_grpc,
    policy_pb2_grpc,
    revocation_pb2_grpc,
)
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2_grpc
from spiffekit.wire.pb.spire.api.server.bundle.v1 import bundle_pb2_grpc
from spiffekit.wire.pb.spire.api.server.debug.v1 import debug_pb2_grpc
from spiffekit.wire.pb.spire.api.server.entry.v1 import entry_pb2_grpc
from spiffekit.wire.pb.spire.api.server.svid.v1 import svid_pb2_grpc

DEADLINE: Final = 30.0  # seconds; a command that hangs tells nobody anything
MAX_MESSAGE: Final = 64 * 1024 * 1024  # bytes; a page of entries is far below
PAGE_SIZE: Final = 500


class IssuerApi:
    """Stubs of every service, on one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.nodes = agent_pb2_grpc.AgentStub(channel)
        self.audit = audit_pb2_grpc.AuditStub(channel)
        self.agents = agents_pb2_grpc.AgentsStub(channel)
        self.bundles = bundle_pb2_grpc.BundleStub(channel)
        self.debug = debug_pb2_grpc.DebugStub(channel)
        self.entries = entry_pb2_grpc.EntryStub(channel)
        self.explain = explain_pb2_grpc.ExplainStub(channel)
        self.revocation = revocation_pb2_grpc.RevocationStub(channel)
        self.policies = policy_pb2_grpc.PolicyStub(channel)
        self.svids = svid_pb2_grpc.SVIDStub(channel)
        self.check_health: Callable[..., health_pb2.HealthCheckResponse] = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )


@contextmanager
def connect(socket: Path) -> Iterator[IssuerApi]:
    """Open the admin API on a Unix socket.

    Raises:
        ConnectionRefusedError: Nobody listens at that path.
        PermissionError: We may not connect to it.
    """
    require_listener(socket, "issuer")
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.default_authority", "localhost"),
    ]
    with grpc.insecure_channel(f"unix:{socket.absolute()}", options=options) as channel:
        yield IssuerApi(channel)


def listed(method: Callable[..., Any], request: Any, field: str) -> list[Any]:
    """Return what `field` has on all pages of a list.

    Args:
        method: The call that lists, e.g. `api.entries.ListEntries`.
        request: What is asked for; its page size and page token are set here.
        field: Of the responses, e.g. "entries".
    """
    found: list[Any] = []
    request.page_size = PAGE_SIZE
    while True:
        page = method(request, timeout=DEADLINE)
        found += getattr(page, field)
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token
