# SPDX-License-Identifier: Apache-2.0
"""Many processes ask for their identity at the same moment; each prints the seconds that it took.

Usage: python -m benchmarks.crowd SOCKET COUNT
"""

import os
import sys
import time

import grpc

from spiffekit.wire.workload_api import SECURITY_HEADER, method


def main():
    path, count = sys.argv[1], int(sys.argv[2])
    spec = method("FetchX509SVID")
    ready, go = os.pipe(), os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            os.close(go[1])
            os.write(ready[1], b".")
            os.read(go[0], 1)  # returns when the parent lets go of the other end
            began = time.perf_counter()
            with grpc.insecure_channel(f"unix:{path}") as channel:
                call = channel.unary_stream(spec.path, spec.request.SerializeToString, len)
                stream = call(spec.request(), metadata=(SECURITY_HEADER,), timeout=60)
                assert next(stream)
                took = time.perf_counter() - began
                stream.cancel()
            os.write(1, f"{took}\n".encode())
            os._exit(0)
    for _ in range(count):
        os.read(ready[0], 1)
    os.close(go[1])
    for _ in range(count):
        os.wait()


main()
