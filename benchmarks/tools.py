# SPDX-License-Identifier: Apache-2.0
"""Policy at a tool server: a decision, what a bundle costs, and how soon a changed policy counts there."""

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta

from benchmarks.measure import Row, quantiles
from deploy.local import Local
from issuer.client import connect
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.policy import Policies, Policy, PolicyBook, PolicyBundle, Principal
from spiffekit.status import LIFETIME, AgentStatus
from spiffekit.testing import TestCA
from spiffekit.wire.pb.issuer.v1 import agents_pb2, policy_pb2
from spiffekit.workload import Peer, PeerWatch, PolicySource, StatusSource, ToolGate

OWNER = "https://idp.example.org"
TRUST_DOMAIN = TrustDomain("example.org")
PAYER = SpiffeId(TRUST_DOMAIN, "/agent/payer")
EACH = 50  # statements of a policy
WITHIN = 30.0  # seconds that a change may take


async def run(folder, *, full):
    rows = []
    for statements in (10, 1000):
        rows += decisions(statements, agents=1000, rounds=5000 if full else 1000)
    rows += bundles(10_000 if full else 2_000)
    return rows + await changes(folder, 200 if full else 50)


def statements_of(number):
    """Permissions, of which one fits: that of the team t7."""
    lines = [
        f'permit(principal in Team::"t{n}", action == Action::"tool.call", resource)'
        " when { context.time.hour < 24 };"
        for n in range(number)
    ]
    return tuple(
        Policy(name=f"p{start:04}", version=1, text="\n".join(lines[start : start + EACH]))
        for start in range(0, number, EACH)
    )


def signed(ca, policies, agents):
    return ca.policies(policies=policies, agents=agents)


def principals(number):
    ids = [PAYER, *(SpiffeId(TRUST_DOMAIN, f"/agent/{n}") for n in range(number - 1))]
    return [
        Principal(spiffe_id=one, owner=f"{OWNER}|alice", agent_class="bots", team="t7", review_overdue=False)
        for one in ids
    ]


def decisions(statements, *, agents, rounds):
    """A decision by status and policies, of a caller who is known by certificate."""
    ca = TestCA("example.org")
    policies = statements_of(statements)
    token = signed(ca, policies, principals(agents))
    book, watch = PolicyBook(TRUST_DOMAIN), PeerWatch()
    watch.put(
        AgentStatus(
            trust_domain=TRUST_DOMAIN, sequence=1, issued_at=ca.now, expires_at=ca.now + LIFETIME,
            suspended=frozenset(SpiffeId(TRUST_DOMAIN, f"/gone/{n}") for n in range(1000)),
        )
    )  # fmt: skip
    Policies.compile(policies[:1])  # the engine is loaded
    began = time.perf_counter()
    book.put(PolicyBundle.verify(token, ca.bundle, now=ca.now))
    taken_up = time.perf_counter() - began
    gate = ToolGate(status=watch, policies=book)
    svid = ca.issue(str(PAYER))
    peer = Peer(PAYER, svid.serial_number, svid.not_before, svid.expires_at)
    fresh, remembered = [], []
    for number in range(rounds):
        fresh.append(decided(gate, peer, f"tool {number}"))
        remembered.append(decided(gate, peer, f"tool {number}"))
    what = f"{statements:,} statements, {agents:,} agents"
    return [
        Row(f"{what}: verified and compiled", taken_up * 1000, "ms", "", f"{len(token) / 1024:,.0f} KiB"),
        *quantiles(fresh, f"{what}: a call is decided, the first of a tool", ("< 1", "")),
        *quantiles(remembered, f"{what}: the same again"),
    ]


def decided(gate, peer, tool):
    """Seconds that a decision takes."""
    began = time.perf_counter()
    decision = gate.decide(peer, tool)
    taken = time.perf_counter() - began
    assert decision.allowed
    return taken


def bundles(agents):
    """What it costs to take up other agents under the same policies."""
    ca = TestCA("example.org")
    policies, who = statements_of(1000), principals(agents)
    book = PolicyBook(TRUST_DOMAIN)
    book.put(PolicyBundle.verify(signed(ca, policies, who), ca.bundle, now=ca.now))
    ca.now += timedelta(seconds=1)
    token = signed(ca, policies, who)
    began = time.perf_counter()
    assert book.put(PolicyBundle.verify(token, ca.bundle, now=ca.now))
    taken = time.perf_counter() - began
    what = f"the same policies, {agents:,} agents: verified and taken up"
    return [Row(what, taken * 1000, "ms", "", f"{len(token) / 1024:,.0f} KiB")]


async def changes(folder, rounds):
    """From before the operator's call until a tool server beside a real attestor decides otherwise."""
    with Local(folder) as local:
        local.start_issuer()
        attestor = local.start_attestor()
        local.register("/tools", attestor.node_id, f"unix:uid:{os.getuid()}")
        with connect(local.admin_socket) as api:
            spec = agents_pb2.AgentSpec(
                spiffe_id=str(PAYER), owner=agents_pb2.Owner(issuer=OWNER, subject="alice"),
                team="t7", purpose="is measured, and does nothing else",
            )  # fmt: skip
            api.agents.RegisterAgent(agents_pb2.RegisterAgentRequest(spec=spec))
            step = agents_pb2.ChangeStateRequest(spiffe_id=spec.spiffe_id, reason="to be measured")
            api.agents.ActivateAgent(step)
            for policy in statements_of(1000):
                put(api, policy.name, policy.text)
            async with (
                StatusSource.open(attestor.endpoint) as status,
                PolicySource.open(TRUST_DOMAIN, attestor.endpoint) as policies,
            ):
                gate = ToolGate(status=status, policies=policies)
                now = datetime.now(UTC)
                peer = Peer(PAYER, 1, now, now + timedelta(days=1))
                taken = []
                for number in range(rounds):
                    effect = "forbid" if number % 2 == 0 else "permit"
                    began = time.perf_counter()
                    await asyncio.to_thread(put, api, "switch", f"{effect}(principal, action, resource);")
                    await until(
                        lambda effect=effect: gate.decide(peer, "pay").allowed is (effect == "permit")
                    )
                    taken.append(time.perf_counter() - began)
    return quantiles(
        taken, "policy put → calls are decided otherwise, 1,000 statements", ("< 1,000", "< 1,000")
    )


def put(api, name, text):
    api.policies.Put(policy_pb2.PutPolicyRequest(name=name, text=text, reason="to be measured"))


async def until(condition):
    async with asyncio.timeout(WITHIN):
        while not condition():
            await asyncio.sleep(0.001)
