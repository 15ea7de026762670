# SPDX-License-Identifier: Apache-2.0
"""Podman's attestor before fake engines: root's, and that of a user who says what it wants."""

import contextlib
import os

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import Facts, podman
from attestor.workload.cgroups import Container
from spiffekit.daemon.config import ConfigError
from spiffekit.selector import typo
from tests.attestor.workload.namespaces import in_namespace
from tests.attestor.workload.places import cgroup
from tests.attestor.workload.processes import process, values
from tests.attestor.workload.signatures import SIGNED, of_signatures, signed
from tests.fakes.engine import DIGEST, IMAGE_ID, FakeEngine

ALICE, BOB = 4711, 4712
SLICE = "/user.slice/user-{0}.slice/user@{0}.service/user.slice/libpod-{1}.scope"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes need root")


@pytest.fixture
async def engines(tmp_path):
    """Root's engine and those of two users."""
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for uid in (0, ALICE, BOB):
            serving = FakeEngine().serving(tmp_path / f"{uid}.sock", owner=uid)
            found[uid] = await stack.enter_async_context(serving)
        yield found


@pytest.fixture
def config(tmp_path):
    return podman.Config(tmp_path / "0.sock", f"{tmp_path}/{{uid}}.sock")


@pytest.fixture
def attestor(config):
    return podman.create(config)


async def test_a_container_of_root_is_described_by_roots_engine(engines, attestor):
    with process("sleep", "60") as one:
        container_id = engines[0].run(one.pid, labels={"app": "a"})
        with cgroup(f"/machine.slice/libpod-{container_id}.scope/container", one.pid):
            facts = await attestor.attest(one)
    assert values(facts, "label") == {"app:a"}
    assert facts.container.engine == "podman"
    assert [s for s in facts.selectors if typo(s)] == []


async def test_a_users_container_is_described_as_that_users_word(engines, attestor):
    with in_namespace(ALICE) as one:
        container_id = engines[ALICE].run(one.pid, labels={"app": "a"})
        with cgroup(SLICE.format(ALICE, container_id) + "/container", one.pid):
            facts = await attestor.attest(one)
    assert {str(selector) for selector in facts.selectors} == {
        f"podman:user:{ALICE}:label:app:a",
        f"podman:user:{ALICE}:name:web",
        f"podman:user:{ALICE}:image_id:registry.example/web:1",
        f"podman:user:{ALICE}:image_config_digest:{IMAGE_ID}",
        f"podman:user:{ALICE}:image_digest:{DIGEST}",
    }
    assert facts.container.id == container_id
    assert [s for s in facts.selectors if typo(s)] == []
    assert engines[0].requests == engines[BOB].requests == []


async def test_signatures_are_stated_of_roots_images_alone(engines, tmp_path):
    """A user's own engine may name whatever digest is signed."""
    signatures = signed(tmp_path, DIGEST)
    attestor = podman.create(
        podman.Config(tmp_path / "0.sock", f"{tmp_path}/{{uid}}.sock", signatures=signatures)
    )
    with process("sleep", "60") as one:
        container_id = engines[0].run(one.pid)
        with cgroup(f"/machine.slice/libpod-{container_id}.scope/container", one.pid):
            facts = await attestor.attest(one)
    assert of_signatures(facts) == SIGNED
    assert [s for s in facts.selectors if typo(s)] == []
    with in_namespace(ALICE) as one:
        container_id = engines[ALICE].run(one.pid)
        with cgroup(SLICE.format(ALICE, container_id) + "/container", one.pid):
            facts = await attestor.attest(one)
    assert f"podman:user:{ALICE}:image_digest:{DIGEST}" in set(map(str, facts.selectors))
    assert not [s for s in facts.selectors if "sign" in s.value]


async def test_a_process_of_a_mapped_user_in_a_namespace_of_its_own_is_the_users_still(engines, attestor):
    with in_namespace(ALICE, nested=True) as one:
        assert "Uid:\t700000\t" in (one.proc / "status").read_text()
        container_id = engines[ALICE].run(one.pid, labels={"app": "a"})
        with cgroup(SLICE.format(ALICE, container_id), one.pid):
            facts = await attestor.attest(one)
    assert f"podman:user:{ALICE}:label:app:a" in set(map(str, facts.selectors))


