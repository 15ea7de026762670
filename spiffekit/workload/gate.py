# SPDX-License-Identifier: Apache-2.0
"""May this caller use that tool now? One answer to all that a tool server has to ask."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.delegation.tools import Tools
from spiffekit.errors import NotPermittedError, RevokedError, StatusUnknownError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.jws import DEFAULT_LEEWAY
from spiffekit.jwtsvid import JwtSvid
from spiffekit.policy import Decision, Denial
from spiffekit.policy.bundle import NO_ARGUMENTS
from spiffekit.status import AgentStatus
from spiffekit.witsvid import WitSvid
from spiffekit.workload.live import Peer
from spiffekit.workload.reporting import Reporter, Verification

Caller = Peer | WitSvid | JwtSvid
"""Who calls, as verified: the `verified_peer` of a connection, or a token as its verifier returned it."""


class Statuses(Protocol):
    """Whatever knows what was taken back. A `StatusSource` does, and a `PeerWatch`."""

    def agent_status(self, trust_domain: TrustDomain) -> AgentStatus:
        """Return what counts for a trust domain now; raises `StatusUnknownError`."""


class ToolPolicies(Protocol):
    """Whatever knows which policies hold. A `PolicySource` does, and a `PolicyBook`."""

    def decide_tool(
        self, spiffe_id: SpiffeId, tool: str, now: datetime, arguments: Mapping[str, object]
    ) -> Decision:
        """Return whether an agent may call a tool."""


class ToolGate:
    """Decides for a tool server, call by call. It may be asked from any thread.

    Each decision is of the status and the policies of its moment. Each denial has a word, `Decision.denial`,
    and a reason for people, which tells the caller no more than it knows, or what is public in the trust
    domain.

    Args:
        status: A `StatusSource`.
        policies: A `PolicySource`.
        reporter: Tells the audit trail of each decision.
        clock: Another clock, for tests.
    """

    def __init__(
        self,
        *,
        status: Statuses,
        policies: ToolPolicies,
        reporter: Reporter | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._status = status
        self._policies = policies
        self._reporter = reporter
        self._clock = clock or SystemClock()

    def decide(
        self,
        caller: Caller,
        tool: str,
        *,
        delegated: Tools | None = None,
        arguments: Mapping[str, object] = NO_ARGUMENTS,
    ) -> Decision:
        """Return whether a verified caller may use a tool.

        1. what the caller showed is good still: a connection may outlive the certificate it was made with;
        2. neither that nor its agent is taken back, by a status of now;
        3. what was delegated to it, if anything was, permits the tool with these arguments;
        4. the agent's own limits do, and policies of now permit the tool to it.

        Whatever is in shadow mode is told and does not count.

        Args:
            caller: What was verified.
            tool: The tool's name.
            delegated: What a verified delegation leaves to the caller; None if it acts in its own right.
            arguments: Those of the call, each a JSON value. Where arguments are limited, those that are not
                told are denied.
        """
        decision = self._decide(caller, tool, delegated, arguments)
        if self._reporter is not None:
            self._reporter.report(_verification(caller, tool, decision))
        return decision

    def _decide(
        self, caller: Caller, tool: str, delegated: Tools | None, arguments: Mapping[str, object]
    ) -> Decision:
        now = self._clock.now()
        # (1)
        leeway = timedelta(0) if isinstance(caller, Peer) else DEFAULT_LEEWAY
        if now >= caller.expires_at + leeway:
            return Decision.denied(Denial.EXPIRED, f"what {caller.spiffe_id} showed has expired")
        try:
            # (2)
            self._check_status(caller)
            # (3)
            if delegated is not None:
                delegated.check_permits(tool, arguments)
        except RevokedError as error:
            return Decision.denied(Denial.REVOKED, str(error))
        except StatusUnknownError as error:
            return Decision.denied(Denial.STATUS_UNKNOWN, str(error))
        except NotPermittedError as error:
            return Decision.denied(Denial.NOT_DELEGATED, str(error))
        # (4)
        return self._policies.decide_tool(caller.spiffe_id, tool, now, arguments)

    def _check_status(self, caller: Caller) -> None:
        status = self._status.agent_status(caller.spiffe_id.trust_domain)
        if isinstance(caller, Peer):
            status.check_certificate(caller.spiffe_id, caller.serial_number, caller.not_before)
        else:
            status.check_token(caller.spiffe_id, str(caller.claims.get("jti", "")), caller.issued_at)


def _verification(caller: Caller, tool: str, decision: Decision) -> Verification:
    shown: dict[str, Any] = (
        {"serial": caller.serial_number}
        if isinstance(caller, Peer)
        else {"jti": str(caller.claims.get("jti", ""))}
    )
    return Verification(
        kind="delegation" if decision.denial is Denial.NOT_DELEGATED else "policy",
        allowed=decision.allowed,
        reason=" ".join(filter(None, (str(decision.denial or ""), decision.reason))),
        peer=caller.spiffe_id,
        action=tool,
        bundle=decision.bundle,
        policies=decision.ids,
        **shown,
    )
