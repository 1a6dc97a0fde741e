#!/bin/busybox sh
# shellcheck shell=dash
# The first program of the machine: loads what the disk needs, in the order of the files' names, and goes on there.
busybox=/bin/busybox
$busybox mount -t proc proc /proc
$busybox mount -t devtmpfs dev /dev
for module in /modules/*; do $busybox insmod "$module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do
    $busybox sleep 0.1
    tries=$((tries + 1))
done
$busybox mount -t ext4 /dev/vda /disk
$busybox mount --move /dev /disk/dev
$busybox mount --move /proc /disk/proc
exec $busybox switch_root /disk /init
