# SPDX-License-Identifier: Apache-2.0
"""What every container engine answers to our questions, the fake one included."""

import asyncio
import contextlib
import subprocess

import pytest

from attestor.workload.engine import Engine
from attestor.workload.engine_api import EngineApi
from tests.attestor.workload.processes import values
from tests.engines import docker, podman
from tests.engines.daemons import IMAGE
from tests.fakes.engine import FakeEngine


class Fake:
    """The fake engine, told to run containers as the real ones are."""

    kind = "docker"

    def __init__(self, socket):
        self.socket = socket
        self.fake = FakeEngine()

    @contextlib.contextmanager
    def running(self, *options, **labels):
        told = [option.partition("=")[2] for option in options if option.startswith("--env=")]
        (name,) = [option.partition("=")[2] for option in options if option.startswith("--name=")]
        with subprocess.Popen(["sleep", "60"]) as first:
            known = {"name": name, "image": IMAGE, "labels": {"from": "image", **labels}, "env": told}
            yield self.fake.run(first.pid, **known), first
            self.fake.containers.clear()
            first.kill()

    def serving(self):
        return self.fake.serving(self.socket)


@contextlib.contextmanager
def fake(folder):
    yield Fake(folder / "engine.sock")


@pytest.fixture(
    scope="module", params=[fake, docker.running, podman.running], ids=["fake", "docker", "podman"]
)
def engine(request, tmp_path_factory):
    with request.param(tmp_path_factory.mktemp("engine")) as one:
        yield one


@pytest.fixture
async def asked(engine):
    serving = engine.serving() if isinstance(engine, Fake) else contextlib.nullcontext()
    async with serving:
        yield Engine(EngineApi(engine.socket), kind="docker", environment=frozenset({"*"}))


async def test_a_container_is_described(engine, asked):
    with engine.running("--name=web", "--env=STAGE=prod=x", "--env=EMPTY=", team="payments", empty="") as (
        container_id,
        first,
    ):
        found = await asked.inspect(container_id)
    assert found.pid == first.pid
    assert values(found, "label") == {"from:image", "team:payments", "empty:"}
    assert values(found, "env") >= {"STAGE=prod=x", "EMPTY="}
    assert values(found, "name") == {"web"}
    assert values(found, "image_id") == {IMAGE}
    assert (found.facts.id, found.facts.name, found.facts.image) == (container_id, "web", IMAGE)
    assert values(found, "image_config_digest") == {found.facts.image_id}
    assert found.facts.image_id.startswith("sha256:")


async def test_what_it_does_not_know_is_none(engine, asked):
    assert await asked.inspect("0" * 64) is None


async def test_a_container_that_was_removed_is_none(engine, asked):
    with engine.running("--name=gone") as (container_id, _):
        assert await asked.inspect(container_id) is not None
    assert await asked.inspect(container_id) is None


async def test_many_questions_at_once_are_answered(engine, asked):
    with engine.running("--name=many", app="a") as (container_id, _):
        found = await asyncio.gather(*(asked.inspect(container_id) for _ in range(50)))
    assert all(values(one, "label") == {"from:image", "app:a"} for one in found)
