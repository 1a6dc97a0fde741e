#!/usr/bin/env bash
# Downloads what the small machine is made of, as packages of this Debian: a kernel, busybox, Python, C++'s library.
#
#   get_parts.sh FOLDER
#
# Leaves FOLDER/kernel (the unpacked kernel package) and FOLDER/root (all the others).
set -euo pipefail

parts=${1:?folder of the parts}
architecture=$(dpkg --print-architecture)
kernel=$(apt-cache depends "linux-image-cloud-$architecture" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
if [[ -z $kernel ]]; then
    echo "apt knows no linux-image-cloud-$architecture; run apt-get update first" >&2
    exit 1
fi
if [[ -f $parts/of && $(<"$parts/of") == "$kernel" ]]; then exit 0; fi

# Libraries and Python alone: nothing in the machine runs perl, dpkg or the other programs that packages name.
libraries=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances python3-minimal libpython3-stdlib libstdc++6 | grep -E '^(lib|python3|zlib)' | grep -v perl | sort -u)
rm -rf "$parts"
mkdir -p "$parts/packages" "$parts/kernel" "$parts/root"
cd "$parts/packages"
# apt's own user may not be allowed to write here; root may.
# shellcheck disable=SC2086  # one word a package
apt-get download -qq -o APT::Sandbox::User=root "$kernel" busybox-static $libraries
for package in *.deb; do
    if [[ $package == linux-image-* ]]; then into=../kernel; else into=../root; fi
    dpkg-deb --extract "$package" "$into"
done
cd ..
rm -rf packages root/usr/share
echo "$kernel" >of
