# SPDX-License-Identifier: Apache-2.0
"""The projected token is the proof, as SPIRE sends it."""

import json

import pytest

from attestor.errors import NodeAttestationError
from attestor.node.k8s_psat import MAX_TOKEN, Config, create


async def test_cluster_and_token_are_the_proof(tmp_path):
    path = tmp_path / "token"
    path.write_text("a.b.c\n")
    attestor = create(Config(cluster="c1", token_path=path))
    assert attestor.type == "k8s_psat"
    assert json.loads(await attestor.payload()) == {"cluster": "c1", "token": "a.b.c"}


async def test_a_renewed_token_counts(tmp_path):
    path = tmp_path / "token"
    attestor = create(Config(cluster="c1", token_path=path))
    for token in ("first", "second"):
        path.write_text(token)
        assert json.loads(await attestor.payload())["token"] == token


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "has no token"),
        (b"\n", "has no token"),
        (b"x" * (MAX_TOKEN + 1), "has no token"),
        (b"\xff", "cannot be read"),
    ],
    ids=["empty", "blank", "large", "bytes"],
)
async def test_what_is_no_token_is_not_sent(tmp_path, content, rule):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(NodeAttestationError, match=rule):
        await create(Config(cluster="c1", token_path=path)).payload()


async def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(NodeAttestationError, match=r"token_path .* cannot be read"):
        await create(Config(cluster="c1", token_path=tmp_path / "none")).payload()


async def test_a_challenge_is_not_answered(tmp_path):
    with pytest.raises(NodeAttestationError, match="challenge"):
        await create(Config(cluster="c1", token_path=tmp_path / "t")).respond(b"nonce")
