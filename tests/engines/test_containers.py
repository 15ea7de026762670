# SPDX-License-Identifier: Apache-2.0
"""Containers of real engines: what their attestors say of them, and of whatever imitates them."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.peer import Process
from attestor.workload import Facts
from attestor.workload import docker as docker_attestor
from attestor.workload import podman as podman_attestor
from spiffekit.daemon.peer import PeerProcess
from spiffekit.selector import typo
from tests.attestor.workload.places import cgroup
from tests.attestor.workload.processes import held, process, running, values
from tests.attestor.workload.signatures import SIGNED, of_signatures, signed
from tests.engines import docker, podman
from tests.engines.daemons import IMAGE

ENGINES = {"docker": (docker, docker_attestor), "podman": (podman, podman_attestor)}
HYBRID = Path("/sys/fs/cgroup/unified").exists()


@pytest.fixture(
    scope="module",
    params=[(kind, pure_v2) for kind in ENGINES for pure_v2 in (False, True)],
    ids=["docker", "docker-v2", "podman", "podman-v2"],
)
def engine(request, tmp_path_factory):
    kind, pure_v2 = request.param
    if pure_v2 and not HYBRID:
        pytest.skip("this machine has version 2 of the cgroups alone")
    with ENGINES[kind][0].running(tmp_path_factory.mktemp(kind), pure_v2=pure_v2) as one:
        yield one


@pytest.fixture
def attest(engine):
    module = ENGINES[engine.kind][1]
    attestor = module.create(module.Config(socket_path=engine.socket, environment=("STAGE", "APP")))
    return lambda one: asyncio.run(attestor.attest(one))


def test_containers_of_one_image_and_user_are_told_apart(engine, attest):
    user = "--user=1234"
    with engine.running(user, app="a") as (_, a), engine.running(user, app="b") as (_, b):
        for _ in range(2):
            assert values(attest(a), "label") == {"app:a", "from:image"}
            assert values(attest(b), "label") == {"app:b", "from:image"}


def test_a_container_is_described(engine, attest):
    with engine.running("--env=STAGE=prod", "--env=PASSWORD=secret", "--name=web") as (container, first):
        facts = attest(first)
    image_id = engine("image", "inspect", "--format", "{{.Id}}", IMAGE)
    assert values(facts, "env") == {"STAGE=prod"}
    assert values(facts, "name") == {"web"}
    assert values(facts, "image_id") == {IMAGE}
    assert values(facts, "image_config_digest") == {f"sha256:{image_id.removeprefix('sha256:')}"}
    assert facts.container.id == container
    assert (facts.container.engine, facts.container.name) == (engine.kind, "web")
    # Podman computes a digest of what was imported; Docker has one of what came from a registry.
    digests = {facts.container.image_digest} - {""}
    assert values(facts, "image_digest") == digests
    assert bool(digests) == (engine.kind == "podman")
    assert not facts.container.entered
    assert [s for s in facts.selectors if typo(s)] == []


def test_who_signed_an_image_is_stated(engine, attest, tmp_path):
    name = IMAGE
    if engine.kind == "docker":  # it knows no digest of an image that never was in a registry
        with docker.registry(engine, tmp_path) as registry:
            name = f"{registry}/team/web:1"
            engine("tag", IMAGE, name)
            engine("push", name)
    with engine.running(image=name, app="a") as (_, first):
        digest = attest(first).container.image_digest
        module = ENGINES[engine.kind][1]
        signatures = signed(tmp_path, digest)
        attestor = module.create(module.Config(socket_path=engine.socket, signatures=signatures))
        facts = asyncio.run(attestor.attest(first))
    if name != IMAGE:
        engine("rmi", name)  # and the digest with it
    assert of_signatures(facts) == SIGNED


def test_processes_of_the_host_are_in_no_container(engine, attest):
    with engine.running(app="a"), process("sleep", "60") as one:
        assert attest(one) == Facts()
        with held(os.getppid()) as parent:
            assert attest(parent) == Facts()


def test_what_was_put_into_a_container_is_recorded_as_entered(engine, attest):
    with engine.running(app="a") as (container, first):
        engine("exec", "-d", "--env=APP=other", container, "sleep", "599")
        (guest,) = set(processes_of(first)) - {first.pid}
        with held(guest) as one:
            facts = attest(one)
            assert facts.container.entered
            assert (
                facts.selectors == attest(first).selectors
            )  # it chooses its environment, which says nothing
            assert not attest(first).container.entered


def processes_of(first):
    place = (first.proc / "cgroup").read_text()
    for _ in range(500):
        found = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cgroup") if text_of(p) == place]
        if len(found) > 1:
            return found
    raise AssertionError("nothing was put into the container")


def text_of(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def test_a_child_in_a_container_is_not_entered(engine, attest):
    command = ("sh", "-c", "sleep 598 & exec sleep 597")
    container = engine.run(command=command, app="a")
    with held(engine.pid(container)) as first:
        (child,) = set(processes_of(first)) - {first.pid}
        with held(child) as one:
            facts = attest(one)
    engine("rm", "-f", container)
    assert values(facts, "label") == {"app:a", "from:image"}
    assert not facts.container.entered


def test_a_container_made_anew_with_another_label_has_that_one(engine, attest):
    for app in "ab":
        with engine.running("--name=same", app=app) as (_, first):
            assert values(attest(first), "label") == {f"app:{app}", "from:image"}


def test_a_container_that_was_started_again_is_attested_again(engine, attest):
    with engine.running(app="a") as (container, first):
        before = attest(first)
        engine("restart", "-t", "0", container)
        with held(engine.pid(container)) as again:
            assert again.pid != first.pid
            assert attest(again) == before


def test_a_renamed_container_keeps_its_labels(engine, attest):
    with engine.running("--name=old", app="a") as (container, first):
        engine("rename", container, "new")
        assert values(attest(first), "name") == {"new"}


def refused(attest, one):
    """Tell whether nothing is stated: the name is none of the engine's, or is seen through."""
    try:
        return attest(one) == Facts()
    except WorkloadAttestationError as error:
        return "is not where" in str(error)


