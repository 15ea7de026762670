# SPDX-License-Identifier: Apache-2.0
"""Containers of a Kubernetes runtime (containerd, CRI-O), by its word over the Container Runtime Interface.

It needs no kubelet and no API server. What Kubernetes itself says of a pod, say its service account, a
runtime does not know.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

import grpc
import msgspec

from attestor.errors import WorkloadAttestationError
from attestor.workload import image_signatures
from attestor.workload.cgroups import Container
from attestor.workload.containers import ContainerAttestor, Inspected, bounded, selectors
from attestor.workload.image_signatures import ImageSignatures
from spiffekit.daemon.clock import SystemClock
from spiffekit.evidence import ContainerFacts
from spiffekit.wire.pb.cri.v1 import runtime_pb2, runtime_pb2_grpc

TYPE: Final = "cri"
SEGMENT: Final = re.compile(r"(?:(?:[^/]*:)?cri-containerd[-:]|crio-)?([0-9a-f]{64})(?:\.scope)?")
DEADLINE: Final = 4.0  # seconds of a call: a runtime that hangs
MAX_MESSAGE: Final = 1024 * 1024  # bytes: an answer that fills our memory; one is 10 to 50 KiB
MAX_BACKOFF: Final = 1000  # milliseconds, after which a runtime that was restarted is found again


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workload_attestor.cri]``.

    Attributes:
        socket_path: The runtime's socket; that of CRI-O is /run/crio/crio.sock.
        signatures: Who may sign images: a table of its own, see [image signatures](image-signatures.md).
    """

    socket_path: Path = Path("/run/containerd/containerd.sock")
    signatures: image_signatures.Config | None = None


class _Info(msgspec.Struct):
    pid: Annotated[int, msgspec.Meta(ge=1, le=2**22)]  # the kernel's PID_MAX_LIMIT
    sandboxID: str  # noqa: N815 - the runtimes' own spelling


class Runtime:
    """The runtime at one socket."""

    def __init__(self, path: Path, signatures: ImageSignatures | None = None) -> None:
        self._path = path
        self._signatures = signatures
        self._connected: runtime_pb2_grpc.RuntimeServiceAsyncStub | None = None

    async def inspect(self, container: Container) -> Inspected | None:
        """Ask for a container and its sandbox; None if there is no such container that runs.

        Raises:
            WorkloadAttestationError: The runtime cannot be asked, or answers with nonsense.
        """
        try:
            return await self._inspect(container.id)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise self._error(f"answers with {error.code().name}") from error

    async def _inspect(self, container_id: str) -> Inspected | None:
        request = runtime_pb2.ContainerStatusRequest(container_id=container_id, verbose=True)
        answer = await self._stub().ContainerStatus(request, timeout=DEADLINE)
        status = answer.status
        if status.id != container_id:
            raise self._error("describes another container than it was asked for")
        if status.state != runtime_pb2.CONTAINER_RUNNING:
            return None
        info = self._info(answer.info.get("info", ""))
        pod = await self._pod(info.sandboxID)
        single = [
            ("image:", status.image.image),
            ("image_id:", status.image_ref),
            ("container-name:", status.metadata.name),
            ("pod-name:", pod.metadata.name),
            ("pod-namespace:", pod.metadata.namespace),
            ("pod-uid:", pod.metadata.uid),
        ]
        stated = [pair for pair in single if pair[1]]
        _, at, digest = status.image_ref.partition("@")
        if self._signatures is not None:
            stated += await self._signatures.stated([digest])
        labels = bounded(_labels("label", status.labels.items()), "label")
        pod_labels = bounded(_labels("pod-label", pod.labels.items()), "pod-label")
        facts = ContainerFacts(
            engine=TYPE,
            id=container_id,
            name=status.metadata.name,
            image=status.image.image,
            image_id="" if at else status.image_ref,
            image_digest=digest,
        )
        return Inspected(info.pid, facts, selectors(TYPE, stated + labels + pod_labels))

    async def _pod(self, sandbox_id: str) -> runtime_pb2.PodSandboxStatus:
        request = runtime_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        status = (await self._stub().PodSandboxStatus(request, timeout=DEADLINE)).status
        if status.id != sandbox_id:
            raise self._error("describes another sandbox than it was asked for")
        return status

    def _info(self, text: str) -> _Info:
        try:
            return msgspec.json.decode(text, type=_Info)
        except (msgspec.MsgspecError, RecursionError) as error:
            # Not the reason, which may quote the environment.
            raise self._error("does not say which process and sandbox a container has") from error

    def _stub(self) -> "runtime_pb2_grpc.RuntimeServiceAsyncStub":
        if self._connected is None:  # not before there is a loop to connect in
            options = [
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_reconnect_backoff_ms", MAX_BACKOFF),
                ("grpc.enable_http_proxy", 0),
            ]
            channel = grpc.aio.insecure_channel(f"unix:{self._path}", options=options)
            self._connected = runtime_pb2_grpc.RuntimeServiceStub(channel)
        return self._connected

    def _error(self, what: str) -> WorkloadAttestationError:
        return WorkloadAttestationError(f"container runtime at {self._path} {what}")


def _labels(kind: str, labels: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    # With a colon in its name, one label could be taken for another.
    return ((f"{kind}:{name}:", value) for name, value in labels if ":" not in name)


def create(config: Config) -> ContainerAttestor:
    """Make the attestor of a configuration table.

    Raises:
        ConfigError: Image signatures cannot be verified as it says.
    """
    runtime = Runtime(config.socket_path, image_signatures.create(config.signatures))
    return ContainerAttestor(TYPE, SEGMENT, runtime.inspect, SystemClock())
