# SPDX-License-Identifier: Apache-2.0
"""Policy: a decision among a thousand statements, fresh and remembered, and what it costs an agent's SVID."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import psutil

from attestor.issuer_client import make_csr, new_key
from benchmarks.issue import register
from benchmarks.measure import Row, evidence, quantiles, raw_sign_and_verify
from deploy.local import Local
from deploy.node import attested
from issuer.client import connect
from issuer.governance.issuance import Governor
from issuer.governance.policy import PolicyJudge
from issuer.model import Agent, AgentState, Owner, StoredPolicy
from issuer.registration import Registrations
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.policy import Attest
from spiffekit.wire.pb.issuer.v1 import agents_pb2, policy_pb2

TEXTS, EACH = 20, 50  # policies, and statements of each: 1,000 in all
BATCH = 500
TTL = timedelta(hours=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = "https://idp.example.org"
SEEN = ("unix:uid:100000", *(f"unix:supplementary_gid:{number}" for number in range(29)))
PURPOSE = "is measured, and does nothing else"


async def run(folder, *, full):
    return alone(2000 if full else 500) + await through_the_api(folder, 10 if full else 4)


def texts():
    """A thousand permissions, of which one fits: that of the team t7."""
    return [
        "\n".join(
            f'permit(principal in Team::"t{number}", action == Action::"svid.issue", resource)'
            " when { context has attest && context.attest.level >= 2 };"
            for number in range(start * EACH, start * EACH + EACH)
        )
        for start in range(TEXTS)
    ]


def alone(rounds):
    trust_domain = TrustDomain("example.org")
    agent = Agent(
        spiffe_id=SpiffeId(trust_domain, "/agents/1"),
        id="1",
        state=AgentState.ACTIVE,
        owner=Owner(OWNER, "alice"),
        team="t7",
        purpose=PURPOSE,
        registered_by="local:uid=0,pid=1",
        created_at=NOW,
        changed_at=NOW,
    )
    registrations = Registrations(trust_domain)
    registrations.load([], [], agents=[agent])
    stored = [
        StoredPolicy(
            name=f"p{number}", version=1, sequence=number + 1, text=text, enforced=True, author="", reason="",
            created_at=NOW,
        )
        for number, text in enumerate(texts())
    ]  # fmt: skip
    bare, judge = Governor(registrations, PolicyJudge()), PolicyJudge()
    began = time.perf_counter()
    judge.load(stored, enforced=True)
    compiled = time.perf_counter() - began
    began = time.perf_counter()
    judge.load(stored, enforced=True)
    again = time.perf_counter() - began
    governor = Governor(registrations, judge)
    selectors = frozenset(f"unix:supplementary_gid:{number}" for number in range(30))
    fresh = []
    for number in range(rounds):
        seen = Attest(node=f"spiffe://example.org/spire/agent/n{number}", level=2, selectors=selectors)
        began = time.perf_counter()
        governor.allow_x509(agent.spiffe_id, TTL, NOW, seen)
        fresh.append(time.perf_counter() - began)
    raw = raw_sign_and_verify(200)
    return [
        Row("1,000 statements checked and compiled", compiled * 1000, "ms"),
        Row("compiled anew after a change", again * 1000, "ms"),
        *quantiles(fresh, "decision in the issuing path, fresh", ("< 1", "")),
        Row("the same, remembered", cpu(governor, agent, seen, rounds) * 1e6, "µs CPU"),
        Row("the same, no policy stored", cpu(bare, agent, seen, rounds) * 1e6, "µs CPU"),
        Row("remembered, ratio to raw", cpu(governor, agent, seen, rounds) / raw, "×"),
    ]


def cpu(governor, agent, seen, rounds):
    began = time.process_time()
    for _ in range(rounds):
        governor.allow_x509(agent.spiffe_id, TTL, NOW, seen)
    return (time.process_time() - began) / rounds


async def through_the_api(folder, rounds):
    """CPU of the issuer for an SVID: nobody's, an agent's, and an agent's by a thousand statements."""
    with Local(folder, issuer={"issuer": {"signatures_per_second": 1e6}}) as local:
        local.start_issuer()
        token = local.operator_json("token", "generate")["value"]
        bundle = local.operator("bundle", "show").stdout
        async with attested(local, token, bundle) as client:
            node = client.credentials.svid.spiffe_id
            entries = await asyncio.to_thread(register, local, node, BATCH, users=1)
            asked = list(zip(entries, [make_csr(new_key()) for _ in entries], strict=True))
            issuer = psutil.Process(local.issuer.pid)
            found = [await per_svid(client, asked, issuer, rounds, seen=None)]
            found.append(await per_svid(client, asked, issuer, rounds))
            await asyncio.to_thread(own, local, node)
            found.append(await per_svid(client, asked, issuer, rounds))
            await asyncio.to_thread(lay_down, local)
            await client.new_x509_svids(asked, evidence(*SEEN))  # the first of each agent is decided afresh
            found.append(await per_svid(client, asked, issuer, rounds))
    (plain, raw), *others = found
    rows = [Row(f"API, batches of {BATCH}: nobody's SVID, recorded", plain / raw, "× raw")]
    for (taken, reference), what in zip(
        others, ("the same, with evidence", "an agent's", "an agent's, by policy"), strict=True
    ):
        rows.append(Row(f"API, batches of {BATCH}: {what}", taken / reference, "× raw"))
    return rows


async def per_svid(client, asked, issuer, rounds, seen=SEEN):
    """CPU seconds of the issuer for one SVID, and of a raw signature and verification."""
    raw = raw_sign_and_verify(200)
    began = sum(issuer.cpu_times()[:2])
    for _ in range(rounds):
        saw = evidence(*seen) if seen else None
        assert len(await client.new_x509_svids(asked, saw)) == len(asked)
    taken = (sum(issuer.cpu_times()[:2]) - began) / rounds / len(asked)
    return taken, min(raw, raw_sign_and_verify(200))


def own(local, node):
    """Make every entry an agent's, of the team that is permitted."""
    with connect(local.admin_socket) as api:
        for number in range(BATCH):
            spec = agents_pb2.AgentSpec(
                spiffe_id=str(node.with_path(f"/agents/{number}")),
                owner=agents_pb2.Owner(issuer=OWNER, subject="alice"),
                team="t7",
                purpose=PURPOSE,
            )
            api.agents.RegisterAgent(agents_pb2.RegisterAgentRequest(spec=spec))
            step = agents_pb2.ChangeStateRequest(spiffe_id=spec.spiffe_id, reason="to be measured")
            api.agents.ActivateAgent(step)


def lay_down(local):
    with connect(local.admin_socket) as api:
        for number, text in enumerate(texts()):
            # A join token is worth 1: what is measured is a decision that allows.
            request = policy_pb2.PutPolicyRequest(
                name=f"p{number}", text=text.replace("level >= 2", "level >= 1"), reason="to be measured"
            )
            api.policies.Put(request)