FORGED = ["/user.slice/user-0.slice{0}", "/{1}", "{0}2/{1}", "/docker/x/libpod-{1}", "/libpod-{1}.scope"]


@pytest.mark.parametrize("path", FORGED, ids=range(len(FORGED)))
def test_a_cgroup_of_the_same_name_earns_nothing(engine, attest, path):
    with engine.running(app="victim") as (container, victim), process("sleep", "60") as liar:
        real = (victim.proc / "cgroup").read_text().splitlines()[-1].split(":", 2)[2]
        with cgroup(path.format(real, container), liar.pid):
            assert refused(attest, liar)
        assert "app:victim" in values(attest(victim), "label")


def test_a_cgroup_of_that_name_in_the_own_container_earns_nothing_of_the_others(engine, attest):
    with engine.running(app="victim") as (_, victim), engine.running(app="mine") as (_, mine):
        theirs, own = (
            (one.proc / "cgroup").read_text().splitlines()[-1].split(":", 2)[2] for one in (victim, mine)
        )
        with process("sleep", "60") as liar, cgroup(f"{own}{theirs}", liar.pid):
            # In hierarchies of version 1 it is in no container; without them, it is in its own.
            assert refused(attest, liar) or values(attest(liar), "label") == {"app:mine", "from:image"}


CONNECT = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.send(str(os.getpid()).encode())
connection.recv(1)
"""


def test_process_1_of_a_container_is_not_process_1_of_the_machine(engine, attest, tmp_path):
    """Numbers of PID namespaces collide; the kernel translates the one that it hands us."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        listening.settimeout(20)
        command = (sys.executable, "-c", CONNECT, "/s/s")
        containers = [engine.run(f"--volume={tmp_path}:/s", command=command, app=app) for app in "ab"]
        labels = []
        for _ in containers:
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(16) == b"1"
                peer = PeerProcess.from_socket(connection)
                assert peer.pid != 1
                labels.append(values(attest(Process.of(peer)), "label"))
                peer.close()
        engine("rm", "-f", *containers)
    assert sorted(map(sorted, labels)) == [["app:a", "from:image"], ["app:b", "from:image"]]


LIE = """
set -e
sed s,x,x, /proc/{pid}/cgroup >cgroup; sed s,x,x, /proc/{pid}/mountinfo >mountinfo
for name in cgroup mountinfo; do mount --bind $name /proc/$$/$name; done
cmp -s cgroup /proc/self/cgroup || cmp -s cgroup /proc/$$/cgroup
echo lies
exec -a docker-containerd-shim sleep 60
"""


def test_files_mounted_over_proc_in_a_user_namespace_are_not_read(engine, attest, tmp_path):
    with engine.running(app="victim") as (container, victim):
        script = LIE.format(pid=victim.pid)
        environment = os.environ | {"APP": "victim", "container": container}
        with running(
            "unshare", "-Urm", "bash", "-c", script, cwd=tmp_path, env=environment, stderr=-2
        ) as child:
            assert child.stdout.readline() == "lies\n"
            with held(child.pid) as liar:
                assert attest(liar) == Facts()
