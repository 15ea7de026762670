# SPDX-License-Identifier: Apache-2.0
"""Workload attestors of four kinds: good, failing, buggy and slow."""

import asyncio

from attestor.errors import WorkloadAttestationError
from attestor.workload import Facts
from spiffekit.selector import Selector


class GoodAttestor:
    """Says of every process what a test tells it to say, until the process has exited."""

    def __init__(self, type_="unix", *values):
        self.type = type_
        self.facts = Facts()
        self.asked = 0
        self.say(*values)

    def say(self, *values):
        self.facts = Facts(frozenset(Selector(self.type, value) for value in values))

    async def attest(self, process):
        self.asked += 1
        if not process.peer.alive():
            raise WorkloadAttestationError("process has exited")
        return self.facts


class FailingAttestor:
    """Knows the process, and cannot examine it."""

    def __init__(self, type_="failing"):
        self.type = type_

    async def attest(self, process):
        raise WorkloadAttestationError("the runtime does not answer")


class BuggyAttestor:
    """Raises what no attestor may raise."""

    def __init__(self, type_="buggy"):
        self.type = type_

    async def attest(self, process):
        raise LookupError("secret of the plug-in")


class SlowAttestor(GoodAttestor):
    """Answers when it is let; `waiting` counts who asked, `cancelled` who did not wait for it."""

    def __init__(self, type_="slow", *values):
        super().__init__(type_, *values)
        self.may_answer = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0

    async def attest(self, process):
        self.waiting += 1
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().attest(process)
