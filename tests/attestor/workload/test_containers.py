# SPDX-License-Identifier: Apache-2.0
"""Docker's attestor before a fake engine, with real processes in real cgroups of any name."""

import contextlib
import logging
import os
import sys
from datetime import timedelta

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import Facts, containers, docker
from attestor.workload.containers import ContainerAttestor
from attestor.workload.engine import Engine
from attestor.workload.engine_api import EngineApi
from spiffekit.evidence import ContainerFacts
from spiffekit.selector import IMAGE_SIGNATURES, KINDS, typo
from tests.attestor.workload.places import cgroup, enter
from tests.attestor.workload.processes import held, process, running, values
from tests.attestor.workload.signatures import SIGNED, of_signatures, signed
from tests.fakes.clock import FakeClock
from tests.fakes.engine import DIGEST, IMAGE_ID, FakeEngine

CHILD = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); input()"


@pytest.fixture
async def engine(tmp_path):
    async with FakeEngine().serving(tmp_path / "engine.sock") as engine:
        yield engine


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def attestor(tmp_path, engine, clock):
    asked = Engine(
        EngineApi(tmp_path / "engine.sock"), kind="docker", environment=frozenset({"APP", "EMPTY"})
    )
    return ContainerAttestor("docker", docker.SEGMENT, lambda found: asked.inspect(found.id), clock)


@contextlib.contextmanager
def contained(engine, parent="/docker", **known):
    """A process that is the first one of a container."""
    with process("sleep", "60") as first:
        container_id = engine.run(first.pid, **known)
        with cgroup(f"{parent}/{container_id}", first.pid):
            yield first, container_id


async def test_a_container_is_described_by_its_engine(engine, attestor):
    labels = {"org.example.team": "payments", "empty": "", "a:b": "c"}
    env = ["APP=web", "EMPTY=", "DB_PASSWORD=secret", "APP2=x", "odd"]
    with contained(engine, labels=labels, env=env) as (first, container_id):
        facts = await attestor.attest(first)
    assert {str(selector) for selector in facts.selectors} == {
        "docker:label:org.example.team:payments",
        "docker:label:empty:",
        "docker:env:APP=web",
        "docker:env:EMPTY=",
        "docker:name:web",
        "docker:image_id:registry.example/web:1",
        f"docker:image_config_digest:{IMAGE_ID}",
        f"docker:image_digest:{DIGEST}",
    }
    assert facts.container == ContainerFacts(
        engine="docker",
        id=container_id,
        name="web",
        image="registry.example/web:1",
        image_id=IMAGE_ID,
        image_digest=DIGEST,
    )
    assert [s for s in facts.selectors if typo(s)] == []
    stated = {s.value.partition(":")[0] for s in facts.selectors}
    assert set(KINDS["docker"]) - set(IMAGE_SIGNATURES) == stated


async def test_it_is_stated_who_signed_the_image_of_that_very_digest(engine, tmp_path):
    """As long as the first process lives, what the engine said is not asked for again; nor is this."""
    attestor = docker.create(docker.Config(tmp_path / "engine.sock", signatures=signed(tmp_path, DIGEST)))
    engine.add_image("sha256:" + "aa" * 32, ["registry.example/web@sha256:" + "bb" * 32])
    with contained(engine) as (one, _), contained(engine, image_id="sha256:" + "aa" * 32) as (other, _):
        for _ in range(2):
            facts = await attestor.attest(one)
            assert of_signatures(facts) == SIGNED
            assert [s for s in facts.selectors if typo(s)] == []
            assert of_signatures(await attestor.attest(other)) == set()


async def test_two_containers_of_one_image_are_told_apart(engine, attestor):
    with contained(engine, labels={"app": "a"}) as (a, _), contained(engine, labels={"app": "b"}) as (b, _):
        for _ in range(2):
            assert values(await attestor.attest(a), "label") == {"app:a"}
            assert values(await attestor.attest(b), "label") == {"app:b"}


