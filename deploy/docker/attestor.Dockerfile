# SPDX-License-Identifier: Apache-2.0
# docker build -f deploy/docker/attestor.Dockerfile -t attestor .
# BASE has Python 3.11 or newer as `python`; name it by digest to get the same image again.
# With --build-arg SIGNATURES=yes it verifies image signatures by certificate (Sigstore), too.
ARG BASE=docker.io/library/python:3.13-slim
FROM $BASE AS build
ARG SIGNATURES=
COPY . /src
RUN python -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes -r /src/deploy/docker/build.lock \
 && /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel /src \
 && python -m venv /opt/attestor \
 && /opt/attestor/bin/pip install --no-cache-dir --require-hashes -r /src/deploy/docker/attestor.lock \
 && if [ -n "$SIGNATURES" ]; then \
      /opt/attestor/bin/pip install --no-cache-dir --require-hashes -r /src/deploy/docker/attestor-signatures.lock; fi \
 && /opt/attestor/bin/pip install --no-cache-dir --no-deps --no-index /wheel/*.whl \
 && /opt/attestor/bin/pip uninstall --yes setuptools pip

FROM $BASE
COPY --from=build /opt/attestor /opt/attestor
ENV PYTHONDONTWRITEBYTECODE=1
# It stays root, and has to be run with the PID and cgroup namespaces of the host (--pid=host --cgroupns=host):
# in another PID namespace the kernel names no process to it, and callers are refused.
ENTRYPOINT ["/opt/attestor/bin/attestor"]
CMD ["run", "--config", "/etc/attestor/attestor.toml"]
