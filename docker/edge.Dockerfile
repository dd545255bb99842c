# The edge agent: camera in, counts out. `make images` builds it; docs/one-box.md runs it.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# The requirements alone first, so that a change of the code does not install them again. The secret is a pip
# configuration of the site (its own index, its certificates); it is left in no layer.
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    python3 -m venv /opt/ahs \
    && python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["edge"], sep="\n")' > requirements.txt \
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
LABEL org.opencontainers.image.title="AHS edge agent" \
      org.opencontainers.image.description="Finds and classifies blood cells beside the microscope. Research use only." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/ahs-edge --shell /usr/sbin/nologin ahs \
    && install -d -o ahs -g ahs -m 0700 /var/lib/ahs-edge
COPY --from=build /opt/ahs /opt/ahs
ENV PATH=/opt/ahs/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AHS_EDGE__DATA_DIR=/var/lib/ahs-edge \
    AHS_HEALTH_URL=http://127.0.0.1:8600/healthz
USER 10001:10001
WORKDIR /var/lib/ahs-edge
VOLUME /var/lib/ahs-edge
EXPOSE 8600
# The agent proves its model before it opens its page: that is what the start period is for.
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=4 \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen(os.environ['AHS_HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["ahs-edge"]
CMD ["run"]
