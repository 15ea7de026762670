# SPDX-License-Identifier: Apache-2.0
# docker build -f deploy/docker/issuer.Dockerfile -t issuer .
FROM docker.io/library/python:3.13-slim AS build
COPY . /src
RUN python -m venv /opt/issuer \
 && /opt/issuer/bin/pip install --no-cache-dir --require-hashes -r /src/deploy/docker/issuer.lock \
 && /opt/issuer/bin/pip install --no-cache-dir hatchling \
 && /opt/issuer/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src \
 && /opt/issuer/bin/pip uninstall --yes hatchling pip

FROM docker.io/library/python:3.13-slim
COPY --from=build /opt/issuer /opt/issuer
ENV PYTHONDONTWRITEBYTECODE=1
# No user of this number needs to exist; the volume of /var/lib/issuer belongs to it.
USER 10001:10001
EXPOSE 8081
ENTRYPOINT ["/opt/issuer/bin/issuer"]
CMD ["run", "--config", "/etc/issuer/issuer.toml"]
