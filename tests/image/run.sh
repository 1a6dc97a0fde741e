#!/usr/bin/env bash
# Builds the image on base images made of this machine, and runs it with podman. Needs Debian, root, Rust, and what
# `make test-clients` sets up; installs buildah, debootstrap, podman and what podman runs pods with.
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
for program in buildah debootstrap podman runc iptables catatonit; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[[ -d /usr/lib/cni ]] || missing+=(containernetworking-plugins)
if ((${#missing[@]} > 0)); then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

tag=$(rustc --version | cut -d ' ' -f 2)-$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
build_image=localhost/emotion-build-base:$tag
runtime_image=localhost/emotion-runtime-base:$tag
if ! { buildah inspect "$build_image" && buildah inspect "$runtime_image"; } >/dev/null 2>&1; then
    tests/image/local_bases.sh "$build_image" "$runtime_image"
fi

export EMOTION_IMAGE=localhost/emotion-server:test BUILDER=buildah BUILDAH_ISOLATION=chroot
scripts/build_image.sh --tag "$EMOTION_IMAGE" --build-arg "RUST_IMAGE=$build_image" \
    --build-arg "PYTHON_IMAGE=$build_image" --build-arg "RUNTIME_IMAGE=$runtime_image"
.venv-clients/bin/python -m pytest tests/image -s
