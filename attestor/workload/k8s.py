# SPDX-License-Identifier: Apache-2.0
"""Which pod and container a process is in: the kernel names them, the kubelet or API server describes them.

The cgroup gives the pod's uid and the container's ID. Only a pod with that uid that has that container
says anything; whatever else is found is nothing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, NoReturn

import msgspec

from attestor.errors import WorkloadAttestationError
from attestor.peer import Process, status
from attestor.workload import Facts, cgroups, image_signatures
from attestor.workload.containers import selectors
from attestor.workload.image_signatures import ImageSignatures
from attestor.workload.pods import KubeletPods, NamespaceLabels, PodSource, WatchedPods
from spiffekit.daemon.clock import Clock, SystemClock
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.kubernetes import facts
from spiffekit.daemon.kubernetes.access import SERVICE_ACCOUNT, Access, AccessError, in_cluster, kubeconfig
from spiffekit.daemon.kubernetes.client import KubernetesClient, KubernetesError
from spiffekit.errors import SelectorError

MAX_ANCESTORS: Final = 256  # processes; deeper is taken for entered
MAX_PORT: Final = 65535
_LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[workload_attestor.k8s]``.

    Attributes:
        source: kubelet or api_server: who is asked for the pods of this node.
        node_name: This node's name: the API server is asked for its pods, the kubelet's certificate names it.
        kubelet_address: Where the kubelet listens.
        kubelet_secure_port: Its port with TLS.
        kubelet_read_only_port: Its port without TLS, instead; 0 is none. On loopback only.
        kubelet_ca_path: Who vouches for the kubelet's certificate.
        skip_kubelet_verification: Believe whoever answers at the kubelet's secure port.
        token_path: The token for the kubelet; not sent where a certificate is given.
        certificate_path: The certificate for the kubelet.
        private_key_path: Its private key.
        kubeconfig: How the API server is reached; as every pod may, if left out.
        cgroup_root: The kubelet's own --cgroup-root, if it has one.
        namespace_labels: Add the selectors `ns-label`, for which the API server is asked.
        signatures: Who may sign images: a table of its own, see [image signatures](image-signatures.md).
    """

    source: Literal["kubelet", "api_server"] = "kubelet"
    node_name: str = ""
    kubelet_address: str = "127.0.0.1"
    kubelet_secure_port: int = 10250
    kubelet_read_only_port: int = 0
    kubelet_ca_path: Path = SERVICE_ACCOUNT / "ca.crt"
    skip_kubelet_verification: bool = False
    token_path: Path = SERVICE_ACCOUNT / "token"
    certificate_path: Path | None = None
    private_key_path: Path | None = None
    kubeconfig: Path | None = None
    cgroup_root: str = ""
    namespace_labels: bool = False
    signatures: image_signatures.Config | None = None


class K8sAttestor:
    """See the module."""

    type = facts.TYPE

    def __init__(
        self,
        pods: PodSource,
        *,
        cgroup_root: str = "",
        namespaces: NamespaceLabels | None = None,
        signatures: ImageSignatures | None = None,
    ) -> None:
        self._pods = pods
        self._namespaces = namespaces
        self._root = cgroup_root
        self._signatures = signatures

    async def attest(self, process: Process) -> Facts:
        """Return everything that is known of the process's pod and container; nothing if it is in none.

        Raises:
            WorkloadAttestationError: Pods cannot be seen now.
        """
        place = cgroups.pod(cgroups.read(process.proc), self._root)
        if place is None:
            return Facts()
        try:
            pod = await self._pods.find(place)
            one = pod.container(place.container_id)
            if one is None:
                raise WorkloadAttestationError("pod does not have the container of the process")
            labels = await self._namespaces.of(pod.metadata.namespace) if self._namespaces else {}
            found = facts.selectors(pod, one, labels)
            if self._signatures is not None:
                stated = await self._signatures.stated(facts.digests(one)[1:])
                found |= selectors(self.type, stated)
            return Facts(
                found,
                replace(facts.container_facts(pod, one), entered=self._entered(process, place)),
                facts.pod_facts(pod, one),
            )
        except (KubernetesError, SelectorError) as error:
            raise WorkloadAttestationError(f"pod cannot be examined: {error}") from error

    async def run(self, ready: Callable[[], None]) -> NoReturn:
        """Follow the pods of this node, and namespaces if they are asked for."""
        async with asyncio.TaskGroup() as group:
            if self._namespaces is not None:
                group.create_task(self._namespaces.run(), name="watch-namespaces")
            await self._pods.run(ready)

    def _entered(self, process: Process, place: cgroups.Pod) -> bool:
        """Tell whether a process was put into its container: its eldest ancestor there is not the first.

        The first process of a container is number 1 there. Where containers share their numbers nobody
        can tell, and everything counts as entered.
        """
        proc = process.proc
        try:
            for _ in range(MAX_ANCESTORS):
                parent, numbers = _kin(proc)
                above = proc.with_name(parent)
                if parent in ("0", "1") or cgroups.pod(cgroups.read(above), self._root) != place:
                    return len(numbers) == 1 or numbers[-1] != "1"
                proc = above
        except (OSError, ValueError, KeyError, WorkloadAttestationError):
            return True  # an ancestor exited meanwhile
        return True


def _kin(proc: Path) -> tuple[str, list[str]]:
    """Return a process's parent, and its number in each PID namespace from ours down to its own."""
    fields = status(proc)
    return fields["PPid"], fields["NSpid"].split()


def create(config: Config) -> K8sAttestor:
    """Make the attestor of a configuration table.

    Raises:
        ConfigError: Options contradict each other, or something that they name cannot be used.
    """
    if problems := _problems(config):
        raise ConfigError(*problems)
    clock = SystemClock()
    return K8sAttestor(
        _source(config, clock),
        cgroup_root=config.cgroup_root.rstrip("/"),
        namespaces=NamespaceLabels(_api_server(config), clock) if config.namespace_labels else None,
        signatures=image_signatures.create(config.signatures),
    )


def _source(config: Config, clock: Clock) -> PodSource:
    if config.source == "kubelet":
        return KubeletPods(KubernetesClient(_kubelet(config)), clock)
    return WatchedPods(_api_server(config), clock, node_name=config.node_name)


def _api_server(config: Config) -> KubernetesClient:
    try:
        return KubernetesClient(in_cluster() if config.kubeconfig is None else kubeconfig(config.kubeconfig))
    except AccessError as error:
        raise ConfigError(f"kubeconfig: {error}") from error


def _kubelet(config: Config) -> Access:
    if config.kubelet_read_only_port:
        return Access(config.kubelet_address, config.kubelet_read_only_port, plain=True)
    return Access(
        config.kubelet_address,
        config.kubelet_secure_port,
        ca=config.kubelet_ca_path,
        certificate=config.certificate_path,
        key=config.private_key_path,
        token=config.token_path if config.certificate_path is None else None,
        server_name=config.node_name,
        unverified=config.skip_kubelet_verification,
    )


def _problems(config: Config) -> list[str]:
    found = []
    if config.source == "api_server" and not config.node_name:
        found.append("node_name: is required with the API server")
    if (config.certificate_path is None) != (config.private_key_path is None):
        found.append("private_key_path: is needed with certificate_path, and only then")
    if config.kubelet_read_only_port and config.kubelet_address not in _LOOPBACK:
        found.append("kubelet_read_only_port: has no TLS, so kubelet_address has to be a loopback address")
    ports = ("kubelet_secure_port", "kubelet_read_only_port")
    found += [f"{name}: not a port" for name in ports if not 0 <= getattr(config, name) <= MAX_PORT]
    return found
