# SPDX-License-Identifier: Apache-2.0
"""Our images are built as their files say, but offline, and run as the manifests do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from attestor.peer import status
from tests.attestor.workload.processes import held
from tests.deploy.test_files import pinned
from tests.engines import podman, python_image
from tests.system.conftest import eventually, ids_of

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
EXAMPLES = ROOT / "deploy" / "examples"
BASE = "localhost/attestor/python:1"
DAEMONS = ("issuer", "attestor")
NOBODY = 10001
# As the manifests have it.
CONFINED = ("--read-only", "--tmpfs=/tmp", "--security-opt=no-new-privileges", "--cap-drop=ALL")
RIGHTS = ("--cap-add=SYS_PTRACE", "--cap-add=DAC_READ_SEARCH", "--cap-add=DAC_OVERRIDE")
INSTALLED = """
import importlib.metadata, json
print(json.dumps({d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}))
"""
pytestmark = pytest.mark.timeout(1200)  # both images are built in the first test


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with podman.running(tmp_path_factory.mktemp("podman")) as one:
        one("import", "-c", "ENV PATH=/usr/local/bin:/bin", "-", BASE, data=python_image.archive())
        yield one


@pytest.fixture(scope="module")
def images(engine, tmp_path_factory):
    """Build both, of the wheels that this environment was made of."""
    folder = tmp_path_factory.mktemp("wheels")
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    for name in ("build", *DAEMONS):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "-d", folder, "-r", DOCKER / f"{name}.lock"], check=True, timeout=500)
    for name in DAEMONS:
        offline = (f"--volume={folder}:/wheels:ro", f"--volume={folder}/pip.conf:/etc/pip.conf:ro")
        what = (f"--build-arg=BASE={BASE}", f"--tag={name}", f"--file={DOCKER / name}.Dockerfile", ROOT)
        engine("build", "--network=none", *offline, *what, within=500)
    return DAEMONS


@pytest.fixture(scope="module")
def issuer(engine, images, tmp_path_factory):
    """An issuer of the example's configuration, with a network of its own; yields its container's name."""
    folder = tmp_path_factory.mktemp("issuer")
    mounts = []
    for path in ("var/lib/issuer", "run/issuer"):
        (folder / path).mkdir(parents=True, mode=0o700)
        os.chown(folder / path, NOBODY, NOBODY)
        mounts.append(f"--volume={folder / path}:/{path}")
    mounts.append(f"--volume={EXAMPLES}:/etc/issuer:ro")
    engine("run", "-d", "--name=issuer", "--network=none", *CONFINED, *mounts, "issuer")
    eventually(lambda: complaint(engine, "issuer"), "", within=120)
    yield "issuer"
    engine("rm", "-f", "-t", "0", "issuer")


def ours(engine, daemon, *arguments):
    """Run the daemon's command in its container."""
    return engine("exec", daemon, f"/opt/{daemon}/bin/{daemon}", *arguments)


def complaint(engine, daemon):
    """Return what a daemon has to say while it is not well."""
    try:
        ours(engine, daemon, "healthcheck")
    except AssertionError as error:
        return f"{error}\n{engine('logs', '--tail=20', daemon)}"
    return ""


@pytest.fixture(scope="module")
def attestor(engine, issuer, tmp_path_factory):
    """An attestor of the example's configuration in the issuer's network; yields the folder of its socket."""
    folder = tmp_path_factory.mktemp("attestor")
    text = (EXAMPLES / "attestor.toml").read_text()
    (folder / "attestor.toml").write_text(text.replace("issuer.example.org", "127.0.0.1"))
    (folder / "bundle.pem").write_text(ours(engine, issuer, "bundle", "show"))
    token = json.loads(ours(engine, issuer, "token", "generate", "--output", "json"))["value"]
    (folder / "join-token").touch(mode=0o600)
    (folder / "join-token").write_text(token)
    (folder / "run").mkdir()
    mounts = (f"--volume={folder}:/etc/attestor:ro", f"--volume={folder}/run:/run/attestor")
    host = (f"--network=container:{issuer}", "--pid=host", "--cgroupns=host")
    own = ("--name=attestor", "--tmpfs=/var/lib/attestor:mode=0700")
    engine("run", "-d", *own, *host, *CONFINED, *RIGHTS, *mounts, "attestor")
    eventually(lambda: complaint(engine, "attestor"), "", within=120)
    yield folder / "run" / "public"
    engine("rm", "-f", "-t", "0", "attestor")


@pytest.mark.parametrize("name", DAEMONS)
def test_an_image_has_the_locked_packages_and_ours_and_no_other(engine, images, name):
    told = json.loads(engine("run", "--rm", f"--entrypoint=/opt/{name}/bin/python", name, "-c", INSTALLED))
    assert told.pop("spiffe-attestor")
    assert told == pinned(DOCKER / f"{name}.lock")


def test_the_issuer_of_an_image_is_nobody(engine, issuer):
    with held(engine.pid(issuer)) as one:
        fields = status(one.proc)
    assert fields["Uid"].split() == [str(NOBODY)] * 4
    assert int(fields["CapBnd"], 16) == 0


def test_containers_of_the_images_serve_the_host_and_other_containers(engine, issuer, attestor):
    (node,) = json.loads(ours(engine, issuer, "node", "list", "--output", "json"))["agents"]
    parent = f"spiffe://{node['id']['trust_domain']}{node['id']['path']}"
    inside = f"/usr/local/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for name, program in (("host", Path(sys.executable).resolve()), ("container", inside)):
        told = ("--spiffeID", f"spiffe://example.org/{name}", "--selector", f"unix:path:{program}")
        ours(engine, issuer, "entry", "create", "--parentID", parent, *told)
    here = SimpleNamespace(endpoint=f"unix://{attestor}/api.sock")
    eventually(lambda: ids_of(here), ["spiffe://example.org/host"], within=60)
    socket = f"--volume={attestor}:/run/attestor/public:ro"
    told = engine("run", "--rm", "--network=none", socket, "attestor", "api", "fetch", "x509")
    assert "spiffe://example.org/container" in told
    assert "spiffe://example.org/host" not in told
