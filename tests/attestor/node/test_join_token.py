# SPDX-License-Identifier: Apache-2.0
"""A join token, from the configuration or a file, is the whole proof."""

from pathlib import Path

import pytest

from attestor.errors import NodeAttestationError
from attestor.node.join_token import MAX_TOKEN, Config, create
from spiffekit.daemon.config import ConfigError


async def test_the_token_is_the_proof():
    attestor = create(Config(token="abc"))
    assert (attestor.type, await attestor.payload()) == ("join_token", b"abc")


@pytest.mark.parametrize(
    "content", ["abc", "abc\n", "  abc \nsecond line\n", "abc\r\n"], ids=["bare", "line", "spaces", "crlf"]
)
async def test_a_file_has_the_token_in_its_first_line(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content.encode())
    assert await create(Config(token_file=path)).payload() == b"abc"


async def test_a_file_is_read_when_it_is_needed(tmp_path):
    path = tmp_path / "token"
    attestor = create(Config(token_file=path))
    path.write_text("first")
    assert await attestor.payload() == b"first"
    path.write_text("second")
    assert await attestor.payload() == b"second"


async def test_a_file_that_is_not_there_is_told(tmp_path):
    path = tmp_path / "token"
    with pytest.raises(NodeAttestationError) as caught:
        await create(Config(token_file=path)).payload()
    assert str(caught.value) == f"token_file {path} cannot be read"


async def test_a_file_that_is_no_text_is_told_without_its_content(tmp_path):
    path = tmp_path / "token"
    path.write_bytes(b"secret\xff")
    with pytest.raises(NodeAttestationError) as caught:
        await create(Config(token_file=path)).payload()
    assert str(caught.value) == f"token_file {path} cannot be read"


@pytest.mark.parametrize("content", ["", "\n", "  \nabc"])
async def test_a_file_without_a_token_proves_nothing(tmp_path, content):
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(NodeAttestationError, match=r"^there is no join token$"):
        await create(Config(token_file=path)).payload()


async def test_a_token_of_full_length_is_taken():
    assert len(await create(Config(token="x" * MAX_TOKEN)).payload()) == MAX_TOKEN


async def test_a_token_in_a_file_has_the_same_limit(tmp_path):
    path = tmp_path / "token"
    path.write_text("x" * MAX_TOKEN)
    attestor = create(Config(token_file=path))
    assert len(await attestor.payload()) == MAX_TOKEN
    path.write_text("x" * (MAX_TOKEN + 1))
    with pytest.raises(NodeAttestationError, match=r"^join token is longer than 255 characters$"):
        await attestor.payload()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(), "token: exactly one of token and token_file is needed"),
        (Config("abc", Path("/token")), "token: exactly one of token and token_file is needed"),
        (Config("x" * (MAX_TOKEN + 1)), "token: longer than 255 characters"),
    ],
    ids=["none", "both", "long"],
)
def test_a_mistake_is_told_without_the_token(config, message):
    with pytest.raises(ConfigError) as caught:
        create(config)
    assert str(caught.value) == message


async def test_a_challenge_is_not_answered():
    with pytest.raises(NodeAttestationError, match=r"^issuer sent a challenge for a join token$"):
        await create(Config(token="abc")).respond(b"nonce")


def test_the_token_is_not_shown():
    assert "abc" not in repr(create(Config(token="abc")))