@pytest.mark.parametrize("remembered", [False, True], ids=["asked first", "remembered"])
async def test_a_process_of_others_in_a_users_container_is_not_the_users(engines, attestor, remembered):
    """Root's own, say by sudo, or another user's: neither did the user put into a container."""
    with process("sleep", "60") as roots, in_namespace(BOB) as bobs, in_namespace(ALICE) as first:
        container_id = engines[ALICE].run(first.pid)
        with cgroup(SLICE.format(ALICE, container_id), first.pid, roots.pid, bobs.pid):
            if remembered:
                assert (await attestor.attest(first)).selectors
            for one in (roots, bobs):
                with pytest.raises(WorkloadAttestationError, match=f"in user {ALICE}'s container is in none"):
                    await attestor.attest(one)


async def test_a_users_engine_says_nothing_of_roots_containers(engines, attestor):
    """The user imitates a container of root in its own slice, and its engine confirms everything."""
    with process("sleep", "60") as victim, in_namespace(ALICE) as liar:
        container_id = engines[0].run(victim.pid, labels={"app": "victim"})
        engines[ALICE].containers |= engines[0].containers
        with (
            cgroup(f"/machine.slice/libpod-{container_id}.scope", victim.pid),
            cgroup(SLICE.format(ALICE, container_id), liar.pid),
        ):
            with pytest.raises(WorkloadAttestationError, match="is not where podman runs"):
                await attestor.attest(liar)
            known = engines[0].containers[container_id]
            engines[ALICE].containers[container_id] = {**known, "State": {"Pid": liar.pid}}
            facts = await attestor.attest(liar)
            assert all(s.value.startswith(f"user:{ALICE}:") for s in facts.selectors)
            assert values(await attestor.attest(victim), "label") == {"app:victim"}


async def test_a_socket_that_leads_to_anothers_engine_is_refused(engines, attestor, tmp_path):
    (tmp_path / f"{ALICE}.sock").unlink()
    (tmp_path / f"{ALICE}.sock").symlink_to(tmp_path / f"{BOB}.sock")
    with in_namespace(ALICE) as one:
        container_id = engines[BOB].run(one.pid)
        with cgroup(SLICE.format(ALICE, container_id), one.pid):
            with pytest.raises(WorkloadAttestationError, match=f"belongs to user {BOB}, not {ALICE}"):
                await attestor.attest(one)


async def test_hierarchies_of_different_users_are_refused(config):
    place = Container("0" * 64, tuple((str(uid), SLICE.format(uid, "0" * 64)) for uid in (ALICE, BOB)))
    with pytest.raises(WorkloadAttestationError, match="name different users"):
        await podman.Podman(config).inspect(place)


async def test_rootless_containers_can_be_left_out(engines, config):
    attestor = podman.create(podman.Config(config.socket_path, ""))
    with in_namespace(ALICE) as one:
        container_id = engines[ALICE].run(one.pid)
        with cgroup(SLICE.format(ALICE, container_id), one.pid):
            assert await attestor.attest(one) == Facts()
    assert engines[ALICE].requests == []


async def test_containers_in_roots_own_slice_are_roots(engines, attestor):
    with process("sleep", "60") as one:
        container_id = engines[0].run(one.pid, labels={"app": "a"})
        with cgroup(SLICE.format(0, container_id), one.pid):
            assert values(await attestor.attest(one), "label") == {"app:a"}


async def test_containers_of_docker_and_monitors_are_none_of_podmans(engines, attestor):
    with process("sleep", "60") as one:
        container_id = engines[0].run(one.pid)
        for path in (f"/docker/{container_id}", f"/machine.slice/libpod-conmon-{container_id}.scope"):
            with cgroup(path, one.pid):
                assert await attestor.attest(one) == Facts()
    assert engines[0].requests == []


def test_a_pattern_that_names_one_socket_for_all_users_is_refused():
    with pytest.raises(ConfigError, match=r"^rootless_socket_path: has no \{uid\}$"):
        podman.create(podman.Config(rootless_socket_path="/run/podman.sock"))
