# SPDX-License-Identifier: Apache-2.0
"""What the stories share: nodes with certificates, and questions asked again until the answer is right."""

import asyncio
import os
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from deploy.local import Local, run
from spiffekit.errors import NoIdentityIssuedError
from spiffekit.testing import CA_USAGE, TestCA
from spiffekit.workload import WorkloadApi

UID = f"unix:uid:{os.getuid()}"


class NodeAuthority(TestCA):
    """Who vouches for machines: its root is no SVID, and neither are the nodes' certificates."""

    def __init__(self):
        super().__init__()
        self.certificate = self.certify(
            self.key.public_key(), uris=[], common_name="machines", ca=True, usage=CA_USAGE, purposes=()
        )

    def node(self, folder, name):
        """Write a certificate and key for a node; return the table of its configuration."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, private = folder / f"{name}.crt", folder / f"{name}.key"
        leaf = self.certify(key.public_key(), uris=[], common_name=name)
        certificate.write_bytes(leaf.public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return {"certificate_path": str(certificate), "private_key_path": str(private)}


@pytest.fixture(scope="module")
def machines():
    return NodeAuthority()


@pytest.fixture(scope="module")
def settings():
    """The issuer's settings; a module may have others."""
    return {}


def deployment(folder, machines, settings):
    """A deployment whose issuer accepts join tokens and machines' certificates; not yet started."""
    roots = folder / "machines.pem"
    roots.write_bytes(machines.certificate.public_bytes(Encoding.PEM))
    return Local(folder, issuer={"node_attestor.x509pop": {"ca_bundle_path": str(roots)}, **settings})


@pytest.fixture(scope="module")
def local(folder, machines, settings):
    with deployment(folder, machines, settings) as started:
        started.start_issuer()
        yield started


@pytest.fixture(scope="module")
def attestor(local):
    return local.start_attestor()


def workload_api(attestor, *arguments, check=True):
    return run("attestor", "api", *arguments, "--socketPath", str(attestor.socket), check=check)


def ids_of(attestor):
    """The SPIFFE IDs that this process is granted now; none when it is refused."""

    async def fetch():
        async with WorkloadApi.connect(attestor.endpoint) as api:
            return [str(svid.spiffe_id) for svid in (await api.fetch_x509()).svids]

    try:
        return asyncio.run(fetch())
    except NoIdentityIssuedError:
        return []


def eventually(question, expected, within=20.0):
    """Ask until the answer is as expected; the assertion shows the last one."""
    deadline = time.monotonic() + within
    while (answer := question()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert answer == expected


def nodes(local):
    """The nodes by ID."""
    listed = local.operator_json("node", "list")["agents"]
    return {f"spiffe://{n['id']['trust_domain']}{n['id']['path']}": n for n in listed}
