# SPDX-License-Identifier: Apache-2.0
"""A real containerd with its Kubernetes interface, asked as a kubelet does; all its state in one folder."""

import contextlib
import hashlib
import io
import json
import shlex
import shutil
import subprocess
import tarfile
import uuid
from pathlib import Path

import grpc

from tests.attestor.workload.places import remove
from tests.attestor.workload.processes import held
from tests.engines.daemons import daemon
from tests.engines.packages import need

PACKAGES = {
    "containerd": "containerd", "ctr": "containerd", "containerd-shim-runc-v2": "containerd",
    "runc": "runc", "busybox": "busybox-static",
}  # fmt: skip
PAUSE, WEB = "registry.example/pause:1", "registry.example/web:1"
CONFIG = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "{folder}/cni"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"""
POD_UID = str(uuid.uuid4())  # tests of several checkouts may run at once
HOST = 2  # the namespace mode "node"


def message(**fields):
    """Encode a protobuf message of strings, messages, numbers, and lists of them, by field number."""
    encoded = b""
    for number, found in ((int(name.strip("_")), value) for name, value in fields.items()):
        for value in found if isinstance(found, list) else [found]:
            if isinstance(value, int):
                encoded += bytes([number << 3, value])
            else:
                data = value.encode() if isinstance(value, str) else value
                encoded += bytes([number << 3 | 2, *_varint(len(data))]) + data
    return encoded


def _varint(number):
    return [number] if number < 128 else [number & 127 | 128, *_varint(number >> 7)]


def _labels(labels):
    return [message(_1=name, _2=value) for name, value in labels.items()]


def _text(answer):
    """Return the only field of a message, a short string."""
    return answer[2 : 2 + answer[1]].decode()


class Containerd:
    """One that runs, and what a kubelet would ask of it."""

    def __init__(self, folder):
        self.socket = folder / "containerd.sock"
        self._channel = grpc.insecure_channel(f"unix:{self.socket}")
        for name in (PAUSE, WEB):
            (folder / "image.tar").write_bytes(image(name))
            self.ctr("images", "import", folder / "image.tar")

    def ctr(self, *arguments):
        command = ["ctr", "--address", self.socket, "--namespace", "k8s.io", *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, name, request):
        method = self._channel.unary_unary(f"/runtime.v1.RuntimeService/{name}")
        return method(request, timeout=30)

    @contextlib.contextmanager
    def pod(self, name, uid=POD_UID, **labels):
        """A sandbox in the host's network; yields its ID and what it was asked for."""
        linux = message(_1=f"/kubepods/besteffort/pod{uid}", _2=message(_1=message(_1=HOST, _2=1, _3=HOST)))
        metadata = message(_1=name, _2=uid, _3="default")
        config = message(_1=metadata, _6=_labels(labels), _8=linux)
        sandbox = _text(self.call("RunPodSandbox", message(_1=config)))
        try:
            yield sandbox, config
        finally:
            self.call("StopPodSandbox", message(_1=sandbox))
            self.call("RemovePodSandbox", message(_1=sandbox))
            remove(f"/kubepods/besteffort/pod{uid}")

    @contextlib.contextmanager
    def container(self, pod, name, **labels):
        """A container in a sandbox; yields its ID and first process."""
        sandbox, sandbox_config = pod
        config = message(
            _1=message(_1=name),
            _2=message(_1=WEB),
            _3=["/bin/sleep", "3600"],
            _6=[message(_1="PASSWORD", _2="secret")],
            _9=_labels(labels),
            _15=b"",
        )
        request = message(_1=sandbox, _2=config, _3=sandbox_config)
        container = _text(self.call("CreateContainer", request))
        self.call("StartContainer", message(_1=container))
        try:
            with held(self.pid(container)) as first:
                yield container, first
        finally:
            self.call("RemoveContainer", message(_1=container))

    def pid(self, container):
        lines = (line.split() for line in self.ctr("tasks", "ls").splitlines())
        return next(int(line[1]) for line in lines if line[0] == container)


def image(name):
    """A docker archive of one busybox."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(Path(shutil.which("busybox")).resolve(), "bin/sleep")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sleep", "3600"], "Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        parts = {"config.json": config, "layer.tar": layer.getvalue(), "manifest.json": manifest}
        for part, data in parts.items():
            info = tarfile.TarInfo(part)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive.getvalue()


@contextlib.contextmanager
def running(folder):
    """A containerd, in a network namespace of its own."""
    need(PACKAGES)
    (folder / "config.toml").write_text(CONFIG.format(folder=folder, pause=PAUSE))
    command = shlex.split(f"unshare -n containerd --config {folder}/config.toml")
    with daemon(command, listens=(folder / "containerd.sock").exists, log=folder / "log"):
        yield Containerd(folder)
