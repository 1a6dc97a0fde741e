#!/bin/sh
# Sets the machine up as the kernel's command line says, runs its checks and turns it off.
#   cgroups=v2|hybrid   how control groups are mounted
#   checks=NAME         what run_checks.py is to check
#   seconds=N           the machine turns itself off after so long, whatever happens outside
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
value() { tr ' ' '\n' </proc/cmdline | sed -n "s/^$1=//p"; }

mount -t sysfs sys /sys
mount -o remount,rw /
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
ip link set lo up
hostname small-machine
case $(value cgroups) in
hybrid)
    # As older systemd has it: memory in version 2, processors in version 1.
    mount -t tmpfs cgroups /sys/fs/cgroup
    mkdir /sys/fs/cgroup/unified /sys/fs/cgroup/cpu
    mount -t cgroup2 none /sys/fs/cgroup/unified
    mount -t cgroup -o cpu none /sys/fs/cgroup/cpu
    echo +memory >/sys/fs/cgroup/unified/cgroup.subtree_control
    ;;
*)
    mount -t cgroup2 none /sys/fs/cgroup
    echo "+memory +cpu +pids" >/sys/fs/cgroup/cgroup.subtree_control
    ;;
esac
(sleep "$(value seconds)" && poweroff -f) &
python3 -u /srv/checks/run_checks.py "$(value checks)" >/dev/ttyS1
sync
poweroff -f