async def test_a_process_of_the_host_is_in_no_container_and_no_engine_is_asked(engine, attestor):
    with process("sleep", "60") as one:
        assert await attestor.attest(one) == Facts()
    assert engine.requests == []


async def test_a_container_of_another_engine_is_none_of_ours(engine, attestor):
    with process("sleep", "60") as one, cgroup("/k8s.io/" + os.urandom(32).hex(), one.pid):
        assert await attestor.attest(one) == Facts()
    assert len(engine.requests) == 1


async def test_a_container_that_does_not_run_has_no_processes(engine, attestor):
    stopped = engine.run(0)
    with process("sleep", "60") as one, cgroup(f"/docker/{stopped}", one.pid):
        assert await attestor.attest(one) == Facts()


FORGED = {
    "a user's own tree": "/user.slice/user-1000.slice/user@1000.service/docker/{0}",
    "without a parent": "/{0}",
    "another spelling": "/docker/docker-{0}.scope",
    "one level deeper": "/docker/docker/{0}",
}


@pytest.mark.parametrize("path", FORGED.values(), ids=FORGED)
async def test_an_imitated_cgroup_earns_nothing(engine, attestor, path):
    with contained(engine, labels={"app": "victim"}) as (victim, container_id):
        for _ in range(2):
            with process("sleep", "60") as liar, cgroup(path.format(container_id), liar.pid):
                with pytest.raises(WorkloadAttestationError, match=r"^process is not where docker runs"):
                    await attestor.attest(liar)
            assert values(await attestor.attest(victim), "label") == {"app:victim"}


async def test_a_cgroup_that_a_container_makes_is_still_that_container(engine, attestor):
    with (
        contained(engine, labels={"app": "victim"}) as (_, victim),
        contained(engine, labels={"app": "mine"}) as (_, mine),
        process("sleep", "60") as liar,
        cgroup(f"/docker/{mine}/docker/{victim}", liar.pid),
    ):
        assert values(await attestor.attest(liar), "label") == {"app:mine"}


async def test_an_engine_that_names_a_process_of_the_host_is_not_believed(engine, attestor):
    """So it is if its PID namespace is not ours and the numbers mean others here."""
    with process("sleep", "60") as one:
        container_id = engine.run(os.getpid())
        with cgroup(f"/docker/{container_id}", one.pid):
            with pytest.raises(WorkloadAttestationError, match="is not where docker runs"):
                await attestor.attest(one)


async def test_an_engine_that_names_a_process_that_is_gone_is_not_believed(engine, attestor):
    with running("true") as ended:
        ended.wait(5)
    with process("sleep", "60") as one:
        container_id = engine.run(ended.pid)
        with cgroup(f"/docker/{container_id}", one.pid):
            with pytest.raises(WorkloadAttestationError, match="has exited"):
                await attestor.attest(one)


async def test_an_engine_that_describes_another_container_is_not_believed(engine, attestor):
    with contained(engine, labels={"app": "victim"}) as (_, victim), contained(engine) as (one, mine):
        engine.containers[mine] = engine.containers[victim]
        with pytest.raises(WorkloadAttestationError, match="another container than it was asked for"):
            await attestor.attest(one)


