#!/usr/bin/env bash
# Makes what the small machine boots from: a ram disk that finds the disk, and the disk with the program in it.
#
#   make_images.sh PARTS PROGRAM IMAGES
#
# PARTS is the folder of get_parts.sh. Leaves kernel, ramdisk.gz and disk.img in the folder IMAGES.
set -euo pipefail

parts=$(realpath "${1:?folder of the parts}")
program=$(realpath "${2:?the emotion-server to test}")
mkdir -p "${3:?folder of the images}"
images=$(realpath "$3")
cd "$(dirname "$0")"
project=$(realpath ../..)
scratch=$(mktemp -d "$images/making.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# Debian's kernel has ext4 built in, and the disk of a virtual machine as modules, in the order they need each other.
modules=(virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk)

make_ramdisk() {
    local root=$scratch/ramdisk number found
    mkdir -p "$root"/{bin,modules,disk,proc,dev}
    cp "$(find "$parts/root" -path '*bin/busybox' -print -quit)" "$root/bin/"
    for number in "${!modules[@]}"; do
        found=$(find "$parts/kernel" -name "${modules[number]}.ko*" -print -quit)
        case $found in
        *.xz) xz -dc "$found" >"$root/modules/$number.ko" ;;
        *.ko) cp "$found" "$root/modules/$number.ko" ;;
        *) echo "the kernel's package has no module ${modules[number]}; it may be built in" ;;
        esac
    done
    cp inside/ramdisk_init.sh "$root/init"
    chmod +x "$root/init"
    (cd "$root" && find . | cpio --create --format newc --quiet | gzip -1) >"$images/ramdisk.gz"
}

make_disk() {
    local root=$scratch/disk applet
    cp -a "$parts/root" "$root"
    mkdir -p "$root"/{bin,dev,proc,run,sys,tmp,mnt,srv/app,srv/checks}
    for applet in $("$scratch/ramdisk/bin/busybox" --list); do
        [[ -e $root/bin/$applet || -e $root/usr/bin/$applet ]] || ln -s busybox "$root/bin/$applet"
    done
    cp "$program" "$root/srv/app/emotion-server"
    strip --strip-debug "$root/srv/app/emotion-server" 2>/dev/null || true
    cp -aL "$project/lib" "$project/onnx" "$root/srv/app/"
    cp inside/*.py "$root/srv/checks/"
    cp inside/init.sh "$root/init"
    chmod +x "$root/init"
    rm -f "$images/disk.img"
    # Room for the weights that are prepared in the machine, three times over.
    truncate -s 2G "$images/disk.img"
    mke2fs -q -t ext4 -m 0 -d "$root" "$images/disk.img"
}

cp "$parts"/kernel/boot/vmlinuz-* "$images/kernel"
make_ramdisk
make_disk
