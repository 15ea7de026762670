# SPDX-License-Identifier: Apache-2.0
"""Containers of a user's own podman: what is said of them is that user's word."""

import asyncio
from pathlib import Path

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import Facts, cgroups, podman
from spiffekit.selector import typo
from tests.attestor.workload.places import cgroup
from tests.attestor.workload.processes import held, process
from tests.engines import podman_rootless
from tests.engines.podman_rootless import MAPPED, SERVICE, UID

PARENT = f"--cgroup-parent={SERVICE}"  # a systemd manager would put it there by itself


@pytest.fixture(scope="module")
def engine(folder):
    with podman_rootless.running(folder) as one:
        yield one


@pytest.fixture
def attest(engine, folder):
    config = podman.Config(folder / "none.sock", f"{folder}/{{uid}}/podman.sock")
    attestor = podman.create(config)
    return lambda one: asyncio.run(attestor.attest(one))


def test_a_users_container_is_described_as_that_users_word(engine, attest):
    with engine.running(PARENT, "--name=web", app="a") as (container, first):
        facts = attest(first)
    assert facts.container.id == container
    assert {f"podman:user:{UID}:label:app:a", f"podman:user:{UID}:name:web"} <= set(map(str, facts.selectors))
    assert all(s.value.startswith(f"user:{UID}:") for s in facts.selectors)
    assert [s for s in facts.selectors if typo(s)] == []


def test_a_process_of_another_mapped_user_is_in_the_container(engine, attest):
    with engine.running(PARENT, "--user=1000", app="a") as (_, first):
        assert f"Uid:\t{MAPPED + 999}\t" in (first.proc / "status").read_text()
        assert f"podman:user:{UID}:label:app:a" in set(map(str, attest(first).selectors))


def test_what_was_put_into_it_is_entered(engine, attest):
    with engine.running(PARENT, app="a") as (container, first):
        engine("exec", "-d", container, "sleep", "599")
        place = cgroups.read(first.proc)
        (guest,) = [p for p in pids() if p != first.pid and group_of(p) == place]
        with held(guest) as one:
            facts = attest(one)
        assert facts.container.entered
        assert facts.selectors == attest(first).selectors


def pids():
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def group_of(pid):
    try:
        return cgroups.read(Path("/proc", str(pid)))
    except WorkloadAttestationError:
        return None


def test_roots_process_in_its_cgroup_is_not_its_own(engine, attest):
    with engine.running(PARENT, app="a") as (container, first), process("sleep", "60") as one:
        with cgroup(f"{SERVICE}/libpod-{container}/x", one.pid):
            assert attest(first).selectors
            with pytest.raises(WorkloadAttestationError, match=f"in user {UID}'s container is in none"):
                attest(one)


def test_a_container_without_a_cgroup_of_its_own_is_in_none(engine, attest):
    with engine.running("--cgroups=disabled", app="a") as (_, first):
        assert attest(first) == Facts()