NONSENSE = {
    "no object": b"[]",
    "no json": b"{",
    "no utf-8": b'{"Id": "\xff"}',
    "nothing in it": b"{}",
    "nested": b"[" * 100_000,
    "huge number": b'{"State": {"Pid": 1e400}}',
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_is_refused_in_our_own_words(engine, attestor, body):
    with contained(engine) as (one, _):
        engine.raw = [b"HTTP/1.1 200 OK\r\n\r\n" + body]
        with pytest.raises(WorkloadAttestationError, match="something else than it should"):
            await attestor.attest(one)


@pytest.mark.parametrize(
    ("member", "value"),
    [("State", {"Pid": -1}), ("State", {"Pid": 2**31}), ("State", {"Pid": "1"}), ("Config", {"Env": "A=b"}),
     ("Config", {"Labels": {"a": 1}}), ("Image", "latest"), ("Image", f"{IMAGE_ID}/../x"), ("Name", None)],
    ids=range(8),
)  # fmt: skip
async def test_members_of_another_form_are_refused(engine, attestor, member, value):
    with contained(engine) as (one, container_id):
        engine.containers[container_id][member] = value
        with pytest.raises(WorkloadAttestationError, match="something else than"):
            await attestor.attest(one)


async def test_null_labels_and_variables_are_none(engine, attestor):
    with contained(engine) as (one, container_id):
        engine.containers[container_id]["Config"] |= {"Labels": None, "Env": None}
        assert values(await attestor.attest(one), "name") == {"web"}


async def test_an_image_that_was_removed_has_no_digest(engine, attestor):
    with contained(engine) as (one, _):
        engine.images.clear()
        facts = await attestor.attest(one)
    assert facts.container.image_digest == ""
    assert values(facts, "image_digest") == set()
    assert values(facts, "image_config_digest") == {IMAGE_ID}


async def test_an_image_of_several_registries_has_the_digest_of_its_own(engine, attestor):
    other = "sha256:" + "0a" * 32
    engine.add_image(
        IMAGE_ID, [f"other.example/web@{other}", f"registry.example/web@{DIGEST}", "nonsense", "x@y"]
    )
    with contained(engine) as (one, _):
        facts = await attestor.attest(one)
    assert facts.container.image_digest == DIGEST
    assert values(facts, "image_digest") == {DIGEST, other}


async def test_what_was_put_into_a_container_is_entered(engine, attestor):
    with contained(engine, labels={"app": "a"}) as (_, container_id), process("sleep", "60") as guest:
        with cgroup(f"/docker/{container_id}/exec", guest.pid):
            facts = await attestor.attest(guest)
    assert values(facts, "label") == {"app:a"}
    assert facts.container.entered


async def test_what_descends_from_the_first_process_is_not_entered(engine, attestor):
    with running(sys.executable, "-c", CHILD, stdin=-1) as first:
        container_id = engine.run(first.pid)
        with cgroup(f"/docker/{container_id}", first.pid) as place:
            child = int(first.stdout.readline())
            enter(place, child)
            with held(child) as one:
                assert not (await attestor.attest(one)).container.entered
            os.kill(child, 9)


async def test_what_lies_too_deep_counts_as_entered(engine, attestor, monkeypatch):
    monkeypatch.setattr(containers, "MAX_ANCESTORS", 0)
    with contained(engine) as (first, _):
        assert (await attestor.attest(first)).container.entered


async def test_the_engine_is_asked_once_for_a_while(engine, attestor, clock):
    with contained(engine, labels={"a": "1"}) as (one, container_id), process("sleep", "60") as other:
        with cgroup(f"/docker/{container_id}/x", other.pid):
            for _ in range(3):
                await attestor.attest(one)
                assert values(await attestor.attest(other), "label") == {"a:1"}
            assert engine.requests == [f"/containers/{container_id}/json", f"/images/{IMAGE_ID}/json"]
            await clock.advance(timedelta(seconds=containers.REMEMBERED_FOR))
            engine.containers[container_id]["Name"] = "/renamed"
            assert values(await attestor.attest(one), "name") == {"renamed"}
            assert len(engine.requests) == 4


async def test_a_container_that_starts_anew_is_asked_for_anew(engine, attestor):
    with process("sleep", "60") as one, running("sleep", "60") as first:
        container_id = engine.run(first.pid, labels={"a": "1"})
        with cgroup(f"/docker/{container_id}", first.pid, one.pid):
            assert values(await attestor.attest(one), "label") == {"a:1"}
            first.kill()
            first.wait(5)
            with process("sleep", "60") as second, cgroup(f"/docker/{container_id}", second.pid):
                engine.containers[container_id]["State"]["Pid"] = second.pid
                engine.containers[container_id]["Config"]["Labels"] = {"a": "2"}
                assert values(await attestor.attest(second), "label") == {"a:2"}


async def test_a_first_process_that_left_is_noticed_each_time(engine, attestor):
    """What is remembered is what the engine said; where the processes are is read anew."""
    with contained(engine) as (one, container_id), process("sleep", "60") as other:
        with cgroup(f"/docker/{container_id}/x", other.pid), cgroup("/elsewhere") as elsewhere:
            await attestor.attest(other)
            enter(elsewhere, one.pid)
            with pytest.raises(WorkloadAttestationError, match="is not where docker runs"):
                await attestor.attest(other)


async def test_what_is_not_confirmed_is_not_remembered(engine, attestor):
    with process("sleep", "60") as liar:
        container_id = engine.run(os.getpid())
        with cgroup(f"/docker/{container_id}", liar.pid):
            for _ in range(2):
                with pytest.raises(WorkloadAttestationError):
                    await attestor.attest(liar)
    assert len(engine.requests) == 4


async def test_no_more_than_some_containers_are_remembered(engine, attestor, monkeypatch):
    monkeypatch.setattr(containers, "MAX_REMEMBERED", 2)
    with contextlib.ExitStack() as stack:
        three = [stack.enter_context(contained(engine, name=f"c{i}"))[0] for i in range(3)]
        for one in three:
            await attestor.attest(one)
        asked = len(engine.requests)
        await attestor.attest(three[2])
        assert len(engine.requests) == asked
        await attestor.attest(three[0])
        assert len(engine.requests) > asked


async def test_a_flood_of_labels_is_cut_and_what_does_not_fit_left_out(engine, attestor, caplog):
    caplog.set_level(logging.DEBUG, "attestor.workload")
    labels = {f"l{i:04}": "x" for i in range(2000)} | {"a-big": "secret" * 2000, "a-line": "secret\n"}
    env = ["APP=" + "secret" * 2000]
    with contained(engine, labels=labels, env=env) as (one, _):
        facts = await attestor.attest(one)
        assert (await attestor.attest(one)).selectors == facts.selectors
    assert values(facts, "label") == {f"l{i:04}:x" for i in range(containers.MAX_SELECTORS - 2)}
    assert values(facts, "env") == set()
    logged = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "a fact fits no selector" in logged
    assert "more facts than are stated" in logged
    assert "secret" not in logged


async def test_huge_labels_are_an_error_and_not_a_flood(engine, attestor):
    with contained(engine, labels={"a": "x" * 2_000_000}) as (one, _):
        with pytest.raises(WorkloadAttestationError, match="longer than 1048576 bytes"):
            await attestor.attest(one)


async def test_a_container_is_found_among_thousands(engine, attestor):
    for i in range(5000):
        engine.run(1, name=f"other{i}", labels={"app": str(i)})
    with contained(engine, labels={"app": "mine"}) as (one, _):
        assert values(await attestor.attest(one), "label") == {"app:mine"}
    assert len(engine.requests) == 2


async def test_the_configured_socket_is_asked(tmp_path, engine):
    attestor = docker.create(docker.Config(tmp_path / "engine.sock", ("*",)))
    assert attestor.type == "docker"
    with contained(engine, env=["A=b", "C=d"]) as (one, _):
        assert values(await attestor.attest(one), "env") == {"A=b", "C=d"}


async def test_an_engine_that_is_not_there_is_an_error(tmp_path, engine):
    attestor = docker.create(docker.Config(tmp_path / "none.sock"))
    with contained(engine) as (one, _):
        with pytest.raises(WorkloadAttestationError, match="cannot be asked"):
            await attestor.attest(one)
