# The cloud: `serve` (web), `worker`, and what an operator does by hand. `make images` builds it; docs/one-box.md runs it.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# The requirements alone first, so that a change of the code does not install them again. The secret is a pip
# configuration of the site (its own index, its certificates); it is left in no layer.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m venv /opt/ahs \
    && python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["cloud"], *p["optional-dependencies"]["postgres"], sep="\n")' > requirements.txt \
    && /opt/ahs/bin/pip install --constraint constraints.txt --requirement requirements.txt
COPY LICENSE README.md ./
COPY cloud cloud
COPY edge_agent edge_agent
COPY fleet fleet
COPY models models
COPY training training
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    /opt/ahs/bin/pip install --constraint constraints.txt --no-deps . \
    && /opt/ahs/bin/pip check

FROM ${BASE_IMAGE}
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="AHS cloud" \
      org.opencontainers.image.description="Second opinions, devices, ingest and rollouts. Research use only." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/ahs-cloud --shell /usr/sbin/nologin ahs \
    && install -d -o ahs -g ahs -m 0700 /var/lib/ahs-cloud
COPY --from=build /opt/ahs /opt/ahs
COPY docker/one_box.py /opt/ahs/one_box.py
ENV PATH=/opt/ahs/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AHS_CLOUD__DATA_DIR=/var/lib/ahs-cloud \
    AHS_CLOUD__HTTP__HOST=0.0.0.0 \
    AHS_HEALTH_URL=http://127.0.0.1:8080/healthz
USER 10001:10001
WORKDIR /var/lib/ahs-cloud
VOLUME /var/lib/ahs-cloud
EXPOSE 8080
# `worker` has its page at another address: set AHS_HEALTH_URL there.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen(os.environ['AHS_HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["ahs-cloud"]
CMD ["serve"]
