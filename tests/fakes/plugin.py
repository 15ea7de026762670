# SPDX-License-Identifier: Apache-2.0
"""A workload attestor as SPIRE's SDK makes them: a program of its own, which serves gRPC as go-plugin does.

Its first argument says how it starts; its configuration, in JSON, what it says of every process.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from google.protobuf import empty_pb2

from spiffekit.wire.pb.goplugin import goplugin_pb2
from spiffekit.wire.pb.spire.plugin.agent.workloadattestor.v1 import workloadattestor_pb2
from spiffekit.wire.pb.spire.service.common.config.v1 import config_pb2
from spiffekit.wire.pb.spire.service.private.init.v1 import init_pb2

COOKIE = "WorkloadAttestor"
ATTESTOR = "spire.plugin.agent.workloadattestor.v1.WorkloadAttestor"
CONFIG = "spire.service.common.config.v1.Config"
MALFORMED = b"\x0a\x02\xff\xfe"  # a value that is no UTF-8
HOLD = ("sleep", "60")


class Plugin:
    def __init__(self, services):
        self.services = services
        self.config = {}
        self.ended = threading.Event()

    def init(self, request, context):
        return init_pb2.InitResponse(plugin_service_names=self.services)

    def deinit(self, request, context):
        print("deinit", file=sys.stderr, flush=True)
        return init_pb2.DeinitResponse()

    def configure(self, request, context):
        if request.hcl_configuration == "refuse":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such\noption")
        self.config = json.loads(request.hcl_configuration or "{}")
        self.config["trust_domain"] = request.core_configuration.trust_domain
        return config_pb2.ConfigureResponse()

    def attest(self, request, context):
        match self.config.get("attest"):
            case "hang":
                print("asked", file=sys.stderr, flush=True)
                time.sleep(60)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "malformed":
                return MALFORMED
            case "fail":
                context.abort(grpc.StatusCode.INTERNAL, "runtime is down\n" + "x" * 1000)
        if "say" in self.config:
            return workloadattestor_pb2.AttestResponse(selector_values=self.config["say"]).SerializeToString()
        try:
            status = Path(f"/proc/{request.pid}/status").read_text()
        except OSError:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such process")
        uid = next(line.split()[2] for line in status.splitlines() if line.startswith("Uid:"))
        values = [f"uid:{uid}", f"td:{self.config.get('trust_domain', '')}"]
        return workloadattestor_pb2.AttestResponse(selector_values=values).SerializeToString()

    def stdio(self, request, context):
        yield goplugin_pb2.StdioData(channel="STDOUT", data=b"printed\n")
        self.ended.wait(60)

    def shutdown(self, request, context):
        self.ended.set()
        return goplugin_pb2.Empty()

    def handlers(self):
        def unary(function, request, answer=lambda message: message.SerializeToString()):
            return grpc.unary_unary_rpc_method_handler(function, request.FromString, answer)

        def service(name, **methods):
            return grpc.method_handlers_generic_handler(name, methods)

        yield service(
            "spire.service.private.init.v1.Init",
            Init=unary(self.init, init_pb2.InitRequest),
            Deinit=unary(self.deinit, init_pb2.DeinitRequest),
        )
        yield service(CONFIG, Configure=unary(self.configure, config_pb2.ConfigureRequest))
        yield service(
            ATTESTOR, Attest=unary(self.attest, workloadattestor_pb2.AttestRequest, answer=lambda data: data)
        )
        yield service("plugin.GRPCController", Shutdown=unary(self.shutdown, goplugin_pb2.Empty))
        yield service(
            "plugin.GRPCStdio",
            StreamStdio=grpc.unary_stream_rpc_method_handler(
                self.stdio, empty_pb2.Empty.FromString, goplugin_pb2.StdioData.SerializeToString
            ),
        )


def main(start="well", *more):
    folder = os.environ["PLUGIN_UNIX_SOCKET_DIR"]
    path = f"{folder}/plugin"
    services = {"is another": ["x.Other"], "takes no data": [ATTESTOR]}.get(start, [ATTESTOR, CONFIG])
    plugin = Plugin(services)
    match start:
        case "hangs":
            time.sleep(60)
        case "dies":
            sys.exit(7)
        case "says nonsense":
            print("hello", flush=True)
            time.sleep(60)
        case "floods":
            while True:
                os.write(1, b"x" * 65536)
        case "link":
            os.symlink(more[0], path)
        case "elsewhere":
            path = more[0]
        case "reports":
            report = {
                "environment": dict(os.environ),
                "descriptors": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                                if os.path.exists(f"/proc/self/fd/{fd}")},
                "ids": [os.getpid(), os.getpgid(0), os.getsid(0)],
                "folder": os.getcwd(),
                "arguments": sys.argv[1:],
            }  # fmt: skip
            Path(more[0]).write_text(json.dumps(report))
        case "leaves a child":
            child = subprocess.Popen(HOLD, start_new_session=len(more) > 1)  # it has our pipes
            Path(more[0]).write_text(str(child.pid))
        case "another listens":
            if os.fork():  # who listens is the child, who says so its parent
                time.sleep(60)
    if start not in ("link", "elsewhere"):
        server = grpc.server(ThreadPoolExecutor(16))
        server.add_generic_rpc_handlers(tuple(plugin.handlers()))
        server.add_insecure_port(f"unix:{path}")
        server.start()
    print(f"1|1|unix|{path}|grpc|", flush=True)
    if start == "floods its log":
        while not plugin.ended.is_set():
            os.write(2, b"x\x1b[31m\xff\n" * 8192)
    if start == "dies later":
        sys.exit(3)
    plugin.ended.wait(60)
    if start == "does not end":
        time.sleep(60)


if __name__ == "__main__":
    if os.environ.get(COOKIE) != COOKIE:
        sys.exit("this is a plug-in; it is not run by hand")
    main(*sys.argv[1:])
