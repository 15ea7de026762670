# SPDX-License-Identifier: Apache-2.0
"""Two machines that can prove themselves for each type of node attestation, and a verifier that knows both.

Each class below is one type. Its `__init__` makes what all tests share, in a folder of its own and until
`stack` ends; `open` yields the verifier and the two machines' halves for one test.
"""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestor import node as machines
from attestor.node import aws_iid, azure_imds, gcp_iit, http_challenge, join_token, k8s_psat, tpm_ek, x509pop
from issuer import node
from issuer.model import AttestationLevel
from issuer.node import aws_iid as aws_iid_verifier
from issuer.node import azure_imds as azure_imds_verifier
from issuer.node import gcp_iit as gcp_iit_verifier
from issuer.node import http_challenge as http_challenge_verifier
from issuer.node import join_token as join_token_verifier
from issuer.node import k8s_psat as k8s_psat_verifier
from issuer.node import sshpop as sshpop_verifier
from issuer.node import tpm_devid as tpm_devid_verifier
from issuer.node import tpm_ek as tpm_ek_verifier
from issuer.node import x509pop as x509pop_verifier
from spiffekit.daemon.kubernetes.access import Access
from spiffekit.daemon.kubernetes.client import KubernetesClient
from spiffekit.testing import TestCA
from tests.engines import swtpm
from tests.fakes.clock import FakeClock
from tests.fakes.kubernetes import ADMIN, ApiServer, Authority, pod
from tests.fakes.web import WebServer, ok
from tests.issuer.node import azure, google, test_aws_iid, test_sshpop, test_tpm_devid
from tests.issuer.node.x509pop_node import ROOT, Context


@dataclass(frozen=True)
class Pair:
    """A verifier, and two machines that it knows."""

    verifier: node.NodeVerifier
    one: machines.NodeAttestor
    other: machines.NodeAttestor
    context: Context


class JoinToken:
    level, challenges, first_use = AttestationLevel.JOIN_TOKEN, False, False

    def __init__(self, _folder, _stack):
        pass

    @contextlib.asynccontextmanager
    async def open(self):
        one, other = (join_token.create(join_token.Config(name)) for name in ("one", "other"))
        verifier = join_token_verifier.create(join_token_verifier.Config())
        yield Pair(verifier, one, other, Context("one", "other"))


