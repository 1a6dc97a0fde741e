#!/usr/bin/env bash
# Runs a program with the real models in small machines with control groups of version 2. Needs Debian on x86_64, root,
# and Python 3.10; installs what boots a machine. Downloads and images are kept in .cache/vm.
#
#   run.sh PROGRAM [--only NAME…]
set -euo pipefail

program=$(realpath "${1:?the emotion-server to test}")
shift
cd "$(dirname "$0")/../.."

refuse() {
    echo "tests/vm/run.sh: $1" >&2
    exit 2
}
[[ -x $program ]] || refuse "$program is no program; build it with cargo build --release"
command -v apt-get >/dev/null || refuse "this needs Debian, whose packages the machines are made of"
[[ $(dpkg --print-architecture) == amd64 ]] || refuse "this needs x86_64, not $(dpkg --print-architecture)"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || refuse "this needs python3, 3.10 or later"
[[ -e lib/libonnxruntime.so ]] || refuse "the ONNX Runtime library is not in lib; run make setup"

packages=()
command -v qemu-system-x86_64 >/dev/null || packages+=(qemu-system-x86)
command -v cpio >/dev/null || packages+=(cpio)
command -v mke2fs >/dev/null || packages+=(e2fsprogs)
if ((${#packages[@]} > 0)); then
    [[ $EUID -eq 0 ]] || refuse "${packages[*]} must be installed, which needs root"
    timeout 120 apt-get update -qq
    DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

timeout 300 tests/vm/get_parts.sh .cache/vm/parts
timeout 120 tests/vm/make_images.sh .cache/vm/parts "$program" .cache/vm/images
exec python3 tests/vm/machines.py .cache/vm/images "$@"
