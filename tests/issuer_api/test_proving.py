# SPDX-License-Identifier: Apache-2.0
"""The talk between a verifier and a node, and how it ends."""

import asyncio

import pytest

from issuer.api.proving import Proving
from issuer.errors import NodeRejectedError


class Curious:
    """Asks twice, and wants to hear the same."""

    async def verify(self, payload, challenge, context):
        answers = [await challenge(payload + number) for number in (b"1", b"2")]
        if answers[0] != answers[1]:
            raise NodeRejectedError("answers differ")
        return answers


async def test_questions_and_answers_take_turns_until_the_verdict():
    proving = Proving(Curious(), b"p", None)
    for asked in (b"p1", b"p2"):
        assert await proving.challenge() == asked
        proving.answer(b"same")
    assert await proving.challenge() is None
    assert await proving.proof() == [b"same", b"same"]
    proving.cancel()


async def test_the_verdict_is_told_by_its_error():
    proving = Proving(Curious(), b"p", None)
    for answer in (b"one", b"another"):
        await proving.challenge()
        proving.answer(answer)
    assert await proving.challenge() is None
    with pytest.raises(NodeRejectedError, match="answers differ"):
        await proving.proof()


@pytest.mark.parametrize("taken", [True, False], ids=["asked", "about to be asked"])
async def test_a_node_that_goes_in_the_middle_leaves_no_verifier_behind(taken):
    proving = Proving(Curious(), b"p", None)
    await asyncio.sleep(0)
    if taken:
        await proving.challenge()
    proving.cancel()
    await asyncio.wait([proving._task], timeout=1)
    assert proving._task.cancelled()