class X509Pop:
    level, challenges, first_use = AttestationLevel.PLATFORM, True, False

    def __init__(self, folder, _stack):
        self.folder = folder
        ca = TestCA()
        (folder / "roots.pem").write_bytes(ca.certificate.public_bytes(Encoding.PEM))
        for name in ("one", "other"):
            key = TestCA().key
            certificate = ca.certify(key.public_key(), uris=[], common_name=name)
            (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
            private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (folder / f"{name}.key").write_bytes(private)

    @contextlib.asynccontextmanager
    async def open(self):
        one, other = (
            x509pop.create(x509pop.Config(self.folder / f"{name}.pem", self.folder / f"{name}.key"))
            for name in ("one", "other")
        )
        config = x509pop_verifier.Config(self.folder / "roots.pem")
        yield Pair(x509pop_verifier.create(config), one, other, Context())


class SshPop:
    level, challenges, first_use = AttestationLevel.PLATFORM, True, False

    def __init__(self, folder, _stack):
        authority = test_sshpop.new_key(folder / "authority")
        self.authority = authority.with_suffix(".pub")
        self.one, self.other = (
            test_sshpop.Host(folder, authority, name=name).attestor for name in ("one", "other")
        )

    @contextlib.asynccontextmanager
    async def open(self):
        config = sshpop_verifier.Config(cert_authorities_path=self.authority)
        yield Pair(sshpop_verifier.create(config), self.one, self.other, Context())


class K8sPsat:
    level, challenges, first_use = AttestationLevel.PLATFORM, False, False

    def __init__(self, folder, stack):
        authority = Authority()
        server = stack.enter_context(ApiServer(authority))
        access = Access("127.0.0.1", server.port, ca=authority.pem, token=ADMIN.encode())
        self.context = Context(c1=KubernetesClient(access))
        self.folder = folder
        for name in ("one", "other"):
            server.store.put("nodes", {"metadata": {"name": f"node-{name}", "uid": f"uid-{name}"}})
            made = pod(name, namespace="spire", account="attestor", node=f"node-{name}")
            server.store.put("pods", made)
            bound = {"name": name, "uid": made["metadata"]["uid"]}
            token = server.store.token("spire", "attestor", ["spire-server"], 3600, bound)
            (folder / name).write_text(token)

    @contextlib.asynccontextmanager
    async def open(self):
        one, other = (k8s_psat.create(k8s_psat.Config("c1", self.folder / name)) for name in ("one", "other"))
        rules = k8s_psat_verifier.Cluster(service_account_allow_list=("spire:attestor",))
        verifier = k8s_psat_verifier.create(k8s_psat_verifier.Config({"c1": rules}))
        yield Pair(verifier, one, other, self.context)


class HttpChallenge:
    level, challenges, first_use = AttestationLevel.PLATFORM, True, True

    def __init__(self, _folder, _stack):
        pass

    @contextlib.asynccontextmanager
    async def open(self):
        async def here(_host):
            return ("127.0.0.1",)

        one, other = (
            http_challenge.create(http_challenge.Config(hostname=f"{name}.example.org", listen="127.0.0.1"))
            for name in ("one", "other")
        )
        config = http_challenge_verifier.Config((r".*\.example\.org",))
        try:
            yield Pair(http_challenge_verifier.create_with(config, here), one, other, Context())
        finally:
            await one.release()
            await other.release()


class TpmEk:
    level, challenges, first_use = AttestationLevel.TPM, True, False

    def __init__(self, folder, stack):
        self.tpms = []
        for name in ("one", "other"):
            (folder / name).mkdir()
            self.tpms.append(stack.enter_context(swtpm.running(folder / name)))
        authorities = b"".join(tpm.authority.read_bytes() for tpm in self.tpms)
        self.authorities = folder / "authorities.pem"
        self.authorities.write_bytes(authorities)

    @contextlib.asynccontextmanager
    async def open(self):
        one, other = (tpm_ek.create(tpm_ek.Config(tpm.tcti)) for tpm in self.tpms)
        config = tpm_ek_verifier.Config(self.authorities)
        yield Pair(tpm_ek_verifier.create(config), one, other, Context())


class TpmDevId(TpmEk):
    def __init__(self, folder, stack):
        super().__init__(folder, stack)
        self.devices = [
            test_tpm_devid.Device(tpm, folder / f"device-{at}") for at, tpm in enumerate(self.tpms)
        ]
        self.roots = folder / "roots.pem"
        self.roots.write_bytes(ROOT.certificate.public_bytes(Encoding.PEM))

    @contextlib.asynccontextmanager
    async def open(self):
        one, other = (device.host() for device in self.devices)
        config = tpm_devid_verifier.Config(self.roots, self.authorities)
        yield Pair(tpm_devid_verifier.create(config), one, other, Context())


class AwsIid:
    level, challenges, first_use = AttestationLevel.PLATFORM, False, True

    def __init__(self, _folder, _stack):
        pass

    @contextlib.asynccontextmanager
    async def open(self):
        services = [test_aws_iid.Ec2(), test_aws_iid.Ec2()]
        for service, instance in zip(services, ("i-00000001", "i-00000002"), strict=True):
            text = test_aws_iid.text_of(instanceId=instance)
            service.answers |= {"document": text, "rsa2048": test_aws_iid.signed(text)}
        async with WebServer(services[0]) as first, WebServer(services[1]) as second:
            one, other = (aws_iid.create(aws_iid.Config(server.host)) for server in (first, second))
            config = aws_iid_verifier.Config((test_aws_iid.ACCOUNT,))
            clock = FakeClock(test_aws_iid.NOW)
            verifier = aws_iid_verifier.create_with(config, test_aws_iid.CERTIFICATES, clock)
            yield Pair(verifier, one, other, Context())


class GcpIit:
    level, challenges, first_use = AttestationLevel.PLATFORM, False, True

    def __init__(self, _folder, _stack):
        pass

    @contextlib.asynccontextmanager
    async def open(self):
        flavor = "Metadata-Flavor: Google"
        clock = FakeClock(datetime.now(UTC).replace(microsecond=0))
        async with (
            google.Google(clock) as published,
            WebServer(lambda _: ok(published.instance(instance_id="1"), flavor)) as first,
            WebServer(lambda _: ok(published.instance(instance_id="2"), flavor)) as second,
        ):
            one, other = (gcp_iit.create(gcp_iit.Config(server.host)) for server in (first, second))
            config = gcp_iit_verifier.Config(("project-1",))
            verifier = gcp_iit_verifier.create_with(config, published.server.peer, clock)
            yield Pair(verifier, one, other, Context())


class AzureImds:
    level, challenges, first_use = AttestationLevel.PLATFORM, True, True

    def __init__(self, folder, _stack):
        now = datetime.now(UTC)
        self.clock = FakeClock(now)
        self.one, self.other = azure.Azure(now), azure.Azure(now)
        self.other.machine = self.one.machine[:-1] + "4"
        vars(self.other).update(root=self.one.root, issuing=self.one.issuing, signer=self.one.signer)
        self.roots = folder / "roots.pem"
        self.roots.write_bytes(self.one.root.certificate.public_bytes(Encoding.PEM))

    @contextlib.asynccontextmanager
    async def open(self):
        async with (
            WebServer(lambda _: ok(self.one.certificate()), name="www.microsoft.com") as microsoft,
            WebServer(self.one) as first,
            WebServer(self.other) as second,
        ):
            one, other = (
                azure_imds.create(azure_imds.Config(azure.DOMAIN, server.host)) for server in (first, second)
            )
            tenants = {azure.DOMAIN: azure_imds_verifier.Tenant(azure.TENANT, (azure.SUBSCRIPTION,))}
            config = azure_imds_verifier.Config(tenants, trust_bundle_path=self.roots)
            verifier = azure_imds_verifier.create_with(config, microsoft.peer, self.clock)
            yield Pair(verifier, one, other, Context())


TYPES = {
    "aws_iid": AwsIid,
    "azure_imds": AzureImds,
    "gcp_iit": GcpIit,
    "http_challenge": HttpChallenge,
    "join_token": JoinToken,
    "k8s_psat": K8sPsat,
    "sshpop": SshPop,
    "tpm_devid": TpmDevId,
    "tpm_ek": TpmEk,
    "x509pop": X509Pop,
}
