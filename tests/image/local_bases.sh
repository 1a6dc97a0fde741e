#!/usr/bin/env bash
# Makes the base images of the Dockerfile out of this machine, for where none can be fetched: packages come by
# apt as it is set up here, and Rust is a copy of the toolchain that is installed. Needs Debian and root.
#
#   local_bases.sh BUILD_IMAGE RUNTIME_IMAGE
set -euo pipefail

build_image=${1:?name of the image to build with}
runtime_image=${2:?name of the image to run on}
architecture=$(dpkg --print-architecture)
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
# shellcheck disable=SC2016  # the dollar is for apt
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' "Codename: $suite" | sort -u | head -n 1)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# $1: image, $2: its root folder, the rest: settings for buildah config.
import() {
    local image=$1 root=$2 container
    shift 2
    container=$(buildah from scratch)
    tar -C "$root" -cf "$scratch/root.tar" .
    buildah add --quiet "$container" "$scratch/root.tar" / >/dev/null
    rm "$scratch/root.tar"
    buildah config "$@" "$container"
    buildah commit --quiet --rm "$container" "$image" >/dev/null
}

# Compiler, pip, the Rust toolchain, and the ways to the package registries that this machine uses.
make_build_base() {
    local root=$scratch/build name setting
    debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev,python3,python3-pip \
        "$suite" "$root" ${mirror:+"$mirror"} >"$scratch/debootstrap.log" || { tail "$scratch/debootstrap.log" >&2; return 1; }
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc
    local toolchain
    toolchain=$(rustc --print sysroot)
    mkdir -p "$root/usr/local/rust" "$root/usr/local/cargo"
    cp -rL "$toolchain/bin" "$toolchain/lib" "$root/usr/local/rust/"
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    if [[ -f /etc/pip.conf ]]; then cp -L /etc/pip.conf "$root/etc/"; fi
    for name in config.toml config; do
        if [[ -f "${CARGO_HOME:-$HOME/.cargo}/$name" ]]; then
            cp -L "${CARGO_HOME:-$HOME/.cargo}/$name" "$root/usr/local/cargo/"
        fi
    done
    local settings=(--env PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin --env CARGO_HOME=/usr/local/cargo
        --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt)
    for setting in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT \
        http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        if [[ -n "${!setting:-}" ]]; then settings+=(--env "$setting=${!setting}"); fi
    done
    import "$build_image" "$root" "${settings[@]}"
    rm -rf "$root"
}

# The C and C++ libraries alone, without a shell: less than any published slim base holds.
make_runtime_base() {
    local root=$scratch/runtime
    mkdir -p "$root" "$scratch/packages"
    (cd "$scratch/packages" && apt-get download -qq base-files libc6 libgcc-s1 libstdc++6)
    for package in "$scratch"/packages/*_"$architecture".deb; do
        dpkg-deb --extract "$package" "$root"
    done
    rm -rf "$root/usr/share/doc" "$root/usr/share/lintian" "$root/usr/share/gdb"
    import "$runtime_image" "$root"
}

make_runtime_base
make_build_base
