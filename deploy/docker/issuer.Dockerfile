# SPDX-License-Identifier: Apache-2.0
# docker build -f deploy/docker/issuer.Dockerfile -t issuer .
# BASE has Python 3.11 or newer as `python`; name it by digest to get the same image again.
ARG BASE=docker.io/library/python:3.13-slim
FROM $BASE AS build
COPY . /src
RUN python -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes -r /src/deploy/docker/build.lock \
 && /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheel /src \
 && python -m venv /opt/issuer \
 && /opt/issuer/bin/pip install --no-cache-dir --require-hashes -r /src/deploy/docker/issuer.lock \
 && /opt/issuer/bin/pip install --no-cache-dir --no-deps --no-index /wheel/*.whl \
 && /opt/issuer/bin/pip uninstall --yes setuptools pip

FROM $BASE
COPY --from=build /opt/issuer /opt/issuer
ENV PYTHONDONTWRITEBYTECODE=1
# No user of this number needs to exist; the folder of its data has to belong to it, with mode 0700.
USER 10001:10001
EXPOSE 8081
ENTRYPOINT ["/opt/issuer/bin/issuer"]
CMD ["run", "--config", "/etc/issuer/issuer.toml"]
