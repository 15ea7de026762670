# SPDX-License-Identifier: Apache-2.0
"""Digests of images that were in a registry, by a real registry and a real dockerd."""

import asyncio

import pytest

from attestor.workload import docker as attestor
from tests.attestor.workload.processes import values
from tests.engines import docker
from tests.engines.daemons import IMAGE


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with docker.running(tmp_path_factory.mktemp("docker")) as one:
        yield one


def test_an_image_of_a_registry_has_the_digest_that_it_has_there(engine, tmp_path):
    attest = attestor.create(attestor.Config(engine.socket)).attest
    with docker.registry(engine, tmp_path) as registry:
        name = f"{registry}/team/web:1"
        engine("tag", IMAGE, name)
        (digest,) = [word for word in engine("push", name).split() if word.startswith("sha256:")]
        engine("rmi", IMAGE, name)
        engine("pull", name)
    with engine.running(image=name) as (_, first):
        facts = asyncio.run(attest(first))
    assert values(facts, "image_digest") == {digest}
    assert facts.container.image_digest == digest
    assert values(facts, "image_id") == {name}
    assert facts.container.image_id != digest
