# SPDX-License-Identifier: Apache-2.0
"""A node is let in by what its platform says of it, and waits while that says nothing."""

import logging

import grpc
import pytest

from issuer.node.gcp_iit import Config, create_with
from spiffekit.wire.pb.spire.api import types_pb2
from spiffekit.wire.pb.spire.api.server.agent.v1 import agent_pb2, agent_pb2_grpc
from tests.fakes.web import ok
from tests.issuer.node.google import Compute, Google
from tests.issuer_api.calls import refused
from tests.issuer_api.test_node import attest, params
from tests.issuer_api.world import World, id_message

NODE = id_message("/spire/agent/gcp_iit/project-1/152986662232938449")


@pytest.fixture
async def compute():
    async with Compute() as made:
        yield made


async def test_while_a_platform_cannot_be_asked_no_node_is_made(place, clock, compute, caplog):
    """And the issuer's own token stands in no log."""
    caplog.set_level(logging.DEBUG)
    config = Config(("project-1",), use_instance_metadata=True)
    compute.api.answer = lambda head: ok("{}", status="503 Service Unavailable")
    async with Google(clock) as google:
        verifier = create_with(
            config, google.server.peer, clock, compute=compute.api.peer, metadata=compute.metadata.peer
        )
        async with World.open(place, clock, verifiers={"gcp_iit": verifier}) as world:
            stub = agent_pb2_grpc.AgentStub(await world.dial())
            with refused(grpc.StatusCode.UNAVAILABLE, "Google's Compute API cannot be asked: status 503"):
                await attest(stub, params("gcp_iit", google.token()))
            compute.api.answer = compute.describe
            (last,) = await attest(stub, params("gcp_iit", google.token()))
            assert last.result.svid.id == NODE
            local = agent_pb2_grpc.AgentStub(await world.local())
            node = await local.GetAgent(agent_pb2.GetAgentRequest(id=NODE))
            assert types_pb2.Selector(type="gcp_iit", value="tag:public") in node.selectors
    assert compute.tokens == 1
    assert "SECRET" not in caplog.text
