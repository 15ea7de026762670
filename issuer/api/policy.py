# SPDX-License-Identifier: Apache-2.0
"""issuer.v1.Policy: what operators lay down for agents, and what would come of it."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Final

from issuer.api.convert import node_id_field
from issuer.api.convert_agents import agent_id_field, text_field
from issuer.api.dispatch import Call
from issuer.errors import FailedPreconditionError, InvalidRequestError, NotFoundError
from issuer.governance.policy import PolicyJudge, in_force, principal_of
from issuer.governance.policy_bundles import PolicyPublisher
from issuer.governance.simulation import EVENTS, MAX_EVENTS, Flip, Simulation
from issuer.model import StoredPolicy
from issuer.registration import Registrations
from issuer.store import Database, Transaction
from issuer.store.audit import AuditFilter
from spiffekit.errors import PolicyEngineError, PolicyError
from spiffekit.id import TrustDomain
from spiffekit.policy import Attest, Http, Policies, Policy, Request, Resource
from spiffekit.policy.bundle import LIFETIME
from spiffekit.policy.request import HTTP, SVID, TOOL
from spiffekit.wire.convert import seconds
from spiffekit.wire.pb.issuer.v1 import policy_pb2

MAX_CHANGES: Final = 100  # of one simulation
PAGE: Final = 1_000  # events read at once
CHUNK: Final = 10  # events decided before other calls get a turn


class PolicyService:
    """See the module."""

    def __init__(
        self,
        trust_domain: TrustDomain,
        *,
        database: Database,
        registrations: Registrations,
        judge: PolicyJudge,
        publisher: PolicyPublisher,
    ) -> None:
        self._trust_domain = trust_domain
        self._database = database
        self._registrations = registrations
        self._judge = judge
        self._publisher = publisher

    async def Put(self, request: policy_pb2.PutPolicyRequest, call: Call) -> policy_pb2.StoredPolicy:  # noqa: N802 - the method's name on the wire
        """Store the next version of a policy, which holds at once."""
        text_field("reason", request.reason, required=True)
        policy = Policy(name=request.name, version=1, text=request.text)
        wanted = StoredPolicy(
            name=request.name,
            text=request.text,
            enforced=_compile([policy]).enforces,
            author=call.caller.actor,
            reason=request.reason,
            created_at=call.now,
        )

        def act(tx: Transaction) -> StoredPolicy:
            stored = tx.policies.add(wanted, replaces=request.replaces)
            _compile(in_force(tx.policies.newest()))  # together they are not too many
            tx.audit.append(call.record(stored.name, reason=stored.reason, version=stored.version))
            return stored

        return _message(await self._database.write(act))

    async def List(  # noqa: N802 - the method's name on the wire
        self, request: policy_pb2.ListPoliciesRequest, call: Call
    ) -> policy_pb2.ListPoliciesResponse:
        """List the policies that hold."""
        del request, call
        return policy_pb2.ListPoliciesResponse(
            policies=map(_message, self._judge.stored()),
            version=self._judge.version,
            hash=self._judge.hash,
            enforced=self._judge.enforced,
        )

    async def Get(self, request: policy_pb2.GetPolicyRequest, call: Call) -> policy_pb2.StoredPolicy:  # noqa: N802 - the method's name on the wire
        """Return a version of a policy, or the newest."""
        del call
        return _message(await self._database.read(lambda tx: tx.policies.get(request.name, request.version)))

    async def Delete(self, request: policy_pb2.DeletePolicyRequest, call: Call) -> policy_pb2.StoredPolicy:  # noqa: N802 - the method's name on the wire
        """End a policy."""
        text_field("reason", request.reason, required=True)
        wanted = StoredPolicy(
            name=request.name,
            text=None,
            author=call.caller.actor,
            reason=request.reason,
            created_at=call.now,
        )

        def act(tx: Transaction) -> StoredPolicy:
            stored = tx.policies.add(wanted)
            tx.audit.append(call.record(stored.name, reason=stored.reason, version=stored.version))
            return stored

        return _message(await self._database.write(act))

    async def Test(self, request: policy_pb2.TestPoliciesRequest, call: Call) -> policy_pb2.PolicyDecision:  # noqa: N802 - the method's name on the wire
        """Say what would be decided."""
        spiffe_id = agent_id_field("spiffe_id", request.spiffe_id, self._trust_domain)
        agent = self._registrations.agent(spiffe_id)
        if agent is None:
            raise NotFoundError(f"agent {spiffe_id} does not exist")
        kind = request.WhichOneof("resource") or ""
        resource = {
            "": Resource(kind="TrustDomain", id=self._trust_domain.name),
            "audience": Resource(kind="Audience", id=request.audience),
            "tool": Resource(kind="Tool", id=request.tool),
            "service": Resource(kind="Service", id=request.service),
        }[kind]
        action = {"tool": TOOL, "service": HTTP}.get(kind, SVID)
        decision = self._changed(request.changes).decide(
            Request(
                action=action,
                principal=principal_of(agent, call.now),
                resource=resource,
                at=call.now,
                attest=self._attest(request) if action == SVID else None,
                http=_http(request) if action == HTTP else None,
            )
        )
        answer = policy_pb2.PolicyDecision(
            allowed=decision.allowed, ids=decision.ids, reason=decision.reason, hash=decision.bundle
        )
        if decision.shadow is not None:
            answer.shadow_allowed = decision.shadow.allowed
            answer.shadow_ids.extend(decision.shadow.ids)
        return answer

    def _attest(self, request: policy_pb2.TestPoliciesRequest) -> Attest | None:
        if not request.node:
            return None
        return Attest(
            node=str(node_id_field("node", request.node, self._trust_domain)),
            level=request.level,
            selectors=frozenset(request.selectors) if request.has_evidence else None,
            image_digest=request.image_digest,
        )

    async def Simulate(  # noqa: N802 - the method's name on the wire
        self, request: policy_pb2.SimulatePoliciesRequest, call: Call
    ) -> policy_pb2.SimulatePoliciesResponse:
        """Decide again what was decided in a range of time."""
        if not 0 <= request.since <= seconds(call.now):
            raise InvalidRequestError("since: is no moment of the past")
        policies = self._changed(request.changes, shadow=request.with_shadow)
        simulation = Simulation(policies, enforced=self._judge.enforced or policies.enforces)
        wanted = AuditFilter(type=EVENTS, since=datetime.fromtimestamp(request.since, UTC))
        after = looked_at = 0
        while looked_at < MAX_EVENTS:
            page = await self._database.read(partial(_leaves, after, wanted))
            for start in range(0, len(page), CHUNK):
                simulation.replay(leaf for _, leaf in page[start : start + CHUNK])
                await asyncio.sleep(0)
            looked_at += len(page)
            if len(page) < PAGE:
                break
            after = page[-1][0]
        return policy_pb2.SimulatePoliciesResponse(
            decided=simulation.decided,
            undecided=simulation.undecided,
            flipped=simulation.flipped,
            flips=map(_flip, simulation.flips),
            truncated=looked_at >= MAX_EVENTS,
        )

    def _changed(self, changes: Iterable[policy_pb2.PolicyChange], *, shadow: bool = False) -> Policies:
        """Return the policies that hold, with changes."""
        known = {policy.name: policy for policy in self._judge.policies()}
        for number, change in enumerate(changes):
            if number == MAX_CHANGES:
                raise InvalidRequestError(f"changes: more than {MAX_CHANGES}")
            if change.text:
                known[change.name] = Policy(name=change.name, version=0, text=change.text)
            elif known.pop(change.name, None) is None:
                raise NotFoundError(f"policy {change.name[:80]!r} does not exist")
        return _compile(known.values(), shadow=shadow)

    async def GetBundle(  # noqa: N802 - the method's name on the wire
        self, request: policy_pb2.GetPolicyBundleRequest, call: Call
    ) -> policy_pb2.PolicyBundle:
        """Return the policies that hold and the active agents, signed."""
        del request
        return policy_pb2.PolicyBundle(token=await self._publisher.token(call.now, LIFETIME))


def _http(request: policy_pb2.TestPoliciesRequest) -> Http:
    try:
        return Http.parse(request.method, request.path)
    except PolicyError as error:
        raise InvalidRequestError(str(error)) from error


def _leaves(after: int, wanted: AuditFilter, tx: Transaction) -> list[tuple[int, bytes]]:
    return tx.audit.leaves(after, PAGE, wanted)


def _compile(policies: Iterable[Policy], *, shadow: bool = False) -> Policies:
    try:
        return Policies.compile(policies, shadow=shadow)
    except PolicyError as error:
        raise InvalidRequestError(str(error)) from error
    except PolicyEngineError as error:
        raise FailedPreconditionError(str(error)) from error


def _message(policy: StoredPolicy) -> policy_pb2.StoredPolicy:
    return policy_pb2.StoredPolicy(
        name=policy.name,
        version=policy.version,
        text=policy.text or "",
        deleted=policy.text is None,
        author=policy.author,
        reason=policy.reason,
        created_at=seconds(policy.created_at),
    )


def _flip(flip: Flip) -> policy_pb2.PolicyFlip:
    return policy_pb2.PolicyFlip(
        event_id=flip.event_id,
        at=seconds(flip.request.at),
        spiffe_id=str(flip.request.principal.spiffe_id),
        resource_kind=flip.request.resource.kind,
        resource=flip.request.resource.id,
        was_allowed=flip.was_allowed,
        would_be_allowed=flip.would.allowed,
        ids=flip.would.ids,
        reason=flip.would.reason,
    )
