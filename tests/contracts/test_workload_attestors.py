# SPDX-License-Identifier: Apache-2.0
"""What every workload attestor does, whatever it asks: the fakes and those that this machine can run."""

import asyncio
import contextlib
import os

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import Facts, Following
from attestor.workload.unix import Config, UnixAttestor
from tests.attestor.workload.plugins import external, followed
from tests.attestor.workload.processes import held, running
from tests.fakes.workload_attestors import GoodAttestor, SlowAttestor


def good(folder):
    return GoodAttestor("unix", f"uid:{os.geteuid()}")


def slow(folder):
    attestor = SlowAttestor("unix", f"uid:{os.geteuid()}")
    attestor.may_answer.set()
    return attestor


def unix(folder):
    return UnixAttestor(Config())


def unix_with_everything(folder):
    return UnixAttestor(Config(discover_workload_path=True, discover_parent=True, declare_cmdline=True))


def of_a_plugin(folder):
    return external(folder, name="unix")


@pytest.fixture(params=[good, slow, unix, unix_with_everything, of_a_plugin], ids=lambda make: make.__name__)
async def attestor(request, tmp_path):
    attestor = request.param(tmp_path)
    async with followed(attestor) if isinstance(attestor, Following) else contextlib.nullcontext():
        yield attestor


@pytest.fixture
def child():
    with running("sleep", "60") as child:
        yield child


async def test_it_states_facts_of_its_own_type(attestor, child):
    with held(child.pid) as process:
        found = await attestor.attest(process)
    assert isinstance(found, Facts)
    assert f"unix:uid:{os.geteuid()}" in {str(selector) for selector in found.selectors}
    assert {selector.type for selector in found.selectors} == {attestor.type}


async def test_it_says_the_same_again_and_to_many_at_once(attestor, child):
    with held(child.pid) as process:
        first, *others = await asyncio.gather(*(attestor.attest(process) for _ in range(10)))
    assert others == [first] * 9


async def test_of_a_process_that_has_exited_it_states_nothing(attestor, child):
    with held(child.pid) as process:
        child.kill()
        child.wait(5)
        with pytest.raises(WorkloadAttestationError):
            await attestor.attest(process)
