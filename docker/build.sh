#!/bin/sh
# Builds both images from this checkout: `make images`. Takes its wishes from the environment:
#   BASE_IMAGE     what both stand on; any Debian or Ubuntu with python3 >= 3.11 and its venv module
#   IMAGE_PREFIX   name of the images before -edge and -cloud    IMAGE_TAG   their tag
#   IMAGE_TOOL     buildah, podman or docker; the first that is there
#   PIP_CONF       a pip configuration for the build alone (own index, certificates); never stored in the image
#   BUILD_ARGS     more arguments for the tool
set -eu
cd "$(dirname "$0")/.."

tool=${IMAGE_TOOL:-}
for name in buildah podman docker; do
    [ -n "$tool" ] || ! command -v "$name" >/dev/null 2>&1 || tool=$name
done
[ -n "$tool" ] || { echo "make images: neither buildah nor podman nor docker is here" >&2; exit 2; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)

set -- build --build-arg "BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim-bookworm}" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision"
# OCI's own format knows no health check.
[ "$tool" = docker ] || set -- "$@" --format docker
[ -z "${PIP_CONF:-}" ] || set -- "$@" --secret "id=pip_conf,src=$PIP_CONF"

for program in edge cloud; do
    image="${IMAGE_PREFIX:-ahs}-$program:${IMAGE_TAG:-$version}"
    # shellcheck disable=SC2086  # several arguments in one variable, on purpose
    "$tool" "$@" ${BUILD_ARGS:-} --file "docker/$program.Dockerfile" --tag "$image" .
    echo "built $image"
done
