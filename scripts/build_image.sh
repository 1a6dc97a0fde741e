#!/usr/bin/env bash
# Builds the container image with docker, or with buildah where no Docker engine answers; BUILDER names one of them.
# Arguments go to the build command; version and revision are set from this checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

builder=${BUILDER:-}
if [[ -z "$builder" ]]; then
    if docker info >/dev/null 2>&1; then
        builder=docker
    elif command -v buildah >/dev/null; then
        builder=buildah
    fi
fi
command=("$builder" build)
case "$builder" in
    docker) ;;
    # The OCI format has no place for the health check.
    buildah) command+=(--format docker --layers) ;;
    *) echo "no Docker engine answers and buildah is not installed; either of them can build the image" >&2; exit 2 ;;
esac
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# Labels rather than build arguments, which buildah's cache of layers does not look at.
prefix=org.opencontainers.image
exec "${command[@]}" --label "$prefix.version=$version" --label "$prefix.revision=$revision" "$@" .
