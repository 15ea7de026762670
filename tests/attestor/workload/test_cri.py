# SPDX-License-Identifier: Apache-2.0
"""The runtimes' attestor before runtimes that lie, fail, hang and flood; a real one is in tests/engines."""

import asyncio
import json
import secrets

import grpc
import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import Facts, containers, cri
from attestor.workload.containers import ContainerAttestor
from spiffekit.selector import typo
from spiffekit.wire.pb.cri.v1 import runtime_pb2, runtime_pb2_grpc
from tests.attestor.workload.places import cgroup
from tests.attestor.workload.processes import process, values
from tests.attestor.workload.signatures import SIGNED, of_signatures, signed

REF = "registry.example/web@sha256:" + "2e" * 32


class Runtime(runtime_pb2_grpc.RuntimeServiceServicer):
    """Knows one container; a test changes what it says of it."""

    def __init__(self):
        self.id, self.sandbox = secrets.token_hex(32), secrets.token_hex(32)
        self.fails = None
        self.hangs = False
        self.status = runtime_pb2.ContainerStatus(
            id=self.id,
            state=runtime_pb2.CONTAINER_RUNNING,
            metadata=runtime_pb2.ContainerMetadata(name="main"),
            image=runtime_pb2.ImageSpec(image="registry.example/web:1"),
            image_ref=REF,
            labels={"app": "a"},
        )
        self.pod = runtime_pb2.PodSandboxStatus(id=self.sandbox)
        self.info = {}

    def run(self, pid):
        self.info = {
            "info": json.dumps({"pid": pid, "sandboxID": self.sandbox, "config": {"envs": ["secret"]}})
        }

    async def ContainerStatus(self, request, context):
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            await context.abort(self.fails, "secret")
        if request.container_id != self.id:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such container")
        return runtime_pb2.ContainerStatusResponse(status=self.status, info=self.info)

    async def PodSandboxStatus(self, request, context):
        return runtime_pb2.PodSandboxStatusResponse(status=self.pod)


@pytest.fixture
async def runtime(tmp_path):
    served, server = Runtime(), grpc.aio.server()
    runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(served, server)
    server.add_insecure_port(f"unix:{tmp_path}/cri.sock")
    await server.start()
    yield served
    await server.stop(0)


@pytest.fixture
def attestor(tmp_path) -> ContainerAttestor:
    return cri.create(cri.Config(tmp_path / "cri.sock"))


@pytest.fixture
def one(runtime):
    """The first process of the container."""
    with (
        process("sleep", "60") as first,
        cgroup(f"/kubepods/pod{secrets.token_hex(16)}/{runtime.id}", first.pid),
    ):
        runtime.run(first.pid)
        yield first


async def test_image_and_digest_are_told_apart(runtime, attestor, one):
    facts = await attestor.attest(one)
    assert values(facts, "image_id") == {REF}
    assert facts.container.image_digest == "sha256:" + "2e" * 32
    assert facts.container.image_id == ""
    assert values(facts, "pod-name") == set()  # it said none


async def test_it_is_stated_who_signed_the_image_of_that_digest(runtime, one, tmp_path):
    def attestor():
        signatures = signed(tmp_path, REF.partition("@")[2])
        return cri.create(cri.Config(tmp_path / "cri.sock", signatures=signatures))

    facts = await attestor().attest(one)
    assert of_signatures(facts) == SIGNED
    assert [s for s in facts.selectors if typo(s)] == []
    runtime.status.image_ref = REF.partition("@")[2]  # of the configuration, which nobody signs
    assert of_signatures(await attestor().attest(one)) == set()


async def test_a_container_that_does_not_run_is_none(runtime, attestor, one):
    for state in ("CONTAINER_CREATED", "CONTAINER_EXITED", "CONTAINER_UNKNOWN"):
        runtime.status.state = runtime_pb2.ContainerState.Value(state)
        assert await attestor.attest(one) == Facts()


async def test_a_container_that_it_does_not_know_is_none(runtime, attestor):
    with process("sleep", "60") as one, cgroup(f"/k8s.io/{'0' * 64}", one.pid):
        assert await attestor.attest(one) == Facts()


async def test_another_container_or_sandbox_is_not_believed(runtime, attestor, one):
    runtime.pod.id = "f" * 64
    with pytest.raises(WorkloadAttestationError, match="another sandbox than it was asked for"):
        await attestor.attest(one)
    runtime.status.id = "f" * 64
    with pytest.raises(WorkloadAttestationError, match="another container than it was asked for"):
        await attestor.attest(one)


async def test_a_process_of_the_host_is_not_believed(runtime, attestor, one):
    runtime.run(1)
    with pytest.raises(WorkloadAttestationError, match="is not where cri runs"):
        await attestor.attest(one)


INFO = [
    "",
    "{",
    "[]",
    '{"pid": 1}',
    '{"pid": 0, "sandboxID": "x"}',
    '{"pid": "1", "sandboxID": "x"}',
    "[" * 90_000,
]


@pytest.mark.parametrize("text", INFO, ids=range(len(INFO)))
async def test_nonsense_is_refused_in_our_own_words(runtime, attestor, one, text):
    runtime.info = {"info": text}
    with pytest.raises(WorkloadAttestationError, match="does not say which process"):
        await attestor.attest(one)


@pytest.mark.parametrize("code", ["UNIMPLEMENTED", "UNKNOWN", "PERMISSION_DENIED"])
async def test_a_failure_is_named_by_its_code_alone(runtime, attestor, one, code):
    runtime.fails = grpc.StatusCode[code]
    with pytest.raises(
        WorkloadAttestationError, match=f"^container runtime at .*/cri.sock answers with {code}$"
    ):
        await attestor.attest(one)


async def test_a_runtime_that_hangs_is_left(runtime, attestor, one, monkeypatch):
    monkeypatch.setattr(cri, "DEADLINE", 0.05)
    runtime.hangs = True
    with pytest.raises(WorkloadAttestationError, match="answers with DEADLINE_EXCEEDED"):
        await attestor.attest(one)


async def test_a_flood_is_refused_or_cut(runtime, attestor, one, tmp_path):
    runtime.status.labels.update({f"l{i:04}": "x" for i in range(2000)})
    assert len(values(await attestor.attest(one), "label")) == containers.MAX_SELECTORS
    runtime.info = {"info": " " * 2_000_000}
    fresh = cri.create(cri.Config(tmp_path / "cri.sock"))
    with pytest.raises(WorkloadAttestationError, match="answers with RESOURCE_EXHAUSTED"):
        await fresh.attest(one)


async def test_a_runtime_that_is_not_there_is_an_error(tmp_path, one):
    attestor = cri.create(cri.Config(tmp_path / "none.sock"))
    with pytest.raises(WorkloadAttestationError, match="answers with UNAVAILABLE"):
        await attestor.attest(one)
