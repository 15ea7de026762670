# SPDX-License-Identifier: Apache-2.0
"""A join token becomes a segment of the node's ID: whatever cannot be one never reaches store or ID."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer.errors import NodeRejectedError
from issuer.node.join_token import Config, create
from tests.issuer.node.x509pop_node import Context


async def no_challenge(_):
    raise AssertionError("join tokens have no challenge")


def verify(payload, context):
    return create(Config()).verify(payload, no_challenge, context)


@pytest.mark.parametrize("token", ["a", "A-z_0.9", "x" * 255, "...", "a..b", "-"])
async def test_a_token_names_the_node(token):
    proof = await verify(token.encode(), Context(token))
    assert str(proof.node_id) == f"spiffe://example.org/spire/agent/join_token/{token}"
    assert not proof.can_reattest, "the token is used up"
    assert not proof.selectors


async def test_a_token_proves_once():
    context = Context("once")
    await verify(b"once", context)
    with pytest.raises(NodeRejectedError, match=r"^join token does not exist or has already been used$"):
        await verify(b"once", context)


@pytest.mark.requirement("ID-12", "ID-13", "ID-14", "ID-16")
@pytest.mark.parametrize(
    "payload",
    [
        b"", b" ", b".", b"..", b"/", b"a/b", b"../../spire/server", b"a/../b", b"%2e%2e", b"a%2Fb",
        b"a\0", b"a\n", b"\na", b"a b", "ä".encode(), b"\xff\xfe", b"x" * 256,
        b"x" * 10_240, b"a\\b", b"a?b",
        b"a#b", b"a@b", b"a:b", b"' or 1=1 --", "\N{FULLWIDTH DIGIT ONE}".encode(),
    ],
)  # fmt: skip
async def test_a_malformed_token_is_refused_before_it_is_looked_up(payload):
    """SPI-01-007 and CVE-2021-27099: a token went raw into a path, a path was normalised."""
    context = Context()
    with pytest.raises(NodeRejectedError, match=r"^join token is malformed$"):
        await verify(payload, context)
    assert context.redeemed == []


@given(st.binary(max_size=300))
async def test_any_payload_is_refused_or_stays_one_segment(payload):
    token = payload.decode("latin-1")
    context = Context(token)
    try:
        proof = await verify(payload, context)
    except NodeRejectedError:
        assert context.tokens == {token}, "nothing is used up"
        return
    assert str(proof.node_id).split("/")[5:] == ["join_token", token]
